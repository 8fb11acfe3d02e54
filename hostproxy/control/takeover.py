"""The start of a supervisor whose predecessor died: the workers left behind hand over their listening sockets.

The sockets are never closed on the way, so no connection is refused: until the new workers serve, the old ones do,
and a connection that waits in a queue meanwhile waits for either.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from hostproxy.control.door import knock
from hostproxy.control.passed import listening_address

if TYPE_CHECKING:
    from hostproxy.control.crew import Crew
    from hostproxy.control.handle import Handle
    from hostproxy.control.listeners import Sockets
    from hostproxy.control.runtime import RuntimeDirectory
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.snapshot import Listener

# How long a start waits for workers that were left behind (seconds). One that had only just been started when its
# supervisor died needs up to a second until it can be found.
TIME = 3.0
# Seconds between tries within that time.
TRY_AGAIN = 0.1


class TakeOver:
    """Brings together the sockets that are there and those that are to be bound."""

    log = Logger()

    def __init__(self, reactor: MeshReactor, directory: RuntimeDirectory, crew: Crew, sockets: Sockets) -> None:
        self._reactor = reactor
        self._directory = directory
        self._crew = crew
        self._sockets = sockets
        self._wanted: frozenset[str] = frozenset()  # addresses; empty: nothing is to come any more
        self._waiting: set[int] = set()  # adopted workers that have not handed over yet, by serial number
        self._done: Deferred[None] | None = None

    async def bind(self, addresses: list[str]) -> list[str]:
        """Have a socket for each of ``addresses``. Returns why some cannot be bound; then none was."""
        self._wanted = frozenset(addresses)
        deadline = self._reactor.seconds() + TIME
        while True:
            await self._collect(deadline)
            problems = self._sockets.bind_new(addresses)
            if not problems or not self._directory.left_behind or self._reactor.seconds() >= deadline:
                break
            # A worker that cannot be found yet may hold the address.
            pause: Deferred[None] = Deferred()
            self._reactor.callLater(TRY_AGAIN, pause.callback, None)
            await pause
        self._wanted = frozenset()
        return problems

    async def _collect(self, deadline: float) -> None:
        """Wait for the sockets of every worker that can be found, but not longer than until nothing is missing.

        One worker has the same sockets as the others, so one that hangs is not waited for.
        """
        for pid, sock in knock(self._directory.path, self._crew.pids):
            handle = self._crew.adopt(pid, sock)
            if handle is not None:
                self.log.info("taking over from worker pid {pid}, whose supervisor has gone", pid=pid)
                self._waiting.add(handle.state.id)
        if not self._waiting or self._wanted <= self._sockets.addresses:
            return
        self._done = Deferred()
        timer = self._reactor.callLater(max(0.0, deadline - self._reactor.seconds()), self._finish)
        await self._done
        if timer.active():
            timer.cancel()

    def socket_received(self, listener: Listener, sock: socket.socket) -> None:
        """A worker gave a listening socket."""
        if not self._wanted:
            sock.close()  # too late: all that is needed was there, or was bound
            return
        if listening_address(sock) != listener.address:
            sock.close()  # the private one of a worker that was on trial when both its supervisors died
            return
        self._sockets.adopt(listener.address, sock)
        if self._wanted <= self._sockets.addresses:
            self._finish()

    def handed_over(self, handle: Handle) -> None:
        """A worker has given all that it had, or has gone."""
        self._waiting.discard(handle.state.id)
        if not self._waiting:
            self._finish()

    def _finish(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done.callback(None)
