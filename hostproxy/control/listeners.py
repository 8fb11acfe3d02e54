"""Listening sockets: bound once by the supervisor, shared by all workers, never rebound while they are wanted.

Because every worker accepts from the same queue, the connections that wait in it outlive any one of them.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable
from typing import Protocol

from hostproxy.net.connect import Address

# Connections that wait for a worker. The kernel cuts it to net.core.somaxconn, 4096 on Linux since 5.4.
BACKLOG = 4096

# The owner and the group of the daemon may connect to its Unix sockets; the directory can narrow that.
UNIX_MODE = 0o660


class CannotListen(Exception):
    """An address cannot be bound; the text says why and what to do."""


def bind(address: str) -> socket.socket:
    """A listening, non-blocking socket on ``address`` ("10.0.0.1:80", "[::1]:80" or "unix:/path")."""
    try:
        parsed = Address.parse(address)
    except ValueError:
        raise CannotListen(f"{address}: is not an address: write 127.0.0.1:7001, [::1]:7001 or unix:/path") from None
    sock = socket.socket(parsed.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if parsed.family == socket.AF_UNIX:
            _bind_path(sock, str(parsed.target))
        else:
            if parsed.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # "[::]" is not also "0.0.0.0"
            # Connections of the process before us may linger in TIME_WAIT on the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(parsed.target)  # type: ignore[arg-type]
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise CannotListen(f"{address}: {_explain(error)}") from None
    return sock


def _bind_path(sock: socket.socket, path: str) -> None:
    """Listen on a Unix socket, in the place of one that nobody listens on any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(path)
    if code in (0, errno.EAGAIN):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    if code == errno.ECONNREFUSED and stat.S_ISSOCK(os.lstat(path).st_mode):  # connecting to a file says the same
        os.unlink(path)
    before = os.umask(0o777 & ~UNIX_MODE)
    try:
        sock.bind(path)
    finally:
        os.umask(before)
    sock.listen(BACKLOG)


def _explain(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program, or another listener of this one, has it: see ss -ltnp"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host does not have that address: see ip address"
    if error.errno == errno.EACCES:
        return "not permitted: ports below 1024 need CAP_NET_BIND_SERVICE, a Unix socket a directory to write to"
    return error.strerror or str(error)


class Keeper(Protocol):
    """Who keeps sockets beyond the life of this process: :class:`hostproxy.control.notify.Manager`."""

    @property
    def there(self) -> bool:
        """Whether there is one."""

    def store(self, address: str, sock: socket.socket) -> None:
        """Keep a copy of it."""

    def forget(self, address: str) -> None:
        """Close that copy."""


class Sockets:
    """The listening sockets of this daemon by address."""

    def __init__(self, keeper: Keeper | None = None) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._passed: dict[str, socket.socket] = {}  # may be wanted
        self._keeper = keeper

    def __contains__(self, address: str) -> bool:
        return address in self._sockets

    def __getitem__(self, address: str) -> socket.socket:
        return self._sockets[address]

    @property
    def addresses(self) -> frozenset[str]:
        """What is bound now."""
        return frozenset(self._sockets)

    def items(self) -> list[tuple[str, socket.socket]]:
        """All of them, and those that may be wanted yet."""
        return [*self._sockets.items(), *self._passed.items()]

    def adopt(self, address: str, sock: socket.socket) -> None:
        """Keep ``sock``, which a worker handed over; a second one for the same address is closed."""
        if address in self._sockets:
            sock.close()
        else:
            sock.setblocking(False)
            self._sockets[address] = sock
            self._keep(address)

    def offer(self, address: str, sock: socket.socket) -> None:
        """Use ``sock``, which is bound to ``address`` already, when that is wanted."""
        before = self._passed.pop(address, None)
        if before is not None:
            before.close()
        sock.setblocking(False)
        self._passed[address] = sock

    def bind_new(self, addresses: Iterable[str]) -> list[str]:
        """Bind those of ``addresses`` that are not bound yet, all or none.

        Returns why some cannot be bound; then nothing has changed.
        """
        bound: dict[str, socket.socket] = {}
        passed = []
        problems = []
        for address in addresses:
            if address in self._sockets or address in bound:
                continue
            if address in self._passed:
                passed.append(address)
                continue
            try:
                bound[address] = bind(address)
            except CannotListen as error:
                problems.append(str(error))
        if problems:
            for address, sock in bound.items():
                _close(address, sock)
            return problems
        for address in passed:
            sock = self._passed.pop(address)
            sock.listen(BACKLOG)  # a unit may have asked for less
            bound[address] = sock
        self._sockets.update(bound)
        for address in bound:
            self._keep(address)
        return []

    def _keep(self, address: str) -> None:
        if self._keeper is not None:
            self._keeper.store(address, self._sockets[address])

    def keep(self) -> None:
        """Have copies of all kept, now that this process may say so."""
        for address in self._sockets:
            self._keep(address)

    def keep_only(self, addresses: Iterable[str]) -> None:
        """Close all but ``addresses``. Workers keep their copies until they are told to close them."""
        wanted = set(addresses)
        for address in [address for address in self._sockets if address not in wanted]:
            if self._keeper is not None:
                self._keeper.forget(address)
            _close(address, self._sockets.pop(address))

    def drop_passed(self) -> list[str]:
        """Close what was offered and nobody wanted. Returns the addresses. A path stays: whoever made it has it.

        What a worker handed over as well is wanted: one of the two is enough.
        """
        addresses = sorted(self._passed.keys() - self._sockets.keys())
        for sock in self._passed.values():
            sock.close()
        if self._keeper is not None:
            for address in addresses:
                self._keeper.forget(address)
        self._passed.clear()
        return addresses

    def leave(self, addresses: Iterable[str] | None = None) -> None:
        """Close ``addresses``, or all, in this process that goes; where copies are kept, connections wait there."""
        for address in list(self._sockets) if addresses is None else list(addresses):
            sock = self._sockets.pop(address)
            if self._keeper is not None and self._keeper.there:
                sock.close()
            else:
                _close(address, sock)


def _close(address: str, sock: socket.socket) -> None:
    sock.close()
    if address.startswith("unix:"):
        try:
            os.unlink(address[5:])
        except OSError:
            pass  # somebody tidied up before us
