"""What is measured: one table of the report each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.bench import origin
from tests.bench.load import Workload
from tests.bench.peers.site import Protocol

Kind = Literal["http", "tcp", "idle", "update", "discovery"]
SERVICES, INSTANCES = 50, 2
"""Configured in every HTTP case, so that routing and balancing have something to do; one takes the load."""
UPDATE_SERVICES, UPDATE_INSTANCES = 1_000, 10
WATCHED_SERVICES, WATCHED_INSTANCES = 2_000, 20
LARGE = 10_000  # instances of one service
IDLE_CONNECTIONS = 10_000
ORDINARY = Workload(origin.PATHS[1024], 1024)


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work."""

    name: str
    title: str
    kind: Kind = "http"
    hops: Literal[1, 2] = 1
    workload: Workload = ORDINARY
    paced: bool = False  # measured at a fixed rate too
    main: bool = False  # part of --quick, and given the full time in the long run
    services: int = 0  # that are watched, in a case of discovery
    instances: int = 0  # of each of them
    routed: bool = False  # hostproxy alone, without routes and with

    @property
    def protocol(self) -> Protocol:
        """What the proxy has to carry."""
        return "tcp" if self.kind == "tcp" else "http"


_EMPTY = Workload(origin.PATHS[0], 0)
_LARGE = Workload(origin.PATHS[65536], 65536)
_POST = Workload(origin.POST_PATH, 1024, method="POST", request_size=1024)
_CLOSE = Workload(origin.PATHS[1024], 1024, close=True)
_ONE = "One hop, plain HTTP/1.1"
_TWO = "Two hops with mutual TLS between them"

CASES = (
    Case("one-hop", f"{_ONE}: GET, 1 KiB", paced=True, main=True),
    Case("one-hop-empty", f"{_ONE}: GET, empty body", workload=_EMPTY),
    Case("one-hop-64k", f"{_ONE}: GET, 64 KiB", workload=_LARGE),
    Case("one-hop-post", f"{_ONE}: POST 1 KiB, response 1 KiB", workload=_POST),
    Case("one-hop-routes", f"{_ONE}: GET, 1 KiB, with routes", routed=True),
    Case("two-hops", f"{_TWO}: GET, 1 KiB", hops=2, paced=True, main=True),
    Case("two-hops-empty", f"{_TWO}: GET, empty body", hops=2, workload=_EMPTY),
    Case("two-hops-64k", f"{_TWO}: GET, 64 KiB", hops=2, workload=_LARGE),
    Case("two-hops-post", f"{_TWO}: POST 1 KiB, response 1 KiB", hops=2, workload=_POST),
    Case("new-connection", f"{_ONE}: GET, 1 KiB, a new connection per request", workload=_CLOSE, main=True),
    Case("tcp", "TCP relay, one hop, plain", "tcp", main=True),
    Case("tcp-tls", "TCP relay, two hops with mutual TLS between them", "tcp", hops=2, main=True),
    Case(
        "idle",
        f"Idle keep-alive connections ({IDLE_CONNECTIONS:,} where descriptors allow it), one hop, plain",
        "idle",
        main=True,
    ),
    Case(
        "update",
        f"Update of one endpoint among {UPDATE_SERVICES:,} services x {UPDATE_INSTANCES}",
        "update",
        main=True,
    ),
    Case(
        "discovery",
        f"Change of one endpoint in Consul, {WATCHED_SERVICES:,} services x {WATCHED_INSTANCES} watched",
        "discovery",
        main=True,
        services=WATCHED_SERVICES,
        instances=WATCHED_INSTANCES,
    ),
    Case(
        "discovery-large",
        f"Change of one endpoint in Consul, in an answer of {LARGE:,} instances",
        "discovery",
        services=1,
        instances=LARGE,
    ),
)
