"""Endpoints without a proxy around them."""

from __future__ import annotations

from hostproxy.identity.trust import Trust
from hostproxy.limits import Limits
from hostproxy.net.connect import Address
from hostproxy.net.deadlines import Deadlines
from hostproxy.net.stream import Stream
from hostproxy.telemetry.metrics import WorkerMetrics
from hostproxy.upstream.dial import Dialling, Security
from hostproxy.upstream.endpoint import Endpoint
from tests.identity.crafting import authority
from tests.support import Loop


def dialling(loop: Loop, **bounds: float) -> Dialling:
    shared = Dialling(loop.reactor, Deadlines(loop.reactor.seconds()), Limits(**bounds), WorkerMetrics())  # type: ignore[arg-type]
    shared.trust = Trust(authority().pem)
    return shared


def endpoint(shared: Dialling, address: str, security: Security | None = None, weight: int = 1) -> Endpoint:
    return Endpoint(shared, "service", Address.parse(address), security, weight)


def later(shared: Dialling, seconds: float) -> None:
    """As if ``seconds`` had passed without an event."""
    now = shared.reactor.seconds() + seconds
    shared.deadlines.tick(now)
    shared.deadlines.tick(now)


class Waiting:
    """Waits for a stream."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.reason = ""

    def opened(self, stream: Stream) -> None:
        assert self.stream is None
        assert not self.reason
        self.stream = stream

    def not_opened(self, reason: str) -> None:
        assert self.stream is None
        assert not self.reason
        self.reason = reason
