"""The service manager's watchdog, fed only while every worker answers.

A worker that hangs is replaced by its supervisor, which costs only the connections of that one; the service manager
would end them all. So the watchdog is to bite when replacing did not help. The food stops when a worker has not
answered for SILENT seconds (half of the manager's time where that is shorter), and comes again as soon as every worker
answers. The supervisor replaces a silent one after 30 seconds (:data:`hostproxy.control.handle.DEAD`), and the food
comes every OFTEN seconds: with WatchdogSec=60 a replacement has twenty seconds to begin to serve. A supervisor that
hangs itself feeds nobody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hostproxy.control.notify import Manager
    from hostproxy.net.reactor import MeshReactor

SILENT = 5.0  # seconds
OFTEN = 5.0  # seconds, the longest between two feedings; half of the manager's time where that is shorter
LOOK = 1.0  # seconds, the longest between two looks: who answers again is fed at once


def interval(environment: Mapping[str, str], pid: int) -> float | None:
    """Seconds within which this process has to be heard of; None: nobody waits for that (sd_watchdog_enabled(3))."""
    wanted = environment.get("WATCHDOG_USEC", "")
    of = environment.get("WATCHDOG_PID", "")
    if not wanted.isascii() or not wanted.isdigit() or int(wanted) == 0 or (of and of != str(pid)):
        return None
    return int(wanted) / 1e6


def for_successor(environment: Mapping[str, str], pid: int) -> dict[str, str]:
    """The environment of a process that takes the place of this one, as if the manager had started it."""
    passed = dict(environment)
    if passed.get("WATCHDOG_PID") == str(pid):
        del passed["WATCHDOG_PID"]
    return passed


class Watchdog:
    """Feeds it."""

    def __init__(
        self,
        reactor: MeshReactor,
        manager: Manager,
        alive: Callable[[float], bool],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """``alive(seconds)`` says whether every worker has answered within that time."""
        self._reactor = reactor
        self._manager = manager
        self._alive = alive
        self._interval = interval(environment, os.getpid())
        self._fed = 0.0

    def start(self) -> None:
        """Feed from now on, until the process ends."""
        if self._interval is not None:
            self._feed()
            self._look()

    def _feed(self) -> None:
        self._fed = self._reactor.seconds()
        self._manager.tell("WATCHDOG=1")

    def _look(self) -> None:
        assert self._interval is not None
        half = self._interval / 2
        self._reactor.callLater(min(LOOK, half), self._look)
        # A look may come a moment early: what is due within half a look is due.
        due = min(OFTEN, half) - min(LOOK, half) / 2
        if self._reactor.seconds() - self._fed >= due and self._alive(min(SILENT, half)):
            self._feed()
