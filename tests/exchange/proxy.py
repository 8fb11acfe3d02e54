"""An HTTP proxy over loopback made of the exchange and upstream rooms, with the plainest path between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest

from hostproxy.enforce.retry import RetryPolicy
from hostproxy.exchange import forward
from hostproxy.exchange.caller import Caller
from hostproxy.exchange.exchange import Exchange
from hostproxy.exchange.replies import Refusal
from hostproxy.exchange.server import ServerConnection
from hostproxy.exchange.surroundings import Surroundings
from hostproxy.limits import Limits
from hostproxy.net.connect import Address
from hostproxy.net.deadlines import Deadlines
from hostproxy.net.stream import Stream
from hostproxy.telemetry.metrics import RequestSeries, WorkerMetrics
from hostproxy.upstream.destination import Destination
from hostproxy.upstream.dial import Dialling
from hostproxy.upstream.endpoint import Endpoint
from tests.support import Listening, Loop, Peer, closed_port, tcp_pair

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
END = b"\r\n\r\n"


class Proxy:
    """Takes clients' connections and sends every request to its one destination."""

    def __init__(
        self, loop: Loop, origins: int = 1, refusing: int = 0, balance: str = "round-robin", **bounds: float
    ):
        self.loop = loop
        self.limits = Limits(**bounds)  # type: ignore[arg-type]
        self.deadlines = Deadlines(loop.reactor.seconds())
        self.metrics = WorkerMetrics()
        self.dialling = Dialling(loop.reactor, self.deadlines, self.limits, self.metrics)
        self.origins = [Listening(loop) for _ in range(origins)]
        addresses = [closed_port() for _ in range(refusing)] + [origin.address for origin in self.origins]
        self.endpoints = [
            Endpoint(self.dialling, "service", Address.parse(address), None, 1) for address in addresses
        ]
        self.destination = Destination(
            "service",
            self.endpoints,
            balance,
            0.0,
            RequestSeries(),
            Random(0).random if origins > 1 else lambda: 0.0,
        )
        self.refused: list[str] = []
        self.done: list[Exchange] = []
        self.tunnels: list[tuple[Stream, bytes, Exchange, object]] = []
        self.surroundings = Surroundings(
            self.limits,
            self.dialling.head_limits,
            self.dialling.mesh_head_limits,
            self.deadlines,
            self.refused.append,
            lambda *what: self.tunnels.append(what),
            lambda *what: self.tunnels.append(what),
        )
        self.timeout = 0.0
        self.policy: RetryPolicy | None = None
        self.on_begin: Callable[[Exchange], bool] = lambda exchange: False
        self.passed = 0.0

    # The path

    def begin(self, exchange: Exchange) -> None:
        exchange.request_id = b"1"
        if self.on_begin(exchange):
            return
        exchange.target = self.destination
        if self.timeout:
            exchange.limit(self.timeout)
        if self.policy is not None:
            exchange.allow_retries(self.policy)
        exchange.request_bytes = forward.request(exchange.head, b"10.1.1.1", b"http", b"", b"1")
        self.destination.send(exchange, exchange.started)

    def attempt(self, exchange: Exchange) -> None:
        self.destination.send(exchange, self.loop.reactor.now + self.passed)

    def completed(self, exchange: Exchange) -> None:
        assert exchange not in self.done, "it ended twice"
        self.done.append(exchange)

    # The test's side

    def client(self, pair: Callable[[], tuple] = tcp_pair) -> Peer:
        """A client's connection."""
        here, there = pair()
        connection = ServerConnection(self.surroundings, self, Caller("cart", "spiffe://m/service/cart", b""))
        connection.attach(Stream(self.loop.reactor, here, connection))
        return Peer(self.loop, there)

    def origin(self, number: int = 0) -> Peer:
        """The next connection that reaches an origin."""
        return self.origins[number].accept()

    def exchange(self, client: Peer, origin: Peer | None = None, answer: bytes = OK) -> Peer:
        """One ordinary request and its answer; returns the origin's connection."""
        client.send(GET)
        origin = origin or self.origin()
        origin.until(END)
        origin.send(answer)
        head = client.until(END)
        assert head.startswith(b"HTTP/1.1 200")
        client.until(2)
        return origin

    def later(self, seconds: float) -> None:
        """As if ``seconds`` more had passed without an event."""
        self.passed += seconds
        now = self.loop.reactor.seconds() + self.passed
        self.deadlines.tick(now)  # the first one after standing still
        self.deadlines.tick(now)
        self.loop.settle()

    def refuse(self, status: int) -> None:
        """Refuse every request from now on."""

        def begin(exchange: Exchange) -> bool:
            exchange.refuse(Refusal(status, "UAEX", "http_request_denied", "not today"))
            return True

        self.on_begin = begin

    def check(self) -> None:
        """End everything: not one count, entry or connection may be left."""
        for connection in list(self.surroundings.connections):
            connection.expel()
        for stream, _, exchange, surplus in self.tunnels:
            stream.abort()
            if isinstance(surplus, bytes):
                exchange.complete()
        self.loop.settle()
        self.destination.retire()
        self.loop.settle()
        assert [endpoint.in_flight for endpoint in self.endpoints] == [0] * len(self.endpoints)
        assert [endpoint.open for endpoint in self.endpoints] == [0] * len(self.endpoints)
        assert not self.surroundings.connections
        assert len(self.deadlines) == 0
        assert all(exchange.waiting is None for exchange in self.done)
        if self.policy is not None:
            assert (self.policy.under_way, self.policy.retries) == (0, 0)


@pytest.fixture
def make(loop: Loop) -> Iterator[Callable[..., Proxy]]:
    """Makes proxies, and sees that nothing of them is left."""
    made: list[Proxy] = []

    def make(*arguments: int, **options: float) -> Proxy:
        made.append(Proxy(loop, *arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for proxy in made:
        proxy.check()


@pytest.fixture
def proxy(make: Callable[..., Proxy]) -> Proxy:
    """One with one origin."""
    return make()
