"""What the interface for operators and hosts needs of the rooms that change what hosts get."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from controller.policy.generations import Generation
from controller.rollout.plan import Plan
from controller.rollout.view import View


class Rollouts(Protocol):
    """The rollout that is under way, of at most one. Says no with :class:`controller.registry.records.Refused`."""

    async def start(self, generation: Generation, plan: Plan, actor: str) -> None:
        """Bring ``generation``, the newest, to hosts in waves; each keeps what it has until then.

        Refused with "busy" while another is under way. Asked of the leader only.
        """

    async def status(self) -> msgspec.Struct | None:
        """What is under way, or how the last one ended; becomes JSON as it is. None: there was none."""

    async def stop(self, reason: str, actor: str) -> None:
        """No further wave; hosts that have it go back. Refused with "idle" when nothing is under way."""

    async def view(self) -> View:
        """What each host is to have now. Any controller may be asked."""

    async def busy(self) -> str:
        """Why no other generation can be applied now; "" when one can."""


class Distribution(Protocol):
    """Tells hosts what is new for them: :class:`controller.push.distribution.Distribution`."""

    failures: dict[str, str]  # why a host could not be told the last time

    def tell(self, hosts: Iterable[str]) -> None:
        """There may be news for these."""
