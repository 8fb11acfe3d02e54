"""Which processes of hostproxy there are when nobody answers for them, by what is in the runtime directory."""

from __future__ import annotations

import fcntl
import os
import re

from hostproxy.control.runtime import LOCK_NAME
from hostproxy.doctor.findings import Around

_DOOR = re.compile(r"worker-([0-9]{1,10})\.sock")  # as hostproxy.control.door names them


def supervisor(around: Around) -> int | None:
    """The process that holds the lock; None: there is none, or only others may look."""
    path = os.path.join(around.config.host.runtime_directory, LOCK_NAME)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, encoding="ascii", errors="replace") as file:
        pid = file.readline(32).strip()
        if not pid.isdecimal() or not _lives(around, int(pid)):
            return None
        # Only now, as for this moment a supervisor that is just starting would find the lock held.
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return int(pid)
    return None


def workers(around: Around) -> frozenset[int]:
    """Those with a door: the next supervisor finds them there. Nobody knocks here, as only a supervisor may."""
    try:
        names = os.listdir(around.config.host.runtime_directory)
    except OSError:
        return frozenset()
    pids = {int(match[1]) for match in map(_DOOR.fullmatch, names) if match is not None}
    return frozenset(pid for pid in pids if _lives(around, pid))


def _lives(around: Around, pid: int) -> bool:
    return os.path.exists(f"{around.proc}/{pid}")
