"""A scripted origin on a raw socket, one thread per connection.

It keeps the exact bytes of each connection, reads them with a strict reader of its own, and answers with
whatever bytes the test gives, in one write, byte by byte or split at line ends, ending as the test says.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.fakes.delivery import Delivery
from tests.fakes.reader import Malformed, Received, RequestReader
from tests.stopwatch import Stopwatch

RESET = struct.pack("ii", 1, 0)  # SO_LINGER with zero seconds: close() sends a reset


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes to send for one request and what to do after them."""

    data: bytes
    delivery: Delivery = Delivery.WHOLE
    ending: str = "keep"  # keep, close, reset, half-close
    wait: float = 0.0  # seconds before the first byte
    pause: float = 0.0  # seconds between the pieces
    late: bytes = b""  # sent a moment after the rest


def reply(body: bytes = b"ok", status: bytes = b"200 OK", *fields: bytes) -> bytes:
    """An ordinary response."""
    lines = (b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def send_pieces(sock: socket.socket, data: bytes, delivery: Delivery, pause: float = 0.0) -> None:
    """Send ``data`` in the pieces of ``delivery``, a moment apart."""
    for number, piece in enumerate(delivery.pieces(data)):
        if number:
            time.sleep(pause or delivery.pause)
        sock.sendall(piece)


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


class Connection:
    """One accepted connection: its raw bytes, its reader, and the ways to answer by hand."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        self.number = number
        self.sock = sock
        self.raw = bytearray()
        self.reader = RequestReader()
        self.fault: str | None = None
        self.busy = False  # between receiving bytes and having read them
        self.forgotten = False  # began a message that an earlier case left unfinished
        self.closing = threading.Event()  # ends a wait before an answer
        self.ended: str | None = None  # "end" or "reset" of the peer, or "closed" by us

    def answer(self, answer: Answer) -> bool:
        """Send; whether the connection goes on."""
        try:
            if answer.wait and self.closing.wait(answer.wait):
                self.close()
                return False
            if answer.data:
                send_pieces(self.sock, answer.data, answer.delivery, answer.pause)
            if answer.late:
                time.sleep(0.01)
                self.sock.sendall(answer.late)
            if answer.ending == "close":
                self.close()
                return False
            if answer.ending == "reset":
                if answer.data:
                    time.sleep(0.002)  # or the reset overtakes what the peer has not read yet
                reset(self.sock)
                self.ended = "closed"
                return False
            if answer.ending == "half-close":
                self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return False
        return True

    def close(self) -> None:
        """Close without a reset even if the peer still sends: end our side first."""
        self.ended = self.ended or "closed"
        with contextlib.suppress(OSError, ValueError):
            if isinstance(self.sock, ssl.SSLSocket):
                self.sock.settimeout(0.5)
                self.sock.unwrap()  # close_notify: the end is meant
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


Respond = Callable[[Received, Connection], Answer | None]


class Origin:
    """Listens on loopback; ``respond`` turns each complete request into an answer.

    With ``tls`` every connection begins with a handshake. With ``handle``, a connection is given to that
    function whole instead, unread: for protocols other than HTTP, and for answers before the end of a request.
    """

    def __init__(
        self,
        respond: Respond | None = None,
        *,
        handle: Callable[[Connection], None] | None = None,
        address: str | tuple[str, int] = ("127.0.0.1", 0),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.respond: Respond = respond or (lambda request, connection: Answer(reply()))
        self.handle = handle
        self._tls = tls
        self.requests: list[Received] = []  # complete, in the order of their ends
        self.connections: list[Connection] = []
        self.accepted = 0
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._answering = 0
        self._threads: list[threading.Thread] = []
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(address)
        self._listener.listen(512)
        name = self._listener.getsockname()
        self.address = f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"
        self.port = 0 if isinstance(name, str) else name[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.accepted += 1
                connection = Connection(self.accepted, sock)
                self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            thread.start()
            self._threads = [old for old in self._threads if old.is_alive()]
            self._threads.append(thread)

    def _serve(self, connection: Connection) -> None:
        if self._tls is not None:
            try:
                connection.sock = self._tls.wrap_socket(connection.sock, server_side=True)
            except OSError:
                connection.close()
                return
        if self.handle is not None:
            try:
                self.handle(connection)
            except OSError:
                connection.ended = connection.ended or "reset"
            finally:
                connection.close()
            return
        while True:
            try:
                data = connection.sock.recv(1 << 16)
            except OSError:
                connection.ended = connection.ended or "reset"
                data = b""
            if not data:
                connection.ended = connection.ended or "end"
                connection.close()
                return
            connection.busy = True
            if connection.fault is not None:
                continue
            connection.raw += data
            try:
                connection.reader.feed(data)
            except Malformed as fault:
                connection.fault = str(fault)
            connection.busy = False
            for request in connection.reader.take():
                request.connection = connection.number
                if not self._answer(request, connection):
                    return
            if connection.fault is not None:
                connection.answer(Answer(reply(b"malformed", b"400 Bad Request"), ending="close"))
                return

    def _answer(self, request: Received, connection: Connection) -> bool:
        with self._idle:
            self.requests.append(request)
            self._answering += 1
        try:
            answer = self.respond(request, connection)
            return answer is None or connection.answer(answer)
        finally:
            with self._idle:
                self._answering -= 1
                self._idle.notify_all()

    def settle(self, timeout: float = 5.0) -> bool:
        """Wait until no answer is being sent."""
        with self._idle:
            return self._idle.wait_for(lambda: self._answering == 0, timeout)

    def quiesce(self, timeout: float = 1.0) -> None:
        """Wait until every connection has taken in what has arrived, ends included."""
        deadline = time.monotonic() + timeout
        for connection in list(self.connections):
            poll = select.poll()
            while connection.ended is None and time.monotonic() < deadline:
                try:
                    poll.register(connection.sock.fileno(), select.POLLIN)
                    if not poll.poll(0) and not connection.busy:
                        break
                except (OSError, ValueError):
                    break
                time.sleep(0.0005)

    def faults(self) -> list[str]:
        """What reached the origin although no strict reader takes it."""
        return [c.fault for c in self.connections if c.fault is not None]

    def unfinished(self) -> list[bytes]:
        """Request bytes that began a message and never completed it, of every connection."""
        return [
            bytes(c.raw[-200:])
            for c in self.connections
            if c.fault is None and not c.forgotten and (c.reader.current is not None or c.reader.buffer)
        ]

    def forget(self) -> None:
        """Drop what was recorded; connections that are open stay in sight."""
        with self._lock:
            self.requests.clear()
            for connection in self.connections:
                connection.raw.clear()
                connection.forgotten = connection.reader.current is not None
            self.connections = [c for c in self.connections if c.ended is None]

    def wait_for_connections(self, count: int, timeout: float = 5.0) -> list[Connection]:
        """Wait until ``count`` connections have come since the last :meth:`forget`."""
        waiting = Stopwatch()
        while len(self.connections) < count:
            if waiting.seconds > timeout:
                raise AssertionError(f"{len(self.connections)} connections came instead of {count}")
            time.sleep(0.002)
        return self.connections

    def wait_for_requests(self, count: int, timeout: float = 5.0) -> list[Received]:
        """Wait until ``count`` requests have come since the last :meth:`forget`."""
        waiting = Stopwatch()
        while len(self.requests) < count:
            if waiting.seconds > timeout:
                raise AssertionError(f"{len(self.requests)} requests came instead of {count}")
            time.sleep(0.002)
        return self.requests

    def disconnect(self) -> None:
        """Close every open connection."""
        for connection in self.connections:
            connection.closing.set()
            if connection.ended is None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Stop listening and close every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(5)
        self.disconnect()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Origin:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
