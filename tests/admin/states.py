"""A supervisor's state as on a host that works, for the tests of the admin room and the status command."""

from __future__ import annotations

import msgspec

from hostproxy.config import (
    Admin,
    Config,
    Discovery,
    Host,
    IdentityConfig,
    Log,
    Mesh,
    Outbound,
    PolicyConfig,
    Workers,
)
from hostproxy.config_discovery import ConsulConfig
from hostproxy.control.state import IdentityState, ReloadState, SourceState, SupervisorState, WorkerState
from hostproxy.discovery.catalog import CRITICAL, WARNING, Catalog, Instance
from hostproxy.discovery.consul.counters import Counters
from hostproxy.discovery.knowledge import DiscoveryState, ServiceKnowledge
from hostproxy.health import Result
from hostproxy.limits import Limits
from hostproxy.mesh.policy import Policy, ServicePolicy
from hostproxy.mesh.subsets import Subset
from hostproxy.snapshot import Identity, Listener, Local, Place, Service, Snapshot
from hostproxy.telemetry.metrics import WorkerMetrics
from hostproxy.telemetry.totals import Totals

NOW = 1_763_667_000.0  # Unix seconds
STARTED = NOW - 200.0
PRIVATE_KEY = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0IGtleSBvZiBjYXJ0\n-----END PRIVATE KEY-----\n"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\ncHVibGlj\n-----END CERTIFICATE-----\n"


def make_config(listen: str = "127.0.0.1:0") -> Config:
    return Config(
        path="/etc/hostproxy/conf.toml",
        host=Host(name="web-1", address="10.0.0.11", zone="rack-3", labels={"api_token": "label-secret"}),
        mesh=Mesh(trust_domain="example.org"),
        outbound=Outbound(),
        services=(),
        discovery=Discovery(file_path="/etc/hostproxy/catalog.toml"),
        identity=IdentityConfig(authorities_path="/etc/hostproxy/ca.pem", directory="/etc/hostproxy/tls"),
        policy=PolicyConfig(),
        admin=Admin(listen=listen),
        workers=Workers(count=2),
        limits=Limits(),
        log=Log(),
        warnings=(),
    )


def make_catalog(services: int = 1, instances: int = 2) -> Catalog:
    return {
        name: tuple(
            Instance(name, f"db-{n}", f"10.0.0.{n}:9001", mesh=f"10.0.0.{n}:15443")
            for n in range(1, instances + 1)
        )
        for name in ("payments", *(f"service-{number}" for number in range(1, services)))
    }


def make_snapshot(catalog: Catalog) -> Snapshot:
    services = {
        name: Service(name, places=tuple(Place(one.mesh, True, "dc1", 1) for one in instances))
        for name, instances in catalog.items()
    }
    return Snapshot(
        version=7,
        host="web-1",
        datacenter="dc1",
        zone="rack-3",
        trust_domain="example.org",
        domains=("mesh",),
        connect_ports=(),
        limits=Limits(),
        access_log=None,
        authorities=CERTIFICATE,
        identities={"cart": Identity("cart", "spiffe://example.org/service/cart", CERTIFICATE, PRIVATE_KEY)},
        services=services,
        locals={"cart": Local("cart", "http", ("127.0.0.1:9000",))},
        listeners=(Listener("proxy", "proxy", "127.0.0.1:15001", caller="cart"),),
    )


def make_totals() -> Totals:
    """Worker 11 carried cart's calls of payments, and a few of web's to cart; worker 12 nothing."""
    metrics = WorkerMetrics()
    calls = metrics.requests("outbound", "cart", "payments", "", True)
    calls.in_flight = 2
    for code, count in ((200, 395), (404, 2), (503, 3)):
        for _ in range(count):
            calls.record(b"POST", code, "UF" if code == 503 else "-", 0.002, 0.001, 100, 1000)
    served = metrics.requests("inbound", "web", "cart", "", True)
    for _ in range(10):
        served.record(b"GET", 200, "-", 0.002, 0.001, 100, 1000)
    metrics.tcp("outbound", "cart", "payments", True).begin()
    totals = Totals()
    totals.merge(11, metrics.export())
    totals.merge(12, WorkerMetrics().export())
    return totals


def make_state(listen: str = "127.0.0.1:0", services: int = 1) -> SupervisorState:
    catalog = make_catalog(services)
    return SupervisorState(
        software="0.1.0",
        pid=4711,
        started=STARTED,
        config=make_config(listen),
        totals=make_totals(),
        policy=Policy(default_access="deny", default_source="policy.toml:2"),
        catalog=catalog,
        snapshot=make_snapshot(catalog),
        listeners=(Listener("proxy", "proxy", "127.0.0.1:15001", caller="cart"),),
        workers=(
            WorkerState(
                place=0,
                id=11,
                pid=4712,
                phase="serving",
                since=NOW - 100.0,
                version=7,
                restarts=1,
                lag=0.0004,
                description={"connections": 5, "tunnels": 1, "pools": {"payments": 3}},
            ),
            WorkerState(place=1, id=12, pid=4713, phase="serving", since=NOW - 200.0, version=7),
        ),
        catalog_source=SourceState(path="/etc/hostproxy/catalog.toml", loaded=NOW - 30.0),
        policy_source=SourceState(path="/etc/hostproxy/policy.toml", loaded=NOW - 60.0),
        identity_source=SourceState(path="/etc/hostproxy/tls", loaded=NOW - 60.0),
        identities=(
            IdentityState(
                name="host",
                uri="spiffe://example.org/host/web-1",
                not_before=NOW - 3600.0,
                not_after=NOW + 86400.0 * 30,
            ),
            IdentityState(
                name="cart",
                uri="spiffe://example.org/service/cart",
                not_before=NOW - 3600.0,
                not_after=NOW + 3600.0,
            ),
        ),
        reloads=ReloadState(succeeded=2, refused=1, last_success=NOW - 60.0),
    )


def make_consul_state(listen: str = "127.0.0.1:0") -> SupervisorState:
    """A host whose catalog is Consul's: payments in two datacenters and in trouble, and what is in none."""
    state = make_state(listen)
    state.config = msgspec.structs.replace(
        state.config, discovery=Discovery(backend="consul", consul=ConsulConfig())
    )
    state.catalog = {
        "payments": (
            Instance(
                "payments",
                "db-1",
                "10.0.0.1:9001",
                "10.0.0.1:15443",
                "dc1",
                "rack-3",
                "2",
                ("blue",),
                meta=(("api_token", "label-secret"), ("owner", "money")),
            ),
            Instance(
                "payments", "db-2", "10.0.0.2:9001", "10.0.0.2:15443", "dc1", health=CRITICAL, reason="serfHealth"
            ),
            Instance("payments", "db-3", "10.0.0.3:9001", "10.0.0.3:15443", "dc1", health=WARNING, reason="disk"),
            Instance("payments", "db-9", "10.9.0.9:9001", "10.9.0.9:15443", "dc2"),
        ),
    }
    state.policy = Policy(
        services={"payments": ServicePolicy(failover=("dc2",), subsets={"v2": Subset(version="2")})}
    )
    state.snapshot = make_snapshot(state.catalog)
    state.catalog_source = SourceState(path="http://127.0.0.1:8500", loaded=NOW - 4.0)
    state.discovery = DiscoveryState(
        backend="consul",
        source="http://127.0.0.1:8500",
        services=(
            ServiceKnowledge(
                service="payments",
                datacenter="dc2",
                source="poll",
                wanted_by="policy",
                changed=NOW - 7200.0,
                confirmed=NOW - 10.0,
            ),
            ServiceKnowledge(
                service="payments",
                datacenter="dc1",
                source="watch",
                wanted_by="upstream",
                changed=NOW - 3600.0,
                confirmed=NOW - 4.0,
                index=1234,
                behind=0.25,
            ),
            ServiceKnowledge(service="stock", datacenter="dc1", source="watch", wanted_by="traffic"),
        ),
        names=("consul", "payments", "stock"),
        watches=2,
    )
    state.consul = Counters()
    state.registered = ("hostproxy", "hostproxy-cart-9000")
    state.health = {("cart", "127.0.0.1:9000"): Result(healthy=True, reason="", since=NOW - 100.0)}
    state.health_counts = {("cart", "healthy"): 50}
    return state
