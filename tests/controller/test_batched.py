"""Reads that many share: none older than the question, and none from within another."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from controller.batched import Batched
from controller.store import Unavailable
from tests.controller.conftest import Scene
from tests.controller.memory import MemoryStore


class Slow:
    """Something to read that answers when it is told to."""

    def __init__(self) -> None:
        self.reads: list[Deferred[int]] = []
        self.batched = Batched(self._read)

    async def _read(self) -> int:
        self.reads.append(Deferred())
        return await self.reads[-1]

    def ask(self, many: int = 1) -> list[Any]:
        """Answers, as they come."""
        found: list[Any] = []

        async def one() -> None:
            try:
                found.append(await self.batched())
            except Unavailable as error:
                found.append(error)

        for _ in range(many):
            Deferred.fromCoroutine(one())
        return found


def test_whoever_asks_while_one_is_under_way_gets_the_next() -> None:
    slow = Slow()
    early = slow.ask()
    late = slow.ask(5)
    assert len(slow.reads) == 1
    slow.reads[0].callback(1)
    assert (early, late, len(slow.reads)) == ([1], [], 2)
    slow.reads[1].callback(2)
    assert late == [2] * 5
    slow.ask()
    assert len(slow.reads) == 3


def test_a_failure_is_everybodys_and_the_next_read_is_another() -> None:
    slow = Slow()
    slow.ask()
    failed = slow.ask(3)
    slow.reads[0].callback(1)
    slow.reads[1].errback(Unavailable("no"))
    assert [str(each) for each in failed] == ["no"] * 3
    again = slow.ask()
    slow.reads[2].callback(3)
    assert again == [3]


def test_thousands_are_answered_without_a_thousand_calls_within_each_other() -> None:
    slow = Slow()
    slow.ask()
    many = slow.ask(20_000)
    slow.reads[0].callback(1)
    slow.reads[1].callback(2)
    assert len(many) == 20_000


def test_who_waits_no_more_keeps_nobody_else_waiting() -> None:
    slow = Slow()
    slow.ask()
    waiting = [slow.batched() for _ in range(3)]
    waiting[1].addErrback(lambda failure: None)
    waiting[1].cancel()
    found: list[int] = []
    for each in (waiting[0], waiting[2]):
        each.addCallback(found.append)
    slow.reads[0].callback(1)
    slow.reads[1].callback(2)
    assert found == [2, 2]


class Delayed(MemoryStore):
    """Lists are answered when they are told to be."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[Deferred[Any], str]] | None = None

    def list(self, prefix: str) -> Deferred[Any]:
        if self.held is None or not prefix.startswith("reports"):
            return super().list(prefix)
        self.held.append((Deferred(), prefix))
        return self.held[-1][0]


@pytest.mark.parametrize("hosts", [2000])
def test_a_slow_store_with_all_hosts_waiting_is_no_deep_stack(directory: Any, hosts: int) -> None:
    store = Delayed()
    scene = Scene(directory, store)
    peer = scene.host()
    scene.apply()
    scene.report(peer, 0, 0, state="none")
    scene.clock.advance(2)
    store.held = []
    found: list[Any] = []
    for _ in range(hosts):
        Deferred.fromCoroutine(scene.parts.decider.order("web-1")).addBoth(found.append)
    while store.held:
        waiting, prefix = store.held.pop()
        MemoryStore.list(store, prefix).chainDeferred(waiting)
    assert len(found) == hosts
    assert all(each.bundle is not None for each in found)


def test_who_reports_for_the_first_time_while_reports_are_read_is_told(directory: Any) -> None:
    store = Delayed()
    scene = Scene(directory, store)
    old, new = scene.host("old"), scene.host("new", "10.0.0.2")
    scene.apply()
    scene.report(old, 0, 0, state="none")
    scene.clock.advance(2)
    store.held = []
    early = dict(MemoryStore.list(store, "reports/").result)
    found: list[Any] = []
    Deferred.fromCoroutine(scene.parts.decider.order("old")).addBoth(found.append)
    scene.report(new, 0, 0, state="none")
    store.held.pop()[0].callback(early)
    Deferred.fromCoroutine(scene.parts.decider.order("new")).addBoth(found.append)
    assert [each.address for each in found] == ["10.0.0.1:15009", "10.0.0.2:15009"]
