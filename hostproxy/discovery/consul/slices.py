"""Long work in pieces, so that nothing else on the reactor has to wait for the whole of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from twisted.logger import Logger


class Slices:
    """Does one piece of work per turn of the reactor, whatever number of jobs wait."""

    log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._jobs: deque[Iterator[object]] = deque()
        self._call: Any = None

    def add(self, job: Iterator[object]) -> None:
        """Have a job done: each ``next`` of it is a piece. One after the other, so that few are half done."""
        self._jobs.append(job)
        self._schedule()

    def remove(self, job: Iterator[object]) -> None:
        """Forget a job; nothing happens when it is done already."""
        try:
            self._jobs.remove(job)
        except ValueError:
            pass

    def stop(self) -> None:
        """Forget all jobs."""
        self._jobs.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _schedule(self) -> None:
        if self._call is None and self._jobs:
            self._call = self._reactor.callLater(0, self._piece)

    def _piece(self) -> None:
        self._call = None
        if not self._jobs:
            return
        job = self._jobs[0]
        try:
            next(job)
        except StopIteration:
            self.remove(job)
        except Exception:
            self.log.failure("Cannot finish what an answer of Consul began.")
            self.remove(job)
        self._schedule()
