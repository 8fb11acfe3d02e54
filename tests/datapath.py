"""Whole data paths in the test's own process: hosts with listeners, a catalog, policy and certificates."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec
import pytest
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from hostproxy.limits import Limits
from hostproxy.snapshot import Delta, Identity, Listener, Local, Place, Service, Snapshot
from hostproxy.telemetry.access_log import AccessRecord
from hostproxy.telemetry.metrics import WorkerMetrics
from hostproxy.traffic import Traffic
from tests.identity.crafting import TRUST_DOMAIN, authority, good
from tests.support import Loop, Peer

# The first of them in a process makes Twisted's reactor. Made here, its descriptors are not left by some test.
LoopingCall(list)


@cache
def identity(name: str) -> Identity:
    """A certificate of the test mesh."""
    kind = "host/h1" if name == "host" else f"service/{name}"
    return good(f"spiffe://{TRUST_DOMAIN}/{kind}")


def identities(*names: str) -> dict[str, Identity]:
    return {name: identity(name) for name in names}


def place(address: str, secure: bool = True, datacenter: str = "dc1", weight: int = 1) -> Place:
    """A host's mesh port, or an instance in plain text."""
    return Place(address, secure, datacenter, weight)


def service(name: str, *places: Place, **policy: Any) -> Service:
    return Service(name, places=places, **policy)


def key(one: Service) -> str:
    """As which destination a snapshot has it."""
    return f"{one.subset}.{one.name}" if one.subset else one.name


def snapshot(
    services: tuple[Service, ...] = (),
    locals_: tuple[Local, ...] = (),
    names: tuple[str, ...] = ("host", "cart"),
    **rest: Any,
) -> Snapshot:
    """What a supervisor would send."""
    bounds = rest.pop("bounds", {})
    values: dict[str, Any] = {
        "version": 1,
        "host": "h1",
        "datacenter": "dc1",
        "zone": "",
        "trust_domain": TRUST_DOMAIN,
        "domains": ("mesh",),
        "connect_ports": (),
        "limits": Limits(**bounds),
        "access_log": None,
        "authorities": authority().pem,
        "identities": identities(*names),
        "services": {key(one): one for one in services},
        "locals": {one.name: one for one in locals_},
        "listeners": (),
        **rest,
    }
    return Snapshot(**values)


@dataclass
class Records:
    """An access log in memory."""

    lines: list[AccessRecord] = field(default_factory=list)

    def write(self, record: AccessRecord) -> None:
        self.lines.append(record)


class Host:
    """One worker's data path."""

    def __init__(self, loop: Loop, first: Snapshot) -> None:
        self.loop = loop
        self.metrics = WorkerMetrics()
        self.records = Records()
        self.traffic = Traffic(loop.reactor, self.metrics, self.records, Logger())  # type: ignore[arg-type]
        self.snapshot = first
        self.asked: list[str] = []  # the services that the supervisor was asked for
        self.supervised = True
        self.traffic.ask_with(self._ask)
        self.traffic.apply(first)
        self.passed = 0.0

    def _ask(self, service: str) -> bool:
        if self.supervised:
            self.asked.append(service)
        return self.supervised

    def listen(self, kind: str, name: str = "", caller: str = "cart", path: str = "") -> Any:
        """Open a listener and return its socket's address; ``path`` makes it a Unix socket."""
        sock = socket.socket(socket.AF_UNIX if path else socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(path or ("127.0.0.1", 0))
        sock.listen(64)
        address = sock.getsockname()
        self.traffic.listen(Listener(f"{kind}:{name}", kind, str(address), name, caller), sock)
        return address

    def client(self, address: Any) -> Peer:
        """Connect to a listener."""
        peer = Peer.to(self.loop, address)
        self.loop.settle()
        return peer

    def apply(self, **changes: Any) -> None:
        """Send a whole snapshot that differs in these."""
        self.snapshot = msgspec.structs.replace(self.snapshot, version=self.snapshot.version + 1, **changes)
        self.traffic.apply(self.snapshot)

    def change(self, **changes: Any) -> None:
        """Send a delta."""
        self.traffic.change(Delta(version=self.snapshot.version + 1, **changes))

    def later(self, seconds: float) -> None:
        """As if ``seconds`` more had passed without an event."""
        self.passed += seconds
        now = self.loop.reactor.seconds() + self.passed
        self.traffic._deadlines.tick(now)
        self.traffic._deadlines.tick(now)
        self.loop.settle()

    def counts(self, name: str) -> dict[tuple[str, ...], int]:
        """The counter's values by label."""
        return self.metrics._events[name]

    def flags(self) -> list[str]:
        """The response flags of all that is logged."""
        return [record.flags for record in self.records.lines]

    def close(self) -> None:
        """End everything and see that nothing is left."""
        drained: list[object] = []
        self.traffic.drain(0.0).addCallback(drained.append)
        self.loop.until(lambda: drained)
        self.later(60.0)  # handshakes that the test has left half-way
        self.apply(services={}, locals={})
        self.loop.settle()
        traffic = self.traffic
        assert traffic._open() == 0
        assert len(traffic._waiting) == 0
        assert len(traffic._deadlines) == 0
        assert traffic._tables is not None
        assert traffic._tables.connections() == (0, 0)
        for series in self.metrics._requests.values():
            assert series.in_flight == 0
        for tcp in self.metrics._tcp.values():
            assert tcp.open == 0
        for pipe in traffic._joiner._pipes._spare:
            traffic._joiner._pipes.close(pipe)
        traffic._clock.stop()


@pytest.fixture
def make_host(loop: Loop) -> Iterator[Callable[..., Host]]:
    """Makes hosts, and sees that nothing of them is left."""
    made: list[Host] = []

    def make(first: Snapshot) -> Host:
        made.append(Host(loop, first))
        return made[-1]

    yield make
    for host in reversed(made):
        host.close()
