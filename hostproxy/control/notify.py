"""Telling systemd where the daemon stands: sd_notify(3) in a few lines."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


def notify(*lines: str, environment: Mapping[str, str] = os.environ) -> None:
    """Send ``lines`` such as ``READY=1`` to the service manager, if one listens; never fails, never waits."""
    path = environment.get("NOTIFY_SOCKET", "")
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]  # "@" stands for the abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), path)
    except OSError:
        pass  # nobody listens any more: it is news, not work


def reloading() -> None:
    """Say that a reload began; ``READY=1`` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
