"""Weights of several levels, as the balancer makes shares of them."""

from __future__ import annotations

from collections import Counter
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostproxy.upstream.balance import MAX_SHARES, shares
from hostproxy.upstream.portions import portions

FAST = settings(max_examples=200, deadline=None, derandomize=True)


def luck(place: str, host: str = "h1") -> float:
    return crc32(place.encode(), crc32(host.encode())) / (1 << 32)


def places(level: int, weights: list[int]) -> dict[str, int]:
    return {f"{level}-{number}": weight for number, weight in enumerate(weights)}


def shares_of(result: list[dict[str, int]]) -> list[float]:
    """What a balancer gives each level."""
    weights = {place: weight for level in result for place, weight in level.items() if weight}
    names = list(weights)
    counts = Counter(names[index] for index in shares(list(weights.values())))
    return [sum(counts[place] for place in level) / counts.total() for level in result]


def test_places_of_one_level_keep_their_proportions() -> None:
    levels = [(0.8, places(0, [10, 20])), (0.2, places(1, [5, 5, 10]))]
    near, far = result = portions(levels, luck)
    assert near["0-1"] == 2 * near["0-0"]
    assert far["1-2"] == 2 * far["1-0"] == 2 * far["1-1"]
    assert shares_of(result) == [pytest.approx(0.8, abs=0.01), pytest.approx(0.2, abs=0.01)]


@FAST
@given(
    st.lists(
        st.tuples(st.integers(1, 1000), st.lists(st.integers(1, 1000), min_size=1, max_size=60)), min_size=2, max_size=6
    )
)
def test_the_balancer_gives_each_level_its_share(parts: list[tuple[int, list[int]]]) -> None:
    total = sum(part for part, _ in parts)
    levels = [(part / total, places(number, weights)) for number, (part, weights) in enumerate(parts)]
    for (share, _), given_share in zip(levels, shares_of(portions(levels, luck)), strict=True):
        assert given_share == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("count", [100, 600, 5000])
def test_a_large_level_with_a_small_share_keeps_it(count: int) -> None:
    levels = [(0.93, places(0, [1] * 200)), (0.07, places(1, [1] * count))]
    near, far = result = portions(levels, luck)
    assert shares_of(result) == [pytest.approx(0.93, abs=0.01), pytest.approx(0.07, abs=0.01)]
    assert sum(near.values()) + sum(far.values()) <= MAX_SHARES


def test_hosts_draw_different_places_and_together_use_all_alike() -> None:
    levels = [(0.95, places(0, [1] * 900)), (0.05, places(1, [1] * 300 + [3] * 100))]
    used: Counter[str] = Counter()
    for host in range(400):
        used.update(portions(levels, lambda place, host=host: luck(place, f"h{host}"))[1])  # type: ignore[misc]
    light = [used[f"1-{number}"] for number in range(300)]
    heavy = [used[f"1-{number}"] for number in range(300, 400)]
    assert min(light) > 0
    assert sum(heavy) / 100 == pytest.approx(3 * sum(light) / 300, rel=0.1)


def test_a_change_of_one_place_moves_few_others() -> None:
    far = places(1, [1] * 400)
    before = portions([(0.9, places(0, [1] * 900)), (0.1, far)], luck)[1]
    del far["1-17"]
    after = portions([(0.9, places(0, [1] * 900)), (0.1, far)], luck)[1]
    assert sum(before[place] != after[place] for place in far) <= 2
