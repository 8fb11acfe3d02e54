"""Acts, written down in the order in which they are reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from controller.audit.chain import Broken, Head, check, tail
from controller.audit.file import AuditFailed, AuditFile

MOST_WAITING = 4096  # acts whose line is not written yet


class Audit:
    """The log of one controller. Lines that come while others are being written go to the disk together."""

    log = Logger()

    def __init__(self, reactor: Any, path: str, now: Callable[[], float]) -> None:
        """Open or begin it. ``now`` gives Unix seconds. Waits for the disk. Raises :class:`AuditFailed`."""
        self.path = path
        self.failures = 0  # acts that could not be written down
        self._reactor = reactor
        self._now = now
        self._file = AuditFile(path)
        self._waiting: list[tuple[dict[str, str], Deferred[int]]] = []
        self._writing: list[tuple[dict[str, str], Deferred[int]]] = []
        self._closing: list[Deferred[None]] = []
        self._closed = False
        self._pool = ThreadPool(1, 1, "audit")
        self._pool.start()
        if self._file.set_aside:
            self.log.warn("Audit log {path}: {what}", path=path, what=self._file.set_aside)
            torn = self.record("controller", "audit.torn", path, detail=self._file.set_aside)
            torn.addErrback(lambda failure: self.log.error("Audit log: {why}", why=failure.value))

    @property
    def head(self) -> Head:
        """The last line that is on the disk."""
        return self._file.head

    @property
    def size(self) -> int:
        """Bytes of the log."""
        return self._file.size

    def record(
        self,
        actor: str,
        act: str,
        object: str = "",
        *,
        before: str = "",
        after: str = "",
        result: str = "ok",
        detail: str = "",
    ) -> Deferred[int]:
        """Write a line; fires with its number once it is on the disk. Fails with :class:`AuditFailed`."""
        if self._closed:
            return fail(AuditFailed("the audit log is closed"))
        if len(self._waiting) >= MOST_WAITING:
            self.failures += 1
            return fail(AuditFailed(f"{MOST_WAITING} acts wait for the audit log already"))
        fields = {
            "time": datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="microseconds"),
            "actor": actor,
            "act": act,
            "object": object,
            "before": before,
            "after": after,
            "result": result,
            "detail": detail,
        }
        written: Deferred[int] = Deferred()
        self._waiting.append((fields, written))
        self._write()
        return written

    def verify(self, kept: Iterable[Head] = ()) -> Deferred[Broken | None]:
        """Check all that is on the disk, on one of the reactor's threads: a million lines take three seconds."""
        heads = (*kept, self._file.head)  # before the size, which is never behind it
        threads = self._reactor.getThreadPool()
        return deferToThreadPool(self._reactor, threads, check, self.path, self._file.size, heads)

    def tail(self, count: int) -> list[str]:
        """The last lines, at most a thousand; each is JSON and printable ASCII."""
        return tail(self.path, self._file.size, count)

    def close(self) -> Deferred[None]:
        """Write what waits, and close it."""
        self._closed = True
        closed: Deferred[None] = Deferred()
        self._closing.append(closed)
        self._write()
        return closed

    def _write(self) -> None:
        if self._writing:
            return
        if self._waiting:
            self._writing, self._waiting = self._waiting, []
            lines = [fields for fields, _ in self._writing]
            writing = deferToThreadPool(self._reactor, self._pool, self._file.append, lines)
            writing.addBoth(self._written)
        elif self._closing:
            self._pool.stop()
            self._file.close()
            closing, self._closing = self._closing, []
            for each in closing:
                each.callback(None)

    def _written(self, result: int | Failure) -> None:
        written, self._writing = self._writing, []
        if isinstance(result, Failure):
            self.failures += len(written)
            self.log.error("Audit log {path}: {why}", path=self.path, why=result.value)
            for _, each in written:
                each.errback(result)
        else:
            for number, (_, each) in enumerate(written, result):
                each.callback(number)
        self._write()
