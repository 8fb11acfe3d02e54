"""A connection to an endpoint that speaks HTTP/1.1: requests go into it, responses come out.

A connection is used again only after an exchange in which nothing was out of the ordinary: the response ended by its
own framing, after the whole request, with not a byte behind it. Everything else costs the connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from hostproxy.codec.http1 import (
    CHUNKED,
    LAST_CHUNK,
    UNTIL_CLOSE,
    ChunkedReader,
    ProtocolError,
    ResponseError,
    encode_chunk,
    encode_trailers,
    find_head_end,
    parse_response,
)
from hostproxy.exchange.replies import Refusal
from hostproxy.net.deadlines import NEVER

if TYPE_CHECKING:
    from hostproxy.codec.http1 import HeadLimits, ResponseHead
    from hostproxy.exchange.exchange import Exchange
    from hostproxy.net.stream import Stream

# Interim responses that one request may bring. Linux's and curl's limits for 1xx are in the hundreds; a server that
# sends more than a few is broken or means harm.
MAX_INFORMATIONAL = 32


class Home(Protocol):
    """Where a connection comes from and goes back to: the pool of an endpoint."""

    def give_back(self, connection: ClientConnection) -> None:
        """It can be used again."""

    def forget(self, connection: ClientConnection) -> None:
        """It has gone."""


class ClientConnection:
    """One connection to an endpoint, with at most one exchange at a time."""

    __slots__ = (
        "_buffer",
        "_chunked_out",
        "_chunks",
        "_home",
        "_informational",
        "_limits",
        "_remaining",
        "_reusable",
        "_scanned",
        "deadline",
        "exchange",
        "reused",
        "slot",
        "stream",
    )

    def __init__(self, stream: Stream, home: Home, limits: HeadLimits) -> None:
        self.stream = stream
        stream.owner = self
        self._home = home
        self._limits = limits
        self.exchange: Exchange | None = None
        self.reused = False
        self.deadline = NEVER
        self.slot = 0
        self._buffer = b""
        self._scanned = 0
        self._remaining = -3  # of the response's body: bytes, CHUNKED, UNTIL_CLOSE, or -3 before its head
        self._chunks: ChunkedReader | None = None
        self._chunked_out = False
        self._informational = 0
        self._reusable = True

    # The request

    def start(self, exchange: Exchange) -> None:
        """Send the request of ``exchange``, with as much of its body as there is."""
        self.exchange = exchange
        exchange.client = self
        self._informational = 0
        data = exchange.request_bytes
        body = exchange.body
        if exchange.head.length == CHUNKED:
            self._chunked_out = True
            if body:
                data += encode_chunk(body)
            if exchange.request_done:
                data += encode_trailers(exchange.trailers) if exchange.trailers else LAST_CHUNK
        else:
            self._chunked_out = False
            if body:
                data += body
        self.stream.post(data)
        if not exchange.replayable:
            exchange.body = b""
        if not exchange.request_done and not self.stream.backlog:
            exchange.server.resume_request()

    def send_body(self, body: bytes, done: bool, trailers: Sequence[bytes]) -> None:
        """Requester: more of the body."""
        if self._chunked_out:
            if body:
                body = encode_chunk(body)
            if done:
                body += encode_trailers(trailers) if trailers else LAST_CHUNK
        if body:
            self.stream.write(body)
            if self.stream.backlog and not done:
                exchange = self.exchange
                if exchange is not None:
                    exchange.server.pause_request()

    def pause_response(self) -> None:
        """Requester: no room for the response."""
        self.stream.pause()

    def resume_response(self) -> None:
        """Requester: room again."""
        self.stream.resume()

    def drop(self) -> None:
        """Requester: the exchange ended early."""
        self.exchange = None
        self._home.forget(self)
        self.stream.abort()

    def leave(self) -> Stream:
        """Requester: part with the stream, which becomes a tunnel's and stays a connection of its endpoint."""
        self.exchange = None
        self.deadline = NEVER  # it may have been unused before, and still has its time from then
        return self.stream

    def close(self) -> None:
        """Close an unused connection."""
        self._home.forget(self)
        self.stream.close()

    # The stream's owner

    def received(self, data: bytes) -> None:
        """Bytes from the endpoint."""
        exchange = self.exchange
        if exchange is None:
            # Nothing was asked: whatever this is, it must not become the answer to somebody's next request.
            self.close()
            return
        exchange.moved = self.stream.reactor.now
        remaining = self._remaining
        try:
            if remaining == -3:
                self._head(exchange, data)
            elif remaining > 0:
                self._by_length(exchange, data)
            elif remaining == CHUNKED:
                self._by_chunks(exchange, data)
            else:
                exchange.respond_body(data, False)
        except ProtocolError as error:
            self._broken(
                "UPE", "http_protocol_error", "the endpoint's response is malformed: " + error.detail
            )

    def _head(self, exchange: Exchange, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        while True:
            end = find_head_end(data, self._scanned, self._limits, ResponseError)
            if end < 0:
                self._buffer = data
                self._scanned = len(data)
                return
            head = parse_response(data, end, self._limits, exchange.head.method, self.stream.secure)
            self._scanned = 0
            if head.status >= 200:
                break
            if head.status == 101:
                self._switch(exchange, head, data[end:])
                return
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL:
                self._broken("UPE", "http_protocol_error", "too many 1xx responses")
                return
            exchange.informational(head)
            data = data[end:]
            if not data:
                self._buffer = b""
                return
        self._buffer = b""
        length = head.length
        self._reusable = head.keep_alive
        if not length:
            self._finish(exchange, head, b"", data[end:] if end < len(data) else b"")
        elif length > 0:
            stop = end + length
            have = len(data)
            if have >= stop:
                self._finish(exchange, head, data[end:stop], data[stop:] if have > stop else b"")
            else:
                self._remaining = stop - have
                exchange.respond(head, data[end:], False)
        elif length == CHUNKED:
            self._chunks = chunks = ChunkedReader(self._limits, ResponseError)
            body = chunks.feed(data[end:]) if end < len(data) else b""
            if chunks.ended:
                self._finish(exchange, head, body, chunks.surplus, chunks.trailers)
            else:
                self._remaining = CHUNKED
                exchange.respond(head, body, False)
        else:
            self._remaining = UNTIL_CLOSE
            exchange.respond(head, data[end:], False)

    def _switch(self, exchange: Exchange, head: ResponseHead, surplus: bytes) -> None:
        offered = exchange.head.upgrade
        if not offered or head.upgrade.lower() not in (word.strip().lower() for word in offered.split(b",")):
            self._broken(
                "UPE", "http_upgrade_failed", "the endpoint switched to a protocol that nobody asked for"
            )
            return
        if not exchange.request_done:
            # RFC 9110 section 7.8: "a client cannot begin using an upgraded protocol on the connection until it has
            # completely sent the request message". What still comes of it would be taken for the new protocol's.
            self._broken("UPE", "http_upgrade_failed", "the endpoint switched protocols before the request's end")
            return
        self._buffer = b""
        exchange.switch(head, surplus)

    def _by_length(self, exchange: Exchange, data: bytes) -> None:
        remaining = self._remaining
        count = len(data)
        if count < remaining:
            self._remaining = remaining - count
            exchange.respond_body(data, False)
        elif count == remaining:
            self._finish(exchange, None, data, b"")
        else:
            self._finish(exchange, None, data[:remaining], data[remaining:])

    def _by_chunks(self, exchange: Exchange, data: bytes) -> None:
        chunks = self._chunks
        assert chunks is not None
        body = chunks.feed(data)
        if chunks.ended:
            self._finish(exchange, None, body, chunks.surplus, chunks.trailers)
        elif body:
            exchange.respond_body(body, False)

    def _finish(
        self,
        exchange: Exchange,
        head: ResponseHead | None,
        body: bytes,
        surplus: bytes,
        trailers: Sequence[bytes] = (),
    ) -> None:
        """The response is whole: first let go of the connection, then pass the rest on.

        In this order the client's next request, which may already be here, finds the connection in the pool.
        """
        self._remaining = -3
        self._chunks = None
        self.exchange = None
        stream = self.stream
        if self._reusable and exchange.request_done and not (surplus or stream.backlog or stream.posted):
            self.reused = True
            self._home.give_back(self)
        else:
            self._home.forget(self)
            stream.close()
        if head is not None:
            exchange.respond(head, body, True, trailers)
        else:
            exchange.respond_body(body, True, trailers)

    def ended(self) -> None:
        """The endpoint has closed its side."""
        exchange = self.exchange
        if exchange is None:
            self.close()
        elif self._remaining == UNTIL_CLOSE:
            self._reusable = False
            self._finish(exchange, None, b"", b"")
        else:
            self._lost_in_exchange("closed", unsent=bool(self.stream.posted))

    def drained(self) -> None:
        """The endpoint has taken everything."""
        exchange = self.exchange
        if exchange is not None:
            exchange.moved = self.stream.reactor.now
            if not exchange.request_done:
                exchange.server.resume_request()

    def lost(self, reason: str) -> None:
        """The connection has gone."""
        if self.exchange is None:
            self._home.forget(self)
        else:
            self._lost_in_exchange(reason)

    def _lost_in_exchange(self, reason: str, unsent: bool = False) -> None:
        silent = self._remaining == -3 and not self._buffer and not self._informational
        flags = "UR" if reason == "reset" and silent and not self.reused else "UC"
        if reason == "tls":
            reason = f"ended by TLS ({self.stream.failure})"
        when = "before a response" if silent else "in the middle of its response"
        details = f"the endpoint's connection was {reason} {when}"
        self._broken(flags, "connection_terminated", details, silent, unsent)

    def _broken(
        self, flags: str, error: str, details: str, silent: bool = False, unsent: bool = False
    ) -> None:
        """``silent``: not a byte of a response has come; ``unsent``: nor has one of the request gone."""
        exchange = self.exchange
        assert exchange is not None
        self.exchange = None
        self._home.forget(self)
        self.stream.abort()
        exchange.response_failed(Refusal(502, flags, error, details), silent, unsent)

    def expired(self, now: float) -> None:
        """Unused for too long."""
        if self.exchange is None:
            self.close()
