"""Configuration, catalog, policy and certificates into snapshots, and what changed between two."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from hostproxy.compile import Inputs, compile_snapshot, difference, identity_names, listeners, nothing_new
from hostproxy.config import (
    Admin,
    Config,
    Host,
    IdentityConfig,
    Log,
    Mesh,
    Outbound,
    PolicyConfig,
    Upstream,
    Workers,
)
from hostproxy.config_discovery import ConsulConfig, Discovery
from hostproxy.config_services import LocalService
from hostproxy.discovery.catalog import CRITICAL, Instance
from hostproxy.identity.files import Identities
from hostproxy.limits import Limits
from hostproxy.mesh.policy import UNSAID, Policy, ServicePolicy
from hostproxy.mesh.retries import Retry
from hostproxy.mesh.routes import Match, Route, Share
from hostproxy.mesh.rules import Rule
from hostproxy.mesh.subsets import Subset
from hostproxy.snapshot import Delta, Identity, Place, Snapshot

replace = msgspec.structs.replace


def config(**changes: Any) -> Config:
    return replace(
        Config(
            path="/conf.toml",
            host=Host(name="h1", address="10.0.0.1", zone="rack-1"),
            mesh=Mesh(trust_domain="example.test"),
            outbound=Outbound(
                caller="cart",
                upstreams=(
                    Upstream(service="payments", listen="127.0.0.1:7001", caller="cart"),
                    Upstream(service="stock", listen="unix:/run/stock.sock", caller="host"),
                ),
            ),
            services=(LocalService(name="cart", instances=("127.0.0.1:9001",)),),
            discovery=Discovery(file_path="/catalog.toml"),
            identity=IdentityConfig(authorities_path="/ca.pem", directory="/certs"),
            policy=PolicyConfig(path="/policy.toml"),
            admin=Admin(),
            workers=Workers(count=2),
            limits=Limits(),
            log=Log(),
        ),
        **changes,
    )


def identities(key: bytes = b"key") -> Identities:
    cart = Identity("cart", "spiffe://example.test/service/cart", b"certificate", key)
    return Identities(b"roots", {"cart": cart}, {}, 0.0)


def instance(service: str, number: int = 1, **more: Any) -> Instance:
    return Instance(service, f"h{number}", f"10.0.0.{number}:9000", f"10.0.0.{number}:15443", **more)


def place(number: int = 1) -> Place:
    return Place(f"10.0.0.{number}:15443", True, "dc1", 1)


CATALOG = {"payments": (instance("payments", 1), instance("payments", 2)), "stock": (instance("stock"),)}
RULE = Rule(("cart",), ("GET",), ("/a*",), "policy.toml:9")


def inputs(**changes: Any) -> Inputs:
    whole = Inputs(config(), CATALOG, Policy(), identities())
    return whole._replace(**changes)


def compiled(**changes: Any) -> Snapshot:
    return compile_snapshot(1, inputs(**changes))


def test_a_service_has_its_policy_and_its_places() -> None:
    policy = Policy(services={"payments": ServicePolicy(protocol="tcp", timeout=2.0, balance="random")})
    service = compiled(policy=policy).services["payments"]
    assert service.places == (place(1), place(2))
    assert (service.name, service.protocol, service.timeout, service.balance) == ("payments", "tcp", 2.0, "random")
    assert (service.subset, service.obstacle) == ("", "")


def test_services_are_known_from_catalog_policy_and_this_host() -> None:
    snapshot = compiled(policy=Policy(services={"refunds": ServicePolicy()}))
    assert sorted(snapshot.services) == ["cart", "payments", "refunds", "stock"]
    assert snapshot.services["refunds"].places == ()
    assert snapshot.services["refunds"].obstacle == "no instance of refunds is known"


@pytest.mark.parametrize(
    ("policy", "default_allow", "reason"),
    [
        (Policy(), False, UNSAID),
        (Policy(default_access="allow", default_source="p:2"), True, "p:2: [defaults] access"),
        (Policy(default_access="deny", default_source="p:2"), False, "p:2: [defaults] access"),
        (Policy(services={"cart": ServicePolicy(allow=(RULE,))}), False, UNSAID),
        (
            Policy(default_access="allow", default_source="p:2", services={"cart": ServicePolicy(allow=(RULE,))}),
            True,
            "p:2: [defaults] access",
        ),
        (
            Policy(
                default_access="deny",
                services={"cart": ServicePolicy(access="allow", access_source="p:3", allow=(RULE,))},
            ),
            True,
            "p:3: [service.cart] access",
        ),
    ],
)
def test_what_decides_when_no_rule_matches(policy: Policy, default_allow: bool, reason: str) -> None:
    local = compiled(policy=policy).locals["cart"]
    assert (local.default_allow, local.default_reason) == (default_allow, reason)


def test_rules_reach_the_local_service_whole() -> None:
    deny = Rule(("*",), ("DELETE",), (), "policy.toml:12", (("x-role", "guest"),), True)
    policy = Policy(services={"cart": ServicePolicy(allow=(RULE,), deny=(deny,), timeout=1.5)})
    local = compiled(policy=policy).locals["cart"]
    assert (local.allow, local.deny) == ((RULE,), (deny,))
    assert local.timeout == 1.5
    assert local.instances == ("127.0.0.1:9001",)


def test_listeners_and_whose_certificates_they_need() -> None:
    assert [(one.id, one.kind, one.address, one.service, one.caller) for one in listeners(config())] == [
        ("mesh", "mesh", "0.0.0.0:15443", "", ""),
        ("proxy", "proxy", "127.0.0.1:15001", "", "cart"),
        ("upstream:payments@127.0.0.1:7001", "upstream", "127.0.0.1:7001", "payments", "cart"),
        ("upstream:stock@unix:/run/stock.sock", "upstream", "unix:/run/stock.sock", "stock", "host"),
    ]
    assert identity_names(config()) == ("cart",)
    assert [one.id for one in listeners(config(outbound=Outbound(listen="")))] == ["mesh"]


def test_the_access_log_is_off_without_a_path() -> None:
    assert compiled().access_log is None
    access = compiled(config=config(log=Log(access_path="/a.log", access_sample=0.5))).access_log
    assert access is not None
    assert (access.path, access.sample) == ("/a.log", 0.5)


def apply(snapshot: Snapshot, new: Snapshot) -> Snapshot:
    """What a worker makes of the difference."""
    delta = difference(snapshot, new)
    assert delta is not None
    maps = {}
    for field in ("services", "locals", "identities"):
        values = {**getattr(snapshot, field), **getattr(delta, field)}
        maps[field] = {name: value for name, value in values.items() if value is not None}
    authorities = snapshot.authorities if delta.authorities is None else delta.authorities
    return replace(snapshot, version=delta.version, authorities=authorities, **maps)


SUBSETS = {"v1": Subset(version="1"), "v2": Subset(version="2")}
NEAR = Policy(services={"payments": ServicePolicy(prefer="round-trip")})
STRICT = Policy(services={"cart": ServicePolicy(panic_threshold=0)})
CHANGES: list[dict[str, Any]] = [
    {},
    {"catalog": {}},
    {"catalog": {**CATALOG, "payments": (instance("payments", 3),), "new": (instance("new"),)}},
    {"policy": Policy(default_access="deny", default_source="p:1")},
    {"policy": Policy(services={"stock": ServicePolicy(permissive=True), "other": ServicePolicy()})},
    {"identities": identities(b"another key")},
    {"identities": Identities(b"new roots", {}, {}, 0.0)},
    {"config": config(services=(LocalService(name="shop", instances=("127.0.0.1:1",), protocol="tcp"),))},
    {"policy": Policy(services={"payments": ServicePolicy(subsets=SUBSETS, default_subset="v2")})},
    {"policy": NEAR, "bands": {"h1": 1, "h2": 0}},
    {"unhealthy": frozenset({("cart", "127.0.0.1:9001")}), "policy": STRICT},
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_difference_makes_the_old_into_the_new(change: dict[str, Any]) -> None:
    before = inputs()
    old = compile_snapshot(1, before)
    new = compile_snapshot(2, inputs(**change), (before, old))
    assert apply(old, new) == new
    assert new == compile_snapshot(2, inputs(**change)), "compiling again is another result than compiling"
    assert nothing_new(old, new) == (not change)


@pytest.mark.parametrize(
    "change",
    [
        {"limits": Limits(drain=1.0)},
        {"outbound": Outbound(listen="127.0.0.1:1")},
        {"log": Log(access_path="/access.log")},
        {"mesh": Mesh(trust_domain="other.test")},
    ],
)
def test_what_is_of_the_whole_host_takes_a_whole_snapshot(change: dict[str, Any]) -> None:
    old, new = compiled(), compiled(config=config(**change))
    assert difference(old, new) is None
    assert not nothing_new(old, new)


VERSIONS = {"payments": (instance("payments", 1, version="1"), instance("payments", 2, version="2"))}


def with_upstream(service: str, subset: str) -> Config:
    upstream = Upstream(service=service, subset=subset, listen="127.0.0.1:7001", caller="cart")
    return config(outbound=Outbound(caller="cart", upstreams=(upstream,)))


def test_every_subset_is_a_destination_of_its_own() -> None:
    policy = Policy(services={"payments": ServicePolicy(subsets=SUBSETS, timeout=2.0)})
    services = compiled(catalog=VERSIONS, policy=policy).services
    assert {key: (one.name, one.subset, one.places, one.timeout) for key, one in services.items() if key != "cart"} == {
        "payments": ("payments", "", (place(1), place(2)), 2.0),
        "v1.payments": ("payments", "v1", (place(1),), 2.0),
        "v2.payments": ("payments", "v2", (place(2),), 2.0),
    }


def test_without_a_subset_the_default_one_is_meant() -> None:
    policy = Policy(services={"payments": ServicePolicy(subsets=SUBSETS, default_subset="v2")})
    services = compiled(catalog=VERSIONS, policy=policy).services
    assert services["payments"].places == services["v2.payments"].places == (place(2),)
    assert services["payments"].subset == ""


def test_an_upstream_leads_to_its_subset() -> None:
    assert listeners(with_upstream("payments", "v2"))[-1].service == "v2.payments"


@pytest.mark.parametrize("catalog", [VERSIONS, {}])
def test_an_upstream_to_a_subset_that_policy_lacks_says_so(catalog: dict[str, Any]) -> None:
    service = compiled(config=with_upstream("payments", "v3"), catalog=catalog).services["v3.payments"]
    assert (service.places, service.obstacle) == ((), 'policy has no subset "v3" of payments')


def test_subsets_come_and_go_with_policy_and_follow_the_catalog() -> None:
    upstream = with_upstream("payments", "v1")
    defined = Policy(services={"payments": ServicePolicy(subsets=SUBSETS)})
    first = inputs(config=upstream, catalog=VERSIONS)
    steps = [
        first,
        first._replace(policy=defined),
        first._replace(policy=defined, catalog={"payments": VERSIONS["payments"][:1]}),
        first._replace(policy=defined, catalog={}),
        first._replace(policy=Policy(services={"payments": ServicePolicy(subsets={"v2": SUBSETS["v2"]})}), catalog={}),
        first._replace(catalog={}),
        first,
    ]
    before = None
    found = []
    for version, step in enumerate(steps):
        snapshot = compile_snapshot(version, step, before)
        assert snapshot == compile_snapshot(version, step), "compiling again is another result than compiling"
        found.append(sorted(key for key in snapshot.services if "payments" in key))
        before = (step, snapshot)
    asked = ["payments", "v1.payments"]
    all_of_them = [*asked, "v2.payments"]
    assert found == [asked, all_of_them, all_of_them, all_of_them, all_of_them, ["v1.payments"], asked]


def test_a_change_of_distances_is_news_only_where_they_count() -> None:
    policy = Policy(services={"payments": ServicePolicy(prefer="round-trip"), "stock": ServicePolicy()})
    before = inputs(policy=policy, bands={"h1": 0, "h2": 1})
    old = compile_snapshot(1, before)
    assert old.services["payments"].places == (place(1),)
    new = compile_snapshot(2, before._replace(bands={"h1": 1, "h2": 0}), (before, old))
    delta = difference(old, new)
    assert delta is not None
    assert list(delta.services) == ["payments"]
    assert new.services["payments"].places == (place(2),)
    assert new.services["stock"] is old.services["stock"]


def test_a_policy_change_compiles_the_services_it_speaks_of() -> None:
    before = inputs(policy=Policy(services={"stock": ServicePolicy(timeout=1.0)}))
    old = compile_snapshot(1, before)
    changed = Policy(default_access="deny", services={"stock": ServicePolicy(timeout=2.0)})
    new = compile_snapshot(2, before._replace(policy=changed), (before, old))
    assert new.services["payments"] is old.services["payments"]
    assert new.services["stock"].timeout == 2.0
    assert not new.locals["cart"].default_allow


@pytest.mark.parametrize(
    ("discovery", "seconds"),
    [(Discovery(backend="consul", consul=ConsulConfig(first_use=1.5)), 1.5), (Discovery(file_path="/c.toml"), 0.0)],
)
def test_a_first_use_waits_only_where_somebody_can_be_asked(discovery: Discovery, seconds: float) -> None:
    assert compiled(config=config(discovery=discovery)).first_use == seconds


THREE = tuple(f"127.0.0.1:900{number}" for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("threshold", "unhealthy", "used"),
    [
        (50, (), THREE),
        (50, THREE[:1], THREE[1:]),
        (50, THREE[:2], THREE[2:]),
        (50, THREE, THREE),
        (33, THREE[:2], THREE[2:]),
        (0, THREE[:2], THREE[2:]),
        (0, THREE, ()),
        (100, THREE[:1], THREE[1:]),
    ],
)
def test_local_instances_that_fail_their_check_are_left_out(
    threshold: int, unhealthy: tuple[str, ...], used: tuple[str, ...]
) -> None:
    local = compiled(
        config=config(services=(LocalService(name="cart", instances=THREE),)),
        policy=Policy(services={"cart": ServicePolicy(panic_threshold=threshold)}),
        unhealthy=frozenset(("cart", address) for address in unhealthy),
    ).locals["cart"]
    assert local.instances == used
    assert local.failing == ("" if used else "health checks: no instance of cart passes")


def test_a_local_service_without_instances_is_not_failing() -> None:
    services = (LocalService(name="cart"),)
    local = compiled(config=config(services=services), policy=STRICT).locals["cart"]
    assert (local.instances, local.failing) == ((), "")


def test_news_of_health_makes_only_that_local_service_again() -> None:
    services = (LocalService(name="cart", instances=THREE), LocalService(name="shop", instances=THREE))
    before = inputs(config=config(services=services), unhealthy=frozenset({("shop", THREE[0])}))
    old = compile_snapshot(1, before)
    news = before._replace(unhealthy=frozenset({("shop", THREE[0]), ("cart", THREE[1])}))
    new = compile_snapshot(2, news, (before, old))
    assert new.locals["shop"] is old.locals["shop"]
    assert new.locals["cart"].instances == (THREE[0], THREE[2])
    recovered = compile_snapshot(3, before, (news, new))
    assert recovered.locals["cart"].instances == THREE
    assert all(new.services[name] is old.services[name] for name in old.services)


def test_another_configuration_has_its_own_listeners() -> None:
    before = inputs()
    old = compile_snapshot(1, before)
    other = inputs(config=config(outbound=Outbound(listen="127.0.0.1:1")))
    assert compile_snapshot(2, other, (before, old)) == compile_snapshot(2, other)


def test_one_instance_of_forty_thousand_costs_its_service_only() -> None:
    catalog = {f"s{number}": tuple(instance(f"s{number}", host) for host in range(1, 21)) for number in range(2000)}
    before = inputs(catalog=catalog)
    old = compile_snapshot(1, before)
    (first, *rest) = catalog["s500"]
    changed = {**catalog, "s500": (replace(first, health=CRITICAL, reason="http"), *rest)}
    times = []
    for _ in range(5):
        started = time.process_time()
        new = compile_snapshot(2, before._replace(catalog=changed), (before, old))
        delta = difference(old, new)
        times.append(time.process_time() - started)
    assert delta is not None
    assert list(delta.services) == ["s500"]
    assert len(msgspec.msgpack.encode(delta)) < 1000
    assert all(new.services[name] is old.services[name] for name in catalog if name != "s500")
    assert min(times) < 0.005, "far more than a look at each of two thousand names"


def test_who_is_denied_reaches_the_workers() -> None:
    denied = ("spiffe://example.test/host/h9",)
    before, after = compiled(), compiled(denied=denied)
    assert after.denied == denied
    delta = difference(before, after)
    assert delta is not None
    assert delta.denied == denied
    assert not nothing_new(before, after)
    back = difference(after, before)
    assert back is not None
    assert back.denied == ()
    unchanged = difference(after, compiled(denied=denied))
    assert unchanged is not None
    assert unchanged.denied is None


CANARY = Route(Match(headers=(("x-canary", "yes"),)), (Share("v2"),), timeout=5.0, name="canary", source="p:20")


def routed(*routes: Route, **rest: Any) -> Policy:
    subsets = {"v2": Subset(version="2")}
    rules = ServicePolicy(**{"subsets": subsets, "retry": Retry(attempts=2), "timeout": 2.0, "routes": routes, **rest})
    return Policy(services={"payments": rules, "stock": ServicePolicy()})


def test_routes_are_of_the_service_and_retries_of_its_subsets_too() -> None:
    services = compiled(policy=routed(CANARY)).services
    assert (services["payments"].routes, services["payments"].retry) == ((CANARY,), Retry(attempts=2))
    assert (services["v2.payments"].routes, services["v2.payments"].retry) == ((), Retry(attempts=2))
    assert (services["stock"].routes, services["stock"].retry) == ((), None)


@pytest.mark.parametrize("protocol", ["tcp", "http2", "grpc"])
def test_in_bytes_nobody_tells_requests_apart(protocol: str) -> None:
    services = compiled(policy=routed(CANARY, protocol=protocol)).services
    assert {(one.routes, one.retry) for key, one in services.items() if key.endswith("payments")} == {((), None)}


def test_a_change_of_routes_reaches_the_workers_and_nothing_else_does() -> None:
    before = inputs(policy=routed(CANARY))
    old = compile_snapshot(1, before)
    moved = replace(CANARY, split=(Share("v2", 10), Share("v3", 90)), retry=Retry(on=("5xx",), statuses=(429,)))
    after = before._replace(policy=routed(moved))
    new = compile_snapshot(2, after, (before, old))
    assert new == compile_snapshot(2, after)
    delta = difference(old, new)
    assert delta is not None
    assert list(delta.services) == ["payments"]
    assert delta.services["payments"] == new.services["payments"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(delta), type=Delta) == delta
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(new), type=Snapshot) == new
    gone = compile_snapshot(3, before._replace(policy=routed()), (after, new))
    assert gone.services["payments"].routes == ()
    assert gone.services["v2.payments"] is new.services["v2.payments"]


def test_a_policy_that_says_the_same_of_routes_is_no_news() -> None:
    before = inputs(policy=routed(CANARY))
    old = compile_snapshot(1, before)
    again = compile_snapshot(2, before._replace(policy=routed(replace(CANARY))), (before, old))
    assert again.services["payments"] is old.services["payments"]
    assert nothing_new(old, again)


@pytest.mark.parametrize(
    ("timeout", "of_routes", "expected"),
    [(2.0, (), 2.0), (2.0, (5.0, 1.0), 5.0), (2.0, (None, 1.0), 2.0), (2.0, (0.0, 5.0), 0.0), (0.0, (5.0,), 0.0)],
)
def test_the_callee_s_host_waits_as_long_as_the_longest_route_allows(
    timeout: float, of_routes: tuple[float | None, ...], expected: float
) -> None:
    routes = tuple(replace(CANARY, timeout=each) for each in of_routes)
    policy = Policy(services={"cart": ServicePolicy(timeout=timeout, routes=routes)})
    assert compiled(policy=policy).locals["cart"].timeout == expected
