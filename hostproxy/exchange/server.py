"""A client's HTTP/1.1 connection: requests come out of its bytes, responses go into them.

Here are the requests; :mod:`hostproxy.exchange.answers` has the responses.

::

            head            request whole         response whole
    IDLE ----------> BODY ----------------> WAIT ----------------> IDLE, or the connection closes
                       \\-- response whole: the rest of the request is not wanted, the connection closes
    WAIT -- 101, or 2xx to CONNECT --> the stream leaves for a relay

One exchange at a time: what a client sends ahead (pipelining) waits, at most one read of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostproxy.codec.http1 import (
    ChunkedReader,
    ProtocolError,
    find_head_end,
    parse_request,
)
from hostproxy.exchange.answers import AnsweringConnection
from hostproxy.exchange.exchange import Exchange, Path
from hostproxy.exchange.replies import Refusal
from hostproxy.net.stream import Stream

if TYPE_CHECKING:
    from hostproxy.exchange.caller import Caller
    from hostproxy.exchange.surroundings import Surroundings


class ServerConnection(AnsweringConnection):
    """One client's connection."""

    __slots__ = ("_advancing", "_chunks", "_remaining", "_scanned")

    def __init__(self, shared: Surroundings, path: Path, caller: Caller) -> None:
        super().__init__(shared, path, caller)
        self._scanned = 0  # how much of the buffer is known to hold no end of a head
        self._remaining = 0  # of the request's body by length
        self._chunks: ChunkedReader | None = None  # of the request's body in chunks
        self._advancing = False

    def attach(self, stream: Stream) -> None:
        """Begin on ``stream``."""
        self.stream = stream
        stream.owner = self
        shared = self._shared
        shared.connections.add(self)
        # The first request gets the time of a head, not the leisure of an idle keep-alive connection.
        shared.deadlines.set(self, stream.reactor.now + shared.limits.head_time)

    # The stream's owner

    def received(self, data: bytes) -> None:
        """Bytes from the client."""
        exchange = self.exchange
        if exchange is None:
            if not self._closing:
                self._buffer = self._buffer + data if self._buffer else data
                self._advance()
        elif exchange.request_done:
            # Sent ahead, or the first bytes of a tunnel that the server has not agreed to.
            self._buffer += data
            self.stream.pause()
        else:
            exchange.moved = self.stream.reactor.now
            try:
                self._body(exchange, data)
            except ProtocolError as error:
                self._keep_alive = False
                exchange.refuse(_bad_request(error))

    def ended(self) -> None:
        """The client has half-closed: it may still wait for the response."""
        exchange = self.exchange
        if exchange is None:
            if not (self._buffer and self.stream.backlog):  # else requests wait for drained()
                self._leave()
        elif not exchange.request_done:
            self._keep_alive = False
            self.exchange = None
            exchange.cancel("DC", "the client closed before the end of its request")
            self._leave(reset=True)
        elif not self._buffer:
            self._keep_alive = False  # nothing can follow

    def drained(self) -> None:
        """The client has taken everything."""
        if self._closing:
            self._leave()
            return
        exchange = self.exchange
        if exchange is not None:
            exchange.moved = self.stream.reactor.now
            if exchange.client is not None:
                exchange.client.resume_response()
        elif self._buffer:
            self._next()

    def lost(self, reason: str) -> None:
        """The client's connection has gone."""
        shared = self._shared
        shared.connections.discard(self)
        shared.deadlines.forget(self)
        exchange = self.exchange
        if exchange is not None:
            self.exchange = None
            exchange.cancel("DC", "the client's connection was lost: " + reason)

    # Requests

    def _advance(self) -> None:
        """Take requests out of the buffer, one at a time, as far as it goes."""
        if self._advancing:
            return  # a response was given while its request is still being begun: the loop below goes on
        self._advancing = True
        stream = self.stream
        try:
            while self._buffer and self.exchange is None and not self._closing:
                if stream.backlog:
                    stream.pause()  # who does not take the answers gets no more of them
                    break
                if not self._begin(self._buffer):
                    break
        finally:
            self._advancing = False
        if stream.at_end and not self._closing:
            self.ended()  # the client half-closed behind its last request

    def _begin(self, data: bytes) -> bool:
        """Begin the request at the start of ``data``; false when its head is not whole yet."""
        shared = self._shared
        limits = shared.mesh_head_limits if self.caller.secure else shared.head_limits
        try:
            end = find_head_end(data, self._scanned, limits)
            if end < 0:
                if not self._scanned:
                    shared.deadlines.set(self, self.stream.reactor.now + shared.limits.head_time)
                self._scanned = len(data)
                return False
            head = parse_request(data, end, limits)
        except ProtocolError as error:
            self._refuse(_bad_request(error), error.reason)
            return False
        self._scanned = 0
        stream = self.stream
        now = stream.reactor.now
        self._keep_alive = head.keep_alive and not (self._last or shared.draining)
        exchange = self.exchange = Exchange(self.path, self, head, now)
        shared.deadlines.set(self, now + shared.limits.stream_idle)
        length = head.length
        if not length:
            if end == len(data):
                self._buffer = b""
            else:
                self._buffer = data[end:]
        elif length > 0:
            stop = end + length
            have = len(data)
            if stop <= have:
                exchange.body = data[end:stop]
                exchange.received = length
                self._buffer = data[stop:]
            else:
                exchange.body = data[end:]
                exchange.received = have - end
                exchange.request_done = exchange.replayable = False
                self._remaining = stop - have
                self._buffer = b""
        else:
            self._chunks = ChunkedReader(limits)
            exchange.request_done = exchange.replayable = False
            self._buffer = b""
            if end < len(data):
                try:
                    exchange.body = self._decode(exchange, data[end:])
                    exchange.received = len(exchange.body)
                except ProtocolError as error:
                    self._keep_alive = False
                    exchange.refuse(_bad_request(error))
                    return True
        self.path.begin(exchange)
        return True

    def _body(self, exchange: Exchange, data: bytes) -> None:
        remaining = self._remaining
        if remaining:
            if len(data) < remaining:
                self._remaining = remaining - len(data)
                exchange.request_body(data, False)
                return
            self._remaining = 0
            if len(data) > remaining:
                self._buffer = data[remaining:]
                self.stream.pause()
                data = data[:remaining]
            exchange.request_body(data, True)
            return
        body = self._decode(exchange, data)
        if exchange.request_done:
            exchange.request_body(body, True, exchange.trailers)
        elif body:
            exchange.request_body(body, False)

    def _decode(self, exchange: Exchange, data: bytes) -> bytes:
        """Take the chunks apart; notes the end and the trailers on the exchange."""
        chunks = self._chunks
        assert chunks is not None
        body = chunks.feed(data)
        if chunks.ended:
            self._chunks = None
            exchange.request_done = True
            exchange.trailers = chunks.trailers
            self._buffer = chunks.surplus
            if self._buffer:
                self.stream.pause()
        return body

    def pause_request(self) -> None:
        """Responder: no room for the body."""
        self.stream.pause()

    def resume_request(self) -> None:
        """Responder: room again."""
        self.stream.resume()

def _bad_request(error: ProtocolError) -> Refusal:
    return Refusal(error.status, "DPE", "http_request_error", error.detail)
