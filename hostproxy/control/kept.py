"""The last good catalog and policy on disk, for a start on which their files cannot be used.

No certificate and no key is in it. It is written aside, flushed and renamed, so it is always whole.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
from twisted.logger import Logger

from hostproxy.discovery.catalog import Instance
from hostproxy.mesh.policy import Policy

if TYPE_CHECKING:
    from hostproxy.net.reactor import MeshReactor

FILE_NAME = "last-good.msgpack"
FORMAT = 1  # of the file; another one is not read

# Seconds between writes: a catalog of 10,000 instances is a megabyte, and it may change every second.
PAUSE = 10.0

# Instances encoded at a time, a fraction of a millisecond.
SLICE = 256


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What was in force at ``saved``, and from which paths it had come."""

    format: int = FORMAT
    saved: float  # Unix seconds
    catalog_path: str
    catalog: dict[str, tuple[Instance, ...]]
    policy_path: str
    policy: Policy


def path_in(directory: str) -> str:
    """Where it is kept."""
    return os.path.join(directory, FILE_NAME)


def load(directory: str) -> Kept | None:
    """What was kept; None when nothing was, or nothing that can be used."""
    try:
        with open(path_in(directory), "rb") as file:
            kept = msgspec.msgpack.decode(file.read(), type=Kept)
    except (OSError, msgspec.DecodeError):
        return None
    return kept if kept.format == FORMAT else None


def save(directory: str, kept: Kept) -> None:
    """Replace what was kept. Raises OSError. It waits for the disk: not for the reactor's thread."""
    os.makedirs(directory, 0o700, exist_ok=True)
    aside = path_in(directory) + ".new"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.writelines(_pieces(kept))
        file.flush()
        os.fsync(file.fileno())
    os.rename(aside, path_in(directory))
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _pieces(kept: Kept) -> Iterator[bytes]:
    """What one call of the encoder would give for all of it, service by service.

    That one call would hold the interpreter's lock, and so the reactor, until it is done.
    """
    fields = msgspec.structs.asdict(kept)
    yield _map(len(fields))
    for name, value in fields.items():
        yield msgspec.msgpack.encode(name)
        if name != "catalog":
            yield msgspec.msgpack.encode(value)
            continue
        yield _map(len(kept.catalog))
        for service, instances in kept.catalog.items():
            yield msgspec.msgpack.encode(service)
            yield from _slices(instances)


def _slices(instances: Sequence[Instance]) -> Iterator[bytes]:
    yield b"\xdd" + len(instances).to_bytes(4, "big")  # msgpack's array of up to 2**32 - 1
    for start in range(0, len(instances), SLICE):
        yield b"".join(map(msgspec.msgpack.encode, instances[start : start + SLICE]))


def _map(size: int) -> bytes:
    return b"\xdf" + size.to_bytes(4, "big")  # msgpack's map of up to 2**32 - 1


class Keeper:
    """Keeps the newest, aside from the reactor, and not more often than every ``PAUSE`` seconds."""

    log = Logger()

    def __init__(self, reactor: MeshReactor, directory: str) -> None:
        self.problem = ""  # why nothing can be kept; empty: it can
        self._reactor = reactor
        self._directory = directory
        self._next: Kept | None = None
        self._saved: Kept | None = None
        self._busy = False  # writing, or waiting for the time of the next write
        self._closed = False
        self.writing = False

    def keep(self, kept: Kept) -> None:
        """Keep this instead of what was kept before."""
        if self._saved is not None and msgspec.structs.replace(kept, saved=self._saved.saved) == self._saved:
            return
        self._next = kept
        if not self._busy and not self._closed:
            self._write()

    def close(self) -> None:
        """Begin no other write: the file is somebody else's from now on, once ``writing`` is over."""
        self._closed = True

    def open(self) -> None:
        """It is ours again."""
        self._closed = False
        self._saved = None
        if not self._busy:
            self._write()

    def _write(self) -> None:
        if self._closed:
            self._busy = False
            return
        kept, self._next = self._next, None
        self._busy = self.writing = kept is not None
        if kept is not None:
            # A daemon: a disk that hangs must not keep the process from exiting.
            threading.Thread(target=self._save, args=(kept,), name="kept", daemon=True).start()

    def _save(self, kept: Kept) -> None:
        try:
            save(self._directory, kept)
        except OSError as error:
            problem = f"state_directory {self._directory}: {error.strerror}: a start without catalog and policy fails"
            self._reactor.callFromThread(self._done, None, problem)
        else:
            self._reactor.callFromThread(self._done, kept, "")

    def _done(self, kept: Kept | None, problem: str) -> None:
        if problem and problem != self.problem:
            self.log.warn("{problem}", problem=problem)
        elif self.problem and not problem:
            self.log.info("the last good catalog and policy are kept in {directory} again", directory=self._directory)
        self.problem = problem
        self.writing = False
        self._saved = kept
        self._reactor.callLater(PAUSE, self._write)
