"""The audit log on the disk: appended to, and put right after a crash."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
import stat
from collections.abc import Iterable, Mapping

from controller.audit.chain import BEGINNING, Head, follow, head_path, line_after, lines, note, noted, read
from hostproxy.mesh import storage

PIECE = 1024 * 1024  # bytes copied at a time


class AuditFailed(Exception):
    """Nothing can be written down, so nothing may be done; the text says why, and what to do."""


class AuditFile:
    """One log, open for writing. Blocks; used by one thread at a time. One process at a time has it open."""

    def __init__(self, path: str) -> None:
        """Open it, or begin one. Raises :class:`AuditFailed`."""
        self.path = path
        self.head = Head(0, BEGINNING)
        self.size = 0  # bytes that hold
        self.set_aside = ""  # what was found behind the last whole line, and where it is now; "" when there was nothing
        self._broken = ""
        with contextlib.ExitStack() as opened:
            try:
                self._log = _open(path, os.O_APPEND)
                opened.callback(os.close, self._log)
                self._lock()
                self._recover()
                self._head = _open(head_path(path), 0)
            except OSError as error:
                raise AuditFailed(f"{error.filename or path}: {error.strerror}") from None
            opened.pop_all()

    def append(self, acts: Iterable[Mapping[str, str]]) -> int:
        """Write a line for each, all or none; returns the number of the first. Raises :class:`AuditFailed`."""
        if self._broken:
            raise AuditFailed(self._broken)
        head, first = self.head, self.head.number + 1
        size = start = self.size
        written = []
        for fields in acts:
            line, head = line_after(head, fields)
            written.append(line)
            start, size = size, size + len(line)
        try:
            _write(self._log, b"".join(written))
            # After the lines and never before them: a head without its line looks like a log that was cut.
            self._sync()
            os.pwrite(self._head, note(head, start), 0)
        except OSError as error:
            self._take_back()
            why = f"{self.path}: {error.strerror}; nothing is issued or changed until that is mended"
            raise AuditFailed(why) from None
        self.size = size
        self.head = head
        return first

    def close(self) -> None:
        """Give the files back."""
        os.close(self._log)
        os.close(self._head)

    def _sync(self) -> None:
        try:
            os.fsync(self._log)
        except OSError as error:
            # What the kernel could not write, it may have dropped, and the next call would say that all is well.
            self._broken = f"{self.path}: {error.strerror}; start the controller again once the disk is mended"
            raise

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._log, self.size)
        except OSError as error:
            self._broken = self._broken or f"{self.path}: {error.strerror}; start the controller again"

    def _lock(self) -> None:
        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AuditFailed(f"{self.path}: another controller writes it") from None

    def _recover(self) -> None:
        """Find the last line. Behind the noted head, whole lines count, and the rest was never answered."""
        length = os.fstat(self._log).st_size
        beside = noted(self.path)
        if beside is None:
            if length:
                raise AuditFailed(self._doubt(f"there is no {head_path(self.path)} that can be read"))
            storage.write(head_path(self.path), note(self.head, 0), 0o600)
            return
        if beside.head.number:
            self._find(beside.head, beside.start, length)
        for content in lines(self.path, self.size, length):
            try:
                self.head = follow(self.head, content)
            except ValueError:
                break
            self.size += len(content)
        if self.size < length:
            self._put_aside(length)

    def _find(self, head: Head, start: int, length: int) -> None:
        content = next(lines(self.path, start, length), b"")
        try:
            line = read(content)
        except ValueError:
            line = None
        if line is None or Head(line.number, line.hash) != head:
            raise AuditFailed(self._doubt(f"line {head.number} is not the one that was written"))
        self.head, self.size = head, start + len(content)

    def _doubt(self, why: str) -> str:
        log, head = shlex.quote(self.path), shlex.quote(head_path(self.path))
        return (
            f"{self.path}: {why}. Somebody changed it, or the disk lost it: hostproxy-controller audit verify says"
            f" where. To begin another log, keep this one: mv {log} {log}.doubtful; mv {head} {head}.doubtful"
        )

    def _put_aside(self, length: int) -> None:
        """Copy what follows the last whole line to a file of its own, and cut it off."""
        name = f"{self.path}.torn-{self.head.number + 1}"
        hashed = hashlib.sha256()
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(self.path, "rb") as source, open(target, "wb") as copy:
            source.seek(self.size)
            while piece := source.read(PIECE):
                copy.write(piece)
                hashed.update(piece)
            copy.flush()
            os.fsync(copy.fileno())
        os.ftruncate(self._log, self.size)
        os.fsync(self._log)
        self.set_aside = (
            f"{length - self.size} bytes after line {self.head.number} were no whole line and are in {name},"
            f" SHA-256 {hashed.hexdigest()}"
        )


def _open(path: str, flags: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o600)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o022:
        os.close(descriptor)
        raise AuditFailed(f"{path}: is no regular file that its owner alone may write; chmod 600 {shlex.quote(path)}")
    return descriptor


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
