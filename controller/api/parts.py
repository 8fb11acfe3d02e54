"""What handlers work with, as :mod:`controller.app` has put it together."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock

from controller.api.interfaces import Distribution, Rollouts
from controller.api.operator_records import Operators
from controller.api.tls import Leaf
from controller.audit import Audit
from controller.authority.authority import Authority
from controller.bundles import Bundles
from controller.config import Config
from controller.decider import Decider
from controller.evidence import Claims
from controller.policy.generations import Generations, Version
from controller.registry.limits import Guesses, Rates
from controller.registry.registry import Registry
from controller.reissuing import Reissuing
from controller.signing import Signing
from controller.store import Leadership


@dataclasses.dataclass(kw_only=True)
class Parts:
    """The rooms of one controller."""

    config: Config
    software: str  # version
    started: float  # Unix seconds
    now: Callable[[], float]  # Unix seconds
    clock: Callable[[], float]  # seconds that never go back
    authority: Authority
    signing: Signing
    leaf: Leaf
    leadership: Leadership
    registry: Registry
    operators: Operators
    generations: Generations
    bundles: Bundles
    rollouts: Rollouts
    reissuing: Reissuing
    distribution: Distribution
    decider: Decider
    audit: Audit
    guesses: Guesses  # of tokens
    rates: Rates  # of certificates
    reports: Rates  # of reports
    refusals: Rates  # of lines about them in the audit log
    answers: Counter[int]  # by status
    turned_away: Callable[[], int]  # connections, because there were too many
    keys: DeferredLock  # held by whoever changes them
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]]  # what takes long
    news: Callable[[], object]  # hosts are to be told
    claims: Callable[[Version | None], Awaitable[Claims]]  # of hosts that say to have later generations than this
    trust_changed: Callable[[], object]  # roots or the issuing authority are others now

    @property
    def trust_domain(self) -> str:
        """The mesh."""
        return self.config.mesh.trust_domain

    def moment(self) -> datetime:
        """Now, for certificates."""
        return datetime.fromtimestamp(self.now(), UTC)
