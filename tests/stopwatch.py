"""Time limits of tests with real processes: they hold where a processor is free for those."""

from __future__ import annotations

import time
from pathlib import Path

PRESSURE = Path("/proc/pressure/cpu")
BUSY = 30.0  # seconds that a busy machine adds to a limit, at most: what never happens is told all the same


class Stopwatch:
    """Counts from when it is made.

    A machine whose processors all have something else to do delays everything, by seconds. A limit that leaves room
    for that would be one that a slow program keeps, too; so the time in which somebody waited for a processor is
    left out, and the limit stays sharp where nobody did.
    """

    def __init__(self) -> None:
        self._began = _read()
        self._ended: tuple[float, float] | None = None

    def stop(self) -> None:
        """Count no further."""
        self._ended = _read()

    @property
    def elapsed(self) -> float:
        """Seconds, all of them."""
        return self._counted()[0]

    @property
    def seconds(self) -> float:
        """Seconds without those, up to ``BUSY``, in which somebody waited for a processor."""
        elapsed, waited = self._counted()
        return elapsed - min(waited, elapsed, BUSY)

    def _counted(self) -> tuple[float, float]:
        now = self._ended or _read()
        return now[0] - self._began[0], now[1] - self._began[1]


def _read() -> tuple[float, float]:
    """The time, and how much of it (seconds) some process of this machine waited for a processor."""
    now = time.monotonic()
    try:
        first = PRESSURE.read_text().partition("\n")[0]
    except OSError:  # the kernel does not tell: as much as it can have been
        return now, now
    return now, int(first.rpartition("total=")[2]) / 1e6
