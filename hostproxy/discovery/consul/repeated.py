"""Work that is done again and again: never twice at a time, and at once when asked for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

AFTER_FAILURE = 30.0  # seconds; ``work`` does not fail, so this is a mistake in it


class Repeated:
    """Runs ``work()``, which says after how many seconds it wants to run again; None: when it is asked for."""

    log = Logger()

    def __init__(self, reactor: Any, work: Callable[[], Coroutine[Any, Any, float | None]]) -> None:
        self._reactor = reactor
        self._work = work
        self._timer: DelayedCall | None = None
        self._running: Deferred[float | None] | None = None
        self._asked: float | None = None  # while it runs: the delay after which it is to run again
        self._over = False

    def soon(self, delay: float = 0.0) -> None:
        """Run ``delay`` seconds from now, or from the end of the run under way, unless it will before."""
        if self._over:
            return
        if self._running is not None:
            self._asked = delay if self._asked is None else min(self._asked, delay)
            return
        if self._timer is not None:
            if self._timer.getTime() <= self._reactor.seconds() + delay:
                return
            self._timer.cancel()
        self._timer = self._reactor.callLater(delay, self._run)

    def halt(self) -> None:
        """Do not run again. What is under way goes on."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stop(self) -> None:
        """End at once."""
        self.halt()
        if self._running is not None:
            self._running.cancel()

    def _run(self) -> None:
        self._timer = None
        self._asked = None
        self._running = running = Deferred.fromCoroutine(self._work())
        running.addErrback(self._failed)
        running.addCallback(self._done)

    def _failed(self, failure: Failure) -> float:
        if not self._over:  # else it was cancelled
            self.log.failure("Work that is to be done again and again failed.", failure)
        return AFTER_FAILURE

    def _done(self, delay: float | None) -> None:
        self._running = None
        wanted = [each for each in (delay, self._asked) if each is not None]
        if wanted:
            self.soon(min(wanted))
