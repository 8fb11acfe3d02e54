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
from hostproxy.mesh import addresses
from hostproxy.mesh.units import Wrong

LOOK = 0.1  # seconds between two looks at how it goes
# Seconds without any daemon until it counts as gone: a supervisor and its successor change places in less.
GONE = 1.0


class Running(NamedTuple):
    """Who holds the lock of the runtime directory."""

    pid: int
    version: str
    code: str  # where its code lies
    admin: str  # the address at which it answers; conf.toml may name another by now


def find(config: Config) -> Running:
    """The daemon of ``config``. Raises Unreachable."""
    return _read(config, probe=True)


def _read(config: Config, probe: bool) -> Running:
    """Who has written the lock's file and lives. ``probe`` the lock, too: for a moment nobody else could take it."""
    path = os.path.join(config.host.runtime_directory, LOCK_NAME)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Unreachable(f"{path}: does not exist: hostproxy does not run with this configuration") from None
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror}: try as root, or as the daemon's user") from None
    with open(descriptor) as file:
        if probe and not _held(file.fileno()):
            raise Unreachable(f"{path}: nobody holds it: hostproxy does not run with this configuration")
        pid, version, code, admin, *_ = [*file.read(8192).split("\n"), "", "", "", ""]
        owner = os.fstat(file.fileno()).st_uid
    try:
        # Whoever may write the file could name any process: only one of his own is signalled, which he could himself.
        mine = os.stat(f"/proc/{int(pid)}").st_uid == owner and not _is_dead(int(pid))
    except (ValueError, OSError):
        mine = False
    if not mine:
        raise Unreachable(f"{path}: names no process of its owner: hostproxy is starting or stopping; try again")
    try:
        admin = addresses.reachable(admin)
    except Wrong:
        admin = config.admin.listen  # an older release does not say
    return Running(int(pid), version, code, admin)


def _held(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _is_dead(pid: int) -> bool:
    """Whether it has ended, and only its parent has not taken notice yet. Raises OSError."""
    with open(f"/proc/{pid}/stat", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0] in ("Z", "X")


def send(running: Running, number: signal.Signals) -> None:
    """Signal it. Raises Unreachable."""
    try:
        os.kill(running.pid, number)
    except ProcessLookupError:
        raise Unreachable(f"process {running.pid} has gone") from None
    except PermissionError:
        raise Unreachable(f"process {running.pid}: not permitted: try as root, or as the daemon's user") from None


def status(running: Running, timeout: float = admin.DEFAULT_TIMEOUT) -> Document:
    """What the daemon says about itself. Raises Unreachable."""
    try:
        return admin.fetch(running.admin, "/status", "upgrades", timeout)[1]
    except Unreachable as problem:
        raise Unreachable(f"{running.admin}: {problem}") from None


def wait(
    config: Config, before: Document, over: Callable[[Document], bool], doing: str, seconds: float
) -> Document | None:
    """Ask who runs, wherever that answers by now, until ``over``; None: it took too long.

    ``before`` is the status from before it was signalled, ``doing`` names what it was signalled for. Raises
    Unreachable when nobody answers in time, and soon when nobody runs any more or the daemon was started anew.
    """
    gone = Unreachable(f"hostproxy was stopped, or died, during the {doing}: see its log")
    deadline = time.monotonic() + seconds
    lived = time.monotonic()
    while True:
        problem: Unreachable | None = None
        try:
            found = _read(config, probe=False)
        except Unreachable:
            problem = gone
            if time.monotonic() - lived >= GONE:
                raise gone from None
        else:
            try:
                document = status(found)
            except Unreachable as silence:
                problem = silence
            else:
                if _is_another(document, before):
                    raise gone
                if over(document):
                    return document
            lived = time.monotonic()
        if time.monotonic() >= deadline:
            if problem is not None:
                raise problem
            return None
        time.sleep(LOOK)


def _is_another(document: Document, before: Document) -> bool:
    """Whether it is of a process that did not take over from the one before, but was started after it."""
    succeeded = document["upgrades"]["succeeded"] > before["upgrades"]["succeeded"]
    return document["pid"] != before["pid"] and not succeeded
