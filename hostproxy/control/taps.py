"""Those who watch live requests, as the supervisor knows them: it tells the workers, and hands on what they see.

Workers that are started meanwhile are told as well. One that was found behind its door is not: it may be of another
release. A successor begins without watchers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from hostproxy.control import messages

if TYPE_CHECKING:
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.telemetry.tap import Filter

# Who may watch at a time. They share what a worker tells (hostproxy.telemetry.watches.RATE).
WATCHERS = 8
# Seconds that one may watch; then he has to ask again, so that none is forgotten.
LONGEST = 3600.0


class Watcher(Protocol):
    """Who watches."""

    def begun(self, workers: int) -> None:
        """So many workers tell of what they see from here on. Called once."""

    def seen(self, lines: bytes, dropped: int) -> None:
        """Records, as JSON lines, and how many there was no room for in a worker."""


class TooMany(Exception):
    """WATCHERS watch already."""


class Tap:
    """One who watches."""

    __slots__ = ("filter", "number", "silent", "until", "watcher", "workers")

    def __init__(self, number: int, wanted: Filter, until: float, watcher: Watcher) -> None:
        self.number = number
        self.filter = wanted
        self.until = until
        self.watcher = watcher
        self.workers = 0  # that have answered
        self.silent: set[int] | None = None  # ids of those that have not yet; None: nobody is waited for any more


class Taps:
    """All of them."""

    def __init__(
        self, reactor: MeshReactor, tell: Callable[[messages.Watch | messages.Unwatch], Iterable[int]]
    ) -> None:
        """``tell`` sends to all workers, and returns their ids."""
        self._reactor = reactor
        self._tell = tell
        self._taps: dict[int, Tap] = {}
        self._last = 0

    def open(self, wanted: Filter, seconds: float, watcher: Watcher) -> Tap:
        """Watch for at most ``seconds``. Raises TooMany."""
        if len(self._taps) >= WATCHERS:
            raise TooMany(f"{WATCHERS} watch already")
        self._last += 1
        tap = Tap(self._last, wanted, self._reactor.seconds() + seconds, watcher)
        self._taps[tap.number] = tap
        tap.silent = set(self._tell(messages.Watch(tap.number, wanted, seconds)))
        self._check(tap)
        return tap

    def close(self, tap: Tap) -> None:
        """He watches no more."""
        if self._taps.pop(tap.number, None) is not None:
            self._tell(messages.Unwatch(tap.number))

    def for_new(self) -> list[messages.Watch]:
        """What a worker is to be told that was started meanwhile."""
        now = self._reactor.seconds()
        return [
            messages.Watch(tap.number, tap.filter, tap.until - now) for tap in self._taps.values() if tap.until > now
        ]

    def seen(self, worker: int, message: messages.Seen) -> None:
        """A worker tells."""
        tap = self._taps.get(message.number)
        if tap is None:
            return  # it crossed with Unwatch
        if message.lines or message.dropped:
            tap.watcher.seen(message.lines, message.dropped)
        if tap.silent is not None and worker in tap.silent:
            tap.silent.discard(worker)
            tap.workers += 1
            self._check(tap)

    def gone(self, worker: int) -> None:
        """A worker has ended, and answers nobody."""
        for tap in list(self._taps.values()):
            if tap.silent is not None and worker in tap.silent:
                tap.silent.discard(worker)
                self._check(tap)

    @staticmethod
    def _check(tap: Tap) -> None:
        if tap.silent is not None and not tap.silent:
            tap.silent = None
            tap.watcher.begun(tap.workers)
