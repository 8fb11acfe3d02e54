"""The door of a worker: a Unix socket where the next supervisor finds it when its own has died.

It stands in the runtime directory from the worker's start, so there is no moment at which a dead supervisor's
workers cannot be found. Only processes of the same user (or root) get through, in both directions.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from twisted.logger import Logger

from hostproxy.net.reactor import READ

if TYPE_CHECKING:
    from hostproxy.net.reactor import MeshReactor

_NAME = re.compile(r"worker-([0-9]{1,10})\.sock")
_LEFT = re.compile(r"(?:worker|trial)-([0-9]{1,10})(?:-[0-9]{1,10})?\.sock")
_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


class Peer(NamedTuple):
    """Who is at the other end of a Unix socket, as the kernel says."""

    pid: int
    uid: int

    @classmethod
    def of(cls, sock: socket.socket) -> Peer:
        """The process that connected, or that listened."""
        content = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(content)
        return cls(pid, uid)

    @property
    def trusted(self) -> bool:
        """Whether it may hold our sockets: our user, or root."""
        return self.uid in (os.geteuid(), 0)


def door_path(directory: str, pid: int) -> str:
    """Where the worker ``pid`` listens."""
    return os.path.join(directory, f"worker-{pid}.sock")


def remove_door(directory: str, pid: int) -> None:
    """Take away what a worker that was killed left behind."""
    try:
        os.unlink(door_path(directory, pid))
    except OSError:
        pass  # it did that itself


def trial_path(directory: str, pid: int, number: int) -> str:
    """Where workers listen for the trial of the supervisor ``pid``."""
    return os.path.join(directory, f"trial-{pid}-{number}.sock")


def lives(pid: int) -> bool:
    """Whether there is such a process. One that has ended and was not waited for yet is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            content = file.read()
    except OSError:
        return False
    return content[content.rindex(b")") + 2 :][:1] not in b"ZX"  # the name before may hold anything


def tidy(directory: str) -> None:
    """Take away what processes that were killed left in the runtime directory."""
    for name in os.listdir(directory):
        match = _LEFT.fullmatch(name)
        if match is not None and not lives(int(match[1])):
            try:
                os.unlink(os.path.join(directory, name))
            except OSError:
                pass  # somebody else has


class Door:
    """The worker's side. ``knocked`` takes each connection that is trusted."""

    log = Logger()

    def __init__(self, reactor: MeshReactor, directory: str, knocked: Callable[[socket.socket], None]) -> None:
        """Listen. Raises OSError."""
        self.path = door_path(directory, os.getpid())
        self._reactor = reactor
        self._knocked = knocked
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            if os.path.lexists(self.path):
                os.unlink(self.path)  # of a process that had our number
            before = os.umask(0o177)
            try:
                self._socket.bind(self.path)
            finally:
                os.umask(before)
            self._socket.listen(4)
        except OSError:
            self._socket.close()
            raise
        self.fd = self._socket.fileno()
        reactor.watch(self, READ)

    def ready(self, events: int) -> None:
        """See :class:`hostproxy.net.reactor.Watched`: somebody knocks."""
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return  # gone again; or no descriptors left, and then it will try again
        peer = Peer.of(sock)
        if peer.trusted:
            self._knocked(sock)
        else:
            self.log.warn("refused process {peer.pid} of user {peer.uid} at {path}", peer=peer, path=self.path)
            sock.close()

    def fault(self, error: BaseException) -> None:
        """See :class:`hostproxy.net.reactor.Watched`: the visitor may try again."""

    def close(self) -> None:
        """Take the door away."""
        if self._socket.fileno() >= 0:
            self._reactor.unwatch(self)
            self._socket.close()
            remove_door(os.path.dirname(self.path), os.getpid())


def knock(directory: str, apart_from: set[int]) -> list[tuple[int, socket.socket]]:
    """The new supervisor's side: connect to every worker behind a door, except the processes ``apart_from``.

    Doors of dead processes are taken away. Returns process ids with connected, non-blocking sockets.
    """
    found = []
    for name in sorted(os.listdir(directory)):
        match = _NAME.fullmatch(name)
        if match is None or int(match[1]) in apart_from:
            continue
        path = os.path.join(directory, name)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        code = sock.connect_ex(path)
        if code == 0:
            peer = Peer.of(sock)
            if peer.trusted and peer.pid == int(match[1]):
                found.append((peer.pid, sock))
                continue
        elif code == errno.ECONNREFUSED:
            os.unlink(path)
        sock.close()
    return found
