"""Where traffic for a service goes from this host, and why. Pure; docs/policy.md tells it to operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hostproxy.discovery.catalog import CRITICAL, MAINTENANCE, WARNING
from hostproxy.levels import (
    IN_MAINTENANCE,
    OTHER_SUBSET,
    OUT_OF_REACH,
    PLAIN,
    WEIGHTLESS,
    Here,
    Key,
    Level,
    decide,
    judge,
    key_of,
)
from hostproxy.snapshot import Place

if TYPE_CHECKING:
    from hostproxy.discovery.catalog import Instance
    from hostproxy.mesh.policy import ServicePolicy

__all__ = ["Here", "Selection", "Verdict", "explain", "select"]


class Selection(NamedTuple):
    """Where connections for a service go."""

    places: tuple[Place, ...]
    obstacle: str  # why there is none, for callers to read
    panic: bool  # health is ignored


class Verdict(NamedTuple):
    """What was decided about one instance."""

    instance: Instance
    used: bool
    level: int  # 0 is the nearest that has instances; -1: it could not be used in any case
    share: float  # of the traffic from this host, 0 to 1
    why: str  # for people; empty when it is used and nothing is to be said


def select(
    service: str, instances: Sequence[Instance], rules: ServicePolicy, subset: str, here: Here
) -> Selection:
    """The places that traffic for ``subset`` of ``service`` goes to; "": policy's default_subset, else all of it."""
    subset = subset or rules.default_subset
    if subset and subset not in rules.subsets:
        return Selection((), _no_subset(service, subset), False)
    levels, panic = decide(instances, rules, subset, here)
    used = [level.portions for level in levels.values() if level.share]
    if not used:
        return Selection((), _obstacle(service, instances, rules, subset, here), False)
    weights = used[0] if len(used) == 1 else _sum(used)
    return Selection(tuple([Place(*key, weight) for key, weight in weights.items() if weight]), "", panic)


def explain(
    instances: Sequence[Instance], rules: ServicePolicy, subset: str, here: Here
) -> tuple[Verdict, ...]:
    """What :func:`select` decides, instance by instance."""
    subset = subset or rules.default_subset
    if subset and subset not in rules.subsets:
        return tuple(Verdict(one, False, -1, 0.0, _no_subset(one.service, subset)) for one in instances)
    level_of = judge(rules, subset, here)
    levels, panic = decide(instances, rules, subset, here)
    numbers = {number: index for index, number in enumerate(levels)}
    total = sum(sum(level.portions.values()) for level in levels.values())
    words = _Words(rules, subset, here, levels, panic)
    verdicts = []
    for instance in instances:
        number = level_of(instance)
        if number < 0:
            verdicts.append(Verdict(instance, False, -1, 0.0, words.left_out(number, instance)))
            continue
        level = levels[number]
        share = 0.0
        if level.share and (panic or instance.health != CRITICAL):
            key = key_of(instance, here)
            share = level.portions[key] / total * instance.weight / level.weights[key]
        why = words.used(level, instance) if share else words.unused(level, instance)
        verdicts.append(Verdict(instance, share > 0, numbers[number], share, why))
    return tuple(verdicts)


def _sum(several: Iterable[Mapping[Key, int]]) -> dict[Key, int]:
    """Instances of one host may be in different levels, if their registrations say so."""
    total: dict[Key, int] = {}
    for weights in several:
        for key, weight in weights.items():
            total[key] = total.get(key, 0) + weight
    return total


# Saying why


def _no_subset(service: str, subset: str) -> str:
    return f'policy has no subset "{subset}" of {service}'


def _obstacle(service: str, instances: Sequence[Instance], rules: ServicePolicy, subset: str, here: Here) -> str:
    """Why nothing could be selected."""
    if not instances:
        return f"no instance of {service} is known"
    found = Counter(map(judge(rules, subset, here), instances))
    of_subset = len(instances) - found.pop(OTHER_SUBSET, 0)
    if not of_subset:
        return f'no instance of {service} is in subset "{subset}"'
    name = f'subset "{subset}" of {service}' if subset else service
    if found[PLAIN] == of_subset:
        return f"no instance of {name} is on a host with a hostproxy, and {_plain(service)}"
    if found[OUT_OF_REACH] == of_subset:
        return f"no instance of {name} is in a datacenter that policy permits: {_failover(service)}"
    parts = {
        "critical": sum(count for number, count in found.items() if number >= 0),
        "in maintenance": found[IN_MAINTENANCE],
        "with weight 0": found[WEIGHTLESS],
        f"without a hostproxy, and {_plain(service)}": found[PLAIN],
        f"in other datacenters, see {_failover(service)}": found[OUT_OF_REACH],
    }
    listed = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
    return f"no instance of {name} is {'healthy' if parts['critical'] else 'usable'}: {listed}"


def _plain(service: str) -> str:
    return f"policy does not permit plain text: [service.{service}] permissive"


def _failover(service: str) -> str:
    return f"[service.{service}] failover"


class _Words:
    """Reasons for verdicts."""

    def __init__(
        self, rules: ServicePolicy, subset: str, here: Here, levels: Mapping[int, Level], panic: bool
    ) -> None:
        self._rules = rules
        self._subset = subset
        self._panic = panic
        self._own = here.datacenter
        self._first = next(iter(levels.values()), None)
        used = next((level for level in levels.values() if level.share), None)
        others = [name for name in rules.failover or () if name != here.datacenter]
        self._in_use = others[used.rank - 1] if used is not None and used.rank and others else here.datacenter
        self._used_rank = used.rank if used is not None else 0
        self._nearer = f"zone {here.zone} has" if rules.prefer == "zone" else "nearer hosts have"
        self._farther = "other zone" if rules.prefer == "zone" else "farther away"

    def left_out(self, number: int, instance: Instance) -> str:
        """Why it has no level."""
        if number == OTHER_SUBSET:
            return f"not in subset {self._subset}"
        if number == OUT_OF_REACH:
            return f"datacenter {instance.datacenter}: not in {_failover(instance.service)}"
        if number == IN_MAINTENANCE:
            return _health(instance)
        return "weight 0" if number == WEIGHTLESS else f"no hostproxy there, and {_plain(instance.service)}"

    def unused(self, level: Level, instance: Instance) -> str:
        """Why nothing goes there, although something could."""
        if instance.health == CRITICAL:
            return _health(instance)
        if level.rank > self._used_rank:
            return f"datacenter {instance.datacenter}: only when {self._in_use} has none healthy"
        if not level.share:
            return f"{self._farther}: {self._nearer} enough"
        return f"a few others carry the {level.share:.1%} of this level"

    def used(self, level: Level, instance: Instance) -> str:
        """What is special about it."""
        parts = []
        if level.rank:
            parts.append(f"datacenter {self._own} has none healthy")
        elif level is not self._first:
            parts.append(f"{self._nearer} not enough healthy ones")
        if self._panic:
            parts.append(f"panic: less than {self._rules.panic_threshold} % are healthy, health is ignored")
        if instance.health in (WARNING, CRITICAL):
            parts.append(_health(instance))
        return "; ".join(parts)


def _health(instance: Instance) -> str:
    state = "in maintenance" if instance.health == MAINTENANCE else instance.health
    return f"{state}: check '{instance.reason}'" if instance.reason else state
