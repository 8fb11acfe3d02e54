"""A supervisor's state as on a host that works, for the tests of the admin room and the status command."""

from __future__ import annotations

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
from hostproxy.control.state import IdentityState, ReloadState, SourceState, SupervisorState, WorkerState
from hostproxy.limits import Limits
from hostproxy.mesh.policy import Policy
from hostproxy.snapshot import Identity, Instance, Listener, Local, Service, Snapshot
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


def make_snapshot(services: int = 1) -> Snapshot:
    instances = tuple(
        Instance("payments", f"db-{n}", f"10.0.0.{n}:9001", mesh=f"10.0.0.{n}:15443") for n in (1, 2)
    )
    names = ["payments", *(f"service-{number}" for number in range(1, services))]
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
        services={name: Service(name, instances=instances) for name in names},
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
    return SupervisorState(
        software="0.1.0",
        pid=4711,
        started=STARTED,
        config=make_config(listen),
        totals=make_totals(),
        policy=Policy(default_access="deny", default_source="policy.toml:2"),
        snapshot=make_snapshot(services),
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
