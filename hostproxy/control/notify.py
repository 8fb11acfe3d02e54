"""Telling systemd where the daemon stands: sd_notify(3) in a few lines."""

from __future__ import annotations

import array
import os
import socket
import time
from collections.abc import Mapping
from urllib.parse import quote

# What the name of a stored descriptor begins with: systemd gives the names back, and sockets of a unit have others.
PREFIX = "listener-"


def notify(*lines: str, environment: Mapping[str, str] = os.environ, descriptor: int | None = None) -> None:
    """Send ``lines`` such as ``READY=1`` to the service manager, if one listens; never fails, never waits."""
    path = environment.get("NOTIFY_SOCKET", "")
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]  # "@" stands for the abstract namespace
    rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendmsg(["\n".join(lines).encode()], rights, 0, path)
    except OSError:
        pass  # nobody listens any more: it is news, not work


class Manager:
    """The service manager as this process may speak to it. A supervisor on trial is silent: another one is the main."""

    def __init__(self, environment: Mapping[str, str] = os.environ, silent: bool = False) -> None:
        self.silent = silent
        self._environment = environment
        self._status = ""

    @property
    def there(self) -> bool:
        """Whether there is one, which keeps what it is given to keep."""
        return bool(self._environment.get("NOTIFY_SOCKET"))

    def tell(self, *lines: str) -> None:
        """Send ``lines`` as one message."""
        if not self.silent:
            notify(*lines, environment=self._environment)

    def status(self, line: str) -> None:
        """Say in a line what the daemon does, if that is news."""
        if not self.silent and line != self._status:
            self._status = line
            self.tell(f"STATUS={line}")

    def reloading(self) -> None:
        """Say that a reload began; ``READY=1`` ends it."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def store(self, address: str, sock: socket.socket) -> None:
        """Have a listening socket kept, so that its queue outlives a restart. One that is kept already stays so."""
        if not self.silent:
            lines = ("FDSTORE=1", f"FDNAME={stored_name(address)}")
            notify(*lines, environment=self._environment, descriptor=sock.fileno())

    def forget(self, address: str) -> None:
        """Have it closed."""
        self.tell("FDSTOREREMOVE=1", f"FDNAME={stored_name(address)}")


def stored_name(address: str) -> str:
    """The name under which the socket of ``address`` is kept: no colon may be in it, and 255 letters at most."""
    return (PREFIX + quote(address, safe="/[]"))[:255]
