"""The HTTP of the admin room: twisted.web's parser, with bounds on what a client can make it hold.

A client costs at most one connection out of :data:`CONNECTIONS` for :data:`TIMEOUT` seconds and the socket's
buffer: large answers are shared between clients and written as they are read.
"""

# twisted.web has hardly any annotations.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IPushProducer
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from zope.interface import implementer

from hostproxy.admin.access import Access

# Open at a time. A scraper or two and some people; more is somebody who does not close.
CONNECTIONS = 64
# Seconds to send a whole request head, and to read the answer. Prometheus gives up after 10 by default.
TIMEOUT = 10
# Bytes handed to the transport at a time, beyond the 64 KiB at which it says stop.
PIECE = 16 * 1024
# Bytes that the kernel may hold of an answer; left to itself it keeps megabytes for a client that does not read.
SEND_BUFFER = 64 * 1024
HEAD_SIZE = 16 * 1024  # of a request, as HAProxy's tune.bufsize
HEADER_COUNT = 100  # of a request, as Apache's LimitRequestFields

JSON = "application/json"
_FIELDS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
)
_CLOSING = b"\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
_BODY_REFUSED = b"413 Content Too Large" + _CLOSING + b'{"error": "requests may not have a body"}\n'
_HEAD_REFUSED = b"431 Request Header Fields Too Large" + _CLOSING + b'{"error": "a line is too long"}\n'


class Sink(Protocol):
    """Takes an answer that is not known at its beginning."""

    def write(self, data: bytes) -> object:
        """More of it."""

    def finish(self) -> object:
        """That was all."""

    def abort(self) -> None:
        """Cut the connection: the client doesn't read."""


class Stream(Protocol):
    """An answer that goes on. After ``begin`` the other methods say what the client does."""

    def begin(self, sink: Sink) -> None:
        """The head has been sent."""

    def pauseProducing(self) -> None:
        """The client doesn't read."""

    def resumeProducing(self) -> None:
        """It does again."""

    def stopProducing(self) -> None:
        """It has gone. May be called more than once."""


class Answer(NamedTuple):
    """A response."""

    status: int
    content_type: str
    body: bytes
    stream: Stream | None = None  # in the place of a body
    methods: str = "GET, HEAD"  # that the path knows


class Question(NamedTuple):
    """What a request asks for; fields in the order they came."""

    method: bytes
    path: bytes  # without the query
    hosts: list[bytes]
    origins: list[bytes]
    accept: bytes
    query: bytes = b""
    objection: Callable[[], str] = lambda: "nobody knows who asks"  # why the client may change nothing; empty: it may


Respond = Callable[[Question], Deferred[Answer]]


class AdminRequest(Request):
    """One request and its answer."""

    channel: AdminChannel
    _gone = False
    _log = Logger()

    def process(self) -> None:
        fields = self.requestHeaders
        question = Question(
            self.method,
            self.path,
            list(fields.getRawHeaders(b"Host", [])),
            list(fields.getRawHeaders(b"Origin", [])),
            b",".join(fields.getRawHeaders(b"Accept", [])),
            self.uri.partition(b"?")[2],
            partial(self.channel.access.objection, self.channel.transport.getHandle()),
        )
        answer = self.channel.respond(question)
        answer.addCallback(self._answer)
        answer.addErrback(self._failed)

    def connectionLost(self, reason: Failure) -> None:
        self._gone = True
        super().connectionLost(reason)

    def finish(self) -> None:
        if self.producer is not None:  # a stream that has come to its end
            self.unregisterProducer()
        super().finish()

    def abort(self) -> None:
        """See :class:`Sink`."""
        self.channel.transport.abortConnection()

    def _answer(self, answer: Answer) -> None:
        if self._gone:
            return
        self.setResponseCode(answer.status)
        self.setHeader("Content-Type", answer.content_type)
        if answer.stream is None:
            self.setHeader("Content-Length", str(len(answer.body)))
        if answer.status == 405:
            self.setHeader("Allow", answer.methods)
        for name, value in _FIELDS:
            self.setHeader(name, value)
        if answer.stream is not None:
            self.channel.setTimeout(None)
            self.registerProducer(answer.stream, True)
            answer.stream.begin(self)
            return
        self.channel.setTimeout(TIMEOUT)
        if self.method == b"HEAD":
            self.finish()
        else:
            _Body(self, answer.body).resumeProducing()

    def _failed(self, failure: Failure) -> None:
        self._log.failure("answering {path!r} on the admin address", failure, path=self.path)
        if not self._gone and not self.startedWriting:
            self._answer(
                Answer(500, JSON, b'{"error": "this could not be answered: see the log of hostproxy"}\n')
            )


@implementer(IPushProducer)
class _Body:
    """Writes a body as fast as the client reads it, without a copy of the whole."""

    def __init__(self, request: AdminRequest, body: bytes) -> None:
        self._request = request
        self._rest = memoryview(body)
        self._paused = False
        request.registerProducer(self, True)

    def resumeProducing(self) -> None:
        self._paused = False
        while self._rest and not self._paused:
            piece, self._rest = self._rest[:PIECE], self._rest[PIECE:]
            self._request.write(bytes(piece))
        if not self._rest and not self._request.finished:
            self._request.unregisterProducer()
            self._request.finish()

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._paused = True


class AdminChannel(HTTPChannel):
    """One connection."""

    transport: Any
    requestFactory = AdminRequest  # noqa: N815
    maxHeaders = HEADER_COUNT  # noqa: N815
    totalHeadersSize = HEAD_SIZE  # noqa: N815
    abortTimeout = 1  # noqa: N815

    def __init__(
        self, respond: Respond, clock: Any, closed: Callable[[AdminChannel], None], access: Access
    ) -> None:
        super().__init__()
        self.respond = respond
        self.access = access
        self.timeOut = TIMEOUT
        self._clock = clock
        self._closed = closed
        self._refused = False

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def dataReceived(self, data: bytes) -> None:
        # Not HTTPChannel's, which starts the time anew at every byte: a head has to be whole in time.
        if not self._refused:
            LineReceiver.dataReceived(self, data)

    def rawDataReceived(self, data: bytes) -> None:
        if not self._refused:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:
        if self.length == 0:
            super().allHeadersReceived()
        else:
            self._refuse(_BODY_REFUSED)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(_HEAD_REFUSED)

    def _refuse(self, answer: bytes) -> None:
        self._refused = True
        self.transport.write(b"HTTP/1.1 " + answer)
        self.loseConnection()

    def callLater(self, delay: float, function: Callable[..., object]) -> Any:
        return self._clock.callLater(delay, function)

    # HTTPChannel's two write a line each to the log for every idle scraper.

    def timeoutConnection(self) -> None:
        self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)
        self.loseConnection()

    def forceAbortClient(self) -> None:
        self._abortingCall = None
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._closed(self)


class AdminFactory(ServerFactory):
    """Makes connections, and knows how many are open."""

    noisy = False

    def __init__(self, respond: Respond, clock: Any) -> None:
        self._respond = respond
        self._clock = clock
        self._open: set[AdminChannel] = set()
        self._access = Access()

    def has_room(self) -> bool:
        """Whether one more connection may be open."""
        return len(self._open) < CONNECTIONS

    def buildProtocol(self, addr: IAddress | None) -> AdminChannel:
        channel = AdminChannel(self._respond, self._clock, self._open.discard, self._access)
        self._open.add(channel)
        return channel

    def abort(self) -> None:
        """Cut every connection."""
        for channel in list(self._open):
            channel.transport.abortConnection()
        self._access.close()
