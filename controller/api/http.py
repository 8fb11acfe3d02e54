"""HTTP for a control plane: twisted.web's parser, made stricter, with bounds on what a client can make it hold.

A body needs a Content-Length, so that its size is judged before a byte of it is kept. A connection costs its place and
little memory for the seconds that its head, its body and its answer may take each.
"""

# twisted.web has hardly any annotations.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request, datetimeToString
from zope.interface import implementer

from controller.api.callers import Peer
from controller.api.calls import JSON, Answer
from hostproxy.mesh.messages import Problem, encode

if TYPE_CHECKING:
    from controller.api.connections import ApiFactory

HEAD_TIME = 10  # seconds for the handshake and the head of a request
BODY_TIME = 30  # seconds
ANSWER_TIME = 30  # seconds until a client has taken an answer
IDLE_TIME = 60  # seconds between two requests, the head of the second included
HEAD_SIZE = 16 * 1024  # bytes
HEADER_COUNT = 100
PIECE = 16 * 1024  # bytes handed to the transport at a time

_FIELDS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'"),
    ("X-Content-Type-Options", "nosniff"),
)


class Refusal(NamedTuple):
    """A request that is not read to its end."""

    status: int
    reason: bytes
    text: str


class Question(NamedTuple):
    """A whole request; fields in the order they came."""

    method: bytes
    target: bytes  # as it came
    hosts: list[bytes]
    origins: list[bytes]
    authorization: list[bytes]
    body: bytes
    peer: Peer
    first: bool = False  # of its connection


Respond = Callable[[Question], Deferred["Reply"]]
Limit = Callable[[bytes, bytes, bool], int]  # method, target, whether there is a credential -> bytes of the body


class Reply(NamedTuple):
    """An answer with what else its head says."""

    answer: Answer
    fields: tuple[tuple[str, str], ...] = ()


class ApiRequest(Request):
    """One request and its answer."""

    channel: Channel
    content: BytesIO | None
    _gone = False
    _log = Logger()

    def parseCookies(self) -> None:
        """There are none."""

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        # Not Request's, which takes forms apart.
        self.method, self.uri, self.clientproto = command, path, version
        fields = self.requestHeaders
        assert self.content is not None
        question = Question(
            command,
            path,
            list(fields.getRawHeaders(b"Host", [])),
            list(fields.getRawHeaders(b"Origin", [])),
            list(fields.getRawHeaders(b"Authorization", [])),
            self.content.getvalue(),
            self.channel.peer(),
            self.channel.first,
        )
        self.channel.working = True
        self.channel.first = False
        answering = self.channel.respond(question)
        answering.addCallback(self._answer)
        answering.addErrback(self._failed)

    def connectionLost(self, reason: Failure) -> None:
        self._gone = True
        super().connectionLost(reason)

    def _answer(self, reply: Reply) -> None:
        self.channel.working = False
        if self._gone:
            return
        answer = reply.answer
        self.setResponseCode(answer.status)
        self.setHeader("Date", datetimeToString())  # hosts compare their clocks with it
        if answer.status != 204:
            self.setHeader("Content-Type", answer.kind)
            self.setHeader("Content-Length", str(len(answer.body)))
        for name, value in (*_FIELDS, *reply.fields):
            self.setHeader(name, value)
        if self.channel.draining:
            self.setHeader("Connection", "close")
            self.channel.persistent = 0
        self.channel.setTimeout(ANSWER_TIME)
        body = _Body(self, answer.body)
        if not self.channel._waitingForTransport:  # else it says when there is room
            body.resumeProducing()

    def _failed(self, failure: Failure) -> None:
        self._log.failure("answering {path!r}", failure, path=self.uri)
        if not self._gone and not self.startedWriting:
            body = encode(Problem(error="this could not be answered: see the log of the controller"))
            self._answer(Reply(Answer(500, body)))


@implementer(IPushProducer)
class _Body:
    """Writes a body as fast as the client reads it, without a copy of the whole."""

    def __init__(self, request: ApiRequest, body: bytes) -> None:
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


class Channel(HTTPChannel):
    """One connection."""

    transport: Any
    requestFactory = ApiRequest  # noqa: N815
    maxHeaders = HEADER_COUNT  # noqa: N815
    totalHeadersSize = HEAD_SIZE  # noqa: N815
    abortTimeout = 1  # noqa: N815

    def __init__(self, factory: ApiFactory, address: str) -> None:
        super().__init__()
        self.respond = factory.respond
        self.timeOut = HEAD_TIME
        self.first = True  # no request has come yet
        self.working = False  # a request is being answered
        self.draining = False  # no further request
        self.address = address  # IP address; "" on the Unix socket
        self.trusted = not address  # it has shown a certificate that was verified
        self._factory = factory
        self._refused = False
        self._reserved = 0  # bytes of a body that the factory has counted
        self._peer: Peer | None = None

    def peer(self) -> Peer:
        """Who is at the other end; asked once the handshake is over."""
        if self._peer is None:
            if self.address:
                shown = self.transport.getPeerCertificate()
                self._peer = Peer(self.address, None, shown.to_cryptography() if shown is not None else None)
            else:
                size = struct.calcsize("3i")
                credential = self.transport.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
                self._peer = Peer("", struct.unpack("3i", credential)[1])
        return self._peer

    # What comes in

    def dataReceived(self, data: bytes) -> None:
        # Not HTTPChannel's, which starts the time anew at every byte: a head has to be whole in time.
        LineReceiver.dataReceived(self, data)

    def lineReceived(self, line: bytes) -> None:
        if self._refused:
            return
        if line[:1] in (b" ", b"\t"):
            self.refuse(Refusal(400, b"Bad Request", "a line begins with a space"))
        else:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        if not self._refused:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:
        refusal = self._judge_head()
        if refusal is not None:
            self.refuse(refusal)
            # The caller goes on with the body, if there is to be one.
            self.length = None
            return
        self.setTimeout(BODY_TIME)
        super().allHeadersReceived()

    def _judge_head(self) -> Refusal | None:
        request = self.requests[-1]
        fields = request.requestHeaders
        if self._version not in (b"HTTP/1.1", b"HTTP/1.0"):
            return Refusal(505, b"HTTP Version Not Supported", "HTTP/1.1 is spoken here")
        if fields.hasHeader(b"Transfer-Encoding"):
            return Refusal(411, b"Length Required", "a body needs a Content-Length, and no Transfer-Encoding")
        if len(fields.getRawHeaders(b"Content-Length", [])) > 1:
            return Refusal(400, b"Bad Request", "there is more than one Content-Length")
        length = self.length or 0
        credential = not self.address or fields.hasHeader(b"Authorization") or self.peer().certificate is not None
        target: Any = self._path  # annotated wrongly
        most = self._factory.limit(self._command, target, credential)
        if length > most:
            return Refusal(413, b"Content Too Large", f"the body may have {most} bytes at most")
        self.trusted = not self.address or self.peer().certificate is not None
        if not self._factory.reserve(self, length):
            return Refusal(503, b"Service Unavailable", "too much is being sent at a time: try again")
        self._reserved += length
        return None

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(Refusal(431, b"Request Header Fields Too Large", "a line is too long"))

    def _respondToBadRequestAndDisconnect(self) -> None:  # what HTTPChannel calls for everything it refuses
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            text = "there are too many header fields, or they are too large"
            self.refuse(Refusal(431, b"Request Header Fields Too Large", text))
        else:
            self.refuse(Refusal(400, b"Bad Request", "this is not a request of HTTP/1.1"))

    def refuse(self, refusal: Refusal) -> None:
        """Answer at once, and close."""
        if self._refused:
            return
        self._refused = True
        body = encode(Problem(error=refusal.text))
        head = b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        self.transport.write(head % (refusal.status, refusal.reason, JSON.encode(), len(body)) + body)
        self.loseConnection()
        if self._abortingCall is None:
            self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)

    # And out

    def requestDone(self, request: Request) -> None:
        self._release()
        self._savedTimeOut = None
        super().requestDone(request)
        if self.persistent:
            self.setTimeout(IDLE_TIME)

    def drain(self) -> None:
        """No further request; the one that is being answered is."""
        self.draining = True
        if not self.working:
            self.loseConnection()

    def _release(self) -> None:
        self._factory.release(self, self._reserved)
        self._reserved = 0

    def callLater(self, delay: float, function: Callable[..., object]) -> Any:
        return self._factory.clock.callLater(delay, function)

    # HTTPChannel's two write a line each to the log for every idle client.

    def timeoutConnection(self) -> None:
        if self._abortingCall is None:
            self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)
        self.loseConnection()

    def forceAbortClient(self) -> None:
        self._abortingCall = None
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._release()
        self._factory.closed(self)
