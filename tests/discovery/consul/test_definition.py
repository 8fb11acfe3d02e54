from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hostproxy.config import Host
from hostproxy.config_services import Check, LocalService
from hostproxy.discovery.consul.definition import Definition, definitions, note, service_id
from hostproxy.discovery.consul.difference import Actual, Plan, ours, plan, read, status_so_far, taken

HOST = Host(name="h1", address="10.0.0.7", zone="rack-3")
REASON = "hostproxy on h1 is stopping"


def defined(*services: LocalService, host: Host = HOST) -> dict[str, Definition]:
    return definitions(services, host, 15443, "1.2.3")


def web(*instances: str, **more: Any) -> LocalService:
    return LocalService(name="web", instances=instances or ("127.0.0.1:9001",), **more)


def shown(definitions: dict[str, Definition], status: str = "passing") -> tuple[dict[str, Any], dict[str, Any]]:
    """What an agent shows that has all of it."""
    services, checks = {}, {}
    for each in definitions.values():
        given = each.arguments(status)
        services[each.id] = {
            "ID": each.id,
            "Service": given["name"],
            "Tags": given["tags"],
            "Meta": given["meta"],
            "Port": given["port"],
            "Address": given["address"],
            "TaggedAddresses": {"lan_ipv4": {"Address": given["address"], "Port": given["port"]}},
            "Weights": given["weights"],
            "EnableTagOverride": False,
            "Datacenter": "dc1",
        }
        if given["check"]:
            checks[given["check"]["CheckID"]] = {
                "CheckID": given["check"]["CheckID"],
                "Status": status,
                "Notes": given["check"]["Notes"],
                "ServiceID": each.id,
                "Definition": {},
            }
    return services, checks


def compared(desired: dict[str, Definition], services: Any, checks: Any, again: bool = False) -> Plan:
    return plan(desired, read(services, checks), HOST, REASON, again)


def maintenance(ident: str, reason: str) -> dict[str, Any]:
    check = f"_service_maintenance:{ident}"
    return {check: {"CheckID": check, "Status": "critical", "Notes": reason, "ServiceID": ident}}


# What an instance looks like


def test_hostproxy_itself() -> None:
    (own,) = defined().values()
    arguments = own.arguments("passing")
    check = arguments.pop("check")
    assert arguments == {
        "name": "hostproxy",
        "service_id": "hostproxy",
        "address": "10.0.0.7",
        "port": 15443,
        "tags": [],
        "meta": {"registered_by": HOST.name, "mesh_port": "15443", "version": "1.2.3", "zone": "rack-3"},
        "weights": {"Passing": 1, "Warning": 1},
    }
    assert (check["CheckID"], check["TTL"], check["Status"]) == ("hostproxy:hostproxy", "30s", "passing")


def test_an_instance() -> None:
    service = web(tags=("blue", "canary", "blue"), version="2", weight=7, meta={"team": "pay"}, protocol="http2")
    assert defined(service)["hostproxy-web-9001"].arguments("") == {
        "name": "web",
        "service_id": "hostproxy-web-9001",
        "address": "10.0.0.7",
        "port": 9001,
        "tags": ["blue", "canary"],
        "meta": {
            "team": "pay",
            "registered_by": HOST.name,
            "mesh_port": "15443",
            "version": "2",
            "zone": "rack-3",
            "protocol": "http2",
        },
        "weights": {"Passing": 7, "Warning": 1},
        "check": None,
    }


def test_what_is_empty_is_no_metadata() -> None:
    found = defined(web(), host=Host(name="h1", address="fd00::7"))
    assert found["hostproxy-web-9001"].meta == {"registered_by": HOST.name, "mesh_port": "15443", "protocol": "http"}
    assert found["hostproxy-web-9001"].address == "fd00::7"


def test_a_unix_socket_has_the_mesh_port_and_says_its_path() -> None:
    found = defined(web("unix:/run/a.sock", "unix:/run/b.sock", "127.0.0.1:9001"))
    sockets = {each.meta["socket"]: each for each in found.values() if "socket" in each.meta}
    assert set(sockets) == {"/run/a.sock", "/run/b.sock"}
    assert {each.port for each in sockets.values()} == {15443}
    assert len(found) == 4
    assert "socket" not in found["hostproxy-web-9001"].meta


def test_the_id_of_a_unix_socket_is_short_stays_and_is_no_port() -> None:
    ident = service_id("web", "unix:/run/a.sock")
    assert ident == service_id("web", "unix:/run/a.sock")
    suffix = ident.removeprefix("hostproxy-web-")
    assert len(suffix) == 8
    assert suffix.isalnum()


def test_an_ipv6_instance() -> None:
    assert defined(web("[::1]:9001"))["hostproxy-web-9001"].port == 9001


def test_what_is_not_to_be_registered_or_has_no_instances() -> None:
    assert set(defined(web(register=False), LocalService(name="cart"))) == {"hostproxy"}


def test_what_configuration_refuses_is_left_out() -> None:
    by_consul = Check(http="/", run_by="consul")
    found = defined(web("unix:/run/a.sock", "127.0.0.1:9002", check=by_consul))
    assert set(found) == {"hostproxy", "hostproxy-web-9002"}
    (one,) = (each for each in defined(web("127.0.0.1:9001", "127.0.0.2:9001")).values() if each.instance)
    assert one.instance == "127.0.0.1:9001"


@pytest.mark.parametrize(
    ("interval", "ttl"), [(0.1, "10s"), (2.0, "10s"), (10.0, "30s"), (7.5, "22.5s"), (3600.0, "3h")]
)
def test_a_check_that_hostproxy_runs_is_a_ttl_of_three_intervals(interval: float, ttl: str) -> None:
    found = defined(web(check=Check(http="/healthz", interval=interval)))["hostproxy-web-9001"].arguments("critical")
    assert found["check"] == {
        "CheckID": "hostproxy:hostproxy-web-9001",
        "Name": "web at 127.0.0.1:9001",
        "Notes": found["check"]["Notes"],
        "TTL": ttl,
        "Status": "critical",
    }
    assert "/healthz" in found["check"]["Notes"]


@pytest.mark.parametrize("instance", ["127.0.0.1:9001", "[::1]:9001"])
def test_checks_that_consul_runs_go_to_the_instances_own_address(instance: str) -> None:
    check = Check(http="/h?deep=1", interval=2.5, timeout=0.25, healthy=4, unhealthy=5, run_by="consul")
    found = defined(web(instance, check=check))["hostproxy-web-9001"].arguments("")["check"]
    del found["Notes"]
    assert found == {
        "CheckID": "hostproxy-http:hostproxy-web-9001",
        "Name": f"web at {instance}",
        "HTTP": f"http://{instance}/h?deep=1",
        "Interval": "2.5s",
        "Timeout": "250ms",
        "SuccessBeforePassing": 4,
        "FailuresBeforeCritical": 5,
    }
    tcp = Check(tcp=True, interval=0.2, run_by="consul")
    found = defined(web(instance, check=tcp))["hostproxy-web-9001"].arguments("")["check"]
    assert found["CheckID"] == "hostproxy-tcp:hostproxy-web-9001"
    assert (found["TCP"], found["Interval"]) == (instance, "1s")  # the shortest that Consul knows


CHECKS = (
    Check(http="/a"),
    Check(http="/b"),
    Check(tcp=True),
    Check(http="/a", interval=4.0),
    *(
        Check(run_by="consul", **each)
        for each in (
            {"http": "/a"},
            {"http": "/b"},
            {"tcp": True},
            {"http": "/a", "interval": 4.0},
            {"http": "/a", "timeout": 0.5},
            {"http": "/a", "healthy": 1},
            {"http": "/a", "unhealthy": 1},
        )
    ),
)


def test_two_checks_that_differ_have_other_notes_because_nothing_else_is_shown_of_them() -> None:
    found = [defined(web(check=check))["hostproxy-web-9001"].check for check in CHECKS]
    assert len({each.notes for each in found if each}) == len(CHECKS)


# What is compared


def test_an_agent_that_has_it_all_needs_nothing() -> None:
    for check in (Check(), *CHECKS):
        desired = defined(web(tags=("b", "a"), check=check), LocalService(name="db", instances=("unix:/run/db",)))
        assert compared(desired, *shown(desired)).nothing
        assert compared(desired, *shown(desired, "critical")).nothing  # that is for reports


def test_an_agent_that_has_nothing_needs_it_all() -> None:
    desired = defined(web(check=Check(http="/")))
    todo = compared(desired, {}, {})
    assert todo == Plan(register=tuple(desired.values()))


def test_all_is_written_again_when_asked() -> None:
    desired = defined(web())
    assert compared(desired, *shown(desired), again=True) == Plan(register=tuple(desired.values()))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Service", "other"),
        ("Address", "10.0.0.8"),
        ("Port", 1),
        ("Tags", ["x"]),
        ("Tags", None),
        ("Meta", {"mesh_port": "15443"}),
        ("Meta", None),
        ("Weights", {"Passing": 2, "Warning": 1}),
        ("Weights", None),
    ],
)
def test_each_difference_of_a_service_is_written(key: str, value: object) -> None:
    desired = defined(web(tags=("a",)))
    services, checks = shown(desired)
    services["hostproxy-web-9001"][key] = value
    assert [each.id for each in compared(desired, services, checks).register] == ["hostproxy-web-9001"]


def test_the_order_of_tags_is_none() -> None:
    desired = defined(web(tags=("a", "b")))
    services, checks = shown(desired)
    services["hostproxy-web-9001"]["Tags"] = ["b", "a"]
    assert compared(desired, services, checks).nothing


@pytest.mark.parametrize("damage", ["gone", "notes", "service"])
def test_each_difference_of_a_check_is_written(damage: str) -> None:
    desired = defined(web(check=Check(http="/")))
    services, checks = shown(desired)
    check = checks["hostproxy:hostproxy-web-9001"]
    if damage == "gone":
        del checks["hostproxy:hostproxy-web-9001"]
    elif damage == "notes":
        check["Notes"] = "other"
    else:
        check["ServiceID"] = "hostproxy"
    assert [each.id for each in compared(desired, services, checks).register] == ["hostproxy-web-9001"]


def test_a_check_of_another_kind_takes_the_place_of_the_old_one() -> None:
    old, new = defined(web(check=Check(http="/"))), defined(web(check=Check(http="/", run_by="consul")))
    todo = compared(new, *shown(old))
    assert [each.id for each in todo.register] == ["hostproxy-web-9001"]
    assert todo.drop == ("hostproxy:hostproxy-web-9001",)
    assert compared(defined(web()), *shown(old)) == Plan(drop=("hostproxy:hostproxy-web-9001",))


def test_checks_of_others_stay() -> None:
    desired = defined(web())
    services, checks = shown(desired)
    checks["disk"] = {"CheckID": "disk", "ServiceID": "hostproxy-web-9001", "Status": "passing", "Notes": ""}
    checks["serfHealth"] = {"CheckID": "serfHealth", "ServiceID": "", "Status": "passing"}
    assert compared(desired, services, checks).nothing


def test_an_operators_maintenance_stays_and_the_one_of_an_earlier_stop_ends() -> None:
    desired = defined(web())
    services, checks = shown(desired)
    for reason in ("disk is full", "hostproxy on h2 is stopping"):
        assert compared(desired, services, checks | maintenance("hostproxy-web-9001", reason)).nothing
    todo = compared(desired, services, checks | maintenance("hostproxy-web-9001", REASON))
    assert todo == Plan(lift=("hostproxy-web-9001",))


def test_what_is_no_longer_wanted_is_removed() -> None:
    services, checks = shown(defined(web("127.0.0.1:9001", "127.0.0.1:9002", check=Check(tcp=True))))
    todo = compared(defined(web(check=Check(tcp=True))), services, checks)
    assert todo == Plan(remove=("hostproxy-web-9002",))
    assert set(compared({}, services, checks).remove) == {"hostproxy", "hostproxy-web-9001", "hostproxy-web-9002"}


def test_what_others_registered_is_never_removed() -> None:
    others = {
        "hostproxy-web-1": {"Service": "web", "Address": HOST.address, "Meta": {}},
        "hostproxy-web-2": {"Service": "web", "Address": HOST.address, "Meta": None},
        # On this host, by somebody who follows the documentation.
        "hostproxy-dashboard": {"Service": "dashboard", "Address": HOST.address, "Meta": {"mesh_port": "15443"}},
        # Of another hostproxy at the same agent.
        "hostproxy-web-3": {"Service": "web", "Address": HOST.address, "Meta": {"registered_by": "another"}},
        "hostproxyx": {"Service": "x", "Address": HOST.address, "Meta": {"registered_by": HOST.name}},
    }
    assert compared({}, others, {}).nothing
    assert ours(read(others, {}), HOST) == []


def test_what_others_have_is_known_by_who_registered_it() -> None:
    desired = defined(web("127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"))
    services, _ = shown(desired)
    services["hostproxy-web-9001"]["Meta"] = {"registered_by": "another"}
    services["hostproxy-web-9002"]["Meta"] = {}
    del services["hostproxy-web-9003"]
    assert taken(desired, read(services, {}), HOST) == {
        "hostproxy-web-9001": "the hostproxy of another",
        "hostproxy-web-9002": "another program",
    }


# What an agent says


@pytest.mark.parametrize(
    ("services", "checks"),
    [
        (None, {}),
        ([], {}),
        ("x", {}),
        ({}, None),
        ({}, [1]),
        ({"hostproxy": 1}, {}),
        ({"hostproxy": {"Port": "x"}}, {}),
        ({"hostproxy": {"Meta": {"a": 1}}}, {}),
        ({"hostproxy": {}}, {"c": {"ServiceID": "hostproxy", "Status": 1}}),
    ],
)
def test_what_no_agent_says_is_refused(services: object, checks: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        read(services, checks)


def test_oddities_of_others_do_no_harm() -> None:
    checks = {"c": 1, "d": {"ServiceID": []}, "e": {"ServiceID": "y"}}
    assert read({"x": 1, "y": {"Port": []}}, checks) == Actual({}, {})


def test_the_status_of_a_new_instance_is_critical_until_somebody_has_looked() -> None:
    one = defined(web(check=Check(http="/")))["hostproxy-web-9001"]
    assert status_so_far(one, read({}, {})) == "critical"


@pytest.mark.parametrize("status", ["passing", "warning", "critical"])
def test_an_instance_keeps_its_status_when_its_check_becomes_another(status: str) -> None:
    old = shown(defined(web(check=Check(http="/"))), status)
    new = defined(web(check=Check(http="/", run_by="consul")))["hostproxy-web-9001"]
    assert status_so_far(new, read(*old)) == status


def test_an_instance_that_had_no_check_is_taken_from_nobody_when_it_gets_one() -> None:
    one = defined(web(check=Check(http="/")))["hostproxy-web-9001"]
    assert status_so_far(one, read(*shown(defined(web())))) == "passing"


# Reasons


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("connection refused", "connection refused"),
        ("a\nb\x00\x1b[1m", "a\\nb\\x00\\x1b[1m"),
        ("ü", "ü"),
        ("\udc80", "\\udc80"),
        ("x" * 600, "x" * 512),
        ("ü" * 512, "ü" * 256),
        ("x" + "ü" * 512, "x" + "ü" * 255),
        ("\n" * 600, "\\n" * 256),
    ],
)
def test_a_reason_is_printable_and_short(given: str, sent: str) -> None:
    assert note(given) == sent
    assert len(note(given).encode()) <= 512
