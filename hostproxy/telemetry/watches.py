"""Who watches the requests of this worker: what each is told, and how much of it.

A watcher gets at most his share of :data:`RATE` records a second, and of those that match and find no room he gets
the number. Records are written at once, as JSON lines, and handed on in batches: nobody has to decode them on the way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import msgspec

from hostproxy.telemetry.tap import Facts, Filter, TapRecord

# Records a second, of all who watch together. Each takes some 10 us: one percent of a worker's time.
RATE = 1000
# What may wait for the next batch, of one watcher (bytes): more records than RATE allows in that time, unless they have
# their header fields.
WAITING_BYTES = 256 * 1024
# Seconds between batches: nobody sees that his terminal is late by that.
BATCH = 0.1

# Hands on to a watcher: number, lines, and how many were dropped. False: there is no room for it now.
Send = Callable[[int, bytes, int], bool]

_encode = msgspec.json.Encoder().encode


class Watch:
    """One who watches."""

    __slots__ = ("dropped", "filter", "left", "lines", "number", "size", "until", "window")

    def __init__(self, number: int, wanted: Filter, until: float) -> None:
        self.number = number
        self.filter = wanted
        self.until = until
        self.window = -math.inf  # when the second began that ``left`` is for
        self.left = 0  # records that he may still get in it
        self.lines: list[bytes] = []
        self.size = 0
        self.dropped = 0  # since it was told last


class Watches:
    """All of them. Empty, it is not asked at all: see :class:`hostproxy.reporting.Reporter`."""

    def __init__(self, seconds: Callable[[], float], clock: Callable[[], float], send: Send) -> None:
        """``seconds`` is monotonic, ``clock`` gives Unix seconds."""
        self._seconds = seconds
        self._clock = clock
        self._send = send
        self._watches: dict[int, Watch] = {}

    def __bool__(self) -> bool:
        return bool(self._watches)

    def begin(self, number: int, wanted: Filter, seconds: float) -> None:
        """Watch for at most ``seconds``."""
        self._watches[number] = Watch(number, wanted, self._seconds() + seconds)

    def end(self, number: int) -> None:
        """He has gone."""
        self._watches.pop(number, None)

    def clear(self) -> None:
        """All have gone."""
        self._watches.clear()

    def takers(self, facts: Facts) -> list[Watch]:
        """Who wants this one and may have it; for the others that want it, it is counted as dropped."""
        found = []
        for watch in self._watches.values():
            if watch.filter.takes(facts):
                if self._may(watch):
                    found.append(watch)
                else:
                    watch.dropped += 1
        return found

    def _may(self, watch: Watch) -> bool:
        now = self._seconds()
        if now - watch.window >= 1.0:
            watch.window = now
            watch.left = RATE // len(self._watches)
        if watch.left <= 0 or watch.size >= WAITING_BYTES:
            return False
        watch.left -= 1
        return True

    def give(self, takers: Iterable[Watch], record: TapRecord) -> None:
        """Tell them of it."""
        line = _encode(record) + b"\n"
        for watch in takers:
            watch.lines.append(line)
            watch.size += len(line)

    def now(self) -> str:
        """For ``TapRecord.ts``."""
        now = self._clock()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        return f"{moment}.{int(now * 1000) % 1000:03d}Z"

    def flush(self) -> None:
        """Hand on what waits, and let go of those whose time is up. To be called every :data:`BATCH` seconds."""
        now = self._seconds()
        for watch in list(self._watches.values()):
            if watch.lines or watch.dropped:
                if self._send(watch.number, b"".join(watch.lines), watch.dropped):
                    watch.dropped = 0
                else:
                    watch.dropped += len(watch.lines)
                watch.lines.clear()
                watch.size = 0
            if now >= watch.until:
                del self._watches[watch.number]
