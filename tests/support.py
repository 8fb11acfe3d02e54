"""What tests of the data path stand on: a reactor stepped by hand, the far ends of its connections, and small fakes."""

from __future__ import annotations

import gc
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

import pytest

from hostproxy.net.reactor import MeshReactor

T = TypeVar("T")

RESET = struct.pack("ii", 1, 0)  # SO_LINGER with zero seconds: close() sends a reset
LIMIT = 20.0  # seconds that anything on loopback may take: some milliseconds, where the machine has time for it


class Loop:
    """A reactor of its own that the test steps: nothing happens between two calls."""

    def __init__(self) -> None:
        self.reactor = MeshReactor()

    def step(self, seconds: float = 0.0) -> None:
        """Run due timers and one batch of events, waiting at most ``seconds`` for it."""
        self.reactor.runUntilCurrent()
        self.reactor.doPoll(seconds)

    def settle(self, rounds: int = 25) -> None:
        """Let everything that needs no waiting happen. Loopback delivers at once; each hop takes a round."""
        for _ in range(rounds):
            self.step()

    def until(self, condition: Callable[[], T], limit: float = LIMIT) -> T:
        """Step until ``condition`` holds, and return what it found."""
        end = time.monotonic() + limit
        while not (found := condition()):
            assert time.monotonic() < end, "it did not happen"
            self.step(0.002)
        return found

    @property
    def busy(self) -> bool:
        """Whether the poller reports something again and again: that would burn the processor."""
        self.settle()
        return bool(self.reactor._poller.poll(0))

    def close(self) -> None:
        """Give the reactor's descriptors back."""
        for call in self.reactor.getDelayedCalls():
            call.cancel()
        for watched in [*self.reactor._watched.values(), *self.reactor._fresh.values()]:
            self.reactor.unwatch(watched)
        self.reactor.removeReader(self.reactor.waker)
        self.reactor.waker.connectionLost(None)
        self.reactor._poller.close()


def descriptors() -> set[str]:
    """The open descriptors of this process, by what they are."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink('/proc/self/fd/' + name)}")
        except FileNotFoundError:
            pass  # the one that lists them
    return found


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A reactor; afterwards not one descriptor may be left."""
    before = descriptors()
    loop = Loop()
    yield loop
    Peer.close_all()
    loop.settle()
    loop.close()
    if descriptors() - before:
        gc.collect()  # slow, and needed by few
    left = descriptors() - before
    assert not left


def tcp_pair(buffers: int = 0) -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection over loopback, not blocking; with ``buffers``, the kernel's are this small."""
    one = socket.socket()
    with socket.create_server(("127.0.0.1", 0)) as server:
        for sock in (one, server) if buffers else ():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        one.connect(server.getsockname())
        other, _ = server.accept()
    for sock in (one, other):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


def narrow_pair() -> tuple[socket.socket, socket.socket]:
    """A connection in which little is under way before one end has to wait for the other."""
    return tcp_pair(buffers=16 * 1024)


def unix_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a Unix stream connection, not blocking."""
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


class Peer:
    """The test's end of a connection. It reads only when asked to."""

    _open: ClassVar[list[Peer]] = []

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.loop = loop
        self.sock = sock
        self.received = b""  # and not yet taken by until()
        self.end = ""  # "fin" or "reset" once it has come
        Peer._open.append(self)

    @classmethod
    def to(cls, loop: Loop, address: Any) -> Peer:
        """Connect to a listening socket on loopback."""
        family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
        sock = socket.socket(family, socket.SOCK_STREAM)
        peer = cls(loop, sock)
        sock.setblocking(True)
        sock.connect(address)
        sock.setblocking(False)
        return peer

    @classmethod
    def close_all(cls) -> None:
        """Close what tests have left open."""
        while cls._open:
            cls._open.pop().sock.close()

    def push(self, data: bytes) -> int:
        """Send what the kernel takes; returns how much."""
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    def send(self, data: bytes) -> None:
        """Send everything."""
        sent = 0

        def out() -> bool:
            nonlocal sent
            sent += self.push(data[sent:])
            return sent == len(data)

        self.loop.until(out)
        self.loop.settle()

    def read(self, most: int = 1 << 20) -> bytes:
        """Take what is here."""
        if not self.end:
            try:
                data = self.sock.recv(most)
            except BlockingIOError:
                return b""
            except ConnectionResetError:
                self.end = "reset"
                return b""
            if not data:
                self.end = "fin"
            self.received += data
            return data
        return b""

    def until(self, wanted: bytes | int) -> bytes:
        """Read until these bytes, or so many, have come; returns everything up to there and keeps the rest."""

        def come() -> bool:
            self.read()
            if isinstance(wanted, int):
                return len(self.received) >= wanted
            return wanted in self.received

        self.loop.until(come)
        stop = wanted if isinstance(wanted, int) else self.received.index(wanted) + len(wanted)
        data, self.received = self.received[:stop], self.received[stop:]
        return data

    def all(self) -> bytes:
        """Read to the end of the connection, whatever end that is."""
        self.loop.until(lambda: (self.read() and False) or self.end)
        data, self.received = self.received, b""
        return data

    def nothing(self) -> bool:
        """Whether nothing has come, and no end."""
        self.loop.settle()
        self.read()
        return not self.received and not self.end

    def finish(self) -> None:
        """Half-close."""
        self.sock.shutdown(socket.SHUT_WR)
        self.loop.settle()

    def close(self) -> None:
        """Close in the ordinary way."""
        self.sock.close()
        self.loop.settle()

    def reset(self) -> None:
        """Close with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()
        self.loop.settle()


class Listening:
    """A listening socket whose connections the test takes when it wants them."""

    def __init__(self, loop: Loop, family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0)) -> None:
        self.loop = loop
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.bind(address)
        self.sock.listen(64)
        self.sock.setblocking(False)
        Peer(loop, self.sock)  # closed with the rest

    @property
    def address(self) -> str:
        """As configuration spells it."""
        name = self.sock.getsockname()
        return f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"

    def pending(self) -> Peer | None:
        """A connection that has come, or none."""
        self.loop.settle()
        try:
            sock, _ = self.sock.accept()
        except BlockingIOError:
            return None
        return Peer(self.loop, sock)

    def accept(self) -> Peer:
        """The next connection."""
        return self.loop.until(self.pending)

    def close(self) -> None:
        """Refuse from now on."""
        self.sock.close()


def black_hole(loop: Loop) -> str:
    """An address on loopback where connecting neither succeeds nor fails: its queue is full."""
    hole = Listening(loop)
    hole.sock.listen(0)
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(hole.sock.getsockname())
        Peer(loop, filler)
    return hole.address


def closed_port() -> str:
    """An address on loopback where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


class Recorder:
    """Owns a stream and writes down what it hears."""

    def __init__(self) -> None:
        self.data = b""
        self.events: list[str] = []
        self.error: Exception | None = None
        self.on_received: Callable[[bytes], None] = lambda data: None

    def received(self, data: bytes) -> None:
        self.data += data
        self.on_received(data)

    def ended(self) -> None:
        self.events.append("ended")

    def drained(self) -> None:
        self.events.append("drained")

    def lost(self, reason: str) -> None:
        self.events.append("lost " + reason)

    def secured(self) -> None:
        self.events.append("secured")

    def handshake_failed(self, error: Exception) -> None:
        self.error = error
        self.events.append("failed")
