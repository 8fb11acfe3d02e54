"""Weights for places of several levels, so that a balancer gives each level its share of the traffic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import gcd
from typing import TypeVar

from hostproxy.upstream.balance import MAX_SHARES

Place = TypeVar("Place")

TOLERANCE = 0.005  # of all traffic, by which the share of a level may differ from what it should be


def portions(
    levels: Sequence[tuple[float, Mapping[Place, int]]], luck: Callable[[Place], float]
) -> list[dict[Place, int]]:
    """Return new weights for the places of each level, given its share of the traffic (above 0) and its weights.

    Places of one level keep their proportions, as far as ``MAX_SHARES`` in all can say them. Where a level has more
    places than shares, some of them have weight 0: which, decides ``luck``, a fixed number in [0, 1) for each place.
    With another luck on each host all places are used by some hosts, and a change of one place moves few others.
    """
    return _multiplied(levels) or [
        _drawn(weights, count, luck)
        for (_, weights), count in zip(levels, _counts([share for share, _ in levels]), strict=True)
    ]


def _multiplied(levels: Sequence[tuple[float, Mapping[Place, int]]]) -> list[dict[Place, int]] | None:
    """The weights of each level times a number of its own; None when there is none within ``MAX_SHARES``."""
    divisors = [gcd(*weights.values()) for _, weights in levels]
    sums = [sum(weights.values()) // divisor for (_, weights), divisor in zip(levels, divisors, strict=True)]
    densities = [share / of_level for (share, _), of_level in zip(levels, sums, strict=True)]
    least = min(densities)
    for scale in range(1, MAX_SHARES):
        factors = [round(scale * density / least) for density in densities]
        counts = [factor * of_level for factor, of_level in zip(factors, sums, strict=True)]
        total = sum(counts)
        if total > MAX_SHARES:
            break
        if all(abs(count / total - share) <= TOLERANCE for count, (share, _) in zip(counts, levels, strict=True)):
            return [
                {place: weight // divisor * factor for place, weight in weights.items()}
                for (_, weights), divisor, factor in zip(levels, divisors, factors, strict=True)
            ]
    return None


def _counts(shares: Sequence[float]) -> list[int]:
    """How many of ``MAX_SHARES`` each level gets: all of them are given away, by the largest remainder."""
    exact = [share * MAX_SHARES for share in shares]
    counts = [int(each) for each in exact]
    order = sorted(range(len(shares)), key=lambda level: counts[level] - exact[level])
    for level in order[: MAX_SHARES - sum(counts)]:
        counts[level] += 1
    return counts


def _drawn(weights: Mapping[Place, int], count: int, luck: Callable[[Place], float]) -> dict[Place, int]:
    """``count`` shares for the places of a level: the whole parts of what their weights say, and the rest is drawn.

    Drawn in the order of luck divided by the fractional part (sequential Poisson sampling): likelier the larger it is,
    and the same ones again after a small change.
    """
    total = sum(weights.values())
    drawn = {}
    rests: list[tuple[float, int, Place]] = []
    for number, (place, weight) in enumerate(weights.items()):
        drawn[place], rest = divmod(weight * count, total)
        if rest:
            rests.append((luck(place) / rest, number, place))
    rests.sort()
    for _, _, place in rests[: count - sum(drawn.values())]:
        drawn[place] += 1
    return drawn
