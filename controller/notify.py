"""Telling systemd how the controller is: sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


def notify(*lines: str, environment: Mapping[str, str] = os.environ) -> None:
    """Send lines such as ``READY=1`` to the service manager, if one listens; never fails, never waits."""
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


def reloading() -> tuple[str, str]:
    """What to say when a reload begins; ``READY=1`` ends it."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"


def watchdog(environment: Mapping[str, str] = os.environ) -> float:
    """Seconds within which ``WATCHDOG=1`` has to be said again; 0.0: nobody waits for it."""
    text, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not (text.isascii() and text.isdigit()) or process not in ("", str(os.getpid())):
        return 0.0
    return int(text) / 1e6
