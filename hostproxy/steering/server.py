"""Where the controller brings policy to: HTTPS with mutual TLS, on ``[controller] listen``.

twisted.web's parser, with bounds on what a client can make it hold. Who is not a controller of this mesh is cut off
after the handshake, before a byte of HTTP is looked at. Connections that have not shown yet who they are give way to
newer ones, so that nobody keeps the controller out by opening many.
"""

# twisted.web has hardly any annotations.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHandshakeListener, IOpenSSLServerConnectionCreator
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from zope.interface import implementer

from hostproxy.mesh import messages
from hostproxy.mesh.bundle import BUNDLE_SIZE
from hostproxy.mesh.messages import Problem
from hostproxy.steering.certificates import Wrong
from hostproxy.steering.controller import Answer
from hostproxy.steering.tls import ServerSide

CONNECTIONS = 16  # at a time; a controller needs one, and there are some controllers
HANDSHAKE = 5  # seconds
TIMEOUT = 30  # seconds for a whole request, and between two
HEAD_SIZE = 16 * 1024
HEADER_COUNT = 50
QUIET = 60.0  # seconds between two lines in the log about refusals for one reason
REASONS = 20  # that have lines of their own; all others share one
JSON = b"application/json"

# Answers a request: method, path, body.
Respond = Callable[[str, str, bytes], "Deferred[Answer]"]

_CLOSING = b"\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
_TOO_LARGE = b"413 Content Too Large" + _CLOSING + b'{"error": "the body is too large"}\n'
_LENGTH_REQUIRED = b"411 Length Required" + _CLOSING + b'{"error": "a body needs Content-Length"}\n'
_HEAD_REFUSED = b"431 Request Header Fields Too Large" + _CLOSING + b'{"error": "a line is too long"}\n'


def problem(status: int, error: str) -> Answer:
    """An answer that says no."""
    return Answer(status, messages.encode(Problem(error=error)))


class _Request(Request):
    """One request and its answer."""

    channel: Channel
    _gone = False

    def gotLength(self, length: int | None) -> None:
        # Not Twisted's, which writes a large body to a file in /tmp.
        self.content = BytesIO()

    def process(self) -> None:
        body = self.content.read() if self.content is not None else b""
        path = self.path.decode("ascii", "replace")
        answering = self.channel.respond(self.method.decode("ascii", "replace"), path, body)
        answering.addErrback(self._failed)
        answering.addCallback(self._answer)

    def connectionLost(self, reason: Failure) -> None:
        self._gone = True
        super().connectionLost(reason)

    def _failed(self, failure: Failure) -> Answer:
        self.channel.log.failure("answering the controller", failure)
        return problem(500, "this could not be answered: see the log of hostproxy")

    def _answer(self, answer: Answer) -> None:
        if self._gone:
            return
        self.setResponseCode(answer.status)
        self.setHeader(b"Content-Type", JSON)
        self.setHeader(b"Cache-Control", b"no-store")
        self.setHeader(b"Content-Length", str(len(answer.body)).encode("ascii"))
        self.write(answer.body)
        self.finish()


@implementer(IHandshakeListener)
class Channel(HTTPChannel):
    """One connection."""

    log = Logger()
    transport: Any
    requestFactory = _Request  # noqa: N815
    maxHeaders = HEADER_COUNT  # noqa: N815
    totalHeadersSize = HEAD_SIZE  # noqa: N815
    abortTimeout = 1  # noqa: N815

    def __init__(self, factory: Factory) -> None:
        super().__init__()
        self.respond = factory.respond
        self.authenticated = False
        self.timeOut = HANDSHAKE
        self._factory = factory
        self._refused = False

    def handshakeCompleted(self) -> None:
        """Twisted tells that TLS is there: OpenSSL has verified the chain."""
        if self._let_in():
            self.authenticated = True
            self.setTimeout(TIMEOUT)

    def _let_in(self) -> bool:
        try:
            self._factory.check(self.transport.getHandle())
        except Wrong as wrong:
            self._factory.refuse(self.transport.getPeer().host, str(wrong))
            self._refused = True
            self.transport.abortConnection()
            return False
        return True

    def dataReceived(self, data: bytes) -> None:
        # Not HTTPChannel's, which starts the time anew at every byte: a request has to be whole in time.
        if not self._refused:
            LineReceiver.dataReceived(self, data)

    def rawDataReceived(self, data: bytes) -> None:
        if not self._refused:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:
        # Asked for each request: who came in may be denied since, or the root above him not trusted any more.
        if not self._let_in():
            # The caller goes on with the body, if there is to be one.
            self.length = None
            return
        if self.length is None:
            self._refuse(_LENGTH_REQUIRED)
        elif self.length > BUNDLE_SIZE:
            self._refuse(_TOO_LARGE)
        else:
            super().allHeadersReceived()

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(_HEAD_REFUSED)

    def _refuse(self, answer: bytes) -> None:
        self._refused = True
        self.transport.write(b"HTTP/1.1 " + answer)
        self.loseConnection()

    def callLater(self, delay: float, function: Callable[..., object]) -> Any:
        return self._factory.reactor.callLater(delay, function)

    # HTTPChannel's two write a line each to the log for every idle connection.

    def timeoutConnection(self) -> None:
        self.transport.abortConnection()

    def forceAbortClient(self) -> None:
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.setTimeout(None)
        super().connectionLost(reason)
        self._factory.channels.pop(self, None)


class Factory(ServerFactory):
    """Makes connections, and knows those that are open."""

    log = Logger()
    noisy = False

    def __init__(self, reactor: Any, respond: Respond, check: Callable[[Any], None]) -> None:
        """``check`` raises :class:`Wrong` for the TLS of a peer that is no controller of this mesh."""
        self.reactor = reactor
        self.respond = respond
        self.refused = 0
        self._said: dict[str, tuple[float, int]] = {}  # by reason: when the next line is due, and how many since
        self.check = check
        self.channels: dict[Channel, None] = {}

    def refuse(self, peer: str, why: str) -> None:
        """Somebody was not let in: a line in the log, and never one for each of thousands."""
        self.refused += 1
        now = self.reactor.seconds()
        for known in [known for known, (due, unsaid) in self._said.items() if now >= due and not unsaid]:
            del self._said[known]
        reason = why if why in self._said or len(self._said) < REASONS else ""
        due, unsaid = self._said.get(reason, (now, 0))
        if now < due:
            self._said[reason] = due, unsaid + 1
            return
        self._said[reason] = now + QUIET, 0
        more = f" ({unsaid} more like it since the last such line)" if unsaid else ""
        self.log.warn("{peer} is not let in on [controller] listen: {why}{more}", peer=peer, why=why, more=more)

    def make_room(self) -> bool:
        """Whether one more connection may be open; a stranger's is cut for it."""
        if len(self.channels) >= CONNECTIONS:
            stranger = next((channel for channel in self.channels if not channel.authenticated), None)
            if stranger is None:
                return False
            del self.channels[stranger]
            stranger.transport.abortConnection()
        return True

    def buildProtocol(self, addr: IAddress | None) -> Channel:
        """A connection."""
        channel = Channel(self)
        self.channels[channel] = None
        return channel

    def abort(self) -> None:
        """Cut every connection."""
        for channel in list(self.channels):
            channel.transport.abortConnection()


class SecureFactory(TLSMemoryBIOFactory):
    """TLS around ``inner``."""

    def __init__(self, reactor: Any, inner: Factory, side: Callable[[], ServerSide]) -> None:
        """``side`` is asked for each connection: certificates and roots change."""
        creator: Any = _Current(side)
        wrapped: Any = inner
        super().__init__(creator, False, wrapped, reactor)
        self._inner = inner

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A connection, or None when there are too many."""
        return super().buildProtocol(addr) if self._inner.make_room() else None


@implementer(IOpenSSLServerConnectionCreator)
class _Current:
    """Makes the TLS of a connection from what is in force when it comes."""

    def __init__(self, side: Callable[[], ServerSide]) -> None:
        self._side = side

    def serverConnectionForTLS(self, tlsProtocol: Any) -> Any:
        """Twisted asks for it."""
        return self._side().connection()
