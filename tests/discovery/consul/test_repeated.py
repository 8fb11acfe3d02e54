from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from hostproxy.discovery.consul.repeated import AFTER_FAILURE, Repeated


class Work:
    """Work that lasts until the test ends it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.begun: list[float] = []
        self.under_way: Deferred[float | None] | None = None
        self.repeated = Repeated(self.clock, self.run)

    async def run(self) -> float | None:
        assert self.under_way is None
        self.begun.append(self.clock.seconds())
        self.under_way = Deferred()
        try:
            return await self.under_way
        finally:
            self.under_way = None

    def end(self, delay: float | None) -> None:
        assert self.under_way is not None
        self.under_way.callback(delay)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def failures() -> Iterator[list[str]]:
    found: list[str] = []

    def observe(event: object) -> None:
        if isinstance(event, dict) and event.get("log_failure") is not None:
            found.append(str(event["log_failure"].value))

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


def test_the_earliest_of_several_wishes_counts(work: Work) -> None:
    work.repeated.soon(5)
    work.repeated.soon(2)
    work.repeated.soon(9)
    work.clock.advance(1.9)
    assert work.begun == []
    work.clock.advance(0.1)
    assert work.begun == [2.0]
    work.end(None)
    work.clock.advance(100)
    assert work.begun == [2.0]


def test_it_runs_again_when_it_said_so(work: Work) -> None:
    work.repeated.soon()
    work.clock.advance(0)
    work.end(7.0)
    work.clock.advance(7)
    assert work.begun == [0.0, 7.0]


def test_a_wish_during_a_run_is_granted_after_it_and_earlier_than_it_said(work: Work) -> None:
    work.repeated.soon()
    work.clock.advance(0)
    work.repeated.soon(1)
    work.repeated.soon(3)
    work.clock.advance(10)
    assert work.begun == [0.0]
    work.end(7.0)
    work.clock.advance(1)
    assert work.begun == [0.0, 11.0]
    work.end(None)
    work.clock.advance(100)
    assert work.begun == [0.0, 11.0]


def test_halting_lets_a_run_end_and_begins_no_other(work: Work) -> None:
    work.repeated.soon()
    work.clock.advance(0)
    work.repeated.halt()
    work.repeated.soon()
    assert work.under_way is not None
    work.end(1.0)
    work.clock.advance(100)
    assert work.begun == [0.0]
    assert work.clock.getDelayedCalls() == []


def test_stopping_ends_a_run(work: Work, failures: list[str]) -> None:
    work.repeated.soon()
    work.clock.advance(0)
    work.repeated.stop()
    assert work.under_way is None
    assert failures == []
    assert work.clock.getDelayedCalls() == []


def test_work_that_fails_is_logged_and_tried_again_later(work: Work, failures: list[str]) -> None:
    work.repeated.soon()
    work.clock.advance(0)
    assert work.under_way is not None
    work.under_way.errback(ValueError("a mistake"))
    assert failures == ["a mistake"]
    work.clock.advance(AFTER_FAILURE)
    assert work.begun == [0.0, AFTER_FAILURE]
