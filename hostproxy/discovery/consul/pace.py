"""How soon Consul is asked again: after answers that come fast, and after failures."""

from __future__ import annotations

from collections.abc import Callable


class Pace:
    """Says how long a blocking query pauses after an answer, so that changes cost no more than they are worth.

    Two token buckets, and the longer pause of both counts. The first lets two answers in at once and then one a
    second: an instance that leaves after a quiet time is known at once, and what follows within a second. The second
    allows that for about half a minute, long enough for a rolling restart of 30 instances; what still changes then is
    something that flaps, maybe all night, and one answer in 5 seconds says as much about it as five. After quiet time
    both fill up again, the second one in two and a half minutes.

    An answer that may not be asked for yet is not lost: Consul gives the newest state when it is asked.
    """

    LIMITS = ((1.0, 2), (5.0, 30))  # seconds for each answer, and how many may come at once

    __slots__ = ("_due", "_seconds")

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._due = [0.0] * len(self.LIMITS)  # when each bucket will be full again

    def count(self) -> float:
        """Count one answer, and return for how many seconds none should be asked for."""
        now = self._seconds()
        wait = 0.0
        for number, (interval, burst) in enumerate(self.LIMITS):
            self._due[number] = max(self._due[number], now) + interval
            wait = max(wait, self._due[number] - now - (burst - 1) * interval)
        return wait


class Backoff:
    """Pauses after failures: from 0.25 s doubling to 15 s, at random within that.

    Many hosts see the same failure at the same moment, so the pause is anything up to the limit. Not quite anything:
    at least an eighth of it, or bad luck could ask again and again without a pause.
    """

    FIRST, LAST = 0.25, 15.0  # seconds
    LEAST = 0.125  # of the limit

    __slots__ = ("_failures", "_random")

    def __init__(self, random: Callable[[], float]) -> None:
        """``random`` gives numbers from 0 to 1."""
        self._random = random
        self._failures = 0

    def count(self) -> float:
        """Count a failure, and return how many seconds to wait."""
        limit = min(self.LAST, self.FIRST * 2.0 ** min(self._failures, 10))
        self._failures += 1
        return limit * (self.LEAST + (1 - self.LEAST) * self._random())

    def reset(self) -> None:
        """It went well: the next failure is the first one."""
        self._failures = 0
