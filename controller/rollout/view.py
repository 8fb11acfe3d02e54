"""A rollout as the store has it, and what follows from it for each host."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, NamedTuple

from controller.policy.generations import Generation, Version
from controller.registry.records import Record
from controller.rollout.plan import Plan
from hostproxy.mesh.messages import HostReport

FRESH = 3.0  # seconds for which a report of a host serves while its wave is judged, at least
ASKED = 100.0  # hosts of a wave that are asked in a second: each takes some milliseconds

Phase = Literal["running", "done", "stopped"]


class Rollout(Record, frozen=True):
    """One rollout. Times are Unix seconds."""

    version: Version
    before: Version | None  # what hosts keep, or go back to
    plan: Plan
    actor: str
    began: float
    waves: tuple[tuple[str, ...], ...]
    wave: int = 0  # the one under way
    wave_began: float = 0.0
    phase: Phase = "running"
    ended: float = 0.0
    reason: str = ""  # what it waits for, or why it ended

    @property
    def confirm_within(self) -> float:
        """Seconds until a host goes back by itself; 0: it has no reason to."""
        if len(self.waves) < 2 and not self.plan.hold:
            return 0.0
        return self.plan.hold + 2 * self.plan.patience


class Wanted(NamedTuple):
    """What one host is to have now."""

    version: Version
    confirm_within: float = 0.0  # seconds until the host goes back unless it is told to stay; 0: it stays


class View:
    """The newest generation and its rollout at one moment: read once, asked for each host."""

    def __init__(self, newest: Generation | None, rollout: Rollout | None, before: Version | None) -> None:
        """``before``: what hosts have while the newest waits for its rollout to begin."""
        self.newest = newest
        self.rollout = rollout
        self.before = before

    @cached_property
    def _waves(self) -> dict[str, int]:
        """The wave of each host."""
        if self.rollout is None:
            return {}
        return {host: number for number, wave in enumerate(self.rollout.waves) for host in wave}

    def wanted(self, host: str) -> Wanted | None:
        """What ``host`` is to have now; None while there is nothing for it."""
        newest, rollout = self.newest, self.rollout
        if newest is None:
            return None
        if rollout is None or rollout.version != newest.version:
            if not newest.staged:
                return Wanted(newest.version)
            return _kept(self.before)  # the rollout is about to begin
        if rollout.phase == "stopped":
            return _kept(rollout.before)
        wave = self._waves.get(host)
        # One that enrolled meanwhile is in no wave. It has nothing to lose where there is nothing before.
        joined = rollout.before is None and wave is None
        if rollout.phase == "done" or joined or (wave is not None and wave <= rollout.wave):
            return Wanted(newest.version, rollout.confirm_within)
        return _kept(rollout.before)

    def stays(self, host: str, report: HostReport) -> bool:
        """Whether the bundle that ``host`` reports as in force is to stay there."""
        rollout = self.rollout
        if rollout is None or Version(report.epoch, report.generation) != rollout.version:
            return True
        wave = self._waves.get(host)
        # Also one that enrolled meanwhile: it is in no wave that could fail.
        return rollout.phase == "done" or (rollout.phase != "stopped" and (wave is None or wave < rollout.wave))

    def judged(self, host: str, reported: float, now: float) -> bool:
        """Whether the wave of ``host`` is being judged, and what it ``reported`` then (Unix seconds) is too old."""
        rollout = self.rollout
        if rollout is None or rollout.phase != "running" or self._waves.get(host) != rollout.wave:
            return False
        return now - reported >= fresh(len(rollout.waves[rollout.wave]))

    @property
    def stable(self) -> Version | None:
        """What every host has, or goes back to."""
        newest, rollout = self.newest, self.rollout
        if newest is None:
            return None
        if rollout is None or rollout.version != newest.version:
            return self.before if newest.staged else newest.version
        return newest.version if rollout.phase == "done" else rollout.before


def fresh(hosts: int) -> float:
    """Seconds for which reports of a wave of so many hosts serve."""
    return max(FRESH, hosts / ASKED)


def _kept(version: Version | None) -> Wanted | None:
    return Wanted(version) if version is not None else None
