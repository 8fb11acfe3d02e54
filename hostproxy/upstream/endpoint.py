"""One endpoint of a destination: its connections, its load, and whether it rests."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from hostproxy.exchange.client import ClientConnection
from hostproxy.upstream.dial import Dial, Dialling, Security

if TYPE_CHECKING:
    from hostproxy.net.connect import Address
    from hostproxy.net.stream import Stream

# An endpoint that refuses a connection rests, first this long, then twice as long each time in a row (seconds).
# Then the next request that falls to it is the probe. Linkerd's endpoint breaker: 1 s to 1 min.
REST_FIRST = 1.0
REST_LONGEST = 30.0


class Waiter(Protocol):
    """Who waits for a stream or a connection."""

    def opened(self, stream: Stream) -> None:
        """A fresh stream to the endpoint."""

    def not_opened(self, reason: str) -> None:
        """None could be had."""


class Endpoint:
    """A peer host's mesh port or an instance, as one caller reaches it over one ALPN."""

    __slots__ = (
        "_failures",
        "_idle",
        "address",
        "dialling",
        "in_flight",
        "label",
        "open",
        "resting_until",
        "retired",
        "security",
        "service",
        "weight",
    )

    def __init__(
        self, dialling: Dialling, service: str, address: Address, security: Security | None, weight: int
    ) -> None:
        self.dialling = dialling
        self.service = service
        self.address = address
        self.label = address.text
        self.security = security  # None: plain text
        self.weight = weight
        self.in_flight = 0
        self.open = 0  # connections, in use or not, and those being opened
        self.resting_until = 0.0
        self.retired = False  # no longer part of its destination: nothing new, nothing kept
        self._failures = 0
        self._idle: deque[ClientConnection] = deque()

    # Connections of HTTP exchanges

    def take(self) -> ClientConnection | None:
        """An unused connection: the one that was used last, so that surplus ones age and go."""
        # Its deadline for being unused stays as it is: expiring in use does nothing, and give_back() sets it anew.
        return self._idle.pop() if self._idle else None

    def give_back(self, connection: ClientConnection) -> None:
        """A connection that can be used again."""
        limits = self.dialling.limits
        if self.retired:
            connection.close()
            return
        idle = self._idle
        idle.append(connection)
        self.dialling.deadlines.set(connection, self.dialling.reactor.now + limits.upstream_idle)
        if len(idle) > limits.upstream_idle_connections:
            idle.popleft().close()

    def forget(self, connection: ClientConnection) -> None:
        """A connection has gone."""
        self.open -= 1
        self.dialling.deadlines.forget(connection)
        try:
            self._idle.remove(connection)
        except ValueError:
            pass  # it was in use

    # Opening

    @property
    def full(self) -> bool:
        """No more connections may be opened."""
        return self.open >= self.dialling.limits.upstream_connections

    def connect(self, waiter: Waiter) -> Opening:
        """Open a stream for ``waiter``, which may forget it."""
        self.open += 1
        if 0.0 < self.resting_until <= self.dialling.reactor.now:
            self.failed()  # this one is the probe: until it has succeeded, the endpoint goes on resting for the others
        return Opening(self, waiter)

    def adopt(self, stream: Stream) -> ClientConnection:
        """Make a fresh stream a connection of this endpoint."""
        dialling = self.dialling
        limits = dialling.head_limits if self.security is None else dialling.mesh_head_limits
        return ClientConnection(stream, self, limits)

    def succeeded(self) -> None:
        """A connection could be opened."""
        self._failures = 0
        self.resting_until = 0.0

    def failed(self) -> None:
        """It could not."""
        now = self.dialling.reactor.now
        if self.resting_until > now:
            return  # several were under way together: that is one failure
        rest = min(REST_LONGEST, REST_FIRST * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        self.resting_until = now + rest

    def gave_up(self) -> None:
        """Who waited for a connection waits no more, as its time was over: this ended the dial before [limits] connect.

        An endpoint that swallows connections would otherwise cost every request that time, and never rest.
        """
        self.dialling.metrics.count("upstream_connects_total", (self.service, "timeout"))
        self.failed()

    def retire(self) -> None:
        """No longer part of its destination: what is under way finishes, what is unused closes."""
        self.retired = True
        while self._idle:
            self._idle.pop().close()

    @property
    def idle(self) -> int:
        """Connections that are open and unused."""
        return len(self._idle)


class Opening:
    """A stream to an endpoint being opened for one waiter."""

    __slots__ = ("_dial", "_endpoint", "_waiter")

    def __init__(self, endpoint: Endpoint, waiter: Waiter) -> None:
        self._endpoint = endpoint
        self._waiter: Waiter | None = waiter
        self._dial = Dial(endpoint.dialling, endpoint.address, endpoint.security, self)

    def dialled(self, dial: Dial, stream: Stream) -> None:
        """The stream is there."""
        endpoint = self._endpoint
        endpoint.dialling.metrics.count("upstream_connects_total", (endpoint.service, "ok"))
        endpoint.succeeded()
        waiter = self._waiter
        assert waiter is not None  # forget() cancels the dial
        self._waiter = None
        waiter.opened(stream)

    def dial_failed(self, dial: Dial, reason: str) -> None:
        """It is not."""
        waiter = self._waiter
        if waiter is None:
            return  # forgotten in the meantime
        self._waiter = None
        endpoint = self._endpoint
        endpoint.dialling.metrics.count("upstream_connects_total", (endpoint.service, reason))
        endpoint.open -= 1
        if reason not in ("no-ports", "no-descriptors"):  # those are our own trouble
            endpoint.failed()
        waiter.not_opened(reason)

    def forget(self) -> None:
        """The waiter has gone."""
        if self._waiter is not None:
            self._waiter = None
            self._endpoint.open -= 1
            self._dial.cancel()
