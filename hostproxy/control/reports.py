"""What the workers of a supervisor report, taken to where it belongs."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hostproxy.control.daemon import Daemon
    from hostproxy.control.handle import Handle
    from hostproxy.snapshot import Listener


class Owner(Protocol):
    """Who decides on what follows from it."""

    def crew_ready(self) -> None:
        """Every place has a worker that serves."""

    def socket_received(self, listener: Listener, sock: socket.socket) -> None:
        """A worker that was left behind gave a listening socket."""

    def worker_handed_over(self, handle: Handle) -> None:
        """It has given all that it had, or has gone."""


class Reports:
    """See :class:`hostproxy.control.crew.Owner`."""

    def __init__(self, daemon: Daemon, owner: Owner) -> None:
        self._daemon = daemon
        self.crew_ready = owner.crew_ready
        self.socket_received = owner.socket_received
        self.worker_handed_over = owner.worker_handed_over

    def crew_changed(self) -> None:
        """Processes came or went."""
        self._daemon.state.workers = self._daemon.crew.states

    def worker_counted(self, worker: int, export: bytes) -> None:
        """Take a worker's counters."""
        self._daemon.totals.merge(worker, export)

    def worker_gone(self, worker: int) -> None:
        """Keep the counters of a worker that has ended."""
        self._daemon.totals.retire(worker)

    def service_wanted(self, handle: Handle, service: str) -> None:
        """Requests wait for a service that no worker was told of."""
        consul = self._daemon.sources.consul

        def answer(found: bool, problem: str) -> None:
            # One that was found comes with the next snapshot.
            if not found:
                handle.absent(service, problem)

        if consul is None:
            answer(False, "")
        else:
            consul.want(service, answer)

    def services_used(self, services: tuple[str, ...]) -> None:
        """Requests went there."""
        if self._daemon.sources.consul is not None:
            self._daemon.sources.consul.used(services)
