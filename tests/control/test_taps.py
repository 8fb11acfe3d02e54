"""Those who watch live requests, as the supervisor knows them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from hostproxy.control import messages
from hostproxy.control.taps import WATCHERS, Taps, TooMany
from hostproxy.telemetry.tap import Filter


class Watcher:
    def __init__(self) -> None:
        self.events: list[Any] = []

    def begun(self, workers: int) -> None:
        self.events.append(f"begun {workers}")

    def seen(self, lines: bytes, dropped: int) -> None:
        self.events.append((lines, dropped))


class Scene:
    def __init__(self) -> None:
        self.clock = Clock()
        self.workers = [1, 2]
        self.told: list[Any] = []
        self.taps = Taps(self.clock, self._tell)  # type: ignore[arg-type]

    def _tell(self, message: Any) -> list[int]:
        self.told.append(message)
        return self.workers


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_workers_are_told_and_what_they_see_is_handed_on(scene: Scene) -> None:
    watcher = Watcher()
    tap = scene.taps.open(Filter(service="web"), 60.0, watcher)
    assert scene.told == [messages.Watch(tap.number, Filter(service="web"), 60.0)]
    scene.taps.seen(1, messages.Seen(tap.number, b"", 0))
    scene.taps.seen(1, messages.Seen(tap.number, b"{}\n", 2))
    assert watcher.events == [(b"{}\n", 2)]
    scene.taps.seen(2, messages.Seen(tap.number, b"", 0))
    assert watcher.events == [(b"{}\n", 2), "begun 2"]
    scene.taps.close(tap)
    scene.taps.close(tap)
    assert scene.told[1:] == [messages.Unwatch(tap.number)]
    scene.taps.seen(1, messages.Seen(tap.number, b"{}\n", 0))
    assert len(watcher.events) == 2


def test_one_worker_that_ends_is_not_waited_for(scene: Scene) -> None:
    watcher = Watcher()
    tap = scene.taps.open(Filter(), 60.0, watcher)
    scene.taps.seen(2, messages.Seen(tap.number, b"", 0))
    scene.taps.gone(1)
    scene.taps.gone(2)
    assert watcher.events == ["begun 1"]


def test_without_workers_it_begins_at_once(scene: Scene) -> None:
    scene.workers = []
    watcher = Watcher()
    scene.taps.open(Filter(), 60.0, watcher)
    assert watcher.events == ["begun 0"]


def test_watchers_are_told_apart_and_bounded(scene: Scene) -> None:
    watchers = [Watcher() for _ in range(WATCHERS)]
    taps = [scene.taps.open(Filter(), 60.0, watcher) for watcher in watchers]
    with pytest.raises(TooMany, match="8 watch already"):
        scene.taps.open(Filter(), 60.0, Watcher())
    scene.taps.seen(1, messages.Seen(taps[3].number, b"{}\n", 0))
    assert [len(watcher.events) for watcher in watchers] == [0, 0, 0, 1, 0, 0, 0, 0]
    scene.taps.close(taps[0])
    number = scene.taps.open(Filter(), 60.0, Watcher()).number
    assert number not in [tap.number for tap in taps]


def test_a_worker_that_is_started_meanwhile_is_told_what_is_left(scene: Scene) -> None:
    tap = scene.taps.open(Filter(tcp=True), 60.0, Watcher())
    scene.taps.open(Filter(), 10.0, Watcher())
    scene.clock.advance(20.0)
    assert scene.taps.for_new() == [messages.Watch(tap.number, Filter(tcp=True), 40.0)]
    scene.taps.close(tap)
    assert scene.taps.for_new() == []
