"""A raw-socket client that sends any bytes in any pieces and reads what comes back with a strict reader."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.fakes.delivery import Delivery
from tests.fakes.reader import Malformed, Received, ResponseReader


@dataclass(slots=True)
class Outcome:
    """Everything that a client saw on one connection."""

    responses: list[Received] = field(default_factory=list)  # complete final responses
    interim: list[Received] = field(default_factory=list)
    unfinished: Received | None = None  # a final response that began and did not end
    raw: bytes = b""
    ended: str = "open"  # open, end, reset, timeout
    fault: str | None = None  # bytes that are no response
    sent_all: bool = False

    @property
    def statuses(self) -> list[int]:
        return [response.status for response in self.responses]

    def __str__(self) -> str:
        seen = ", ".join(f"{r.status} {bytes(r.body[:60])!r}" for r in self.responses) or "no response"
        if self.unfinished is not None:
            seen += f", then unfinished {self.unfinished.status} {bytes(self.unfinished.body[:60])!r}"
        return f"{seen}; {self.ended}" + (f"; not HTTP: {self.fault}" if self.fault else "")


def connect(address: str, timeout: float = 5.0) -> socket.socket:
    """A connection to ``host:port`` or ``unix:/path``."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        sock.connect(address.removeprefix("unix:"))
        return sock
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host.strip("[]"), int(port)), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def receive_until(sock: socket.socket, wanted: bytes, data: bytes = b"") -> bytes:
    """``data`` and what comes after it, until ``wanted`` is in there. Its end before that is an AssertionError."""
    while wanted not in data:
        part = sock.recv(4096)
        assert part, f"it ends without {wanted!r}: {data[-200:]!r}"
        data += part
    return data


def exchange(
    address: str,
    data: bytes,
    delivery: Delivery = Delivery.WHOLE,
    *,
    methods: list[bytes] | None = None,
    expect: int = 1,
    until_end: Callable[[list[Received]], bool] | bool = False,
    half_close: bool = False,
    timeout: float = 5.0,
) -> Outcome:
    """Send ``data`` while reading, until ``expect`` final responses came or the connection ended.

    With ``until_end``, or when it says so of the responses, the end of the connection is waited for, too.
    ``timeout`` in seconds bounds the whole.
    """
    sock = connect(address, timeout)
    try:
        return converse(
            sock,
            data,
            delivery,
            methods=methods,
            expect=expect,
            until_end=until_end,
            half_close=half_close,
            timeout=timeout,
        )
    finally:
        sock.close()


def converse(
    sock: socket.socket,
    data: bytes,
    delivery: Delivery = Delivery.WHOLE,
    *,
    methods: list[bytes] | None = None,
    expect: int = 1,
    until_end: Callable[[list[Received]], bool] | bool = False,
    half_close: bool = False,
    timeout: float = 5.0,
) -> Outcome:
    """:func:`exchange` on a connection that the caller keeps."""
    outcome = Outcome()
    reader = ResponseReader(methods)
    received = bytearray()
    pieces: Iterator[bytes] = delivery.pieces(data) if data else iter(())
    piece = next(pieces, b"")
    outcome.sent_all = not piece
    if outcome.sent_all and half_close:
        sock.shutdown(socket.SHUT_WR)
    sock.setblocking(False)
    poll = select.poll()
    number = sock.fileno()
    poll.register(number, select.POLLIN | (0 if outcome.sent_all else select.POLLOUT))
    deadline = time.monotonic() + timeout
    while True:
        if len(reader.messages) >= expect and outcome.sent_all:
            wait = until_end(reader.messages) if callable(until_end) else until_end
            if not wait:
                break
        left = deadline - time.monotonic()
        if left <= 0:
            outcome.ended = "timeout"
            break
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            ready = select.POLLIN
        else:
            events = poll.poll(left * 1000)
            ready = events[0][1] if events else 0
        if ready & (select.POLLIN | select.POLLHUP | select.POLLERR):
            try:
                got = sock.recv(1 << 18)
            except (BlockingIOError, ssl.SSLWantReadError):
                continue
            except OSError:
                outcome.ended = "reset"
                break
            if not got:
                outcome.ended = "end"
                break
            received += got
            try:
                reader.feed(got)
            except Malformed as fault:
                outcome.fault = str(fault)
                break
        elif ready & select.POLLOUT:
            try:
                taken = sock.send(piece)
            except (BlockingIOError, ssl.SSLWantWriteError):
                continue
            except OSError:  # the peer refuses more: what it said may still be there to read
                piece, pieces = b"", iter(())
                poll.modify(number, select.POLLIN)
                continue
            piece = piece[taken:] or next(pieces, b"")
            if not piece:
                outcome.sent_all = True
                poll.modify(number, select.POLLIN)
                if half_close:
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_WR)
            else:
                time.sleep(delivery.pause)
    if outcome.fault is None:
        reader.end(reset=outcome.ended != "end")
    outcome.responses, outcome.interim, outcome.unfinished = reader.messages, reader.interim, reader.current
    outcome.raw = bytes(received)
    if outcome.fault is None and reader.buffer and not reader.tunnel and outcome.ended != "open":
        outcome.fault = f"bytes without a response: {bytes(reader.buffer[:80])!r}"
    sock.settimeout(timeout)
    return outcome
