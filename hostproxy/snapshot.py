"""What the supervisor tells the workers: catalog, policy and identity compiled into one immutable value.

The supervisor builds a :class:`Snapshot`, sends it whole to a new worker, and afterwards sends a
:class:`Delta` with the services that changed. Workers never see TOML or JSON, only these structs.
"""

from __future__ import annotations

import msgspec

from hostproxy.limits import Limits
from hostproxy.mesh.retries import Retry
from hostproxy.mesh.routes import Route
from hostproxy.mesh.rules import Rule


class Place(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where connections for a service go: a host's mesh port, or an instance on a host without a hostproxy.

    Without tracking by the collector (it cannot be part of a cycle): there are ten thousands of them.
    """

    address: str  # "10.0.0.12:15443", or where the instance listens
    secure: bool  # mutual TLS: it is a mesh port
    datacenter: str  # of the host: a part of the TLS server name
    weight: int  # of all instances behind it together, at least 1


class Service(msgspec.Struct, frozen=True, array_like=True):
    """A destination: a service or a subset of one, its policy and where it runs.

    Which instances are used, and in which shares, is decided before: see :mod:`hostproxy.selection`.
    """

    name: str  # of the service, as identities have it
    subset: str = ""
    protocol: str = "http"  # http, http2, grpc, tcp
    timeout: float = 0.0  # seconds for a whole call, retries included; 0: none
    balance: str = "least-request"  # least-request, round-robin, random
    places: tuple[Place, ...] = ()
    obstacle: str = ""  # why there is no place, for callers to read
    retry: Retry | None = None  # None: only what is safe for every request
    routes: tuple[Route, ...] = ()  # of requests that name the service itself; empty for a subset


class Local(msgspec.Struct, frozen=True, array_like=True):
    """A service with instances on this host, as the inbound path serves it."""

    name: str
    protocol: str
    instances: tuple[str, ...]  # addresses
    allow: tuple[Rule, ...] = ()
    default_allow: bool = True  # what happens when no rule matches
    default_reason: str = ""  # names the default that decides then, for example "policy.toml:3: [defaults] access"
    timeout: float = 0.0
    failing: str = ""  # why no instance may be used although there are some: health checks; empty: they may
    deny: tuple[Rule, ...] = ()  # wins over allow


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """A certificate with its key, both PEM; never logged, never written by a worker."""

    name: str  # service name, or "host"
    uri: str  # spiffe://TRUST_DOMAIN/service/NAME or spiffe://TRUST_DOMAIN/host/NAME
    certificate: bytes  # leaf first, then intermediates
    key: bytes

    def __repr__(self) -> str:
        """Without the key: whatever is shown may end up in a log."""
        return f"Identity(name={self.name!r}, uri={self.uri!r})"


class Listener(msgspec.Struct, frozen=True, array_like=True):
    """One listening socket of a worker. The socket itself travels beside, as a descriptor."""

    id: str  # "mesh", "proxy", or "upstream:payments@127.0.0.1:7001"
    kind: str  # mesh, proxy, upstream
    address: str
    service: str = ""  # upstream: the destination of its traffic, a key of Snapshot.services
    # Whose certificate is presented when Snapshot.workloads doesn't tell: a service name, or "host". "": nobody's.
    caller: str = ""


class Workload(msgspec.Struct, frozen=True, array_like=True):
    """Processes that call as a service: those of a systemd unit, of a user, or of a user within a unit."""

    service: str
    unit: str = ""  # or a template, "payments@.service"; "": any
    user: int | None = None  # None: any


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker decides with."""

    version: int
    host: str
    datacenter: str
    zone: str
    trust_domain: str
    domains: tuple[str, ...]  # suffixes of the HTTP proxy port: "mesh" makes payments.mesh a name of payments
    connect_ports: tuple[int, ...]  # ports that CONNECT may name; empty: CONNECT is refused
    limits: Limits
    access_log: AccessLog | None
    authorities: bytes  # PEM bundle of the trust domain's roots
    identities: dict[str, Identity]
    services: dict[str, Service]  # by destination: "payments", and "v2.payments" for a subset
    locals: dict[str, Local]
    listeners: tuple[Listener, ...]
    workloads: tuple[Workload, ...] = ()
    # Seconds that a request may wait for a service named for the first time, which the supervisor then looks up;
    # 0: services that are not here do not exist.
    first_use: float = 0.0
    denied: tuple[str, ...] = ()  # SPIFFE IDs of services and hosts that are refused whatever certificate they have


class AccessLog(msgspec.Struct, frozen=True, array_like=True):
    """Where a worker writes its access log, and how much of it."""

    path: str
    sample: float = 1.0  # share of successful requests that is logged; failures always are


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What changed since the version before. ``None`` removes; empty maps and absent values change nothing."""

    version: int
    services: dict[str, Service | None] = {}
    locals: dict[str, Local | None] = {}
    identities: dict[str, Identity | None] = {}
    authorities: bytes | None = None
    denied: tuple[str, ...] | None = None
