"""What a worker tells those who watch, and how much of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from hostproxy.telemetry import watches as room
from hostproxy.telemetry.tap import Filter, TapRecord
from hostproxy.telemetry.watches import Watches
from tests.telemetry.test_tap import CONNECTION, REQUEST

NOW = 1_763_667_000.125


class Scene:
    """Watches, and what they have sent."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(100.0)
        self.sent: list[tuple[int, list[Any], int]] = []
        self.room = True
        self.watches = Watches(self.clock.seconds, lambda: NOW, self._send)

    def _send(self, number: int, lines: bytes, dropped: int) -> bool:
        if self.room:
            self.sent.append((number, [json.loads(line) for line in lines.splitlines()], dropped))
        return self.room

    def happen(self, count: int = 1, details: str = "", facts: Any = REQUEST) -> None:
        for _ in range(count):
            takers = self.watches.takers(facts)
            if takers:
                self.watches.give(takers, self.record(details))

    def record(self, details: str) -> TapRecord:
        return TapRecord(
            event="request",
            ts=self.watches.now(),
            dir="outbound",
            source="cart",
            source_identity="",
            client="",
            dest="web",
            flags="-",
            details=details,
            rule="",
            upstream="",
            bytes_in=0,
            bytes_out=0,
            dur_ms=1.0,
            tls="",
        )

    def told(self) -> dict[int, tuple[int, int]]:
        """Of each watcher: records that he was given, and how many he was told were dropped."""
        self.watches.flush()
        sums: dict[int, tuple[int, int]] = {}
        for number, records, dropped in self.sent:
            before = sums.get(number, (0, 0))
            sums[number] = before[0] + len(records), before[1] + dropped
        self.sent.clear()
        return sums


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_each_gets_what_he_wants(scene: Scene) -> None:
    scene.watches.begin(1, Filter(service="web"), 60.0)
    scene.watches.begin(2, Filter(tcp=True), 60.0)
    scene.watches.begin(3, Filter(), 60.0)
    scene.happen(2)
    scene.happen(3, facts=CONNECTION)
    assert scene.told() == {1: (2, 0), 2: (3, 0), 3: (5, 0)}
    assert scene.told() == {}


def test_a_line_has_the_time_and_no_header_fields_that_were_not_asked_for(scene: Scene) -> None:
    scene.watches.begin(1, Filter(), 60.0)
    scene.happen()
    scene.watches.flush()
    ((_, (record,), _),) = scene.sent
    assert record["ts"] == "2025-11-20T19:30:00.125Z"
    assert "request_headers" not in record


def test_more_than_the_rate_is_counted_and_a_second_later_there_is_room_again(scene: Scene) -> None:
    scene.watches.begin(1, Filter(), 60.0)
    for _ in range(10):
        scene.happen(room.RATE // 10)
        assert scene.told() == {1: (room.RATE // 10, 0)}
        scene.clock.advance(0.05)
    scene.happen(7)
    assert scene.told() == {1: (0, 7)}
    scene.clock.advance(0.4)
    scene.happen()
    assert scene.told() == {1: (0, 1)}
    scene.clock.advance(0.2)
    scene.happen()
    assert scene.told() == {1: (1, 0)}


def test_one_who_wants_everything_leaves_room_for_one_who_wants_little(scene: Scene) -> None:
    scene.watches.begin(1, Filter(), 60.0)
    scene.watches.begin(2, Filter(tcp=True), 60.0)
    scene.happen(room.RATE)
    scene.happen(3, facts=CONNECTION)
    assert scene.told() == {1: (room.RATE // 2, room.RATE // 2 + 3), 2: (3, 0)}


def test_what_waits_is_bounded_in_bytes(scene: Scene) -> None:
    scene.watches.begin(1, Filter(), 60.0)
    scene.happen(100, "x" * 10_000)
    given, dropped = scene.told()[1]
    assert given + dropped == 100
    assert 0 < given * 10_000 <= room.WAITING_BYTES + 11_000


def test_what_can_not_be_sent_is_counted_and_told_when_it_can(scene: Scene) -> None:
    scene.watches.begin(1, Filter(), 60.0)
    scene.room = False
    scene.happen(5)
    assert scene.told() == {}
    scene.happen(6)
    assert scene.told() == {}
    scene.room = True
    scene.happen(2)
    assert scene.told() == {1: (2, 11)}


def test_it_ends_when_he_goes_and_when_his_time_is_up(scene: Scene) -> None:
    scene.watches.begin(1, Filter(), 60.0)
    scene.watches.begin(2, Filter(), 10.0)
    scene.clock.advance(10.0)
    scene.happen()
    assert scene.told() == {1: (1, 0), 2: (1, 0)}
    scene.happen()
    assert scene.told() == {1: (1, 0)}
    scene.watches.end(1)
    scene.watches.end(1)
    assert not scene.watches
    assert scene.watches.takers(REQUEST) == []
    scene.watches.begin(3, Filter(), 10.0)
    scene.watches.clear()
    assert not scene.watches
