"""Which share of a route's split a request belongs to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from hostproxy.mesh.routes import Share


class Split:
    """Shares with their weights; a share of weight 0 gets nothing."""

    __slots__ = ("_bounds", "_total")

    def __init__(self, shares: Sequence[Share]) -> None:
        """Raises ValueError when there is nothing to pick: no share has a weight."""
        bounds = list(accumulate(share.weight for share in shares))
        if not bounds or bounds[-1] <= 0:
            raise ValueError("a split needs a share with a weight")
        self._bounds = bounds
        self._total = bounds[-1]

    def pick(self, random: float) -> int:
        """The index of the share for a random number, 0 <= ``random`` < 1."""
        # Weights are whole numbers: in whole numbers nothing is rounded at the bound between two shares.
        return bisect_right(self._bounds, int(random * self._total))
