"""A listening socket: accepts in batches, pauses when the process is full or out of descriptors."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from select import EPOLLEXCLUSIVE
from typing import TYPE_CHECKING

from hostproxy.net.reactor import READ

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

    from hostproxy.net.reactor import MeshReactor

# Connections taken per event: enough for a burst, few enough that other workers, woken by the same burst, find some
# left (nginx takes one, unless told multi_accept).
BATCH = 8

# How long to leave the queue alone after the process or the machine ran out of descriptors or memory (seconds):
# trying at once again would only burn CPU, as the event stays.
PAUSE = 0.1

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """Accepts on ``sock``, a listening socket that may be shared with other workers."""

    __slots__ = ("_admit", "_exhausted", "_timer", "_watching", "accepted", "fd", "reactor", "sock")

    def __init__(
        self,
        reactor: MeshReactor,
        sock: socket.socket,
        accepted: Callable[[socket.socket, object], None],
        admit: Callable[[], bool],
        exhausted: Callable[[], None],
    ) -> None:
        """Call ``accepted`` with each new socket and its peer's address while ``admit`` says that there is room.

        Without room the queue waits in the kernel. ``exhausted`` is told when descriptors or memory ran out.
        """
        sock.setblocking(False)
        self.reactor = reactor
        self.sock = sock
        self.fd = sock.fileno()
        self.accepted = accepted
        self._admit = admit
        self._exhausted = exhausted
        self._timer: DelayedCall | None = None
        self._watching = False
        self._watch()

    def _watch(self) -> None:
        self._timer = None
        if not self._watching:
            # One of the workers that share the socket is woken per connection, not all of them.
            self.reactor.watch(self, READ | EPOLLEXCLUSIVE)
            self._watching = True

    def _pause(self) -> None:
        if self._watching:
            self.reactor.unwatch(self)
            self._watching = False
            self._timer = self.reactor.callLater(PAUSE, self._watch)

    def ready(self, events: int) -> None:
        """Called by the reactor: there are connections to take."""
        for taken in range(BATCH):
            if not self._admit():
                self._pause()
                return
            try:
                sock, address = self.sock.accept()
            except BlockingIOError:
                if taken:
                    self._queue_up()
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._exhausted()
                    self._pause()
                    return
                continue  # the client has gone already (ECONNABORTED), or a firewall said no: the next one
            sock.setblocking(False)
            self.accepted(sock, address)
            if self.fd < 0:
                return

    def _queue_up(self) -> None:
        """Let the others who wait for the same socket go first.

        The kernel wakes the one that has waited longest. Without this the first worker would get all connections of
        a quiet time, and keep them. The queue of connections is empty now, so nothing is reported twice.
        """
        if self._watching:
            self.reactor.unwatch(self)
            self.reactor.watch(self, READ | EPOLLEXCLUSIVE)

    def fault(self, error: BaseException) -> None:
        """Called by the reactor when accepting raised: the connection is lost, the listener goes on."""

    def close(self) -> None:
        """Stop accepting. Connections that wait in the queue stay there for those who share the socket."""
        if self.fd < 0:
            return
        if self._watching:
            self.reactor.unwatch(self)
            self._watching = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.fd = -1
        self.sock.close()
