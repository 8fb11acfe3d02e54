"""How a client's connection answers, in its framing; what it waits for, and how it ends.

The other half, which takes requests out of what the client sends, is :mod:`hostproxy.exchange.server`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hostproxy.codec.http1 import LAST_CHUNK, encode_chunk, encode_trailers
from hostproxy.exchange import forward
from hostproxy.exchange.replies import Refusal, reply
from hostproxy.net.deadlines import NEVER

if TYPE_CHECKING:
    from hostproxy.codec.http1 import ResponseHead
    from hostproxy.exchange.caller import Caller
    from hostproxy.exchange.exchange import Exchange, Path
    from hostproxy.exchange.surroundings import Surroundings
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.net.stream import Stream
    from hostproxy.upstream.destination import Destination

# While draining, connections that stay unused this long are closed (seconds). Closing at once would cross with
# requests that busy clients have already sent.
DRAIN_GRACE = 0.5


class AnsweringConnection(ABC):
    """The half of a client's connection that answers."""

    __slots__ = (
        "_buffer",
        "_chunked_out",
        "_closing",
        "_keep_alive",
        "_last",
        "_shared",
        "caller",
        "deadline",
        "exchange",
        "path",
        "slot",
        "stream",
    )

    def __init__(self, shared: Surroundings, path: Path, caller: Caller) -> None:
        self._shared = shared
        self.path = path
        self.caller = caller
        self.stream: Stream = None  # type: ignore[assignment]  # set by attach(), before anything is received
        self.exchange: Exchange | None = None
        self.deadline = NEVER
        self.slot = 0
        self._buffer = b""  # bytes that belong to no exchange yet
        self._keep_alive = True
        self._chunked_out = False
        self._last = False  # the response to the next request, or to that under way, is the last one
        self._closing = False  # the last response has been given: close once it is out

    @abstractmethod
    def _advance(self) -> None:
        """Take requests out of the buffer."""

    # Deadlines

    @property
    def reactor(self) -> MeshReactor:
        """Responder: the stream's."""
        return self.stream.reactor

    def wake(self, at: float) -> None:
        """Responder: look at the deadlines not later than ``at``."""
        if at < self.deadline:
            self._shared.deadlines.set(self, at)

    def expired(self, now: float) -> None:
        """The deadline has passed: find out which one."""
        exchange = self.exchange
        shared = self._shared
        if exchange is None:
            if self._buffer and not self._closing and not self.stream.backlog:
                self._refuse(
                    Refusal(408, "DPE", "http_request_error", "the request's head took too long"), "slow-head"
                )
            else:
                self._leave()
        elif now >= exchange.deadline:
            exchange.overdue()
        elif exchange.retries is not None and now >= exchange.retries.due:
            exchange.retries.expired(exchange)
            if self.exchange is exchange:
                self._await(exchange)
        elif now >= exchange.moved + shared.limits.stream_idle:
            self._keep_alive = False
            if exchange.request_done:
                refusal = Refusal(
                    504, "SI", "http_response_timeout", "no byte moved for [limits] stream_idle"
                )
            else:
                refusal = Refusal(408, "SI", "http_request_error", "the request's body stopped coming")
            exchange.refuse(refusal)
        else:
            self._await(exchange)

    def _await(self, exchange: Exchange) -> None:
        """Look again when the next of the deadlines passes."""
        at = min(exchange.deadline, exchange.moved + self._shared.limits.stream_idle)
        if exchange.retries is not None:
            at = min(at, exchange.retries.due)
        self._shared.deadlines.set(self, at)

    # Responses

    def backlog(self) -> int:
        """Responder: what waits for the client."""
        return self.stream.backlog

    def informational(self, head: ResponseHead) -> None:
        """Responder: pass on a 1xx."""
        if self.exchange is not None and self.exchange.head.minor:  # RFC 9110 section 15.2: never to HTTP/1.0
            self.stream.write(forward.informational(head))

    def respond(self, head: ResponseHead, body: bytes, done: bool, trailers: Sequence[bytes]) -> None:
        """Responder: the head, and the first of the body in the same packet."""
        exchange = self.exchange
        assert exchange is not None
        minor = exchange.head.minor
        length = head.length
        if self._shared.draining or not exchange.request_done:
            self._keep_alive = False
        if length >= 0 or head.no_body:
            self._chunked_out = False
            data = forward.response(head, minor, self._keep_alive, False)
            if body:
                data += body
        elif minor:
            self._chunked_out = True
            parts = [forward.response(head, minor, self._keep_alive, True)]
            if body:
                parts.append(encode_chunk(body))
            if done:
                parts.append(encode_trailers(trailers) if trailers else LAST_CHUNK)
            data = b"".join(parts)
        else:
            # HTTP/1.0 has no chunks: the end of the body is the end of the connection.
            self._chunked_out = False
            self._keep_alive = False
            data = forward.response(head, 0, False, False) + body
        if done:
            self.stream.post(data)
            self._responded(exchange)
            return
        self.stream.write(data)
        if self.stream.backlog and exchange.client is not None:
            exchange.client.pause_response()

    def respond_body(self, body: bytes, done: bool, trailers: Sequence[bytes]) -> None:
        """Responder: more of the body."""
        exchange = self.exchange
        assert exchange is not None
        stream = self.stream
        if self._chunked_out:
            if body:
                body = encode_chunk(body)
            if done:
                body += encode_trailers(trailers) if trailers else LAST_CHUNK
        if body:
            stream.write(body)
        if done:
            self._responded(exchange)
        elif stream.backlog and exchange.client is not None:
            exchange.client.pause_response()

    def _responded(self, exchange: Exchange) -> None:
        """The response is whole."""
        self.exchange = None
        whole = exchange.request_done
        exchange.complete()
        stream = self.stream
        if stream.fd < 0:
            return
        if not whole:
            self._part(linger=True)  # the rest of the request is not wanted any more
        elif not self._keep_alive:
            self._part(linger=bool(self._buffer))  # what was sent ahead is not wanted either
        else:
            self._next()

    def _next(self) -> None:
        """Between two requests: the second may be here already."""
        limits = self._shared.limits
        stream = self.stream
        if not self._buffer and self._shared.draining:
            seconds = DRAIN_GRACE  # the response began before: its client may count on one more request
        elif not self._buffer:
            seconds = limits.idle
        elif stream.backlog:
            seconds = limits.stream_idle
        else:
            seconds = limits.head_time
        self._shared.deadlines.set(self, stream.reactor.now + seconds)
        if self._buffer:
            stream.resume()
            self._advance()

    def switch(self, head: ResponseHead, surplus: bytes) -> None:
        """Responder: the server has agreed to another protocol; hand the stream over."""
        exchange = self.exchange
        assert exchange is not None
        self.stream.write(forward.switching(head))
        self._shared.switch(self.stream, self._hand_over(), exchange, surplus)

    def connect(self, destination: Destination) -> None:
        """Responder: CONNECT was allowed; hand the stream over."""
        exchange = self.exchange
        assert exchange is not None
        self._shared.connect(self.stream, self._hand_over(), exchange, destination)

    def _hand_over(self) -> bytes:
        """Part with the stream; returns what the client sent ahead."""
        self.exchange = None
        self._closing = True
        self._gone()
        ahead, self._buffer = self._buffer, b""
        return ahead

    def refuse(self, refusal: Refusal) -> None:
        """Responder: answer in the endpoint's place."""
        exchange = self.exchange
        assert exchange is not None
        self.exchange = None
        whole = exchange.request_done
        if not whole or self._shared.draining or exchange.head.method == b"CONNECT":
            self._keep_alive = False  # behind a CONNECT may be bytes that were meant for the tunnel
        bodiless = exchange.head.method == b"HEAD"
        minor = exchange.head.minor
        keep_alive = self._keep_alive and minor == 1
        self.stream.write(reply(refusal, exchange.request_id, not keep_alive, bodiless))
        if not keep_alive:
            self._part(linger=True)
        else:
            self._next()

    def cut(self) -> None:
        """Responder: the response breaks off. A reset cannot be taken for the end of a body."""
        self.exchange = None
        self._leave(reset=True)

    # Ends

    def _refuse(self, refusal: Refusal, word: str) -> None:
        """Refuse what never became a request, and close: nothing after it can be trusted."""
        self._shared.refused(word)
        self._buffer = b""
        self.stream.write(reply(refusal, b"", True, False))
        self._part(linger=True)

    def _part(self, linger: bool) -> None:
        """Close after the last response."""
        self._closing = True
        self._buffer = b""
        self.stream.send_posted()  # what the client does not take now counts below
        if linger:
            self._gone()
            self.stream.linger()
        elif self.stream.backlog:
            # The client may take its time; drained() closes, the deadline ends it.
            shared = self._shared
            shared.deadlines.set(self, self.stream.reactor.now + shared.limits.stream_idle)
        else:
            self._leave()

    def _leave(self, reset: bool = False) -> None:
        self._closing = True
        self._gone()
        if reset:
            self.stream.abort()
        else:
            self.stream.close()

    def _gone(self) -> None:
        shared = self._shared
        shared.connections.discard(self)
        shared.deadlines.forget(self)

    def retire(self) -> None:
        """Close after one more response."""
        self._last = True
        self._keep_alive = False

    def drain(self) -> None:
        """Close when nothing is under way."""
        if self.exchange is None and not self._buffer:
            self._leave()

    def expel(self, flags: str = "LR", details: str = "the drain time was over") -> None:
        """End whatever is under way, visibly: unless something else is said, time is up."""
        exchange = self.exchange
        if exchange is not None:
            self.exchange = None
            exchange.cancel(flags, details)
        self._leave(reset=True)
