"""The instances of a service that may be used, by how near they are, and the share of the traffic for each level.

First levels of the own datacenter, by zone or round-trip time where policy prefers one; then the datacenters of
``failover``. The nearest datacenter with a healthy instance takes all traffic. Its levels share it as Envoy's
priorities do: the first takes all as long as 5 of 7 of it are healthy; what it can't take spills over to the next.
When too few are healthy for that to help, health is ignored: panic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from hostproxy.discovery.catalog import CRITICAL, MAINTENANCE
from hostproxy.upstream.portions import portions

if TYPE_CHECKING:
    from hostproxy.discovery.catalog import Instance
    from hostproxy.mesh.policy import ServicePolicy

# Address, whether it is a mesh port, datacenter. The instances behind one mesh port are one place.
Key = tuple[str, bool, str]

# Where an instance stands: the number of its level, near to far; below 0 why it has none.
OTHER_SUBSET, OUT_OF_REACH, IN_MAINTENANCE, WEIGHTLESS, PLAIN = range(-5, 0)
FAR = 1 << 20  # levels of the own datacenter are below; those after it begin at a multiple each
UNKNOWN = FAR - 1  # the band of hosts without coordinates


class Here(NamedTuple):
    """The host that calls."""

    host: str
    datacenter: str
    zone: str
    bands: Mapping[str, int]  # by host name: how far away in round-trip time, 0 is nearest; empty: nobody knows


class Level:
    """Instances that are equally near."""

    __slots__ = ("critical", "healthy", "healthy_weight", "portions", "rank", "share", "total", "weights")

    def __init__(self, rank: int) -> None:
        self.rank = rank  # of its datacenter
        self.healthy: list[Instance] = []
        self.critical: list[Instance] = []
        self.healthy_weight = self.total = 0
        self.share = 0.0  # of the traffic
        self.weights: dict[Key, int] = {}  # of the instances in use
        self.portions: dict[Key, int] = {}  # the same, made to fit the shares of the levels


class Decision(NamedTuple):
    """Levels with their shares."""

    levels: dict[int, Level]  # by number, near to far
    panic: bool


def judge(rules: ServicePolicy, subset: str, here: Here) -> Callable[[Instance], int]:
    """Return what says where an instance stands: a closure, as it may be called ten thousand times in a row."""
    criteria = rules.subsets[subset] if subset else None
    permissive = rules.permissive
    ranks = {"": 0, here.datacenter: 0}
    for datacenter in rules.failover or ():
        ranks.setdefault(datacenter, len(ranks) - 1)
    beyond = 1 if rules.failover is None else OUT_OF_REACH
    rank_of = ranks.get
    zone = here.zone if rules.prefer == "zone" else ""
    band_of = here.bands.get if rules.prefer == "round-trip" else None

    def level_of(instance: Instance) -> int:
        if criteria is not None and not (
            (not criteria.version or criteria.version == instance.version)
            and all(tag in instance.tags for tag in criteria.tags)
            and all(pair in instance.meta for pair in criteria.meta)
        ):
            return OTHER_SUBSET
        rank = rank_of(instance.datacenter, beyond)
        if rank < 0:
            return OUT_OF_REACH
        if instance.health == MAINTENANCE:
            return IN_MAINTENANCE
        if instance.weight < 1:
            return WEIGHTLESS
        if not instance.mesh and not permissive:
            return PLAIN
        if rank:
            return FAR * rank
        if zone:
            return 0 if instance.zone == zone else 1
        return band_of(instance.host, UNKNOWN) if band_of is not None else 0

    return level_of


def decide(instances: Iterable[Instance], rules: ServicePolicy, subset: str, here: Here) -> Decision:
    """Form the levels and share the traffic out. ``subset`` is "" or one that policy defines."""
    level_of = judge(rules, subset, here)
    found: dict[int, Level] = {}
    for instance in instances:
        number = level_of(instance)
        if number < 0:
            continue
        level = found.get(number)
        if level is None:
            level = found[number] = Level(number // FAR)
        level.total += instance.weight
        if instance.health == CRITICAL:
            level.critical.append(instance)
        else:
            level.healthy.append(instance)
            level.healthy_weight += instance.weight
    levels = dict(sorted(found.items())) if len(found) > 1 else found
    panic = _share_out(list(levels.values()), rules.panic_threshold)
    _weigh([level for level in levels.values() if level.share], panic, here)
    return Decision(levels, panic)


def _share_out(levels: list[Level], threshold: int) -> bool:
    """Give each level its share of the traffic; say whether health is to be ignored within it.

    A level without healthy instances gets nothing while another one has some, in panic too: where the healthy ones
    are is the best that is known. So more healthy instances in a level never mean less traffic for it.
    """
    healthy = sum(level.healthy_weight for level in levels)
    if not healthy:
        if levels and threshold:
            levels[0].share = 1.0
        return bool(levels and threshold)
    rank = next(level.rank for level in levels if level.healthy_weight)
    near = [level for level in levels if level.rank == rank]
    # What each could take if its callers were only its own: 7/5 of its healthy share, as Envoy has it.
    able = [min(1.0, 7 * level.healthy_weight / (5 * level.total)) for level in near]
    if sum(able) < 1.0:
        for level, part in zip(near, able, strict=True):
            level.share = part / sum(able)
        # Health is doubted when few are healthy, here and in all that is in reach: the outage of one datacenter
        # is believed when another one is well.
        return all(
            100 * sum(level.healthy_weight for level in some) < threshold * sum(level.total for level in some)
            for some in (near, levels)
        )
    left = 1.0
    for level, part in zip(near, able, strict=True):
        level.share = min(part, left)
        left -= level.share
        if left < 1e-9:  # what rounding leaves is no traffic
            break
    return False


def _weigh(levels: Sequence[Level], panic: bool, here: Here) -> None:
    """Add up what is behind each place. The weights of a sole level stay as they are, whatever happens to others."""
    for level in levels:
        weights = level.weights
        for some in (level.healthy, level.critical) if panic else (level.healthy,):
            for instance in some:
                key = key_of(instance, here)
                weights[key] = weights.get(key, 0) + instance.weight
        level.portions = weights
    if len(levels) > 1:
        seed = crc32(here.host.encode())
        scaled = portions(
            [(level.share, level.weights) for level in levels],
            lambda key: crc32(key[0].encode(), seed) / (1 << 32),
        )
        for level, each in zip(levels, scaled, strict=True):
            level.portions = each


def key_of(instance: Instance, here: Here) -> Key:
    """The place that an instance is reached at."""
    mesh = instance.mesh
    return mesh or instance.address, bool(mesh), instance.datacenter or here.datacenter
