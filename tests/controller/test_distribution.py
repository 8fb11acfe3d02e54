"""Telling all hosts: bounded, again until each has it, and at once when there is news."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from controller.push.distribution import LAST_PAUSE, Distribution, Order
from controller.push.pusher import PushFailed
from hostproxy.mesh.messages import Confirm, HostReport

DONE = HostReport(software="1", epoch=1, generation=1, state="applied")
CONFIRM = Confirm(epoch=1, generation=1, digest="d")


class Scene:
    """Hosts that want a bundle until they got it."""

    def __init__(self, *hosts: str, parallel: int = 4) -> None:
        self.clock = Clock()
        self.wants = dict.fromkeys(hosts, Order("10.0.0.1:15009", b"bundle", None))
        self.pushed: list[str] = []
        self.confirmed: list[str] = []
        self.asked: list[str] = []
        self.answers: list[tuple[str, Deferred[Any]]] = []
        self.hold = False
        self.broken: set[str] = set()
        self.distribution = Distribution(self.clock, self, self, parallel, lambda: 1.0)
        self.distribution.start()

    async def order(self, host: str) -> Order | None:
        return self.wants.get(host)

    def reported(self, host: str, report: HostReport) -> None:
        self.wants.pop(host, None)

    async def push(self, host: str, address: str, bundle: bytes) -> HostReport:
        self.pushed.append(host)
        if host in self.broken:
            raise PushFailed("nobody listens there")
        if self.hold:
            answer: Deferred[Any] = Deferred()
            self.answers.append((host, answer))
            await answer
        return DONE

    async def confirm(self, host: str, address: str, confirm: Confirm) -> None:
        self.confirmed.append(host)
        self.wants.pop(host, None)

    async def ask(self, host: str, address: str) -> HostReport:
        self.asked.append(host)
        return DONE

    def tell(self, *hosts: str) -> None:
        self.distribution.tell(hosts or list(self.wants))
        self.turns()

    def turns(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        for _ in range(50):
            self.clock.advance(0)


def test_everybody_is_told_once() -> None:
    scene = Scene(*(f"h{n}" for n in range(20)))
    scene.tell()
    assert sorted(scene.pushed) == sorted(f"h{n}" for n in range(20))
    assert scene.distribution.pending == 0
    scene.tell(*(f"h{n}" for n in range(20)))
    assert len(scene.pushed) == 20  # they have it


def test_a_thousand_hosts_without_news_are_no_deep_recursion() -> None:
    scene = Scene()
    scene.distribution.tell(f"h{n}" for n in range(5000))
    for _ in range(5000):
        scene.clock.advance(0)
    assert scene.distribution.pending == 0


def test_only_some_at_a_time() -> None:
    scene = Scene(*(f"h{n}" for n in range(20)), parallel=3)
    scene.hold = True
    scene.tell()
    assert len(scene.answers) == 3
    scene.answers[0][1].callback(None)
    scene.turns()
    assert len(scene.answers) == 4


def test_who_fails_is_told_again_after_growing_pauses() -> None:
    scene = Scene("h")
    scene.broken = {"h"}
    scene.tell()
    moments = [0.0]
    for _ in range(2000):
        before = len(scene.pushed)
        scene.turns(0.5)
        if len(scene.pushed) > before:
            moments.append(scene.clock.seconds())
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert pauses[:4] == pytest.approx([1.0, 2.0, 4.0, 8.0], abs=0.5)
    assert max(pauses) <= LAST_PAUSE + 0.5
    assert scene.distribution.failures == {"h": "nobody listens there"}
    scene.broken.clear()
    scene.tell("h")  # it reported: no pause
    assert scene.distribution.failures == {}
    assert "h" not in scene.wants


def test_news_while_a_host_is_told_is_told_afterwards() -> None:
    scene = Scene("h")
    scene.hold = True
    scene.tell()
    scene.tell("h")
    assert len(scene.answers) == 1
    newer = scene.wants["h"]
    scene.answers[0][1].callback(None)
    scene.wants["h"] = newer  # the first answer took it away
    scene.turns()
    assert len(scene.answers) == 2


def test_who_only_waits_for_a_word_gets_it() -> None:
    scene = Scene("h")
    scene.wants["h"] = Order("10.0.0.1:15009", None, CONFIRM)
    scene.tell()
    assert (scene.confirmed, scene.pushed) == (["h"], [])


def test_a_decider_that_breaks_is_a_failure_of_that_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene("a", "b")

    async def order(host: str) -> Order | None:
        if host == "a":
            raise RuntimeError("a bug")
        return scene.wants.get(host)

    monkeypatch.setattr(scene, "order", order)
    scene.tell()
    assert scene.pushed == ["b"]
    assert "a bug" in scene.distribution.failures["a"]


def test_after_stop_nobody_is_told() -> None:
    scene = Scene("h")
    scene.broken = {"h"}
    scene.tell()
    scene.distribution.stop()
    scene.turns(1000.0)
    assert scene.pushed == ["h"]
    assert scene.clock.getDelayedCalls() == []


def test_hosts_that_are_gone_are_forgotten() -> None:
    scene = Scene("a", "b")
    scene.broken = {"a", "b"}
    scene.tell()
    scene.distribution.keep({"b": 1})
    assert set(scene.distribution.failures) == {"b"}
    scene.turns(1.0)
    assert scene.pushed == ["a", "b", "b"]


def test_who_is_only_asked_reports() -> None:
    scene = Scene("h")
    scene.wants["h"] = Order("10.0.0.1:15009", None, None)
    scene.tell()
    assert (scene.asked, scene.pushed, scene.wants) == (["h"], [], {})


def test_hosts_that_failed_leave_room_for_the_others() -> None:
    dead = [f"dead-{n}" for n in range(20)]
    well = [f"well-{n}" for n in range(20)]
    scene = Scene(*dead, parallel=8)
    scene.broken = set(dead)
    scene.tell()
    scene.broken.clear()
    scene.hold = True  # from now on each takes its time
    scene.pushed.clear()
    scene.tell()
    assert len(scene.pushed) == 2  # a quarter of those at a time
    scene.wants |= dict.fromkeys(well, Order("10.0.0.2:15009", b"bundle", None))
    scene.tell(*dead, *well)
    assert scene.pushed[2:] == well[:6]
    while scene.answers:
        scene.answers.pop(0)[1].callback(None)
        scene.turns()
    assert sorted(scene.pushed) == sorted([*dead, *well])
    assert scene.distribution.pending == 0


def test_a_failure_in_the_middle_of_news_leaves_one_timer() -> None:
    scene = Scene("h")
    scene.hold = True
    scene.tell()
    scene.tell("h")
    scene.answers[0][1].errback(PushFailed("it hangs"))
    scene.answers[0:1] = []
    scene.turns()
    scene.answers[0][1].errback(PushFailed("it hangs"))
    scene.turns()
    assert len(scene.clock.getDelayedCalls()) == 1
