"""Who made the socket at the other end of a local connection, asked of the kernel.

For TCP by sock_diag(7): the exact four addresses and ports of the client's socket give the user that made it and its
cgroup at that time. No privilege is needed for that, and no walk over /proc. The kernel answers while the question is
being sent, so nothing waits. For a Unix socket by SO_PEERCRED, whose facts are of the time of connect().

A socket that was handed to another process stays its maker's: what is told is who asked the kernel to connect.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/tcp.h; the socket module has no names for them.
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
INET_DIAG_CGROUP_ID = 21
NO_COOKIE = 0xFFFFFFFF
ALL_STATES = 0xFFFFFFFF
TCP_CLOSE = 7
# A client between its connect() and its close(). Without SYN_SENT: somebody else's socket, on its way to the port of a
# client that has gone, is in it. Without TIME_WAIT, whose user is told as 0, which is root.
HELD_STATES = frozenset({1, 4, 5, 8, 9, 11})  # ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING
# Connections from a host to itself come in here, whatever their addresses. A client that has bound itself to this
# interface is found by no other number.
LOOPBACK_INTERFACE = 1
SO_PEERPIDFD = getattr(socket, "SO_PEERPIDFD", 77)  # Linux 6.5; the same on all architectures that Debian has

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=IHHII BBBBI 4s16s16s III")  # the header, what is asked for, whose socket
_ANSWER = struct.Struct("=IHHII BBBB 4s16s16s III IIIII")  # the header, struct inet_diag_msg
_ERROR = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")  # length with this head, type
_CGROUP = struct.Struct("=Q")
_PORTS = struct.Struct("!HH")
_CREDENTIALS = struct.Struct("=iII")  # pid, uid, gid

_MAPPED = bytes(10) + b"\xff\xff"  # IPv4 within IPv6
_ANSWER_SIZE = 4096  # bytes; an answer has about 130
_STALE = 16  # answers to earlier questions that are thrown away before giving up; there should be none


class Unknown(Exception):
    """The kernel doesn't say who calls. ``reason`` is a word for counters, the message is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Owner(NamedTuple):
    """Who made a socket."""

    uid: int
    cgroup: int  # the inode number of its directory in the cgroup v2 hierarchy; 0: this kernel does not say


class Credentials(NamedTuple):
    """Who called connect() on a Unix socket."""

    pid: int  # 0: it is in another PID namespace
    uid: int  # the effective one


class _Ends(NamedTuple):
    """One end of a TCP connection as the kernel names it: what is near to it first."""

    ports: bytes
    near: bytes
    far: bytes


def open_netlink() -> socket.socket:
    """A socket to ask sock_diag(7) by. Raises OSError."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)


class SocketDiag:
    """Asks for the owners of TCP sockets of this network namespace. One per process."""

    __slots__ = ("_open", "_sequence", "_sock")

    def __init__(self, open_socket: Callable[[], socket.socket] = open_netlink) -> None:
        self._open = open_socket
        self._sock: socket.socket | None = None
        self._sequence = 0

    def owner(self, accepted: socket.socket) -> Owner:
        """Who made the socket at the other end of ``accepted``. Raises :class:`Unknown`.

        ``accepted`` must not have been closed or shut down by us.
        """
        try:
            far, near = accepted.getpeername(), accepted.getsockname()
        except OSError:
            raise _gone() from None
        client = _Ends(_PORTS.pack(far[1], near[1]), _packed(far[0]), _packed(near[0]))
        owner = self._ask(client)
        # A reset connection stays in the queue of accept(), with what was sent, while its port may be another client's
        # already, who would be found. As long as ours lives, only its own client can be connected from there.
        if _state(accepted) == TCP_CLOSE:
            raise _gone()
        if owner is not None:
            return owner
        # Nothing is there either when the kernel lacks the module; ours is there otherwise.
        ours = _Ends(_PORTS.pack(near[1], far[1]), client.far, client.near)
        if self._ask(ours) is not None:
            raise Unknown("not-local", f"no process of this host is connected from {far[0]}")
        raise Unknown("kernel", "sock_diag knows no TCP socket: is the kernel module tcp_diag there?")

    def close(self) -> None:
        """Give the descriptor back. The next question opens another."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _ask(self, ends: _Ends) -> Owner | None:
        """The owner of a socket; ``None`` when there is no such socket. Raises :class:`Unknown`."""
        answer = self._exchange(ends)
        if _HEADER.unpack_from(answer)[1] == NLMSG_ERROR:
            code = -_ERROR.unpack_from(answer, _HEADER.size)[0]
            if code == errno.ENOENT:
                return None
            raise Unknown("kernel", f"sock_diag: {os.strerror(code)}")
        fields = _ANSWER.unpack_from(answer)
        family, state, ports, near, far, uid, inode = fields[5], fields[6], *fields[9:12], *fields[18:20]
        if _Ends(ports, _plain(family, near), _plain(family, far)) != ends:
            return None  # the kernel offers a listening socket when there is no connection
        if state not in HELD_STATES or not inode:
            raise _gone()  # nobody has it, and its user may be told as 0
        return Owner(uid, _cgroup(answer))

    def _exchange(self, ends: _Ends) -> bytes:
        """Send a question and return its answer, at least a header with an error or a whole answer."""
        for attempt in (1, 2):
            try:
                if self._sock is None:
                    self._sock = self._open()
                    self._sock.setblocking(False)
                return self._try(self._sock, ends)
            except OSError as error:
                self.close()
                if attempt == 2:
                    raise Unknown("kernel", f"sock_diag: {error.strerror or error}") from None
        raise AssertionError

    def _try(self, sock: socket.socket, ends: _Ends) -> bytes:
        self._sequence = sequence = (self._sequence + 1) & 0xFFFFFFFF
        family = socket.AF_INET if len(ends.near) == 4 else socket.AF_INET6
        sock.send(
            _REQUEST.pack(
                *(_REQUEST.size, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, sequence, 0),
                *(family, socket.IPPROTO_TCP, 0, 0, ALL_STATES),
                *ends,
                *(LOOPBACK_INTERFACE, NO_COOKIE, NO_COOKIE),
            )
        )
        for _ in range(_STALE):
            answer, sender = sock.recvfrom(_ANSWER_SIZE)
            if sender[0] != 0 or len(answer) < _HEADER.size + _ERROR.size:
                continue  # not of the kernel
            length, kind, _, number, _ = _HEADER.unpack_from(answer)
            whole = kind == NLMSG_ERROR or (kind == SOCK_DIAG_BY_FAMILY and len(answer) >= _ANSWER.size)
            if number == sequence and whole and length == len(answer):
                return answer
        raise OSError(errno.EBADMSG, "no answer that can be understood")


def credentials(accepted: socket.socket) -> Credentials:
    """Who connected to the Unix socket that ``accepted`` comes from. Raises :class:`Unknown`."""
    try:
        pid, uid, _ = _CREDENTIALS.unpack(
            accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
    except OSError as error:
        raise Unknown("kernel", f"SO_PEERCRED: {error.strerror}") from None
    return Credentials(pid, uid)


def process_descriptor(accepted: socket.socket) -> int | None:
    """A pidfd of who connected, to be closed by the caller; ``None`` before Linux 6.5. Raises :class:`Unknown`."""
    try:
        return accepted.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return None
        if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENODATA):
            raise _gone() from None
        raise Unknown("kernel", f"SO_PEERPIDFD: {error.strerror}") from None


def _gone() -> Unknown:
    return Unknown("gone", "the client has gone already")


def _state(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def _packed(host: str) -> bytes:
    """An address in 4 or 16 bytes; one of IPv4 within IPv6 in 4, as the other end may know it so."""
    if ":" not in host:
        return socket.inet_pton(socket.AF_INET, host)
    return _plain(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host.partition("%")[0]))


def _plain(family: int, address: bytes) -> bytes:
    if family == socket.AF_INET:
        return address[:4]
    return address[12:] if address.startswith(_MAPPED) else address


def _cgroup(answer: bytes) -> int:
    """The cgroup's id among the attributes of an answer; 0 when it is not."""
    offset = _ANSWER.size
    while offset + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, offset)
        if kind == INET_DIAG_CGROUP_ID and length == _ATTRIBUTE.size + _CGROUP.size <= len(answer) - offset:
            return int(_CGROUP.unpack_from(answer, offset + _ATTRIBUTE.size)[0])
        offset += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return 0
