"""The way to the controller: one request at a time over HTTPS, bounded in time and size."""

# twisted.web has hardly any annotations.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, TimeoutError, succeed
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost, ConnectionRefusedError, DNSLookupError
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from hostproxy.config_controller import ControllerConfig
from hostproxy.mesh import messages
from hostproxy.mesh.bundle import BUNDLE_SIZE
from hostproxy.mesh.clocks import Comparison, Skew
from hostproxy.mesh.messages import BODY_SIZE, Malformed, Message, Problem
from hostproxy.snapshot import Identity
from hostproxy.steering.certificates import Untimely, Wrong
from hostproxy.steering.tls import ClientSide, TlsError, Trust, text_of

TIMEOUT = 30.0  # seconds for a request, connection and last byte of the answer included
HEAD = 32 * 1024  # bytes of the head of an answer
# Seconds that a connection stays open for the next request of the same round. A server closes one after longer.
IDLE = 2

T = TypeVar("T", bound=Message)

# What other people wrote becomes one printable line, and a short one.
_UNPRINTABLE = re.compile(r"[^ -~]")
SHOWN = 500


class Unreachable(Exception):
    """There is no answer of the controller, or none that can be used. The message says why."""


class Declined(Exception):
    """The controller said no. The message is its own."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Answer(NamedTuple):
    """What it said."""

    status: int
    body: bytes


class Controller:
    """The controller that ``config`` names."""

    def __init__(
        self, reactor: Any, config: ControllerConfig, trust_domain: str, now: Callable[[], float]
    ) -> None:
        """``now`` gives Unix seconds."""
        self._reactor = reactor
        self._config = config
        self._trust_domain = trust_domain
        self._now = now
        self._lock = DeferredLock()
        self._way: _Way | None = None
        self._under_way: Deferred[Answer] | None = None
        self._closed = False
        self._clock = Comparison(now, reactor.seconds)

    @property
    def skew(self) -> Skew | None:
        """How far this host's clock is from the controller's, as its answers tell, and its certificate."""
        return self._clock.skew

    def behind(self, seconds: float) -> None:
        """This host's clock is behind by so much at least: a certificate that came from there is yet to begin."""
        self._clock.bound(-seconds)

    def enrol(self, request: messages.EnrolRequest, trust: Trust) -> Deferred[messages.Enrolled]:
        """Join. Fails with :class:`Unreachable` or :class:`Declined`, as all of these."""
        return self._message("/v1/enrol", request, messages.Enrolled, trust, None)

    def certificate(
        self, request: messages.CertificateRequest, trust: Trust, identity: Identity
    ) -> Deferred[messages.Issued]:
        """Ask for a certificate."""
        return self._message("/v1/certificates", request, messages.Issued, trust, identity)

    def report(self, report: messages.HostReport, trust: Trust, identity: Identity) -> Deferred[messages.Reported]:
        """Say how this host stands."""
        return self._message("/v1/report", report, messages.Reported, trust, identity)

    def bundle(self, version: tuple[int, int], trust: Trust, identity: Identity) -> Deferred[bytes]:
        """Get the newest bundle, if it is newer than ``version``; b"" otherwise."""
        path = f"/v1/bundle?epoch={version[0]}&generation={version[1]}"
        asking = self._ask("GET", path, b"", BUNDLE_SIZE, trust, identity)
        return asking.addCallback(lambda answer: b"" if answer.status == 204 else answer.body)

    def close(self) -> None:
        """Ask no more; what is under way fails."""
        self._closed = True
        if self._under_way is not None:
            self._under_way.cancel()
        if self._way is not None:
            self._way.close()

    def _message(
        self, path: str, message: Message, kind: type[T], trust: Trust, identity: Identity | None
    ) -> Deferred[T]:
        asking = self._ask("POST", path, messages.encode(message), BODY_SIZE, trust, identity)

        def decoded(answer: Answer) -> T:
            try:
                return messages.decode(answer.body, kind)
            except Malformed as error:
                raise Unreachable(f"the answer of {self._config.url}{path} is not understood: {error}") from None

        return asking.addCallback(decoded)

    def _ask(
        self, method: str, path: str, body: bytes, limit: int, trust: Trust, identity: Identity | None
    ) -> Deferred[Answer]:
        def ask() -> Deferred[Answer]:
            if self._closed:
                raise Unreachable("hostproxy is stopping")
            way = self._way
            if way is None or not way.serves(trust, identity):
                if way is not None:
                    way.close()
                side = ClientSide(self._config.host, self._trust_domain, trust, identity)
                way = self._way = _Way(self._reactor, self._config, side, (trust, identity), self._now, self._clock)
            asking = Deferred.fromCoroutine(way.ask(method, path, body, limit))
            asking.addTimeout(TIMEOUT, self._reactor)
            asking.addErrback(self._explained)
            self._under_way = asking
            return asking

        return self._lock.run(ask).addCallback(self._judged)

    def _judged(self, answer: Answer) -> Answer:
        if answer.status in (200, 204):
            return answer
        try:
            problem = messages.decode(answer.body, Problem)
            text = "; ".join((problem.error, *problem.problems))
        except Malformed:
            text = f"status {answer.status}"
        text = _UNPRINTABLE.sub("?", text)[:SHOWN]
        if 400 <= answer.status < 500 and answer.status not in (408, 429):
            raise Declined(answer.status, text)
        raise Unreachable(f"the controller at {self._config.url} cannot answer: {text}")

    def _explained(self, failure: Failure) -> Answer:
        if failure.check(Unreachable):
            failure.raiseException()
        error: Any = failure.value
        while reasons := getattr(error, "reasons", None):  # of a request that Twisted gave up
            error = reasons[0].value
        if isinstance(error, Untimely):
            self._clock.bound(error.skew.ahead)
        raise Unreachable(f"the controller at {self._config.url}: {_why(error, self._closed)}")


def _why(error: BaseException, closed: bool) -> str:
    match error:
        case TimeoutError() | CancelledError():
            return "hostproxy is stopping" if closed else f"no whole answer within {TIMEOUT:g} s"
        case Wrong():
            return str(error)
        case TlsError():
            return f"TLS: {text_of(error)}"
        case ConnectionRefusedError():
            return "connection refused"
        case DNSLookupError():
            return "its name is not known"
        case ConnectionLost() | ConnectionDone():
            return "the connection was cut"
        case ConnectError():
            return str(error.osError or "it cannot be connected to")
    return f"no answer ({type(error).__name__})"


class _Way:
    """Connections with one identity and one trust: for another one there is another way."""

    def __init__(
        self,
        reactor: Any,
        config: ControllerConfig,
        side: ClientSide,
        key: object,
        now: Callable[[], float],
        clock: Comparison,
    ) -> None:
        self._key = key
        self._clock = clock
        self._config = config
        self._endpoint = _Endpoint(reactor, config, side, now)
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = 1
        self._pool.cachedConnectionTimeout = IDLE
        self._pool.retryAutomatically = False
        self._agent = Agent.usingEndpointFactory(reactor, self._endpoint, self._pool)

    def serves(self, trust: Trust, identity: Identity | None) -> bool:
        """Whether it is the one for these."""
        return self._key == (trust, identity)

    async def ask(self, method: str, path: str, body: bytes, limit: int) -> Answer:
        headers = Headers({b"User-Agent": [b"hostproxy"], b"Host": [self._config.url[8:].encode("ascii")]})
        uri = (self._config.url + path).encode("ascii")
        asked = self._clock.ask()
        response = await self._agent.request(method.encode(), uri, headers, _Body(body) if body else None)
        self._clock.take(response.headers.getRawHeaders(b"Date", [b""])[0].decode("latin-1"), asked)
        return Answer(response.code, await _Reader(limit).read(response))

    def close(self) -> None:
        """End all connections."""
        self._pool.closeCachedConnections()
        for connection in list(self._endpoint.connections):
            connection.transport.abortConnection()


class _Reader(Protocol):
    """Takes the body of an answer, up to a limit."""

    transport: Any

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._received = bytearray()
        self._done: Deferred[bytes] = Deferred(lambda _: self._cut())

    def read(self, response: Any) -> Deferred[bytes]:
        """The whole body."""
        response.deliverBody(self)
        return self._done

    def dataReceived(self, data: bytes) -> None:
        """A piece of it."""
        self._received += data
        if len(self._received) > self._limit and not self._done.called:
            self._done.errback(Wrong(f"its answer has more than {self._limit} bytes"))
            self._cut()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end of it."""
        if self._done.called:
            return
        if isinstance(reason.value, ResponseDone):
            self._done.callback(bytes(self._received))
        else:
            self._done.errback(Wrong("its answer was cut off"))

    def _cut(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


@implementer(IHandshakeListener)
class _Connection(ProtocolWrapper):
    """One connection: nothing is said on it before the other side was checked, and not too much is heard."""

    transport: Any

    def __init__(self, factory: Any, wrapped: Any) -> None:
        super().__init__(factory, wrapped)
        self.secured: Deferred[None] = Deferred(lambda _: self.transport.abortConnection())
        self._received = 0

    def handshakeCompleted(self) -> None:
        """Twisted tells that TLS is there."""
        if not self.secured.called:
            self.secured.callback(None)

    def writeSequence(self, data: Any) -> None:
        """A request begins: its head comes in one call."""
        self._received = 0
        super().writeSequence(data)

    def dataReceived(self, data: bytes) -> None:
        """Pass it on, unless it is too much."""
        self._received += len(data)
        if self._received > HEAD + BUNDLE_SIZE * 2:
            self.transport.abortConnection()
        else:
            super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end of it."""
        super().connectionLost(reason)
        if not self.secured.called:
            self.secured.errback(reason)


class _Factory(WrappingFactory[_Connection]):
    protocol = _Connection
    noisy = False

    def __init__(self, wrapped: Any, connections: set[_Connection]) -> None:
        super().__init__(wrapped)
        self._open = connections

    def registerProtocol(self, p: _Connection) -> None:
        self._open.add(p)

    def unregisterProtocol(self, p: _Connection) -> None:
        self._open.discard(p)


@implementer(IAgentEndpointFactory)
class _Endpoint:
    """Opens connections to the controller."""

    def __init__(self, reactor: Any, config: ControllerConfig, side: ClientSide, now: Callable[[], float]) -> None:
        self.connections: set[_Connection] = set()
        self._reactor = reactor
        self._side = side
        self._now = now
        kind: Any = HostnameEndpoint  # it asks the resolver, on a thread
        if isIPAddress(config.host):
            kind = TCP4ClientEndpoint
        elif isIPv6Address(config.host):
            kind = TCP6ClientEndpoint
        self._endpoint = kind(reactor, config.host, config.port)

    def endpointForURI(self, uri: object) -> _Endpoint:  # Twisted's name
        """There is one place to connect to."""
        return self

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Open one, checked and ready for a request."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, protocol_factory: Any) -> Any:
        factory = _Factory(protocol_factory, self.connections)
        # Not wrapClientTLS: that takes the process's global reactor for its clock.
        secure: Any = TLSMemoryBIOFactory
        outer = await self._endpoint.connect(secure(self._side, True, factory, self._reactor))
        connection: _Connection = outer.wrappedProtocol
        try:
            await connection.secured
        except TlsError:
            untimely = self._side.untimely(self._now())
            if untimely is not None:
                raise untimely from None
            raise
        try:
            self._side.check(outer.getHandle(), self._now())
        except BaseException:
            outer.abortConnection()
            raise
        return connection.wrappedProtocol


@implementer(IBodyProducer)
class _Body:
    """The body of a request, sent in one piece."""

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body

    def startProducing(self, consumer: Any) -> Deferred[None]:  # Twisted's names
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It has been handed over already."""

    resumeProducing = stopProducing = pauseProducing  # noqa: N815
