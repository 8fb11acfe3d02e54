"""The rollout that is under way.

What is decided stands in the store before anybody is told, so the next leader goes on where this one fell. Whoever has
the new generation is to go back by itself unless it is told to stay: so a wave ends well without a controller too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from controller.batched import Batched
from controller.policy.generations import Generation, Generations, Version
from controller.registry.hosts import Report
from controller.registry.records import Refused, change, decode
from controller.rollout.judgement import Seen, judge
from controller.rollout.plan import Plan, assign
from controller.rollout.view import Rollout, View, Wanted, fresh
from controller.store import NotLeading, Store, Unavailable

KEY = "state/rollout"
TICK = 1.0  # seconds between looks at what the hosts report
ORPHAN = 10.0  # seconds after which a generation whose rollout has not begun is given up

class Surroundings(NamedTuple):
    """What a rollout needs to know, and whom it tells."""

    hosts: Callable[[], Awaitable[Collection[str]]]  # those that are to have policy
    reports: Callable[[], Awaitable[Mapping[str, Report]]]
    tell: Callable[[Iterable[str]], object]  # there is something new for these
    ended: Callable[[Rollout], Awaitable[object]]  # for the audit log


class Rollouts:
    """See :class:`controller.api.interfaces.Rollouts`. Started while this controller leads."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        store: Store,
        generations: Generations,
        surroundings: Surroundings,
        now: Callable[[], float],
    ) -> None:
        """``now`` is the wall clock: a rollout outlives processes."""
        self._reactor = reactor
        self._store = store
        self._generations = generations
        self._around = surroundings
        self._now = now
        self._timer: Any = None
        self._looking = False
        self._leading = False
        self._view = Batched(self._look_up)
        self._last: View | None = None  # with what it has worked out
        self._read: tuple[int, Rollout] | None = None  # the record, by its version: it names every host
        self._failing: tuple[Version, float] | None = None  # what cannot be judged, and since when

    # While leading

    def lead(self) -> None:
        """Go on with what is under way."""
        self._leading = True
        self._schedule(0.0)

    def follow(self) -> None:
        """Somebody else does."""
        self._leading = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _schedule(self, delay: float) -> None:
        """Look within ``delay`` seconds."""
        if not self._leading:
            return
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= self._reactor.seconds() + delay:
                return
            self._timer.cancel()
        self._timer = self._reactor.callLater(delay, self._begin_look)

    def _begin_look(self) -> None:
        if self._looking:
            self._schedule(TICK)
            return
        self._looking = True
        Deferred.fromCoroutine(self._look())

    async def _look(self) -> None:
        """Never fails. Looks again soon while a rollout is under way, and now and then while none is."""
        running = True
        try:
            running = await self.step()
            self._failing = None
        except (Unavailable, NotLeading) as error:
            self.log.warn("the rollout waits: {error}", error=error)
        except Exception as error:
            await self._cannot_judge(error)
        finally:
            self._looking = False
            self._schedule(TICK if running else ORPHAN)

    async def _cannot_judge(self, error: Exception) -> None:
        """What nobody thought of: never wait for it longer than for a host. Never fails."""
        try:
            rollout = await self._current()
            version = rollout.version if rollout is not None else Version(0, 0)
            if self._failing is None or self._failing[0] != version:
                # A line a second would fill the disk.
                self.log.failure("looking at the rollout", Failure(error))  # type: ignore[no-untyped-call]
                self._failing = version, self._now()
            since = self._now() - self._failing[1]
            if rollout is not None and rollout.phase == "running" and since > rollout.plan.patience:
                text = f"{type(error).__name__}: {error}"[:200]
                await self._stop(rollout, f"it cannot be judged, since {since:.0f} s: {text}", "hostproxy-controller")
        except Exception as another:
            self.log.error("the rollout can be neither judged nor stopped: {error!r}", error=another)

    async def step(self) -> bool:
        """Look once, and do what is to be done. Returns whether a rollout is under way."""
        rollout = await self._current()
        if await self._orphaned(rollout):
            return True
        if rollout is not None and rollout.phase == "stopped":
            await self._go_back(rollout, rollout.actor)  # when who stopped it fell before that
        if rollout is None or rollout.phase != "running":
            return False
        reports = await self._around.reports()
        seen = {host: Seen(report.report, report.at) for host, report in reports.items()}
        # Who was denied or forgotten meanwhile is nobody to wait for.
        hosts = set(await self._around.hosts())
        wave = [host for host in rollout.waves[rollout.wave] if host in hosts]
        told = {host for wave in rollout.waves[: rollout.wave + 1] for host in wave}
        others = [host for host in hosts if host not in told]
        version = (rollout.version.epoch, rollout.version.generation)
        now = self._now()
        act, reason = judge(rollout.plan, version, wave, others, seen, rollout.wave_began, now)
        if act == "stop":
            await self._stop(rollout, reason, "hostproxy-controller")
            return False
        if act == "wait":
            await self._write(rollout, reason=reason)
            self._around.tell(host for host in wave if host in seen and now - seen[host].at >= fresh(len(wave)))
            return True
        if rollout.wave + 1 < len(rollout.waves):
            after = await self._write(rollout, wave=rollout.wave + 1, wave_began=now, reason="the wave was told")
            self._around.tell([*wave, *after.waves[after.wave]])
            return True
        ended = await self._write(rollout, phase="done", ended=now, reason="every host has it and is well")
        self.log.info("generation {version} is on all hosts", version=rollout.version)
        self._around.tell(hosts)
        await self._around.ended(ended)
        return False

    # Asked by others

    async def start(self, generation: Generation, plan: Plan, actor: str) -> None:
        """Bring ``generation``, the newest, to hosts in waves. Refused while another is under way."""
        before = await self._before(generation)
        now = self._now()
        hosts = await self._around.hosts()
        waves = assign(plan.waves, hosts, str(generation.version))
        rollout = Rollout(
            version=generation.version,
            before=before,
            plan=plan,
            actor=actor,
            began=now,
            waves=waves,
            wave_began=now,
            phase="running" if waves else "done",
            ended=0.0 if waves else now,
            reason="the first wave was told" if waves else "there is no host yet",
        )

        def begun(known: Rollout | None) -> Rollout:
            if known is not None and known.phase == "running" and known.version != generation.version:
                raise Refused("busy", f"generation {known.version} is being rolled out: wait, or stop it first")
            return rollout

        await change(self._store, KEY, Rollout, begun)
        if waves:
            self._around.tell(waves[0])
            self._schedule(TICK)

    async def busy(self) -> str:
        """Why no other generation can be applied now; "" when one can."""
        rollout = await self._current()
        if rollout is None or rollout.phase != "running":
            return ""
        return f"generation {rollout.version} is being rolled out: wait, or stop it first"

    async def status(self) -> Rollout | None:
        """What is under way, or how the last one ended."""
        return await self._current()

    async def stop(self, reason: str, actor: str) -> None:
        """No further wave; everybody goes back. Refused when nothing is under way."""
        rollout = await self._current()
        if rollout is None or rollout.phase != "running":
            raise Refused("idle", "no rollout is under way")
        await self._stop(rollout, f"stopped by {actor}: {reason}", actor)

    async def view(self) -> View:
        """What holds now, for as many hosts as anybody asks about. However many ask at a time, it is read once."""
        return await self._view()

    async def _look_up(self) -> View:
        newest = await self._generations.newest()
        rollout = await self._current()
        waits = newest is not None and newest.staged and (rollout is None or rollout.version != newest.version)
        before = await self._before(newest) if newest is not None and waits else None
        last = self._last
        # Neither is decoded again while it stays the same.
        if last is None or last.newest is not newest or last.rollout is not rollout or last.before != before:
            last = self._last = View(newest, rollout, before)
        return last

    async def wanted(self, host: str) -> Wanted | None:
        """What ``host`` is to have now; None while there is nothing for it."""
        return (await self.view()).wanted(host)

    async def stable(self) -> Version | None:
        """What every host has, or goes back to."""
        return (await self.view()).stable

    # The store

    async def _before(self, generation: Generation) -> Version | None:
        history = await self._generations.history()
        at = next((index for index, each in enumerate(history) if each.version == generation.version), None)
        return history[at + 1].version if at is not None and at + 1 < len(history) else None

    async def _orphaned(self, rollout: Rollout | None) -> bool:
        """Whether the newest generation waits for a rollout that has not begun. After a while it is given up.

        Who applied it fell before saying how it was to be rolled out.
        """
        newest = await self._generations.newest()
        if newest is None or not newest.staged or (rollout is not None and rollout.version == newest.version):
            return False
        if self._now() - newest.applied < ORPHAN:
            return True
        before = await self._before(newest)
        if before is None:
            return False
        note = f"instead of {newest.version}, whose rollout never began: apply it again"
        self.log.error("{note}", note=note)
        await self._generations.rollback(before.generation, "hostproxy-controller", self._now(), note)
        self._around.tell(await self._around.hosts())
        return False

    async def _current(self) -> Rollout | None:
        entry = await self._store.get(KEY)
        if entry is None:
            return None
        if self._read is None or self._read[0] != entry.version:
            self._read = entry.version, decode(KEY, entry, Rollout)
        return self._read[1]

    async def _write(self, rollout: Rollout, **changes: Any) -> Rollout:
        after = msgspec.structs.replace(rollout, **changes)
        if after == rollout:
            return rollout

        def written(known: Rollout | None) -> Rollout:
            if known != rollout:
                raise Unavailable("the rollout was changed by somebody else")
            return after

        await change(self._store, KEY, Rollout, written)
        return after

    async def _stop(self, rollout: Rollout, reason: str, actor: str) -> None:
        now = self._now()
        stopped = await self._write(rollout, phase="stopped", ended=now, reason=reason)
        self.log.error("the rollout of generation {version} stops: {reason}", version=rollout.version, reason=reason)
        await self._go_back(stopped, actor)
        self._around.tell(await self._around.hosts())
        await self._around.ended(stopped)

    async def _go_back(self, rollout: Rollout, actor: str) -> None:
        """Make what was before the newest, unless that was done.

        Not only for the hosts of the wave that failed: a policy that is no good is no good for those before either.
        As a new generation, because hosts never take an older one.
        """
        newest = await self._generations.newest()
        if rollout.before is not None and newest is not None and newest.version == rollout.version:
            note = f"instead of {rollout.version}: {rollout.reason}"[:500]
            await self._generations.rollback(rollout.before.generation, actor, self._now(), note)
