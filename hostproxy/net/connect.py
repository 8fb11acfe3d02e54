"""Opening a connection without blocking."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hostproxy.net.reactor import WRITE

if TYPE_CHECKING:
    from hostproxy.net.reactor import MeshReactor


class Address(NamedTuple):
    """Where to connect to, resolved to what the socket call takes."""

    family: int
    target: object  # (ip, port), or a path
    text: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """``10.0.0.1:80``, ``[::1]:80`` or ``unix:/path``. Raises ValueError."""
        if text.startswith("unix:"):
            return cls(socket.AF_UNIX, text[5:], text)
        host, _, port = text.rpartition(":")
        if host.startswith("["):
            return cls(socket.AF_INET6, (host[1:-1], int(port)), text)
        return cls(socket.AF_INET, (host, int(port)), text)


class Connected(Protocol):
    """Who waits for a connection."""

    def connected(self, sock: socket.socket) -> None:
        """It is there."""

    def connect_failed(self, reason: str) -> None:
        """It is not: "refused", "timeout", "unreachable", "no-ports" or "error"."""


_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "refused",
    errno.ENOENT: "refused",  # a Unix socket that does not exist
    errno.EAGAIN: "refused",  # a Unix socket whose queue is full
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EADDRNOTAVAIL: "no-ports",
    errno.EMFILE: "no-descriptors",
    errno.ENFILE: "no-descriptors",
}


class Connecting:
    """A connection being opened. Time limits are the waiter's business: it calls :meth:`cancel`."""

    __slots__ = ("fd", "reactor", "sock", "waiter")

    def __init__(self, reactor: MeshReactor, address: Address, waiter: Connected) -> None:
        """Begin; raises OSError when the attempt fails at once, with ``waiter`` not called."""
        self.reactor = reactor
        self.waiter = waiter
        self.sock = sock = socket.socket(address.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if address.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address.target)  # type: ignore[arg-type]
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            raise OSError(code, os.strerror(code))
        self.fd = sock.fileno()
        reactor.watch(self, WRITE)

    def ready(self, events: int) -> None:
        """Called by the reactor: connected or failed."""
        self.reactor.unwatch(self)
        self.fd = -1
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.sock.close()
            self.waiter.connect_failed(failure_word(code))
        else:
            self.waiter.connected(self.sock)

    def cancel(self) -> None:
        """Give up; the waiter hears nothing."""
        if self.fd >= 0:
            self.reactor.unwatch(self)
            self.fd = -1
            self.sock.close()

    def fault(self, error: BaseException) -> None:
        """Called by the reactor when the waiter raised."""
        self.cancel()


def failure_word(code: int | None) -> str:
    """The word for an errno of connecting."""
    return _REASONS.get(code or 0, "error")
