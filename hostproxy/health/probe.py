"""One question to one instance.

The instance is not trusted: it may hang, send a byte now and then, or never stop sending. Whatever it does, a probe
ends within its timeout, reads at most ``HEAD_SIZE`` bytes to find the status, and is closed in order: with a FIN,
after what the instance still sends has been read within the bounds of :meth:`hostproxy.net.stream.Stream.linger`. So
the log of a healthy instance has no reset connections in it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from hostproxy.codec.http1 import ResponseError
from hostproxy.codec.http1.startline import parse_status_line
from hostproxy.mesh.units import format_duration
from hostproxy.net.connect import Address, Connecting, failure_word
from hostproxy.net.deadlines import STALLED
from hostproxy.net.stream import Stream

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

    from hostproxy.net.reactor import MeshReactor

# How a probe ends. "reset" is any end of the connection before the answer; "skipped" says nothing of the instance:
# this host could not ask.
OK = "ok"
STATUS = "status"
TIMEOUT = "timeout"
REFUSED = "refused"
RESET = "reset"
PROTOCOL = "protocol"
SKIPPED = "skipped"
RESULTS = (OK, STATUS, TIMEOUT, REFUSED, RESET, PROTOCOL, SKIPPED)

# Bytes within which the status line has to end, informational responses before it included.
HEAD_SIZE = 4096

# What keeps a connection from being made, as net.connect has it.
_FAILURES = {
    "refused": (REFUSED, "connection refused"),
    "timeout": (TIMEOUT, "no connection: the kernel gave up"),
    "unreachable": (REFUSED, "its address cannot be reached"),
    "no-ports": (SKIPPED, "no local port is free"),
    "no-descriptors": (SKIPPED, "the limit of open files is reached"),
}


class Question(NamedTuple):
    """What an instance is asked."""

    name: str  # as reasons have it: "GET /healthz", or "connect"
    request: bytes  # empty: taking the connection is enough
    timeout: float  # seconds for everything

    @classmethod
    def get(cls, path: str, host: str, agent: str, timeout: float) -> Question:
        """Ask for a path, in the name of ``host``; 200 to 299 is good."""
        fields = f"Host: {host}\r\nUser-Agent: {agent}\r\nAccept: */*\r\nConnection: close\r\n"
        request = f"GET {path} HTTP/1.1\r\n{fields}\r\n"
        # Without the query: reasons are shown to everybody, and it may hold a secret.
        return cls(f"GET {path.partition('?')[0]}", request.encode("ascii"), timeout)

    @classmethod
    def connect(cls, timeout: float) -> Question:
        """Ask only for a connection."""
        return cls("connect", b"", timeout)


class Outcome(NamedTuple):
    """How a probe ended."""

    result: str  # of RESULTS
    reason: str = ""  # what was wrong: "GET /healthz: 503"


class Probe:
    """A question under way. ``done`` is called once, never before the constructor has returned."""

    __slots__ = ("_connecting", "_deadline", "_done", "_head", "_question", "_reactor", "_room", "_stream", "_timer")

    def __init__(
        self, reactor: MeshReactor, address: Address, question: Question, done: Callable[[Outcome], object]
    ) -> None:
        self._reactor = reactor
        self._question = question
        self._done = done
        self._stream: Stream | None = None
        self._connecting: Connecting | None = None
        self._head = b""  # what has come, without informational responses
        self._room = HEAD_SIZE  # bytes that may still come
        self._deadline = reactor.seconds() + question.timeout
        self._timer: DelayedCall
        try:
            self._connecting = Connecting(reactor, address, self)
        except OSError as error:
            outcome = self._failure(failure_word(error.errno), os.strerror(error.errno or 0))
            self._timer = reactor.callLater(0, self._end, outcome)
        else:
            self._timer = reactor.callLater(question.timeout, self._time_up)

    def cancel(self) -> None:
        """Nobody wants the outcome any more; ``done`` is not called."""
        self._release()
        if self._stream is not None:
            self._stream.close()

    # The connection's side

    def connected(self, sock: socket.socket) -> None:
        """It is there."""
        self._connecting = None
        self._stream = Stream(self._reactor, sock, self)
        if self._question.request:
            self._stream.write(self._question.request)
        else:
            self._end(Outcome(OK))

    def connect_failed(self, reason: str) -> None:
        """It is not."""
        self._connecting = None
        self._end(self._failure(reason, "cannot connect"))

    def received(self, data: bytes) -> None:
        """A piece of the answer."""
        data = data[: self._room]
        self._room -= len(data)
        self._head += data
        try:
            status = self._status()
        except ResponseError as error:
            self._end(self._bad(PROTOCOL, error.detail))
            return
        if status:
            self._end(Outcome(OK) if 200 <= status <= 299 else self._bad(STATUS, str(status)))
        elif not self._room:
            self._end(self._bad(PROTOCOL, f"no status within {HEAD_SIZE} bytes"))

    def ended(self) -> None:
        """The instance will send no more."""
        self._end(self._bad(RESET, "closed without an answer"))

    def drained(self) -> None:
        """The request is out."""

    def lost(self, reason: str) -> None:
        """The connection has gone."""
        self._end(self._bad(RESET, "connection reset" if reason == "reset" else "connection lost"))

    # Inside

    def _status(self) -> int:
        """Return the status of the final response, 0 while it hasn't come. Raises ResponseError."""
        while True:
            head = self._head
            if not head.startswith(b"HTTP/"[: len(head)]):
                raise ResponseError("bad-status-line", "response does not start with HTTP/")
            line, ended, _ = head.partition(b"\n")
            if not ended:
                return 0
            if not line.endswith(b"\r"):
                raise ResponseError("bare-lf", "first line ends without carriage return")
            status = parse_status_line(line[:-1])[1]
            if status >= 200 or status == 101:
                return status
            # RFC 9110 15.2: "A client MUST be able to parse one or more 1xx responses received prior to a final
            # response, even if the client does not expect one."
            _, ended, self._head = head.partition(b"\r\n\r\n")
            if not ended:
                self._head = head
                return 0

    def _time_up(self) -> None:
        late = self._reactor.seconds() - self._deadline
        if late > STALLED:
            # What the instance has sent in the meantime waits unread.
            self._end(self._bad(SKIPPED, f"this process stood still for {late:.1f} s"))
            return
        what = "connection" if self._stream is None else "answer"
        self._end(self._bad(TIMEOUT, f"no {what} within {format_duration(self._question.timeout)}"))

    def _failure(self, word: str, otherwise: str) -> Outcome:
        result, text = _FAILURES.get(word, (REFUSED, otherwise))
        return self._bad(result, text)

    def _bad(self, result: str, text: str) -> Outcome:
        return Outcome(result, f"{self._question.name}: {text}")

    def _end(self, outcome: Outcome) -> None:
        self._release()
        if self._stream is not None:
            if outcome.result in (OK, STATUS):
                self._stream.linger()
            else:
                self._stream.close()
        self._done(outcome)

    def _release(self) -> None:
        if self._timer.active():
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
