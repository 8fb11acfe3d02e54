from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest

from hostproxy.net.deadlines import Deadlines
from hostproxy.snapshot import AllowRule, Delta, Instance, Local, Service, Snapshot
from hostproxy.tables import MAX_CALLERS, Tables
from hostproxy.telemetry.metrics import WorkerMetrics
from hostproxy.upstream.destination import Destination
from hostproxy.upstream.dial import Dialling
from tests.hosts import identities, service, snapshot
from tests.identity.crafting import CART, authority, good
from tests.support import Loop, loop

__all__ = ["loop"]

Make = Callable[[Snapshot], Tables]


@pytest.fixture
def make(loop: Loop) -> Iterator[Make]:
    def make(first: Snapshot) -> Tables:
        metrics = WorkerMetrics()
        dialling = Dialling(loop.reactor, Deadlines(0.0), first.limits, metrics)
        return Tables(first, dialling, metrics, Random(1).random)

    return make


def at(host: int, weight: int = 1, mesh: bool = True, datacenter: str = "", port: int = 9000) -> Instance:
    address = f"10.0.0.{host}"
    return Instance(
        "payments",
        f"h{host}",
        f"{address}:{port}",
        f"{address}:15443" if mesh else "",
        datacenter,
        weight=weight,
    )


def payments(*instances: Instance, **policy: object) -> Service:
    return service("payments", *instances, **policy)


def places(destination: Destination) -> dict[str, tuple[int, bool]]:
    """Endpoint: weight, and whether over mutual TLS."""
    return {one.label: (one.weight, one.security is not None) for one in destination.endpoints}


def test_the_instances_of_a_host_are_one_endpoint_with_their_weights(make: Make) -> None:
    tables = make(snapshot((payments(at(1), at(1, 2, port=9001), at(2)),)))
    assert places(tables.outbound("cart", "payments")) == {
        "10.0.0.1:15443": (3, True),
        "10.0.0.2:15443": (1, True),
    }


def test_what_is_shown_and_expected_at_an_endpoint(make: Make) -> None:
    tables = make(snapshot((payments(at(1)),)))
    (http,) = tables.outbound("cart", "payments").endpoints
    (tcp,) = tables.outbound_tcp("cart", "payments").endpoints
    assert http.security is not None
    assert tcp.security is not None
    assert http.security.server_name == "payments.dc1.mesh.test"
    assert http.security.expected == "spiffe://mesh.test/service/payments"
    assert http.security.context is not tcp.security.context


def test_without_a_hostproxy_only_where_policy_permits_it(make: Make) -> None:
    instances = (at(1), at(2, mesh=False))
    strict = make(snapshot((payments(*instances),))).outbound("cart", "payments")
    assert places(strict) == {"10.0.0.1:15443": (1, True)}
    lenient = make(snapshot((payments(*instances, permissive=True),))).outbound("cart", "payments")
    assert places(lenient) == {"10.0.0.1:15443": (1, True), "10.0.0.2:9000": (1, False)}


def test_weight_0_takes_no_traffic(make: Make) -> None:
    tables = make(snapshot((payments(at(1, 0), at(2)),)))
    assert places(tables.outbound("cart", "payments")) == {"10.0.0.2:15443": (1, True)}


def test_the_own_datacenter_goes_first_and_another_is_asked_by_its_name(make: Make) -> None:
    both = (at(1), at(2, datacenter="dc2"), at(3, datacenter="dc1"))
    near = make(snapshot((payments(*both),))).outbound("cart", "payments")
    assert set(places(near)) == {"10.0.0.1:15443", "10.0.0.3:15443"}
    (far,) = make(snapshot((payments(both[1]),))).outbound("cart", "payments").endpoints
    assert far.security is not None
    assert far.security.server_name == "payments.dc2.mesh.test"


def test_the_same_question_has_the_same_answer(make: Make) -> None:
    tables = make(snapshot((payments(at(1)),), names=("host", "cart", "shop")))
    assert tables.outbound("cart", "payments") is tables.outbound("cart", "payments")
    assert tables.outbound("cart", "payments") is not tables.outbound("shop", "payments")
    assert tables.outbound("cart", "payments") is not tables.outbound_tcp("cart", "payments")


def test_a_service_that_is_not_there_has_no_endpoints_and_is_not_remembered(make: Make) -> None:
    tables = make(snapshot())
    assert tables.outbound("cart", "nobody").endpoints == []
    assert tables.described()["outbound"] == []


def test_a_caller_without_a_certificate_has_no_endpoints(make: Make) -> None:
    """Its connection is from before it left this host. Plain text would be the wrong way out."""
    tables = make(snapshot((payments(at(1)),)))
    assert tables.outbound("gone", "payments").endpoints == []
    tables.change(Delta(version=2, identities=identities("gone")))
    assert len(tables.outbound("gone", "payments").endpoints) == 1


def test_a_change_keeps_the_endpoints_that_stay(make: Make) -> None:
    tables = make(snapshot((payments(at(1), at(2)),)))
    before = {one.label: one for one in tables.outbound("cart", "payments").endpoints}
    before["10.0.0.2:15443"].in_flight = 7
    tables.change(Delta(version=2, services={"payments": payments(at(2, 5), at(3), timeout=3.0)}))
    destination = tables.outbound("cart", "payments")
    after = {one.label: one for one in destination.endpoints}
    assert set(after) == {"10.0.0.2:15443", "10.0.0.3:15443"}
    assert after["10.0.0.2:15443"] is before["10.0.0.2:15443"]
    assert (after["10.0.0.2:15443"].weight, after["10.0.0.2:15443"].in_flight) == (5, 7)
    assert before["10.0.0.1:15443"].retired
    assert not before["10.0.0.2:15443"].retired
    assert destination.timeout == 3.0


def test_a_change_of_one_service_leaves_the_others_alone(make: Make) -> None:
    tables = make(snapshot((payments(at(1)), service("stock"))))
    stock = tables.outbound("cart", "stock")
    tables.change(Delta(version=2, services={"payments": payments(at(2))}))
    assert tables.outbound("cart", "stock") is stock


def test_an_equal_snapshot_changes_nothing(make: Make) -> None:
    first = snapshot((payments(at(1)),), (Local("cart", "http", ("127.0.0.1:80",)),))
    tables = make(first)
    destination, local = tables.outbound("cart", "payments"), tables.local("cart")
    tables.apply(first)
    assert tables.outbound("cart", "payments") is destination
    assert tables.local("cart") is local


def test_a_service_that_goes_and_comes(make: Make) -> None:
    tables = make(snapshot((payments(at(1)),)))
    old = tables.outbound("cart", "payments").endpoints[0]
    assert tables.names.service(b"payments") == "payments"
    tables.change(Delta(version=2, services={"payments": None}))
    assert old.retired
    assert tables.names.service(b"payments") is None
    assert tables.outbound("cart", "payments").endpoints == []
    tables.change(Delta(version=3, services={"payments": payments(at(1))}))
    assert tables.names.service(b"payments") == "payments"
    (new,) = tables.outbound("cart", "payments").endpoints
    assert not new.retired


@pytest.mark.parametrize("whole", [True, False])
def test_a_new_certificate_means_new_connections_for_its_caller_only(make: Make, whole: bool) -> None:
    first = snapshot((payments(at(1)),), names=("host", "cart", "shop"))
    tables = make(first)
    cart, shop = tables.outbound("cart", "payments"), tables.outbound("shop", "payments")
    renewed = {**first.identities, "cart": good(CART)}
    if whole:
        tables.apply(snapshot((payments(at(1)),), identities=renewed))
    else:
        tables.change(Delta(version=2, identities={"cart": renewed["cart"]}))
    assert cart.endpoints[0].retired
    assert tables.outbound("cart", "payments") is not cart
    assert tables.outbound("shop", "payments") is shop


def test_new_authorities_mean_new_connections_for_all(make: Make) -> None:
    tables = make(snapshot((payments(at(1)),)))
    cart = tables.outbound("cart", "payments")
    tables.change(Delta(version=2, authorities=authority().pem + authority(3).pem))
    assert cart.endpoints[0].retired


def test_another_datacenter_is_another_server_name(make: Make) -> None:
    tables = make(snapshot((payments(at(1)),)))
    old = tables.outbound("cart", "payments").endpoints[0]
    tables.apply(snapshot((payments(at(1)),), datacenter="dc9"))
    (new,) = tables.outbound("cart", "payments").endpoints
    assert new.security is not None
    assert new.security.server_name == "payments.dc9.mesh.test"
    assert old.retired


def test_local_services(make: Make) -> None:
    rule = AllowRule(("shop",), (), (), "policy.toml:4")
    first = Local("cart", "http", ("127.0.0.1:80", "unix:/run/a"), (rule,), False, "default", 2.0)
    tables = make(snapshot((), (first,)))
    local = tables.local("cart")
    assert local is not None
    assert [one.label for one in local.endpoints] == ["127.0.0.1:80", "unix:/run/a"]
    assert all(one.security is None for one in local.endpoints)
    assert local.destination("shop") is local.destination("shop")
    assert local.destination("shop").timeout == 2.0
    assert local.destination("shop").series is not local.destination("stock").series
    assert local.authoriser.request("shop", b"GET", b"/") == (True, "policy.toml:4")
    assert tables.local("payments") is None


def test_a_change_of_a_local_service_keeps_the_instances_that_stay(make: Make) -> None:
    tables = make(snapshot((), (Local("cart", "http", ("127.0.0.1:80", "127.0.0.1:81")),)))
    before = tables.local("cart")
    assert before is not None
    tables.change(Delta(version=2, locals={"cart": Local("cart", "http", ("127.0.0.1:81", "127.0.0.1:82"))}))
    after = tables.local("cart")
    assert after is not None
    assert after.endpoints[0] is before.endpoints[1]
    assert [one.retired for one in before.endpoints] == [True, False]
    tables.change(Delta(version=3, locals={"cart": None}))
    assert tables.local("cart") is None
    assert all(one.retired for one in after.endpoints)


def test_callers_of_a_local_service_are_bounded(make: Make) -> None:
    tables = make(snapshot((), (Local("cart", "http", ("127.0.0.1:80",)),)))
    local = tables.local("cart")
    assert local is not None
    for number in range(MAX_CALLERS + 10):
        local.destination(f"caller-{number}")
    assert len(local._destinations) <= MAX_CALLERS


@pytest.mark.parametrize(
    ("protocol", "expected"), [("http", False), ("tcp", True), ("http2", True), ("grpc", True)]
)
def test_which_services_are_relayed_as_bytes(make: Make, protocol: str, expected: bool) -> None:
    tables = make(snapshot((payments(protocol=protocol),)))
    assert tables.is_tcp("payments") is expected
    assert not tables.is_tcp("nobody")


def test_ten_thousand_instances_take_no_time_worth_mentioning(make: Make) -> None:
    import time

    tables = make(snapshot((payments(at(1)),)))
    tables.outbound("cart", "payments")
    many = [
        Instance(
            "payments",
            f"h{number}",
            f"10.1.{number // 250}.{number % 250}:80",
            f"10.1.{number // 250}.{number % 250}:15443",
        )
        for number in range(10_000)
    ]
    tables.change(Delta(version=2, services={"payments": payments(*many)}))
    began = time.process_time()
    tables.change(Delta(version=3, services={"payments": payments(*many[1:])}))
    assert time.process_time() - began < 0.5
    assert len(tables.outbound("cart", "payments").endpoints) == 9999
