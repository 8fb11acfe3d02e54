"""The bundle in force: how a new one takes its place, and how it goes when nobody confirms it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from hostproxy.discovery.watch import Watch
from hostproxy.mesh import storage
from hostproxy.mesh.bundle import digest_of
from hostproxy.mesh.messages import State
from hostproxy.mesh.policy import Policy
from hostproxy.steering.generations import (
    Opened,
    Parse,
    Refusal,
    confirmed,
    gone_back,
    opened,
    reopened,
    restored,
    taken,
)
from hostproxy.steering.keeper import Aside, Keeper
from hostproxy.steering.record import Disk, Record

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

# In force while no bundle is: nobody may do anything.
NOTHING = Policy(default_access="deny", default_source="the controller has given no policy yet")


class Bundles:
    """Takes bundles whole or not at all. ``changed`` is called when what there is to report has changed."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        keeper: Keeper,
        disk: Disk,
        parse: Parse,
        now: Callable[[], float],
        aside: Aside[Opened],
        changed: Callable[[], object],
    ) -> None:
        """``now`` gives Unix seconds; ``aside`` runs what takes long, or waits for the disk."""
        self.policy: Watch[Policy] = Watch(NOTHING)
        self.denied: Watch[tuple[str, ...]] = Watch(())
        self.state: State = "none"
        self.problems: tuple[str, ...] = ()
        self.refused = (0, 0)  # version of the one that was refused or reverted last
        self.current: Opened | None = None
        self.code = ""  # why the last one was refused, in a word
        self._reactor = reactor
        self._keeper = keeper
        self._disk = disk
        self._parse = parse
        self._now = now
        self._aside = aside
        self._changed = changed
        self._lock = DeferredLock()
        self._before: Opened | None = None  # what is gone back to
        self._timer: DelayedCall | None = None
        self._known_bad: tuple[str, Refusal] | None = None  # digest of one whose policy can't be read

    # Starting

    def start(self) -> None:
        """Put in force what was kept. Not under the reactor: it reads and parses."""
        kept = self._keeper.record.value
        if kept is None:
            return
        record = self._adopt(kept)
        if record is not kept:
            self._keeper.record.value = record
            self._keeper.save()
        if record.fallback and record.deadline <= self._now():
            # Its time ran out while nothing ran here.
            fallback = record.entry(record.fallback)
            past = msgspec.structs.replace(record, current=record.fallback)
            before, problems = restored(past, self._disk, self._parse)
            if before is not None and before.kept == fallback:
                self._go_back(record, before)
                return
        found, problems = restored(record, self._disk, self._parse)
        for problem in problems:
            self.log.error("{problem}", problem=problem)
        self.problems = problems
        if found is None:
            return
        self.state = "kept"
        if record.reverted:
            self.state, self.refused = "reverted", (record.newest.epoch, record.newest.generation)
        self._enforce(found)
        if found.bundle.digest != record.current:
            whole = msgspec.structs.replace(
                record, current=found.bundle.digest, fallback="", deadline=0.0, roots=found.bundle.manifest.roots
            )
            self._keeper.change(lambda now: whole if now is record else None)
        elif record.fallback:
            self._wait(record)

    def _adopt(self, record: Record) -> Record:
        """Take what came last and is not named by the record: else it could be followed by something older."""
        for data in self._disk.unnamed(record):
            try:
                new = opened(data, record, self._now(), self._parse)
            except Refusal:
                continue  # half of one, or one that was dropped
            self.log.info("bundle {file} was not named by the record, and is taken", file=new.kept.file)
            record = taken(record, new, self._now())
        return record

    def stop(self) -> None:
        """Go back to nothing by itself any more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    # What is known

    @property
    def pending(self) -> float:
        """Until when the one in force has to be confirmed, Unix seconds; 0.0: it is."""
        record, current = self._keeper.record.value, self.current
        if record is None or current is None or record.current != current.bundle.digest:
            return 0.0
        return record.deadline

    @property
    def expired(self) -> bool:
        """Whether the one in force is older than the controller meant it to become."""
        return self.current is not None and self.current.bundle.manifest.expires < self._now()

    @property
    def asked(self) -> tuple[int, int]:
        """The newest version that there is no use in getting again."""
        record, current = self._keeper.record.value, self.current
        if record is None or current is None:
            return self.refused
        newest = (record.newest.epoch, record.newest.generation)
        return max(newest if record.reverted else current.bundle.version, self.refused)

    # Taking

    def take(self, data: bytes) -> Deferred[None]:
        """Take a bundle or refuse it; ``state`` and ``problems`` say which. Never fails because of the bundle."""
        return self._lock.run(lambda: Deferred.fromCoroutine(self._take(data)))

    async def _take(self, data: bytes) -> None:
        record = self._keeper.record.value
        if record is None:
            self._refuse(Refusal("unknown", ("bundle: this host has not joined: it trusts nobody's",)))
            return
        try:
            if self._known_bad is not None and self._known_bad[0] == digest_of(data):
                raise self._known_bad[1]
            new = await self._aside(partial(opened, data, record, self._now(), self._parse))
        except Refusal as refusal:
            if refusal.code == "policy":
                self._known_bad = (digest_of(data), refusal)
            self._refuse(refusal)
            return
        if self.current is not None and new.kept == self.current.kept:
            self._applied()
            return
        trial = self._keeper.record.value or record
        before = self._before if trial.deadline else self.current
        await self._keeper.change(lambda record: taken(record, new, self._now()) if record else None, {new.kept: data})
        self._before = before
        self._enforce(new)
        self.log.info(
            "generation {generation} of epoch {epoch} is in force",
            generation=new.bundle.manifest.generation,
            epoch=new.bundle.manifest.epoch,
        )
        self.stop()
        if self._keeper.record.value is not None and self._keeper.record.value.deadline:
            self._wait(self._keeper.record.value)
        self._applied()

    def _applied(self) -> None:
        self.state, self.problems, self.refused, self.code = "applied", (), (0, 0), ""
        self._known_bad = None
        self._changed()

    def _refuse(self, refusal: Refusal) -> None:
        self.state, self.problems, self.refused, self.code = "refused", refusal.problems, refusal.version, refusal.code
        for problem in refusal.problems:
            self.log.error("a bundle is not taken, the one before stays: {problem}", problem=problem)
        self._changed()

    def _enforce(self, new: Opened) -> None:
        self.current = new
        self.denied.publish(new.bundle.manifest.denied)
        self.policy.publish(new.policy)

    # Confirming

    def confirm(self, epoch: int, generation: int, digest: str) -> Deferred[None]:
        """The bundle with this version and digest is to stay. Another one than that in force is nobody's matter."""
        return self._lock.run(lambda: Deferred.fromCoroutine(self._confirm((epoch, generation), digest)))

    async def _confirm(self, version: tuple[int, int], digest: str) -> None:
        current = self.current
        if current is None or not self.pending or current.bundle.digest != digest or current.bundle.version != version:
            return
        self.stop()
        self._before = None
        await self._keeper.change(lambda record: confirmed(record) if record is not None else None)
        self.log.info("generation {generation} is confirmed", generation=version[1])
        self._changed()

    def _wait(self, record: Record) -> None:
        """Start the clock that nobody has to be alive for. It is monotonic; a restart goes on by the wall clock."""
        assert self.current is not None
        within = self.current.bundle.manifest.confirm_within
        remaining = min(max(record.deadline - self._now(), 0.0), within)
        self._timer = self._reactor.callLater(remaining, self._unconfirmed)

    def _unconfirmed(self) -> None:
        self._timer = None
        waiting = self._lock.run(lambda: Deferred.fromCoroutine(self._revert()))
        waiting.addErrback(lambda failure: self.log.failure("going back to the bundle before", failure))

    async def _revert(self) -> None:
        record = self._keeper.record.value
        if record is None or not record.deadline or self._timer is not None:
            return  # it was confirmed, or replaced, while this waited
        before = self._before
        kept = record.entry(record.fallback)
        if before is None and kept is not None:
            try:
                data = self._keeper.unsaved(kept) or self._disk.bundle(kept)
                before = await self._aside(partial(reopened, data, record, kept, self._parse))
            except (storage.Unusable, Refusal) as error:
                self.problems = (f"bundle {kept.file}, which this host should go back to, cannot be used: {error}",)
        if before is None:
            # A host without any policy would be worse off.
            self.log.error("the bundle in force was not confirmed, and stays: there is none to go back to")
            self._changed()
            return
        # Until the record says so, the one that is left would be taken again.
        await self._go_back(record, before)

    def _go_back(self, record: Record, before: Opened) -> Deferred[None]:
        newest = record.newest
        left = record.entry(record.current)
        version = (left.epoch, left.generation) if left is not None else (newest.epoch, newest.generation)
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.deadline))
        problem = (
            f"generation {version[1]} of epoch {version[0]} was not confirmed until {moment}:"
            f" generation {before.bundle.manifest.generation} of epoch {before.bundle.manifest.epoch} holds again"
        )
        self.log.error("{problem}", problem=problem)
        self.state, self.problems, self.refused, self.code = "reverted", (problem,), version, "reverted"
        self._before = None
        self._enforce(before)
        changing = self._keeper.change(lambda now: gone_back(now, before) if now is not None else None)
        changing.addCallback(lambda _: self._changed())
        return changing

