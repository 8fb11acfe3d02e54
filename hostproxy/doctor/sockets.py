"""The TCP sockets of this network namespace, and whose they are, out of /proc."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from typing import NamedTuple

from hostproxy.mesh.addresses import ANY

ESTABLISHED, LISTEN = 1, 10
MOST = 500_000  # lines of a table; a host has some ten thousand sockets


class Socket(NamedTuple):
    """One socket."""

    state: int
    address: str  # "10.0.0.1:80", "[::1]:80"
    peer: str
    uid: int
    inode: int  # 0: it belongs to nobody any more

    @property
    def ip(self) -> str:
        """The address alone."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port alone."""
        return int(self.address.rpartition(":")[2])


def table(proc: str, states: Collection[int]) -> Iterator[Socket]:
    """All sockets in one of ``states``. Raises OSError when there is not even a table for IPv4."""
    yield from _lines(os.path.join(proc, "net/tcp"), states)
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        yield from _lines(os.path.join(proc, "net/tcp6"), states)


def _lines(path: str, states: Collection[int]) -> Iterator[Socket]:
    with open(path, encoding="ascii") as file:
        next(file, None)
        for number, line in enumerate(file):
            if number >= MOST:
                return
            parts = line.split()
            state = int(parts[3], 16)
            if state in states:
                yield Socket(state, _address(parts[1]), _address(parts[2]), int(parts[7]), int(parts[9]))


def _address(text: str) -> str:
    """Addresses are words of four bytes in the order of the machine, ports are not."""
    ip, _, port = text.partition(":")
    words = [int(ip[start : start + 8], 16) for start in range(0, len(ip), 8)]
    packed = b"".join(struct.pack("<I" if sys.byteorder == "little" else ">I", word) for word in words)
    if len(packed) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, packed)}:{int(port, 16)}"
    if packed.startswith(bytes(10) + b"\xff\xff"):
        return f"{socket.inet_ntop(socket.AF_INET, packed[12:])}:{int(port, 16)}"
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]:{int(port, 16)}"


class Owner(NamedTuple):
    """A process that has a socket open."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid})"


def owners(proc: str, inodes: Collection[int]) -> tuple[dict[int, list[Owner]], bool]:
    """Who has these sockets, and whether every process could be looked at: that takes root."""
    found: dict[int, list[Owner]] = {}
    everything = True
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for entry in os.listdir(proc) if wanted else ():
        if not entry.isdigit():
            continue
        try:
            descriptors = os.scandir(f"{proc}/{entry}/fd")
        except PermissionError:
            everything = False
            continue
        except OSError:
            continue  # it has ended
        with descriptors:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    inode = wanted.get(os.readlink(descriptor.path))
                    if inode is not None and all(owner.pid != int(entry) for owner in found.get(inode, ())):
                        found.setdefault(inode, []).append(Owner(int(entry), command(proc, int(entry))))
    return found, everything


def command(proc: str, pid: int) -> str:
    """The name of a process."""
    try:
        with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read(64).strip()
    except OSError:
        return "a process"


def covers(listening: str, wanted: str) -> bool:
    """Whether who listens on ``listening`` gets the connections to ``wanted``."""
    ip, _, port = listening.rpartition(":")
    wanted_ip, _, wanted_port = wanted.rpartition(":")
    if port != wanted_port:
        return False
    if ip == wanted_ip:
        return True
    # What listens on [::] mostly takes IPv4 as well.
    return ip.strip("[]") == "::" or (ip in ANY and ":" not in wanted_ip)
