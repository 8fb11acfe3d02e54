"""A rollout from the first wave to its end, good or bad, on a store in memory and a clock."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from controller.policy.generations import Generations, Version
from controller.registry.hosts import Report
from controller.registry.records import Refused
from controller.rollout import rollouts
from controller.rollout.plan import Plan
from controller.rollout.rollouts import Rollout, Rollouts, Surroundings
from hostproxy.mesh.messages import Figures, HostReport
from tests.controller.memory import MemoryStore
from tests.controller.test_generations import done

ONE, TWO = {"a.toml": b"# one\n"}, {"a.toml": b"# two\n"}
PLAN = Plan(waves=("1", "50%", "100%"), hold=10.0, patience=30.0)
HOSTS = tuple(f"h{number}" for number in range(8))


class Scene:
    """A controller that leads, and hosts that report what they are told to have."""

    def __init__(self, plan: Plan = PLAN) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.store = MemoryStore()
        self.generations = Generations(self.store)
        self.hosts = list(HOSTS)
        self.reports: dict[str, Report] = {}
        self.told: list[str] = []
        self.ended: list[Rollout] = []
        self.figures: dict[str, Figures] = {}
        self.silent: set[str] = set()
        self.rollouts = self.controller()
        done(self.generations.apply(ONE, "ann", 1.0))
        self.plan = plan

    def controller(self) -> Rollouts:
        async def hosts() -> list[str]:
            return self.hosts

        async def reports() -> dict[str, Report]:
            return self.reports

        async def ended(rollout: Rollout) -> None:
            self.ended.append(rollout)

        around = Surroundings(hosts, reports, self.told.extend, ended)
        rollouts = Rollouts(self.clock, self.store, self.generations, around, self.clock.seconds)
        rollouts.lead()
        return rollouts

    def start(self) -> None:
        generation = done(self.generations.apply(TWO, "ann", self.clock.seconds(), staged=True))
        done(self.rollouts.start(generation, self.plan, "ann"))

    def report(self, host: str, **more: Any) -> None:
        wanted = done(self.rollouts.wanted(host))
        if wanted is None:
            return
        version = wanted.version
        values = {"epoch": version.epoch, "generation": version.generation, "state": "applied", **more}
        figures = self.figures.get(host, Figures(requests=100, p99=0.01))
        report = HostReport(software="1", figures=figures, **values)  # type: ignore[arg-type]
        self.reports[host] = Report(at=self.clock.seconds(), address="", report=report)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            for host in self.hosts:
                if host not in self.silent:
                    self.report(host)
            self.clock.advance(1.0)

    def having(self, generation: int) -> list[str]:
        return [host for host in self.hosts if done(self.rollouts.wanted(host)).version.generation == generation]  # type: ignore[union-attr]

    @property
    def now(self) -> Rollout:
        rollout = done(self.rollouts.status())
        assert rollout is not None
        return rollout


def test_it_goes_on_wave_by_wave_and_ends_with_all() -> None:
    scene = Scene()
    scene.start()
    assert len(scene.having(2)) == 1
    assert len(scene.having(1)) == 7
    first = scene.having(2)
    assert scene.told == first
    assert not done(scene.rollouts.view()).stays(first[0], HostReport(software="1", epoch=1, generation=2))
    scene.run(13)
    assert len(scene.having(2)) == 4
    assert done(scene.rollouts.view()).stays(first[0], HostReport(software="1", epoch=1, generation=2))
    scene.run(30)
    assert (scene.now.phase, len(scene.having(2))) == ("done", 8)
    assert [each.phase for each in scene.ended] == ["done"]
    assert done(scene.rollouts.stable()) == Version(1, 2)


def test_nobody_waits_for_the_next_look_of_an_idle_controller() -> None:
    scene = Scene(Plan(hold=1.0, patience=30.0))
    scene.run(2)  # it has looked, and has seen that nothing is under way
    scene.start()
    scene.run(4)
    assert scene.now.phase == "done"


def test_a_host_is_told_the_same_however_often_it_asks() -> None:
    scene = Scene()
    scene.start()
    first = scene.having(2)[0]
    early = done(scene.rollouts.wanted(first))
    scene.run(60)
    assert scene.now.phase == "done"
    assert done(scene.rollouts.wanted(first)) == early
    assert early is not None
    assert early.confirm_within == 70.0


def test_a_wave_that_is_worse_sends_everybody_back() -> None:
    scene = Scene()
    scene.start()
    scene.run(13)  # the second wave
    for host in scene.having(2):
        scene.figures[host] = Figures(requests=1000, failures=500)
    scene.run(3)
    assert scene.now.phase == "stopped"
    assert "fail" in scene.now.reason
    newest = done(scene.generations.newest())
    assert newest is not None
    assert (newest.version, newest.files, newest.restored) == (Version(1, 3), ONE, 1)
    assert scene.having(3) == list(HOSTS)
    assert set(scene.told) == set(HOSTS)
    assert scene.ended[-1].phase == "stopped"


def test_a_refusal_stops_it() -> None:
    scene = Scene()
    scene.start()
    first = scene.having(2)[0]
    scene.silent = {first}
    scene.report(first, generation=1, state="refused", refused=(1, 2), problems=("a.toml:1: no",))
    scene.run(2)
    assert scene.now.phase == "stopped"
    assert "a.toml:1" in scene.now.reason


def test_a_host_that_never_answers_stops_it() -> None:
    scene = Scene()
    scene.start()
    scene.silent = set(scene.having(2))
    scene.run(29)
    assert scene.now.phase == "running"
    scene.run(3)
    assert scene.now.phase == "stopped"


def test_the_next_leader_goes_on_with_it() -> None:
    scene = Scene()
    scene.start()
    scene.run(13)
    scene.rollouts.follow()
    scene.clock.advance(5.0)
    assert len(scene.having(2)) == 4
    scene.rollouts = scene.controller()
    scene.run(30)
    assert scene.now.phase == "done"


def test_who_stops_and_falls_is_made_good_by_the_next() -> None:
    scene = Scene()
    scene.start()
    rollout = scene.now

    def fall(key: str) -> None:
        if key.startswith("generations/"):
            raise RuntimeError("the power went")

    scene.store.before_put = fall
    with pytest.raises(RuntimeError):
        done(scene.rollouts.stop("enough", "bob"))
    scene.store.before_put = lambda key: None
    assert done(scene.rollouts.stable()) == rollout.before
    assert scene.having(1) == list(HOSTS)
    scene.rollouts.follow()
    scene.rollouts = scene.controller()
    scene.run(1)
    assert scene.having(3) == list(HOSTS)


def test_one_at_a_time() -> None:
    scene = Scene()
    scene.start()
    assert "2" in done(scene.rollouts.busy())
    third = done(scene.generations.apply({"a.toml": b"# three\n"}, "bob", 3.0))
    with pytest.raises(Refused):
        done(scene.rollouts.start(third, PLAN, "bob"))


def test_nothing_to_stop_is_said_so() -> None:
    with pytest.raises(Refused):
        done(Scene().rollouts.stop("x", "ann"))


def test_who_enrols_meanwhile_gets_what_is_stable() -> None:
    scene = Scene()
    scene.start()
    assert done(scene.rollouts.wanted("new")).version == Version(1, 1)  # type: ignore[union-attr]


def test_who_is_forgotten_is_not_waited_for() -> None:
    scene = Scene()
    scene.start()
    gone = scene.having(2)[0]
    scene.hosts.remove(gone)
    scene.run(3)
    assert scene.now.wave == 0  # nobody is in it: held all the same
    scene.run(12)
    assert scene.now.wave == 1


def test_all_at_once_needs_no_word() -> None:
    scene = Scene(Plan())
    scene.start()
    wanted = done(scene.rollouts.wanted("h0"))
    assert wanted is not None
    assert wanted.confirm_within == 0.0
    scene.run(3)
    assert scene.now.phase == "done"


def test_a_store_that_is_away_makes_it_wait() -> None:
    scene = Scene()
    scene.start()
    scene.store.broken = True
    scene.clock.advance(5.0)
    scene.store.broken = False
    scene.run(60)
    assert scene.now.phase == "done"


def test_what_nobody_thought_of_stops_it_when_patience_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    scene.start()

    def judge(*_: object) -> None:
        raise OverflowError("integer division result too large for a float")

    monkeypatch.setattr(rollouts, "judge", judge)
    scene.run(25)
    assert scene.now.phase == "running"
    with capturedLogs() as logged:
        scene.run(15)
    assert scene.now.phase == "stopped"
    assert "OverflowError: integer division" in scene.now.reason
    assert scene.having(3) == list(HOSTS)
    assert len(logged) < 5


def test_the_very_first_policy_comes_in_waves_too() -> None:
    scene = Scene()
    scene.store.entries.clear()
    scene.start()
    assert sum(1 for host in HOSTS if done(scene.rollouts.wanted(host)) is not None) == 1
    assert done(scene.rollouts.stable()) is None
    done(scene.rollouts.stop("no", "ann"))
    assert all(done(scene.rollouts.wanted(host)) is None for host in HOSTS)


def test_nobody_gets_what_is_about_to_be_rolled_out() -> None:
    scene = Scene()
    done(scene.generations.apply(TWO, "ann", scene.clock.seconds(), staged=True))
    assert scene.having(1) == list(HOSTS)
    assert done(scene.rollouts.stable()) == Version(1, 1)


def test_a_rollout_that_never_begins_is_given_up() -> None:
    scene = Scene()
    scene.rollouts.follow()
    done(scene.generations.apply(TWO, "ann", scene.clock.seconds(), staged=True))
    scene.rollouts = scene.controller()
    scene.run(9)
    assert scene.having(1) == list(HOSTS)
    scene.run(4)
    assert scene.having(3) == list(HOSTS)
    newest = done(scene.generations.newest())
    assert newest is not None
    assert newest.files == ONE


def test_hosts_of_a_wave_are_asked_before_it_is_judged() -> None:
    scene = Scene()
    scene.start()
    first = scene.having(2)[0]
    scene.report(first)
    scene.told.clear()
    scene.silent = {first}
    assert not done(scene.rollouts.view()).judged(first, scene.clock.seconds(), scene.clock.seconds())
    scene.run(5)
    assert set(scene.told) == {first}
    assert done(scene.rollouts.view()).judged(first, scene.reports[first].at, scene.clock.seconds())
    assert not done(scene.rollouts.view()).judged("another", 0.0, scene.clock.seconds())
