"""What the answers of one instance mean, in a row."""

from __future__ import annotations


class Judgement:
    """Healthy or not. The first answer decides; later it takes so many in a row to say otherwise."""

    __slots__ = ("_against", "_fall", "_rise", "healthy")

    def __init__(self, rise: int, fall: int, healthy: bool | None = None) -> None:
        """``rise`` good answers in a row make it healthy, ``fall`` bad ones unhealthy; None: nothing is known."""
        self.healthy = healthy
        self._rise = rise
        self._fall = fall
        self._against = 0  # answers in a row that spoke against ``healthy``

    def answered(self, good: bool) -> bool:
        """Take an answer; say whether ``healthy`` has become another."""
        if good == self.healthy:
            self._against = 0
            return False
        self._against += 1
        if self.healthy is not None and self._against < (self._rise if good else self._fall):
            return False
        self.healthy = good
        self._against = 0
        return True
