from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest

from hostproxy.discovery.catalog import Instance
from hostproxy.discovery.consul import instances
from hostproxy.discovery.consul.instances import Answer, Conversion, Malformed, Source, split
from hostproxy.discovery.consul.refusals import Reachable
from tests.discovery.consul.entries import body, check, entry

OWN = frozenset({"10.0.0.5:15001"})


def convert(
    data: bytes, remote: bool = False, allow: tuple[str, ...] = (), before: tuple[Instance, ...] = ()
) -> Answer:
    conversion = Conversion(split(data), Source("web", "dc1", remote), Reachable(allow, OWN), before)
    for _ in conversion.steps():
        pass
    return conversion.answer()


def one(raw: dict[str, Any], **options: Any) -> Instance:
    answer = convert(body(raw), **options)
    assert not answer.refused
    (instance,) = answer.instances
    return instance


def refused(raw: Any, **options: Any) -> str:
    """The reason, after seeing that a good entry beside it is used all the same."""
    answer = convert(body(raw, entry("10.77.0.1")), **options)
    assert [instance.address for instance in answer.instances] == ["10.77.0.1:8080"]
    (reason,) = answer.refused
    assert [refusal.reason for refusal in answer.refusals] == [reason]
    return reason


def test_an_instance_has_everything_that_was_registered() -> None:
    assert one(entry()) == Instance(
        service="web",
        host="db-1",
        address="10.0.0.1:8080",
        mesh="10.0.0.1:15443",
        datacenter="dc1",
        zone="rack-3",
        version="2",
        tags=("blue",),
        weight=5,
        meta=(("mesh_port", "15443"), ("version", "2"), ("zone", "rack-3")),
    )


def test_what_others_registered_without_any_of_it_is_used_too() -> None:
    raw = entry(address="", meta={}, Tags=None, Weights=None, TaggedAddresses=None)
    raw["Node"]["Meta"] = {"zone": "rack-9"}
    raw["Checks"] = None
    assert one(raw) == Instance("web", "db-1", "10.9.9.9:8080", datacenter="dc1", zone="rack-9")


@pytest.mark.parametrize(
    ("checks", "health", "reason", "weight"),
    [
        ([], "passing", "", 5),
        ([check(), check("warning", "disk")], "warning", "disk", 2),
        ([check("warning", "disk"), check("critical", "http"), check()], "critical", "http", 5),
        ([check("critical", "http"), check("critical", "off", "_node_maintenance")], "maintenance", "off", 5),
        ([check("critical", "off", "_service_maintenance:web1"), check("critical")], "maintenance", "off", 5),
        ([check("critical", "not it", "_service_maintenancex")], "critical", "not it", 5),
        ([check("critical", "", "service:7")], "critical", "service:7", 5),
    ],
)
def test_the_worst_check_holds_and_its_name_is_the_reason(
    checks: list[Any], health: str, reason: str, weight: int
) -> None:
    raw = entry()
    raw["Checks"] = checks
    instance = one(raw)
    assert (instance.health, instance.reason, instance.weight) == (health, reason, weight)


def test_the_output_of_a_check_makes_no_other_instance() -> None:
    changed = entry()
    changed["Checks"][1]["Output"] = "200 OK in 3 ms"
    before = (one(entry()),)
    assert one(changed, before=before) is before[0]


def test_other_datacenters_are_reached_at_their_wide_addresses() -> None:
    wide = {"wan": {"Address": "192.0.2.1", "Port": 9999}}
    assert one(entry(TaggedAddresses=wide), remote=True).address == "192.0.2.1:9999"
    assert one(entry(TaggedAddresses=wide), remote=True).mesh == "192.0.2.1:15443"
    assert one(entry(TaggedAddresses=wide)).address == "10.0.0.1:8080"
    assert one(entry(), remote=True).address == "10.0.0.1:8080"
    assert one(entry(address=""), remote=True).address == "192.0.2.9:8080"
    assert one(entry(address="")).address == "10.9.9.9:8080"


def test_a_unix_socket_is_taken_only_behind_a_mesh_port() -> None:
    meta = {"mesh_port": "15443", "socket": "/run/web.sock"}
    assert one(entry(port=15443, meta=meta)).address == "unix:/run/web.sock"
    assert one(entry(port=15443, meta={"socket": "/run/docker.sock"})).address == "10.0.0.1:15443"
    assert refused(entry(meta={**meta, "socket": "/run/../etc/x"})) == "socket"
    # The same path on two hosts is two instances.
    two = convert(body(entry(meta=meta), entry("10.0.0.2", node="db-2", meta=meta)))
    assert [instance.host for instance in two.instances] == ["db-1", "db-2"]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.0.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("169.254.169.254", "link_local"),
        ("::ffff:169.254.169.254", "link_local"),
        ("fe80::1", "link_local"),
        ("fe80::1%eth0", "link_local"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("::ffff:0.0.0.0", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "multicast"),
        ("240.0.0.1", "multicast"),
        ("64:ff9b::7f00:1", "multicast"),
        ("metadata.internal", "host_name"),
        ("localhost", "host_name"),
        ("127.1", "host_name"),
        ("0x7f.0.0.1", "host_name"),
        ("2130706433", "host_name"),
        ("10.0.0.010", "host_name"),
        ("10.0.0.1 ", "host_name"),
        ("unix:/run/x.sock", "host_name"),
    ],
)
def test_poisoned_addresses_are_refused_and_the_others_used(address: str, reason: str) -> None:
    assert refused(entry(address)) == reason
    assert refused(entry(meta={}, TaggedAddresses={"wan": {"Address": address, "Port": 80}}), remote=True) == reason
    raw = entry(address="")
    raw["Node"]["Address"] = address
    assert refused(raw) == reason


def test_the_own_ports_of_hostproxy_are_no_instances() -> None:
    assert refused(entry("10.0.0.5", port=15001)) == "own_port"
    assert refused(entry("10.0.0.5", meta={"mesh_port": "15001"})) == "own_port"
    assert refused(entry("::ffff:10.0.0.5", port=15001)) == "own_port"
    assert one(entry("10.0.0.5", port=15002)).address == "10.0.0.5:15002"


def test_networks_that_are_allowed_are_used_but_nothing_that_is_no_host() -> None:
    allow = ("127.0.0.0/8", "fe80::/10", "0.0.0.0/0")
    assert one(entry("127.0.0.2"), allow=allow).address == "127.0.0.2:8080"
    assert one(entry("fe80::1"), allow=allow).address == "[fe80::1]:8080"
    for address in ("0.0.0.0", "224.0.0.1", "255.255.255.255"):
        assert refused(entry(address), allow=allow) in ("unspecified", "multicast")


def test_a_refusal_says_which_instance_and_what_to_do() -> None:
    (refusal,) = convert(body(entry("127.0.0.1"))).refusals
    assert refusal.text == (
        "web: 'web1' on 'db-1': 127.0.0.1 is a loopback address, another place on every host:"
        " register the address of the host, or add the network to allow in [discovery.consul]"
    )


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (7, "malformed"),
        ([], "malformed"),
        ({}, "malformed"),
        (entry(port="8080"), "malformed"),
        (entry(port=70000), "malformed"),
        (entry(port=-1), "malformed"),
        (entry(port=10**30), "malformed"),
        (entry(meta=[]), "malformed"),  # type: ignore[arg-type]
        (entry(Tags=[1]), "malformed"),
        (entry(Weights={"Passing": -1}), "malformed"),
        (entry("10.0.0.1", health="unwell"), "malformed"),
        (entry(port=0), "no_port"),
        (entry(node="db 1"), "host"),
        (entry(node="\x1b[31m"), "host"),
        (entry(meta={"mesh_port": "٣"}), "mesh_port"),
        (entry(meta={"mesh_port": "70000"}), "mesh_port"),
        (entry(meta={"mesh_port": "+5"}), "mesh_port"),
    ],
)
def test_an_entry_that_is_wrong_is_refused_alone(raw: Any, reason: str) -> None:
    assert refused(raw) == reason


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"{}", b'"x"', b"[1,2", b"<html>", b'[{"Node": }]', b"[" * 100_000, b"\xff\xfe[]", b"[]x",
        b'[{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}]",
    ],
)  # fmt: skip
def test_a_body_that_is_no_list_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        split(data)


def test_an_answer_with_nothing_but_wrong_types_is_told_apart_from_one_with_poison() -> None:
    for raws, expected in (([1, {}], True), ([entry("127.0.0.1")], False), ([1, entry()], False)):
        conversion = Conversion(split(body(*raws)), Source("web", "dc1", False), Reachable((), ()), ())
        conversion.step()
        assert conversion.malformed is expected


def test_the_better_of_two_registrations_of_one_address_is_used() -> None:
    # The node of a host that was set up again under a new name is critical for three days.
    old, new = entry(node="aaa", health="critical"), entry(node="bbb")
    for raws in ((old, new), (new, old)):
        answer = convert(body(*raws))
        assert [(instance.host, instance.health) for instance in answer.instances] == [("bbb", "passing")]
        assert answer.refused == {"duplicate": 1}


def test_tags_and_metadata_are_bounded() -> None:
    meta = {f"k{number:03}": "v" for number in range(100)} | {"a": "x" * 513, "b\n": "", "c": "\x1b"}
    answer = convert(body(entry(meta=meta, Tags=[f"t{number}" for number in range(100)] + ["\n"])))
    (instance,) = answer.instances
    assert len(instance.tags) == 64
    assert len(instance.meta) == 61  # of the first 64 keys, one is too long and two are not printable
    assert answer.refused == {"trimmed": 37 + 42}


def test_instances_are_in_the_order_of_host_and_address_whatever_the_answer_has() -> None:
    raws = [entry("10.0.0.3", node="b"), entry("10.0.0.2", node="c"), entry("10.0.0.1", node="b")]
    expected = [("b", "10.0.0.1:8080"), ("b", "10.0.0.3:8080"), ("c", "10.0.0.2:8080")]
    assert [(i.host, i.address) for i in convert(body(*raws)).instances] == expected
    assert convert(body(*raws)).instances == convert(body(*reversed(raws))).instances


def test_strings_that_repeat_are_kept_once() -> None:
    found = convert(body(*(entry(f"10.0.0.{number}", node="db-1") for number in range(1, 9)))).instances
    for name in ("service", "host", "datacenter", "zone", "version", "tags", "meta"):
        assert len({id(getattr(instance, name)) for instance in found}) == 1


def test_at_most_ten_thousand_instances_are_used() -> None:
    raw = json.dumps(entry("ADDRESS"))
    many = [raw.replace("ADDRESS", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(10_005)]
    answer = convert(f"[{','.join(many)}]".encode())
    assert len(answer.instances) == 10_000
    assert answer.refused == {"too_many": 5}


def test_no_piece_of_ten_thousand_instances_takes_long() -> None:
    raw = json.dumps(entry("ADDRESS"))
    many = [raw.replace("ADDRESS", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(10_000)]
    data = f"[{','.join(many)}]".encode()
    longest = 1.0
    for _ in range(3):  # the machine may be busy with something else
        times = [time.thread_time()]
        conversion = Conversion(split(data), Source("web", "dc1", False), Reachable((), ()), ())
        times.append(time.thread_time())
        for _ in conversion.steps():
            times.append(time.thread_time())
        assert len(conversion.answer().instances) == 10_000
        times.append(time.thread_time())
        longest = min(longest, max(after - before for before, after in pairwise(times)))
        assert len(times) > 10_000 // instances.SLICE
    assert longest < 0.05
    print(f"longest piece {longest * 1000:.1f} ms")
