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
    Discovery,
    Host,
    IdentityConfig,
    LocalService,
    Log,
    Mesh,
    Outbound,
    PolicyConfig,
    Upstream,
    Workers,
)
from hostproxy.identity.files import Identities
from hostproxy.limits import Limits
from hostproxy.mesh.policy import AllowRule, Policy, ServicePolicy
from hostproxy.snapshot import Identity, Instance, Snapshot

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


def instance(service: str, number: int = 1) -> Instance:
    return Instance(service, f"h{number}", f"10.0.0.{number}:9000", f"10.0.0.{number}:15443")


CATALOG = {"payments": (instance("payments", 1), instance("payments", 2)), "stock": (instance("stock"),)}
RULE = AllowRule(("cart",), ("GET",), ("/a*",), "policy.toml:9")


def inputs(**changes: Any) -> Inputs:
    whole = Inputs(config(), CATALOG, Policy(), identities())
    return whole._replace(**changes)


def compiled(**changes: Any) -> Snapshot:
    return compile_snapshot(1, inputs(**changes))


def test_a_service_has_its_policy_and_its_instances() -> None:
    policy = Policy(services={"payments": ServicePolicy(protocol="tcp", timeout=2.0, balance="random")})
    service = compiled(policy=policy).services["payments"]
    assert service.instances == CATALOG["payments"]
    assert (service.protocol, service.timeout, service.balance, service.permissive) == (
        "tcp",
        2.0,
        "random",
        False,
    )


def test_services_are_known_from_catalog_policy_and_this_host() -> None:
    snapshot = compiled(policy=Policy(services={"refunds": ServicePolicy()}))
    assert sorted(snapshot.services) == ["cart", "payments", "refunds", "stock"]
    assert snapshot.services["refunds"].instances == ()


@pytest.mark.parametrize(
    ("policy", "default_allow", "reason"),
    [
        (Policy(), True, "no policy speaks of this service"),
        (Policy(default_access="allow", default_source="p:2"), True, "p:2: [defaults] access"),
        (Policy(default_access="deny", default_source="p:2"), False, "p:2: [defaults] access"),
        (
            Policy(services={"cart": ServicePolicy(allow=(RULE,))}),
            False,
            "policy.toml:9: no allow rule of service.cart matches",
        ),
        (
            Policy(default_access="allow", services={"cart": ServicePolicy(allow=(RULE,))}),
            False,
            "policy.toml:9: no allow rule of service.cart matches",
        ),
        (Policy(services={"cart": ServicePolicy()}), True, "no policy speaks of this service"),
    ],
)
def test_what_decides_when_no_rule_matches(policy: Policy, default_allow: bool, reason: str) -> None:
    local = compiled(policy=policy).locals["cart"]
    assert (local.default_allow, local.default_reason) == (default_allow, reason)


def test_rules_reach_the_local_service_whole() -> None:
    policy = Policy(services={"cart": ServicePolicy(allow=(RULE,), timeout=1.5)})
    local = compiled(policy=policy).locals["cart"]
    (rule,) = local.allow
    assert (rule.callers, rule.methods, rule.paths, rule.source) == (
        ("cart",),
        ("GET",),
        ("/a*",),
        "policy.toml:9",
    )
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


CHANGES: list[dict[str, Any]] = [
    {},
    {"catalog": {}},
    {"catalog": {**CATALOG, "payments": (instance("payments", 3),), "new": (instance("new"),)}},
    {"policy": Policy(default_access="deny", default_source="p:1")},
    {"policy": Policy(services={"stock": ServicePolicy(permissive=True), "other": ServicePolicy()})},
    {"identities": identities(b"another key")},
    {"identities": Identities(b"new roots", {}, {}, 0.0)},
    {"config": config(services=(LocalService(name="shop", instances=("127.0.0.1:1",), protocol="tcp"),))},
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


def test_one_endpoint_of_ten_thousand_costs_its_service_only() -> None:
    catalog = {f"s{number}": tuple(instance(f"s{number}", host) for host in range(1, 11)) for number in range(1000)}
    before = inputs(catalog=catalog)
    old = compile_snapshot(1, before)
    changed = {**catalog, "s500": catalog["s500"][1:]}
    started = time.process_time()
    new = compile_snapshot(2, before._replace(catalog=changed), (before, old))
    delta = difference(old, new)
    spent = time.process_time() - started
    assert delta is not None
    assert list(delta.services) == ["s500"]
    assert len(msgspec.msgpack.encode(delta)) < 1000
    assert all(new.services[name] is old.services[name] for name in catalog if name != "s500")
    assert spent < 0.05, "far more than a look at each of a thousand names"
