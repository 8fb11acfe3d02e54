"""Requests are split exactly as the weights say."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.mesh.routes import Share
from hostproxy.route.split import Split


def split(*weights: int) -> Split:
    return Split([Share(f"v{number}", weight) for number, weight in enumerate(weights)])


@given(st.lists(st.integers(0, 100), min_size=1, max_size=8).filter(any))
def test_every_share_gets_what_its_weight_says(weights: list[int]) -> None:
    total = sum(weights)
    one = split(*weights)
    # The middle of each of as many equal parts as the weights sum up to.
    picked = Counter(one.pick((number + 0.5) / total) for number in range(total))
    assert [picked[index] for index in range(len(weights))] == weights


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=8).filter(any), st.floats(0, 1, exclude_max=True))
def test_no_number_falls_outside_or_into_a_share_without_weight(weights: list[int], random: float) -> None:
    assert weights[split(*weights).pick(random)] > 0


def test_of_ten_thousand_parts_each_share_gets_its_own_to_the_last() -> None:
    one = split(1, 9999)
    picked = [one.pick(number / 10_000) for number in range(10_000)]
    assert picked == [0] + [1] * 9999


def test_the_largest_number_below_one_is_the_last_share() -> None:
    assert split(50, 50).pick(1 - 2**-53) == 1


@pytest.mark.parametrize("weights", [(), (0,), (0, 0)])
def test_without_any_weight_there_is_nothing_to_pick(weights: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="weight"):
        split(*weights)
