from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest

from hostproxy.mesh.retries import Retry
from hostproxy.mesh.routes import Match, Route, Share
from hostproxy.mesh.rules import Rule
from hostproxy.net.deadlines import Deadlines
from hostproxy.snapshot import Delta, Local, Place, Service, Snapshot
from hostproxy.tables import MAX_CALLERS, MAX_USED, Tables
from hostproxy.telemetry.metrics import WorkerMetrics
from hostproxy.upstream.destination import Destination
from hostproxy.upstream.dial import Dialling
from hostproxy.upstream.routing import Way
from tests.datapath import identities, place, service, snapshot
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


def at(host: int, weight: int = 1, mesh: bool = True, datacenter: str = "dc1") -> Place:
    return place(f"10.0.0.{host}:{15443 if mesh else 9000}", mesh, datacenter, weight)


def payments(*places: Place, **policy: object) -> Service:
    return service("payments", *places, **policy)


def places(destination: Destination) -> dict[str, tuple[int, bool]]:
    """Endpoint: weight, and whether over mutual TLS."""
    return {one.label: (one.weight, one.security is not None) for one in destination.endpoints}


def test_each_place_is_an_endpoint_with_its_weight(make: Make) -> None:
    tables = make(snapshot((payments(at(1, 3), at(2), at(3, mesh=False)),)))
    assert places(tables.outbound("cart", "payments")) == {
        "10.0.0.1:15443": (3, True),
        "10.0.0.2:15443": (1, True),
        "10.0.0.3:9000": (1, False),
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


def test_a_host_of_another_datacenter_is_asked_by_its_name(make: Make) -> None:
    tables = make(snapshot((payments(at(1), at(2, datacenter="dc2")),)))
    near, far = tables.outbound("cart", "payments").endpoints
    assert near.security is not None
    assert far.security is not None
    assert far.security.server_name == "payments.dc2.mesh.test"
    assert far.security.expected == near.security.expected


def test_a_subset_is_a_destination_of_its_own_with_the_name_of_its_service(make: Make) -> None:
    tables = make(snapshot((payments(at(1), at(2)), payments(at(2, 5), subset="v2", timeout=3.0))))
    whole, subset = tables.outbound("cart", "payments"), tables.outbound("cart", "v2.payments")
    assert places(subset) == {"10.0.0.2:15443": (5, True)}
    assert (subset.name, subset.key, subset.timeout) == ("payments", "v2.payments", 3.0)
    assert (whole.name, whole.key) == ("payments", "payments")
    assert (whole.subset, subset.subset) == ("", "v2")
    assert subset.series is not whole.series
    (endpoint,) = subset.endpoints
    assert endpoint.security is not None
    assert endpoint.security.server_name == "payments.dc1.mesh.test"
    assert endpoint.security.expected == "spiffe://mesh.test/service/payments"
    assert endpoint.service == "payments"
    rows = tables.described()["outbound"]
    assert isinstance(rows, list)
    assert sorted(row["service"] for row in rows) == ["payments", "payments", "v2.payments"]


def test_a_change_of_a_subset_leaves_the_service_alone(make: Make) -> None:
    tables = make(snapshot((payments(at(1)), payments(at(1), subset="v2"))))
    whole, before = tables.outbound("cart", "payments"), tables.outbound("cart", "v2.payments")
    tables.change(Delta(version=2, services={"v2.payments": payments(at(2), subset="v2")}))
    assert tables.outbound("cart", "payments") is whole
    assert not whole.endpoints[0].retired
    assert before.endpoints[0].retired
    assert list(places(tables.outbound("cart", "v2.payments"))) == ["10.0.0.2:15443"]


def test_why_there_is_no_endpoint(make: Make) -> None:
    tables = make(snapshot((payments(obstacle="all are in maintenance"), service("db", at(1), protocol="tcp"))))
    assert tables.outbound("cart", "payments").unsuitable == "all are in maintenance"
    assert tables.outbound_tcp("cart", "payments").unsuitable == "all are in maintenance"
    by_requests = tables.outbound("cart", "db")
    assert "relayed as bytes" in by_requests.unsuitable
    assert by_requests.endpoints == []
    assert tables.outbound_tcp("cart", "db").unsuitable == ""


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


def test_a_change_of_weights_alone_keeps_every_endpoint(make: Make) -> None:
    tables = make(snapshot((payments(at(1), at(2), at(3, mesh=False)),)))
    before = tables.outbound("cart", "payments").endpoints
    tables.change(Delta(version=2, services={"payments": payments(at(3, 2, False), at(2, 9), at(1, 4))}))
    after = tables.outbound("cart", "payments")
    assert after.endpoints == [*reversed(before)]
    assert [one.weight for one in after.endpoints] == [2, 9, 4]
    assert not any(one.retired for one in before)


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


def test_a_place_that_moves_to_another_datacenter_has_another_server_name(make: Make) -> None:
    tables = make(snapshot((payments(at(1)),)))
    old = tables.outbound("cart", "payments").endpoints[0]
    tables.apply(snapshot((payments(at(1, datacenter="dc9")),), datacenter="dc9"))
    (new,) = tables.outbound("cart", "payments").endpoints
    assert new.security is not None
    assert new.security.server_name == "payments.dc9.mesh.test"
    assert old.retired


def test_another_trust_domain_is_another_server_name(make: Make) -> None:
    tables = make(snapshot((payments(at(1)),)))
    old = tables.outbound("cart", "payments").endpoints[0]
    tables.apply(snapshot((payments(at(1)),), trust_domain="other.test"))
    (new,) = tables.outbound("cart", "payments").endpoints
    assert new.security is not None
    assert new.security.server_name == "payments.dc1.other.test"
    assert old.retired


def test_local_services(make: Make) -> None:
    rule = Rule(("shop",), (), (), "policy.toml:4")
    first = Local("cart", "http", ("127.0.0.1:80", "unix:/run/a"), (rule,), False, "default", 2.0)
    tables = make(snapshot((), (first,)))
    local = tables.local("cart")
    assert local is not None
    assert [one.label for one in local.endpoints] == ["127.0.0.1:80", "unix:/run/a"]
    assert all(one.security is None for one in local.endpoints)
    assert local.destination("shop") is local.destination("shop")
    assert local.destination("shop").timeout == 2.0
    assert local.destination("shop").series is not local.destination("stock").series
    assert local.authoriser.request("shop", b"GET", b"/")[:2] == (True, "policy.toml:4")
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


def test_a_local_service_whose_checks_fail_has_no_endpoint_until_they_pass(make: Make) -> None:
    healthy = Local("cart", "http", ("127.0.0.1:80",))
    tables = make(snapshot((), (healthy,)))
    local = tables.local("cart")
    assert local is not None
    (endpoint,) = local.endpoints
    tables.change(Delta(version=2, locals={"cart": Local("cart", "http", ("127.0.0.1:80",), failing="GET: 500")}))
    failing = tables.local("cart")
    assert failing is not None
    for destination in (failing.destination("shop"), failing.tcp("shop")):
        assert destination.choose((), 0.0) is None
        assert (destination.unsuitable, destination.lacking) == ("GET: 500", "LH")
    assert not endpoint.retired, "its requests under way may finish, and it may come back"
    tables.change(Delta(version=3, locals={"cart": healthy}))
    again = tables.local("cart")
    assert again is not None
    assert again.destination("shop").choose((), 0.0) is endpoint
    assert again.destination("shop").lacking == "UH"


def called(tables: Tables, service: str, times: int = 1, caller: str = "cart") -> None:
    for _ in range(times):
        tables.outbound(caller, service).series.record(b"GET", 200, "-", 0.1, 0.1, 0, 0)


def test_services_that_were_called_since_the_last_time(make: Make) -> None:
    names = ("host", "cart", "shop")
    tables = make(snapshot((payments(at(1)), payments(at(1), subset="v2"), service("stock")), names=names))
    assert tables.used() == ()
    called(tables, "stock")
    called(tables, "payments", 3)
    assert tables.used() == ("payments", "stock")
    assert tables.used() == ()
    called(tables, "v2.payments", caller="shop")
    assert tables.used() == ("payments",)
    tables.change(Delta(version=2, services={"payments": payments(at(2))}))
    assert tables.used() == (), "a change is no call"
    endpoint = tables.outbound("cart", "payments").endpoints[0]
    endpoint.in_flight = 1  # a tunnel of an hour
    assert tables.used() == ("payments",)
    assert tables.used() == ("payments",)
    endpoint.in_flight = 0
    assert tables.used() == ()


def routed(*places: Place, **changes: object) -> tuple[Service, Service]:
    """The service with a route to its subset, and the subset."""
    canary = Route(Match(path="/x"), (Share("v2"),), name="canary", retry=Retry(attempts=3))
    whole = payments(*places, **{"routes": (canary,), "retry": Retry(), **changes})
    return whole, payments(*places, subset="v2", retry=Retry())


def way(tables: Tables, caller: str = "cart", target: bytes = b"/x") -> Way | None:
    routing = tables.outbound(caller, "payments").routing
    assert routing is not None
    return routing.find(b"GET", target, b"")


def test_routes_are_those_of_the_service_and_of_requests(make: Make) -> None:
    tables = make(snapshot(routed(at(1))))
    canary = way(tables)
    assert canary is not None
    assert (canary.key, canary.route, canary.timeout) == ("v2.payments", "canary", None)
    assert way(tables, target=b"/y") is None
    assert tables.outbound("cart", "v2.payments").routing is None
    assert tables.outbound_tcp("cart", "payments").routing is None
    assert tables.outbound_tcp("cart", "payments").retry is None


def test_retries_are_counted_for_each_caller_and_for_a_route_with_its_own(make: Make) -> None:
    tables = make(snapshot(routed(at(1)), names=("host", "cart", "shop")))
    cart, shop = way(tables), way(tables, "shop")
    assert cart is not None
    assert shop is not None
    policies = [
        cart.retry,
        shop.retry,
        *(tables.outbound(who, key).retry for who in ("cart", "shop") for key in ("payments", "v2.payments")),
    ]
    assert len({id(policy) for policy in policies}) == 6
    assert [policy.attempts for policy in policies if policy is not None] == [3, 3, 1, 1, 1, 1]


def test_a_change_of_instances_keeps_routes_and_the_count_of_retries(make: Make) -> None:
    tables = make(snapshot(routed(at(1))))
    before, destination = way(tables), tables.outbound("cart", "payments")
    tables.change(Delta(version=2, services={"payments": routed(at(2))[0]}))
    after = tables.outbound("cart", "payments")
    assert after is not destination
    assert after.retry is destination.retry
    assert way(tables) is before


def test_a_change_of_policy_replaces_what_it_speaks_of(make: Make) -> None:
    tables = make(snapshot(routed(at(1))))
    canary, retry = way(tables), tables.outbound("cart", "payments").retry
    tables.change(Delta(version=2, services={"payments": routed(at(1), retry=Retry(attempts=5))[0]}))
    destination = tables.outbound("cart", "payments")
    assert way(tables) is canary
    assert destination.retry is not None
    assert destination.retry is not retry
    assert destination.retry.attempts == 5
    stable = Route(split=(Share("v1"),), name="stable")
    tables.change(Delta(version=3, services={"payments": routed(at(1), routes=(stable,), retry=None)[0]}))
    moved = way(tables)
    assert moved is not None
    assert (moved.key, moved.retry, tables.outbound("cart", "payments").retry) == ("v1.payments", None, None)
    tables.change(Delta(version=4, services={"payments": routed(at(1), routes=())[0]}))
    assert tables.outbound("cart", "payments").routing is None


def test_a_caller_whose_certificate_is_replaced_keeps_its_routes(make: Make) -> None:
    first = snapshot(routed(at(1)))
    tables = make(first)
    assert way(tables) is not None
    tables.change(Delta(version=2, identities={"cart": good(CART)}))
    canary = way(tables)
    assert canary is not None
    assert canary.series(True) is tables.metrics.requests("outbound", "cart", "payments", "canary", True, "v2")


def test_calls_by_a_route_are_told_as_calls_of_the_service(make: Make) -> None:
    tables = make(snapshot((*routed(at(1)), service("stock"))))
    canary = way(tables)
    assert canary is not None
    assert tables.used() == ()
    for secure in (True, False):
        canary.series(secure).record(b"GET", 200, "-", 0.1, 0.1, 0, 0)
    called(tables, "stock")
    assert tables.used() == ("payments", "stock")
    assert tables.used() == ()
    tables.change(Delta(version=2, services={"payments": routed(at(2))[0]}))
    assert tables.used() == ()
    tables.outbound("cart", canary.key).endpoints[0].in_flight = 1  # a long call by the route
    assert tables.used() == ("payments",)


def test_only_the_most_called_are_told(make: Make) -> None:
    count = MAX_USED + 10
    tables = make(snapshot(tuple(service(f"s{number}") for number in range(count))))
    # Beyond the bound of metrics all count in one series, so each of those is as used as all of them.
    for number in range(count):
        called(tables, f"s{number}", 2 if number == count - 1 else 1)
    used = tables.used()
    assert len(used) == MAX_USED
    assert f"s{count - 1}" in used


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


def test_ten_thousand_places_take_no_time_worth_mentioning(make: Make) -> None:
    import time

    tables = make(snapshot((payments(at(1)),)))
    tables.outbound("cart", "payments")
    many = [
        place(f"10.1.{number // 250}.{number % 250}:15443")
        for number in range(10_000)
    ]
    tables.change(Delta(version=2, services={"payments": payments(*many)}))
    began = time.process_time()
    tables.change(Delta(version=3, services={"payments": payments(*many[1:])}))
    assert time.process_time() - began < 0.5
    assert len(tables.outbound("cart", "payments").endpoints) == 9999
