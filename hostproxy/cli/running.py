"""The daemon that runs on this host, for commands that signal it."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from hostproxy.cli import admin
from hostproxy.cli.admin import Document, Unreachable
from hostproxy.config import Config
from hostproxy.control.runtime import LOCK_NAME

LOOK = 0.1  # seconds between two looks at how it goes


class Running(NamedTuple):
    """Who holds the lock of the runtime directory."""

    pid: int
    version: str
    code: str  # where its code lies


def find(config: Config) -> Running:
    """The daemon of ``config``. Raises Unreachable."""
    path = os.path.join(config.host.runtime_directory, LOCK_NAME)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Unreachable(f"{path}: does not exist: hostproxy does not run with this configuration") from None
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror}: try as root, or as the daemon's user") from None
    with open(descriptor) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            pass  # it is held, as it should be
        else:
            raise Unreachable(f"{path}: nobody holds it: hostproxy does not run with this configuration")
        pid, version, code, *_ = [*file.read(8192).split("\n"), "", "", ""]
        owner = os.fstat(file.fileno()).st_uid
    try:
        # Whoever may write the file could name any process: only one of his own is signalled, which he could himself.
        mine = os.stat(f"/proc/{int(pid)}").st_uid == owner
    except (ValueError, OSError):
        mine = False
    if not mine:
        raise Unreachable(f"{path}: names no process of its owner: hostproxy is starting or stopping; try again")
    return Running(int(pid), version, code)


def send(running: Running, number: signal.Signals) -> None:
    """Signal it. Raises Unreachable."""
    try:
        os.kill(running.pid, number)
    except ProcessLookupError:
        raise Unreachable(f"process {running.pid} has gone") from None
    except PermissionError:
        raise Unreachable(f"process {running.pid}: not permitted: try as root, or as the daemon's user") from None


def status(config: Config, timeout: float = admin.DEFAULT_TIMEOUT) -> Document:
    """What the daemon says about itself. Raises Unreachable."""
    address = config.admin.listen
    try:
        return admin.fetch(address, "/status", "upgrades", timeout)[1]
    except Unreachable as problem:
        raise Unreachable(f"{address}: {problem}") from None


def wait(config: Config, over: Callable[[Document], bool], seconds: float) -> Document | None:
    """Ask until ``over``; None: it took too long. Raises Unreachable when nobody answers any more."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            document = status(config)
        except Unreachable:
            if time.monotonic() >= deadline:
                raise
        else:
            if over(document):
                return document
        if time.monotonic() >= deadline:
            return None
        time.sleep(LOOK)
