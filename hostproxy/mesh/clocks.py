"""How far clocks are apart, as far as a Date header or the times of a certificate tell."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

# Seconds that two clocks may be apart: more is told by who is asked,
NOTICED = 5.0
# more by a daemon on its own,
TOLD = 60.0
# and more is wrong. Certificates are valid from some minutes before they were made, so that clocks may differ; not by
# more than this.
WRONG = 300.0

QUICK = 5.0  # seconds: an answer that took longer tells too little
STEP = 1.0  # seconds: less between two readings of a clock is no step of it
_DATE = 64  # characters of a Date header, at the most

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


class Skew(msgspec.Struct, frozen=True):
    """How far our clock is from another one."""

    ahead: float  # seconds; negative: behind
    least: bool = False  # at least that far

    def __str__(self) -> str:
        """As in "at least 23 h behind". A bound is cut, so that it reads the same for a while."""
        seconds = abs(self.ahead)
        size, unit = next((each for each in _UNITS if seconds >= 2 * each[0]), _UNITS[-1])
        count = int(seconds / size) if self.least else round(seconds / size)
        if self.least and size < 3600.0 and count > 10:
            count -= count % 10
        return f"{'at least ' if self.least else ''}{count} {unit} {'behind' if self.ahead < 0 else 'ahead'}"

    def against(self, whose: str) -> str:
        """As in "24 h ahead of that of the controller"."""
        return f"{self} {'' if self.ahead < 0 else 'of '}that of {whose}"


def ahead(date: str, asked: float, seconds: float) -> float | None:
    """How far our clock is ahead of that of who wrote a Date header, 0.0 within what that can tell; None: no date.

    ``asked`` is when we asked, Unix seconds by our clock, and ``seconds`` how long the answer took.
    """
    try:
        moment = parsedate_to_datetime(date[:_DATE])
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    theirs = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    # It was written at some time between the question and the answer, and cut to whole seconds.
    earliest, latest = asked - 1.0, asked + seconds
    return latest - theirs if theirs > latest else max(0.0, earliest - theirs)


class Comparison:
    """Our clock against another one: by what that one told last, and by the steps of ours since."""

    def __init__(self, now: Callable[[], float], seconds: Callable[[], float]) -> None:
        """``now`` is our clock, Unix seconds; ``seconds`` one that does not step."""
        self._now = now
        self._seconds = seconds
        self._told: Skew | None = None
        self._difference = 0.0  # of our two clocks when that was told

    @property
    def skew(self) -> Skew | None:
        """What is known now; None: nothing."""
        told = self._told
        if told is None:
            return None
        step = self._now() - self._seconds() - self._difference
        if abs(step) < STEP:
            return told
        skew = Skew(told.ahead + step, told.least)
        # A bound is none any more once our clock has been moved beyond it.
        return None if skew.least and skew.ahead * told.ahead <= 0 else skew

    def ask(self) -> tuple[float, float]:
        """The moment of a question, for :meth:`take`."""
        return self._now(), self._seconds()

    def take(self, date: str, asked: tuple[float, float]) -> None:
        """An answer has come, with this Date header, "" for none."""
        took = self._seconds() - asked[1]
        found = ahead(date, asked[0], took) if date and took <= QUICK else None
        if found is not None:
            # Of the clock as it was when we asked: it may have stepped since.
            self._told, self._difference = Skew(found), asked[0] - asked[1]

    def bound(self, seconds: float) -> None:
        """Ours is at least so far ahead, or behind if negative. What is known and further says more."""
        known = self.skew
        if known is None or (known.ahead < seconds if seconds > 0 else known.ahead > seconds):
            self._told, self._difference = Skew(seconds, least=True), self._now() - self._seconds()
