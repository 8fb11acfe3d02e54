"""What the interface for operators and hosts needs of the rooms that change what hosts get."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import msgspec

from controller.policy.generations import Generation, Version
from controller.rollout.plan import Plan
from hostproxy.mesh.messages import HostReport


class Wanted(NamedTuple):
    """What one host is to have now."""

    version: Version
    confirm_within: float = 0.0  # seconds until the host goes back unless it is told to stay; 0: it stays


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

    async def wanted(self, host: str) -> Wanted | None:
        """What ``host`` is to have now; None while there is no policy at all. Any controller may be asked."""

    async def stays(self, host: str, report: HostReport) -> bool:
        """Whether the bundle that ``host`` reports as in force is to stay there (or already does)."""

    async def judged(self, host: str, reported: float) -> bool:
        """Whether the wave of ``host`` is being judged, and what it ``reported`` then (Unix seconds) is too old."""

    async def busy(self) -> str:
        """Why no other generation can be applied now; "" when one can."""


class Distribution(Protocol):
    """Tells hosts what is new for them: :class:`controller.push.distribution.Distribution`."""

    failures: dict[str, str]  # why a host could not be told the last time

    def tell(self, hosts: Iterable[str]) -> None:
        """There may be news for these."""
