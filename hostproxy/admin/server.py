"""Opens the admin address."""

# twisted.internet.posixbase has hardly any annotations.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hostproxy.admin.http import CONNECTIONS, AdminFactory
from hostproxy.admin.pages import Live, Pages
from hostproxy.control.listeners import CannotListen, bind
from hostproxy.control.state import SupervisorState
from hostproxy.mesh.addresses import UNIX, is_local, is_unix, split
from hostproxy.net.listen import Acceptor
from hostproxy.telemetry.totals import Totals

if TYPE_CHECKING:
    from hostproxy.config import Admin
    from hostproxy.net.reactor import MeshReactor


class AdminPort:
    """The open admin address. Clients beyond CONNECTIONS wait in the kernel's queue, as many again."""

    def __init__(self, reactor: MeshReactor, sock: socket.socket, factory: AdminFactory, *, own: bool = True) -> None:
        """``own``: the address goes with the port. Else somebody else has it too."""
        self._reactor = reactor
        self._sock = sock
        self._factory = factory
        self._own = own
        sock.listen(CONNECTIONS)
        # Not adoptStreamPort: Twisted makes a Unix socket that it is given readable and writable to the world.
        self._acceptor = Acceptor(reactor, sock, self._accepted, factory.has_room, lambda: None)

    @property
    def address(self) -> str:
        """Where it listens, as in conf.toml; a port that the kernel chose is filled in."""
        name = self._sock.getsockname()
        if self._sock.family == socket.AF_UNIX:
            return f"{UNIX}{name}"
        return f"[{name[0]}]:{name[1]}" if self._sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"

    def stopListening(self) -> None:
        """Close the address, a Unix socket with its file if it is our own, and cut the connections."""
        if self._own and self._sock.family == socket.AF_UNIX:
            try:
                os.unlink(self._sock.getsockname())
            except OSError:
                pass  # somebody tidied up before us
        self._acceptor.close()
        self._factory.abort()

    def _accepted(self, sock: socket.socket, peer: object) -> None:
        with sock:
            self._reactor.adoptStreamConnection(sock.fileno(), sock.family, self._factory)


def listen(
    reactor: MeshReactor,
    admin: Admin,
    state: SupervisorState,
    totals: Totals,
    clock: Callable[[], float] = time.time,
    sock: socket.socket | None = None,
    live: Mapping[bytes, Live] = {},
) -> AdminPort:
    """Answer on ``admin.listen`` from now on. ``clock`` gives Unix seconds; ``sock`` is bound to it and stays so.

    ``live`` are paths beside those that only show.

    Raises CannotListen when the address cannot be had, or is one that others could reach.
    """
    address = admin.listen
    if not is_local(address):
        raise CannotListen(f"{address}: is not only for this host: write 127.0.0.1:15000 or unix:/path")
    ip = "" if is_unix(address) else split(address)[0]
    pages = Pages(reactor, state, totals, f"[{ip}]" if ":" in ip else ip, clock, live)
    factory = AdminFactory(pages.respond, reactor)
    if sock is not None:
        return AdminPort(reactor, sock.dup(), factory, own=False)
    return AdminPort(reactor, bind(address), factory)
