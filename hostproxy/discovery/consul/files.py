"""The small files that the way to the agent needs: token, certificates, key. Read at use, when they have changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple


class Unreadable(Exception):
    """A file has no usable content. The message says which and why."""


class Content(NamedTuple):
    """What a file holds, and how it is kept."""

    data: bytes
    exposed: bool  # every user of this host may read or write it


def read(path: str, limit: int) -> Content:
    """The content of a regular file of at most ``limit`` bytes; raises :class:`Unreadable`."""
    try:
        # Not blocking: opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise Unreadable(f"{path} is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise Unreadable(f"{path} is larger than {limit // 1024} KiB, the most that is read")
    return Content(data, bool(mode & (stat.S_IROTH | stat.S_IWOTH)))


def state(paths: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """What differs whenever one of the files has become another; costs some microseconds a file."""
    return tuple(_state(path) for path in paths)


def _state(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    # The change time as well: tools that keep the modification time (cp -p, rsync -t) cannot keep that.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
