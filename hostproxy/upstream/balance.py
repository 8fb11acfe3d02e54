"""Which endpoint gets the next request. Pure choices over what the endpoints say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Candidate(Protocol):
    """What a balancer looks at."""

    weight: int
    in_flight: int  # requests and tunnels under way
    resting_until: float  # monotonic seconds: it refused connections and is left alone until then


# A share of the choice per unit of weight, at most this many in all: enough to tell 1 % apart.
MAX_SHARES = 1024


def shares(weights: Sequence[int]) -> tuple[int, ...]:
    """Indices, each as often as its weight says, so that a random one is a weighted choice.

    Weights are divided by their greatest common divisor and scaled down when they add up to more than
    ``MAX_SHARES``; none falls out. Where more candidates than that have different weights, each keeps one share.
    """
    from math import gcd

    divisor = gcd(*weights) or 1
    counts = [weight // divisor for weight in weights]
    total = sum(counts)
    if total > MAX_SHARES:
        counts = [max(1, count * MAX_SHARES // total) for count in counts]
    return tuple(index for index, count in enumerate(counts) for _ in range(count))


class Balancer:
    """Chooses among the candidates of one destination. ``random`` gives floats in [0, 1)."""

    __slots__ = ("_candidates", "_next", "_random", "_shares", "pick")

    def __init__(self, policy: str, candidates: Sequence[Candidate], random: Callable[[], float]) -> None:
        """``policy``: least-request, round-robin or random; unknown ones raise KeyError."""
        self._candidates = candidates
        self._random = random
        self._shares = shares([candidate.weight for candidate in candidates]) if candidates else ()
        self._next = int(random() * len(self._shares))  # workers do not all begin with the same one
        self.pick: Callable[[], Candidate] = {
            "least-request": self._least_request,
            "round-robin": self._round_robin,
            "random": self._any,
        }[policy]

    def _any(self) -> Candidate:
        table = self._shares
        return self._candidates[table[int(self._random() * len(table))]]

    def _least_request(self) -> Candidate:
        """The less busy of two weighted random ones (the power of two choices)."""
        table = self._shares
        count = len(table)
        candidates = self._candidates
        if count == 1:
            return candidates[0]
        random = self._random
        first = candidates[table[int(random() * count)]]
        second = candidates[table[int(random() * count)]]
        # Load per weight, compared without a division. The +1 is the request itself.
        if (second.in_flight + 1) * first.weight < (first.in_flight + 1) * second.weight:
            return second
        return first

    def _round_robin(self) -> Candidate:
        table = self._shares
        index = self._next
        self._next = index + 1 if index + 1 < len(table) else 0
        return self._candidates[table[index]]

    def choose(self, tried: Sequence[object], now: float) -> Candidate | None:
        """The next candidate that has not been ``tried`` and is not resting; one that rests if there is no other.

        ``None`` when all have been tried.
        """
        if not self._shares:
            return None
        candidate = self.pick()
        if candidate.resting_until <= now and candidate not in tried:
            return candidate
        left = [one for one in self._candidates if one not in tried]
        if not left:
            return None
        awake = [one for one in left if one.resting_until <= now] or left
        return min(awake, key=lambda one: (one.in_flight + 1) / one.weight)
