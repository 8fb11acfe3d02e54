"""How soon something is tried again after a failure."""

from __future__ import annotations

from collections.abc import Callable

LEAST = 0.125  # of the limit: or bad luck could try again and again without a pause


class Backoff:
    """Pauses from ``first`` doubling to ``last`` seconds, at random within that.

    A controller that comes back finds all its hosts waiting for it, and they must not come at once.
    """

    __slots__ = ("_failures", "_first", "_last", "_random")

    def __init__(self, first: float, last: float, random: Callable[[], float]) -> None:
        """``random`` gives numbers from 0 to 1."""
        self._first = first
        self._last = last
        self._random = random
        self._failures = 0

    def count(self) -> float:
        """Count a failure, and return how many seconds to wait."""
        limit = min(self._last, self._first * 2.0 ** min(self._failures, 20))
        self._failures += 1
        return limit * (LEAST + (1 - LEAST) * self._random())

    def reset(self) -> None:
        """It went well: the next failure is the first one."""
        self._failures = 0


def around(seconds: float, random: Callable[[], float]) -> float:
    """``seconds`` and up to a fifth more or less, so that hosts that began together do not stay together."""
    return seconds * (0.8 + 0.4 * random())
