"""Applies the policy that holds once more, when something else that hosts have to know has changed.

``state/trust`` notes what the bundles of which generation said last. It is compared with what they would say now when
this controller begins to lead, after each act that changes it, and once a minute: an act that was cut off between the
change and its announcement is announced then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from controller.api.interfaces import Rollouts
from controller.bundles import Bundles
from controller.policy.generations import Generation, Generations, Version
from controller.registry.records import Record, change, read
from controller.store import Store

TRUST = "state/trust"


class Noted(Record, frozen=True):
    """What bundles say, and from which generation on."""

    digest: str
    version: Version


class Reissuing:
    """Asked of the leader only."""

    log = Logger()

    def __init__(
        self,
        store: Store,
        generations: Generations,
        bundles: Bundles,
        rollouts: Rollouts,
        now: Callable[[], float],
        news: Callable[[], object],
        behind: Callable[[Version], Awaitable[str]],
    ) -> None:
        """``now`` gives Unix seconds; ``news`` is called when hosts are to be told.

        ``behind`` says why nothing may come after a generation, because hosts have later ones; "" when it may.
        """
        self.problem = ""  # why hosts are not told what they have to know
        self._store = store
        self._generations = generations
        self._bundles = bundles
        self._rollouts = rollouts
        self._now = now
        self._news = news
        self._behind = behind
        self._turn = DeferredLock()  # two at a time would make two generations of one change

    async def noted(self) -> Noted | None:
        """What hosts with that generation or a later one know; None before the first."""
        return await read(self._store, TRUST, Noted)

    async def settled(self, version: Version) -> bool:
        """Whether all bundles of a generation say the same: what else they tell has not changed since it was made."""
        noted = await self.noted()
        return noted is not None and noted.version <= version and noted.digest == (await self._bundles.trust()).digest

    async def untold(self) -> str:
        """Why no generation tells hosts all that they have to know; "" when the noted one and those after it do."""
        if self.problem:
            return self.problem
        noted = await self.noted()
        if noted is None:
            return "no policy has been applied yet, and hosts hear of it with the first"
        self._bundles.trust_changed()
        if noted.digest != (await self._bundles.trust()).digest:
            return "the generation that tells hosts has not been made yet: the log of the leading controller says why"
        return ""

    async def applied(self, generation: Generation) -> None:
        """A generation was applied for another reason: its bundles say what is true now."""
        self.problem = ""
        digest = (await self._bundles.trust()).digest

        def note(known: Noted | None) -> Noted:
            unchanged = known is not None and known.digest == digest
            return known if unchanged and known is not None else Noted(digest=digest, version=generation.version)

        await change(self._store, TRUST, Noted, note)

    async def look(self, actor: str, why: str, stop_rollout: bool = False) -> Generation | None:
        """Apply the policy that holds once more if hosts have to be told something; None: they need not.

        While a rollout is under way this waits for its end, unless ``stop_rollout``. Fails as the store does.
        """
        return await self._turn.run(lambda: Deferred.fromCoroutine(self._look(actor, why, stop_rollout)))

    async def _look(self, actor: str, why: str, stop_rollout: bool) -> Generation | None:
        self._bundles.trust_changed()
        newest = await self._generations.newest()
        if newest is None:
            return None  # the first policy will tell them
        noted = await self.noted()
        changed = noted is None or noted.digest != (await self._bundles.trust()).digest
        if not changed and self._now() < newest.applied + self._bundles.life / 2:
            self.problem = ""
            return None
        problem = await self._behind(newest.version)
        if problem and problem != self.problem:
            self.log.error("Hosts are not told that {why}: {problem}", why=why, problem=problem)
        self.problem = problem
        if problem:
            return None
        if await self._rollouts.busy():
            if not stop_rollout:
                return None
            await self._rollouts.stop(why, actor)
        generation = await self._generations.newest()
        if generation is None or generation.version == newest.version:
            # Else the rollout that was stopped has made one by now, and its bundles say what is true.
            note = why if changed else "the bundles were half-way to their end"
            generation = await self._generations.renew(actor, self._now(), note)
        if generation is not None:
            await self.applied(generation)
            self.log.info("Generation {version} tells hosts: {why}", version=generation.version, why=why)
            self._news()
        return generation
