"""A value read from files, and read again when they change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from hostproxy.discovery.files import FileWatch
from hostproxy.discovery.watch import Watch
from hostproxy.mesh.document import Invalid

T = TypeVar("T")

# Seconds between tries before bad content counts as an error: it may have been caught half-written.
RETRIES = (0.1, 0.3)


class Reload(Generic[T]):
    """Keeps ``watch`` at what ``read()`` returns, and at its last good value while that raises Invalid.

    ``read`` runs on a thread of the reactor's pool, so that a large file holds up nothing. ``error`` says why
    the value is not what the files say, and is None when it is.
    """

    log = Logger()

    def __init__(self, reactor: Any, paths: Iterable[str], read: Callable[[], T], watch: Watch[T]) -> None:
        self.reactor = reactor
        self.read = read
        self.watch = watch
        self.error: Invalid | None = None
        self._files = FileWatch(reactor, paths, self._changed)
        self._running = False
        self._reading = False
        self._again = False  # the files changed while they were being read
        self._tries = 0
        self._retry: Any = None

    def start(self) -> None:
        """Read for the first time, before this returns, and watch from then on. Raises :class:`Invalid`."""
        self._files.start()  # first, so that no change falls between
        try:
            self.watch.publish(self.read())
        except BaseException:
            self._files.stop()
            raise
        self._running = True

    def stop(self) -> None:
        """Leave everything as it is; nothing is published after this."""
        self._running = False
        self._files.stop()
        self._cancel_retry()

    def _changed(self) -> None:
        self._tries = 0
        self._cancel_retry()
        if self._reading:
            self._again = True
        else:
            self._read()

    def _cancel_retry(self) -> None:
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._retry = None

    def _read(self) -> None:
        self._reading = True
        reading = deferToThreadPool(self.reactor, self.reactor.getThreadPool(), self.read)
        reading.addCallbacks(self._good, self._bad)
        reading.addErrback(lambda failure: self.log.failure("Cannot take what was read.", failure))

    def _good(self, value: T) -> None:
        if self._next():
            return
        self.error = None
        if value != self.watch.value:
            self.watch.publish(value)

    def _bad(self, failure: Failure) -> None:
        if self._next():
            return
        error = failure.value
        if not isinstance(error, Invalid):
            self.log.failure("Cannot read {paths}.", failure, paths=", ".join(self._files.paths))
        elif self._tries < len(RETRIES):
            self._retry = self.reactor.callLater(RETRIES[self._tries], self._read)
            self._tries += 1
        else:
            self.error = error
            self.log.error("Not taken, the last good one stays: {problems}", problems=str(error))

    def _next(self) -> bool:
        """End a read; say whether its result is of no interest, and begin another if the files are newer."""
        self._reading = False
        if not self._running:
            return True
        again, self._again = self._again, False
        if again:
            self._read()
        return again
