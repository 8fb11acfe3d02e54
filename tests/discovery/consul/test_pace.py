from __future__ import annotations

from itertools import pairwise

import pytest
from twisted.internet.task import Clock

from hostproxy.discovery.consul.pace import Backoff, Pace


class Churn:
    """Answers that come as soon as they are asked for."""

    def __init__(self, since: float = 0.0) -> None:
        self.clock = Clock()
        self.clock.advance(since)
        self.pace = Pace(self.clock.seconds)

    def answers(self, seconds: float) -> list[float]:
        """Ask for answers for that long, as soon as each may be asked for; when they came, from now on."""
        start = self.clock.seconds()
        times = []
        while (now := self.clock.seconds() - start) <= seconds:
            times.append(now)
            wait = self.pace.count()
            self.clock.advance(wait)
        return times


@pytest.mark.parametrize("since", [0.0, 0.1, 1e6 + 0.1, 3e9 / 7])
def test_two_answers_at_once_and_then_one_a_second(since: float) -> None:
    assert Churn(since).answers(4) == pytest.approx([0, 0, 1, 2, 3, 4])


@pytest.mark.parametrize("since", [0.0, 0.1, 1e6 + 0.1, 3e9 / 7])
def test_answers_that_are_rare_never_wait(since: float) -> None:
    churn = Churn(since)
    for seconds in (5.01, 5.7, 10.3, 7.5) * 50:
        assert churn.pace.count() == 0
        churn.clock.advance(seconds)


def test_a_rolling_restart_of_thirty_instances_is_not_slowed_down() -> None:
    times = Churn().answers(28)
    assert len(times) == 30


def test_what_flaps_all_night_is_heard_of_every_five_seconds() -> None:
    churn = Churn()
    churn.answers(60)
    times = churn.answers(3600)
    assert len(times) == pytest.approx(720, abs=2)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps) == pytest.approx(5)


def test_after_quiet_time_changes_are_welcome_again() -> None:
    churn = Churn()
    churn.answers(600)
    churn.clock.advance(10)
    assert churn.answers(5) == pytest.approx([0, 0, 1, 5])  # three are saved up: the loop ended 5 s after its last
    churn.clock.advance(150)
    assert churn.answers(4) == pytest.approx([0, 0, 1, 2, 3, 4])


def test_pauses_double_up_to_fifteen_seconds() -> None:
    backoff = Backoff(lambda: 1.0)
    assert [backoff.count() for _ in range(9)] == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]
    for _ in range(2000):
        assert backoff.count() == 15


def test_pauses_are_anywhere_within_the_limit_but_never_nothing() -> None:
    assert [Backoff(lambda: 0.0).count(), Backoff(lambda: 0.5).count()] == [0.03125, 0.140625]


def test_after_a_success_the_next_failure_is_the_first_one() -> None:
    backoff = Backoff(lambda: 1.0)
    for _ in range(5):
        backoff.count()
    backoff.reset()
    assert backoff.count() == 0.25
