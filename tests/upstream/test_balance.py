from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.upstream.balance import MAX_SHARES, Balancer, shares


@dataclass(eq=False)
class Candidate:
    weight: int = 1
    in_flight: int = 0
    resting_until: float = 0.0


def picks(balancer: Balancer, count: int) -> Counter[int]:
    return Counter(id(balancer.pick()) for _ in range(count))


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=40))
def test_shares_follow_weights_and_leave_nobody_out(weights: list[int]) -> None:
    table = shares(weights)
    assert set(table) == set(range(len(weights)))
    assert len(table) <= MAX_SHARES + len(weights)
    if sum(weights) <= MAX_SHARES:
        counts = Counter(table)
        for index, weight in enumerate(weights):
            assert counts[index] * sum(weights) == weight * len(table)


def test_many_equal_weights_are_one_share_each() -> None:
    assert shares([100] * 5000) == tuple(range(5000))


@pytest.mark.parametrize("policy", ["round-robin", "random", "least-request"])
def test_weighted_choices(policy: str) -> None:
    candidates = [Candidate(1), Candidate(3)]
    balancer = Balancer(policy, candidates, Random(7).random)
    counts = Counter()
    for _ in range(4000):
        chosen = balancer.pick()
        chosen.in_flight += policy == "least-request"
        counts[candidates.index(chosen)] += 1
    assert counts[1] / 4000 == pytest.approx(0.75, abs=0.03)


def test_round_robin_is_exact() -> None:
    candidates = [Candidate(), Candidate(), Candidate()]
    balancer = Balancer("round-robin", candidates, Random(1).random)
    assert set(picks(balancer, 300).values()) == {100}


def test_workers_begin_with_different_ones() -> None:
    candidates = [Candidate() for _ in range(8)]
    firsts = {id(Balancer("round-robin", candidates, Random(seed).random).pick()) for seed in range(30)}
    assert len(firsts) > 3


def test_least_request_prefers_the_less_busy() -> None:
    busy, free = Candidate(in_flight=10), Candidate()
    balancer = Balancer("least-request", [busy, free], Random(1).random)
    counts = picks(balancer, 400)
    assert counts[id(free)] > 250
    assert counts[id(busy)] > 0  # only when both of two choices fall on it


def test_least_request_weighs_load_by_weight() -> None:
    large, small = Candidate(weight=10, in_flight=8), Candidate(weight=1, in_flight=1)
    balancer = Balancer("least-request", [large, small], Random(1).random)
    assert picks(balancer, 500)[id(large)] > 480


def test_an_unknown_policy_is_an_error() -> None:
    with pytest.raises(KeyError):
        Balancer("guess", [Candidate()], Random().random)


def test_nobody_to_choose_from() -> None:
    assert Balancer("random", [], Random().random).choose((), 0.0) is None


@pytest.mark.parametrize("policy", ["round-robin", "random", "least-request"])
def test_each_is_tried_once_and_then_none(policy: str) -> None:
    candidates = [Candidate(weight) for weight in (1, 5, 9)]
    balancer = Balancer(policy, candidates, Random(3).random)
    tried: list[object] = []
    for _ in candidates:
        chosen = balancer.choose(tried, 0.0)
        assert chosen is not None
        assert chosen not in tried
        tried.append(chosen)
    assert balancer.choose(tried, 0.0) is None


@pytest.mark.parametrize("policy", ["round-robin", "random", "least-request"])
def test_those_that_rest_come_last(policy: str) -> None:
    resting, awake = Candidate(resting_until=10.0), Candidate(in_flight=50)
    balancer = Balancer(policy, [resting, awake], Random(3).random)
    assert {balancer.choose((), 5.0) for _ in range(50)} == {awake}
    assert balancer.choose([awake], 5.0) is resting
    assert resting in {balancer.choose((), 10.0) for _ in range(50)}


def test_when_all_rest_one_is_tried_all_the_same() -> None:
    candidates = [Candidate(resting_until=10.0), Candidate(resting_until=10.0)]
    balancer = Balancer("round-robin", candidates, Random(3).random)
    assert balancer.choose((), 5.0) in candidates
