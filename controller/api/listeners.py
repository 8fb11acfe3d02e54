"""The ports: HTTPS, and the Unix socket of operators on this machine."""

# twisted.internet.posixbase has hardly any annotations.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.protocols.tls import TLSMemoryBIOFactory

from controller.api.connections import ApiFactory
from controller.api.http import Limit, Respond
from controller.api.tls import Leaf
from hostproxy.mesh import addresses

UNIX_CONNECTIONS = 64
BACKLOG = 512


class CannotListen(Exception):
    """An address cannot be had; the text says which, why, and what to do."""


class _Secured(TLSMemoryBIOFactory):
    """TLS for connections that there is room for."""

    def __init__(self, leaf: Leaf, factory: ApiFactory, reactor: Any) -> None:
        wrapped: Any = factory
        creator: Any = leaf
        super().__init__(creator, False, wrapped, reactor)
        self._factory = factory

    def buildProtocol(self, addr: IAddress | None) -> Any:
        # Asked here, because a connection that is refused behind the handshake has cost one.
        if not self._factory.has_room(str(getattr(addr, "host", ""))):
            return None
        return super().buildProtocol(addr)


class Listeners:
    """Both ports, open."""

    def __init__(self, reactor: Any, respond: Respond, limit: Limit, most: int) -> None:
        """``most``: connections at a time over HTTPS, of which one address may have an eighth."""
        self.secured = ApiFactory(respond, limit, reactor, most, max(16, most // 8))
        self.local = ApiFactory(respond, limit, reactor, UNIX_CONNECTIONS, UNIX_CONNECTIONS)
        self._reactor = reactor
        self._ports: list[Any] = []

    def open(self, listen: str, operator_socket: str, leaf: Leaf) -> int:
        """Listen; returns the TCP port. Raises :class:`CannotListen`; :meth:`close` it then too."""
        ip, port = addresses.split(listen)
        try:
            secured: Any = _Secured(leaf, self.secured, self._reactor)
            tcp = self._reactor.listenTCP(port, secured, backlog=BACKLOG, interface=ip)
        except CannotListenError as error:
            raise CannotListen(f"{listen}: {error.socketError.strerror}") from None
        self._ports.append(tcp)
        _make_way(operator_socket)
        # From the first moment on for nobody else, whatever the umask was.
        mask = os.umask(0o177)
        try:
            self._ports.append(self._reactor.listenUNIX(operator_socket, self.local, backlog=64, mode=0o600))
        except CannotListenError as error:
            raise CannotListen(f"{operator_socket}: {error.socketError.strerror}") from None
        finally:
            os.umask(mask)
        number: int = tcp.getHost().port
        return number

    def close(self) -> Deferred[Any]:
        """Take no more connections, and close what is idle. Fires when no connection can come any more."""
        ports, self._ports = self._ports, []
        closed = DeferredList([port.stopListening() for port in ports if port.connected])
        self.secured.drain()
        self.local.drain()
        return closed

    @property
    def busy(self) -> int:
        """Connections that are open."""
        return len(self.secured.open) + len(self.local.open)

    @property
    def turned_away(self) -> int:
        """Connections so far that there was no room for."""
        return self.secured.turned_away + self.local.turned_away

    def abort(self) -> None:
        """Cut every connection."""
        self.secured.abort()
        self.local.abort()


def _make_way(path: str) -> None:
    """Remove the socket that a controller which was killed has left. Raises :class:`CannotListen`."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise CannotListen(f"{path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise CannotListen(f"{path}: is there, and is no socket: move it away")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT):
            raise CannotListen(f"{path}: another controller listens there")
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
