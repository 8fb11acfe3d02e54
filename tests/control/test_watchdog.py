"""When the service manager's watchdog is fed."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from twisted.internet.task import Clock

from hostproxy.control.watchdog import Watchdog, for_successor, interval


class Manager:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.fed: list[float] = []

    def tell(self, *lines: str) -> None:
        assert lines == ("WATCHDOG=1",)
        self.fed.append(self.clock.seconds())


def run(usec: int, silent: set[int], seconds: int) -> list[float]:
    """Times of the feedings within ``seconds``; in the seconds ``silent`` a worker does not answer."""
    clock: Any = Clock()
    manager: Any = Manager(clock)
    asked: set[float] = set()

    def alive(within: float) -> bool:
        asked.add(within)
        return int(clock.seconds()) not in silent

    Watchdog(clock, manager, alive, {"WATCHDOG_USEC": str(usec)}).start()
    clock.pump([0.25] * (seconds * 4))
    assert asked <= {min(5.0, usec / 2e6)}
    fed: list[float] = manager.fed
    return fed


def test_it_is_fed_every_five_seconds() -> None:
    assert run(60_000_000, set(), 21) == [0, 5, 10, 15, 20]


def test_a_short_one_is_fed_in_half_of_its_time() -> None:
    assert run(4_000_000, set(), 9) == [0, 2, 4, 6, 8]
    assert run(500_000, set(), 1) == [0, 0.25, 0.5, 0.75, 1]


def test_a_worker_that_is_replaced_in_time_starves_nobody() -> None:
    """Silent from the 5th second after the last food on, replaced after 30: the gap stays under 60 s."""
    fed = run(60_000_000, set(range(6, 40)), 60)
    assert [late - early for early, late in itertools.pairwise(fed) if late - early > 5] == [35]
    assert fed[:3] == [0, 5, 40]


def test_nobody_waits() -> None:
    assert interval({}, 1) is None
    assert interval({"WATCHDOG_USEC": "0"}, 1) is None
    assert interval({"WATCHDOG_USEC": "soon"}, 1) is None
    assert interval({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "2"}, 1) is None
    assert interval({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}, 1) == 5.0
    assert interval({"WATCHDOG_USEC": "5000000"}, 1) == 5.0


@pytest.mark.parametrize(("of", "stays"), [(os.getpid(), False), (1, True)], ids=["ours", "another"])
def test_a_successor_takes_it_over(of: int, stays: bool) -> None:
    environment = for_successor({"WATCHDOG_PID": str(of), "WATCHDOG_USEC": "1"}, os.getpid())
    assert ("WATCHDOG_PID" in environment) == stays
    assert environment["WATCHDOG_USEC"] == "1"
