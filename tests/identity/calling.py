"""Processes that call: of another user, in a cgroup of their own, on a host with or without systemd."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hostproxy.identity.processes import hierarchy

ROOT = hierarchy()

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="running programs as other users takes root")
needs_cgroups = pytest.mark.skipif(
    os.getuid() != 0 or not ROOT or not os.access(ROOT, os.W_OK), reason="takes root and a writable cgroup v2 hierarchy"
)

# What it needs is imported before it becomes a user who may not read where Python is.
PROGRAM = """
import os, socket, sys
cgroup, uid, family, bind, *address = sys.argv[1:]
if cgroup:
    with open(cgroup + "/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
if int(uid) >= 0:
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
sock = socket.socket(int(family))
if bind:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bind.encode())
sock.connect(address[0].replace("@", "\\0", 1) if len(address) == 1 else (address[0], int(address[1])))
print("connected", flush=True)
sys.stdin.read()
"""


class Caller:
    """A process that has connected, and stays until it is closed. "@" before a Unix socket's name makes it abstract."""

    def __init__(self, address: Any, uid: int = -1, cgroup: str = "", family: int = 0, device: str = "") -> None:
        parts = [address] if isinstance(address, str) else [str(part) for part in address[:2]]
        family = family or (socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PROGRAM, cgroup, str(uid), str(int(family)), device, *parts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"connected\n"

    @property
    def pid(self) -> int:
        return self.process.pid

    def close(self) -> None:
        """Let it end; afterwards it is not even a zombie."""
        self.process.communicate(timeout=5)


Call = Callable[..., Caller]


@pytest.fixture
def make_cgroup() -> Iterator[Callable[[str], str]]:
    """Makes cgroups in a slice of its own, and takes them away afterwards."""
    top = f"{ROOT}/hostproxytest{os.getpid()}.slice"

    def make(path: str) -> str:
        os.makedirs(f"{top}/{path}", exist_ok=True)
        return f"{top}/{path}"

    yield make
    for whole, _, _ in os.walk(top, topdown=False):
        os.rmdir(whole)


@pytest.fixture
def call(request: pytest.FixtureRequest) -> Iterator[Call]:
    """Makes callers, and ends them afterwards, before their cgroups are taken away."""
    if "make_cgroup" in request.fixturenames:
        request.getfixturevalue("make_cgroup")
    callers: list[Caller] = []

    def make(*args: Any, **rest: Any) -> Caller:
        callers.append(Caller(*args, **rest))
        return callers[-1]

    yield make
    for caller in callers:
        caller.close()


class Listening:
    """A listening socket; accepts one at a time."""

    def __init__(self, family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0)) -> None:
        self.sock = socket.socket(family)
        if family == socket.AF_INET6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.sock.bind(address)
        self.sock.listen()
        self.sock.settimeout(5)
        self.address = self.sock.getsockname()
        self._accepted: list[socket.socket] = []

    def accept(self) -> socket.socket:
        sock, _ = self.sock.accept()
        self._accepted.append(sock)
        return sock

    def close(self) -> None:
        for sock in (self.sock, *self._accepted):
            sock.close()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listening]]:
    """Opens listening sockets, and closes them afterwards with all that they accepted."""
    listening: list[Listening] = []

    def make(*args: Any, **rest: Any) -> Listening:
        listening.append(Listening(*args, **rest))
        return listening[-1]

    yield make
    for one in listening:
        one.close()
