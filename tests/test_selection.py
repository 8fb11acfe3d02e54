"""Which instances get the traffic of a host, in which shares, and what is said about each."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostproxy.discovery.catalog import CRITICAL, HEALTH, MAINTENANCE, PASSING, WARNING, Instance
from hostproxy.mesh.policy import PREFER, ServicePolicy
from hostproxy.mesh.subsets import Subset
from hostproxy.selection import Here, Selection, Verdict, explain, select
from hostproxy.snapshot import Place

FAST = settings(max_examples=300, deadline=None, derandomize=True)
HERE = Here("h1", "dc1", "a", {})


def instance(number: int, health: str = PASSING, **more: Any) -> Instance:
    values: dict[str, Any] = {
        "service": "payments",
        "host": f"h{number}",
        "address": f"10.0.0.{number}:9000",
        "mesh": f"10.0.0.{number}:15443",
        "health": health,
        "reason": "" if health == PASSING else "http",
        **more,
    }
    return Instance(**values)


def group(first: int, healthy: int, critical: int, **more: Any) -> list[Instance]:
    states = [PASSING] * healthy + [CRITICAL] * critical
    return [instance(first + index, state, **more) for index, state in enumerate(states)]


def selected(*instances: Instance, here: Here = HERE, subset: str = "", **rules: Any) -> Selection:
    return select("payments", instances, ServicePolicy(**rules), subset, here)


def explained(*instances: Instance, here: Here = HERE, subset: str = "", **rules: Any) -> tuple[Verdict, ...]:
    return explain(instances, ServicePolicy(**rules), subset, here)


def numbers(selection: Selection) -> list[int]:
    """The hosts that traffic goes to, by their number."""
    return [int(place.address.partition(":")[0].rpartition(".")[2]) for place in selection.places]


def shares_by(attribute: str, verdicts: tuple[Verdict, ...]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for verdict in verdicts:
        value = getattr(verdict.instance, attribute)
        shares[value] = shares.get(value, 0.0) + verdict.share
    return shares


def approximately(**shares: float) -> dict[str, Any]:
    return {name: pytest.approx(share, abs=0.01) for name, share in shares.items()}


# Places


def test_instances_of_one_host_are_one_place_with_their_weights_together() -> None:
    selection = selected(
        instance(1, weight=2), instance(1, address="10.0.0.1:9001", weight=3), instance(2, datacenter="dc1")
    )
    assert selection.places == (
        Place("10.0.0.1:15443", True, "dc1", 5),
        Place("10.0.0.2:15443", True, "dc1", 1),
    )
    assert (selection.obstacle, selection.panic) == ("", False)


def test_an_instance_without_a_hostproxy_is_a_place_only_where_policy_permits() -> None:
    plain = instance(2, mesh="")
    assert numbers(selected(instance(1), plain)) == [1]
    assert selected(instance(1), plain, permissive=True).places[1] == Place("10.0.0.2:9000", False, "dc1", 1)
    assert selected(plain).obstacle == (
        "no instance of payments is on a host with a hostproxy, and policy does not permit plain text: "
        "[service.payments] permissive"
    )


def test_a_change_of_one_instance_changes_no_other_weight() -> None:
    instances = [instance(number, weight=number) for number in range(1, 6)]
    before = selected(*instances).places
    after = selected(*instances[:2], instance(3, CRITICAL, weight=3), *instances[3:]).places
    assert after == before[:2] + before[3:]
    assert [place.weight for place in selected(instance(1, weight=10), instance(2, weight=20)).places] == [10, 20]


# Health


def test_warnings_get_traffic_and_what_is_critical_or_in_maintenance_does_not() -> None:
    instances = [instance(number, state) for number, state in enumerate(HEALTH, 1)]
    assert numbers(selected(*instances)) == [1, 2]
    assert numbers(selected(instance(1), instance(2, weight=0))) == [1]


@pytest.mark.parametrize(("healthy", "panic"), [(0, True), (4, True), (5, False), (10, False)])
def test_health_is_ignored_when_too_few_are_healthy(healthy: int, panic: bool) -> None:
    selection = selected(*group(1, healthy, 10 - healthy), instance(11, MAINTENANCE), instance(12, weight=0))
    assert selection.panic == panic
    assert numbers(selection) == list(range(1, 11 if panic else healthy + 1))


def test_maintenance_is_meant_and_no_cause_for_panic() -> None:
    selection = selected(instance(1), *(instance(number, MAINTENANCE) for number in range(2, 10)))
    assert (numbers(selection), selection.panic) == ([1], False)


def test_without_a_panic_threshold_only_healthy_ones_are_used() -> None:
    assert numbers(selected(*group(1, 1, 9), panic_threshold=0)) == [1]
    selection = selected(*group(1, 0, 3), instance(4, MAINTENANCE), panic_threshold=0)
    assert selection == Selection((), "no instance of payments is healthy: 3 critical, 1 in maintenance", False)


@pytest.mark.parametrize(
    ("instances", "rules", "obstacle"),
    [
        ([], {}, "no instance of payments is known"),
        ([instance(1, MAINTENANCE)], {}, "no instance of payments is usable: 1 in maintenance"),
        (
            [instance(1, weight=0), instance(2, mesh=""), instance(3, datacenter="dc2")],
            {"failover": ()},
            "no instance of payments is usable: 1 with weight 0, 1 without a hostproxy, and policy does not permit "
            "plain text: [service.payments] permissive, 1 in other datacenters, see [service.payments] failover",
        ),
        (
            [instance(1, datacenter="dc2")],
            {"failover": ("dc3",)},
            "no instance of payments is in a datacenter that policy permits: [service.payments] failover",
        ),
        (
            [instance(1, CRITICAL, version="2")],
            {"default_subset": "v2", "subsets": {"v2": Subset(version="2")}, "panic_threshold": 0},
            'no instance of subset "v2" of payments is healthy: 1 critical',
        ),
    ],
)
def test_an_obstacle_says_what_is_in_the_way(instances: list[Instance], rules: dict[str, Any], obstacle: str) -> None:
    assert selected(*instances, **rules) == Selection((), obstacle, False)


# Subsets


SUBSETS = {
    "v1": Subset(version="1"),
    "v2": Subset(version="2"),
    "blue": Subset(tags=("blue", "fast")),
    "eu": Subset(meta=(("region", "eu"),)),
    "v2-eu": Subset(version="2", meta=(("region", "eu"),)),
}
MIXED = (
    instance(1, version="1", tags=("blue",)),
    instance(2, version="2", tags=("fast", "big", "blue")),
    instance(3, version="2", meta=(("rack", "7"), ("region", "eu"))),
    instance(4, meta=(("region", "us"),)),
)


@pytest.mark.parametrize(
    ("subset", "hosts"),
    [("", [1, 2, 3, 4]), ("v1", [1]), ("v2", [2, 3]), ("blue", [2]), ("eu", [3]), ("v2-eu", [3])],
)
def test_a_subset_has_the_instances_that_meet_all_its_criteria(subset: str, hosts: list[int]) -> None:
    assert numbers(selected(*MIXED, subset=subset, subsets=SUBSETS)) == hosts
    assert numbers(selected(*MIXED, subsets=SUBSETS, default_subset=subset)) == hosts


def test_a_subset_without_instances_and_one_that_policy_lacks() -> None:
    assert selected(MIXED[3], subset="v1", subsets=SUBSETS).obstacle == 'no instance of payments is in subset "v1"'
    for instances in ((), MIXED):
        assert selected(*instances, subset="v3", subsets=SUBSETS).obstacle == 'policy has no subset "v3" of payments'
    assert {verdict.why for verdict in explained(*MIXED, subset="v3")} == {'policy has no subset "v3" of payments'}


def test_a_subset_panics_by_itself() -> None:
    ill = instance(5, CRITICAL, version="1")
    assert selected(*MIXED, ill, subsets=SUBSETS).panic is False
    assert selected(ill, *MIXED[1:], subset="v1", subsets=SUBSETS) == Selection(
        (Place("10.0.0.5:15443", True, "dc1", 1),), "", True
    )


# Datacenters


NEAR, FIRST, SECOND = ([instance(10 * dc + n, datacenter=f"dc{dc}") for n in (1, 2)] for dc in (1, 2, 3))


def ill(instances: list[Instance]) -> list[Instance]:
    return [msgspec.structs.replace(one, health=CRITICAL, reason="http") for one in instances]


def test_another_datacenter_gets_traffic_only_when_the_nearer_ones_have_none_healthy() -> None:
    order = {"failover": ("dc2", "dc3")}
    assert numbers(selected(*SECOND, *FIRST, *NEAR, **order)) == [11, 12]
    assert numbers(selected(*SECOND, *FIRST, NEAR[0], *ill(NEAR[1:]), **order)) == [11]
    assert numbers(selected(*SECOND, *FIRST, *ill(NEAR), **order)) == [21, 22]
    assert numbers(selected(*SECOND, *ill(FIRST), *ill(NEAR), **order)) == [31, 32]
    assert numbers(selected(*SECOND, *FIRST, failover=("dc3", "dc2"))) == [31, 32]


def test_without_failover_in_policy_every_other_datacenter_follows_at_once() -> None:
    assert numbers(selected(*NEAR, *FIRST, *SECOND)) == [11, 12]
    selection = selected(*ill(NEAR), *FIRST, *SECOND)
    assert numbers(selection) == [21, 22, 31, 32]
    assert [place.datacenter for place in selection.places] == ["dc2", "dc2", "dc3", "dc3"]


def test_an_empty_failover_never_leaves_the_own_datacenter() -> None:
    assert selected(*ill(NEAR), *FIRST, failover=(), panic_threshold=0).obstacle == (
        "no instance of payments is healthy: 2 critical, 2 in other datacenters, see [service.payments] failover"
    )
    assert numbers(selected(*ill(NEAR), *FIRST, failover=())) == [11, 12]


def test_the_own_datacenter_comes_first_wherever_the_list_has_it() -> None:
    assert numbers(selected(*FIRST, *NEAR, failover=("dc2", "dc1"))) == [11, 12]


def test_few_healthy_ones_are_no_panic_while_another_datacenter_is_well() -> None:
    near = group(1, 1, 9)
    selection = selected(*near, *(instance(100 + n, datacenter="dc2") for n in range(10)))
    assert (numbers(selection), selection.panic) == ([1], False)
    alone = selected(*near, *(instance(100 + n, CRITICAL, datacenter="dc2") for n in range(10)))
    assert (len(alone.places), alone.panic) == (10, True)


def test_a_datacenter_that_is_well_does_not_panic_for_another() -> None:
    far = [instance(100 + n, CRITICAL, datacenter="dc2") for n in range(20)]
    selection = selected(*group(1, 6, 4), *far)
    assert (numbers(selection), selection.panic) == ([1, 2, 3, 4, 5, 6], False)


# Near and far


@pytest.mark.parametrize(
    ("healthy", "share"),
    [(10, 1.0), (8, 1.0), (7, 0.98), (5, 0.70), (2, 0.28), (0, 0.0)],
)
def test_the_own_zone_takes_7_fifths_of_its_healthy_share(healthy: int, share: float) -> None:
    verdicts = explained(*group(1, healthy, 10 - healthy, zone="a"), *group(50, 20, 0, zone="b"), prefer="zone")
    assert shares_by("zone", verdicts) == approximately(a=share, b=1 - share)


def test_levels_that_cannot_take_everything_share_it() -> None:
    instances = [*group(1, 4, 6, zone="a"), *group(50, 2, 8, zone="b")]
    assert shares_by("zone", explained(*instances, prefer="zone", panic_threshold=0)) == approximately(a=2 / 3, b=1 / 3)
    places = selected(*instances, prefer="zone", panic_threshold=0).places
    assert [place.weight for place in places] == [1] * 6, "the least that says so, and exactly"


def test_what_rounding_leaves_is_no_traffic() -> None:
    here = HERE._replace(bands={f"h{number}": number // 30 for number in range(100)})
    levels = [*group(1, 5, 5), *group(31, 3, 11), *group(61, 4, 0)]
    assert 1.0 - 7 * 5 / (5 * 10) - 7 * 3 / (5 * 14) > 0
    places = selected(*levels, prefer="round-trip", here=here).places
    assert [place.weight for place in places] == [7] * 5 + [5] * 3


def test_in_panic_traffic_stays_with_the_levels_that_have_healthy_ones() -> None:
    instances = [*group(1, 0, 5, zone="a"), *group(50, 2, 3, zone="b")]
    selection = selected(*instances, prefer="zone")
    assert (numbers(selection), selection.panic) == ([50, 51, 52, 53, 54], True)


def test_when_none_is_healthy_the_nearest_are_tried() -> None:
    selection = selected(*group(1, 0, 5, zone="a"), *group(50, 0, 5, zone="b"), prefer="zone")
    assert (numbers(selection), selection.panic) == ([1, 2, 3, 4, 5], True)


@pytest.mark.parametrize("prefer", ["none", "zone"])
def test_a_host_without_a_zone_prefers_none(prefer: str) -> None:
    here = HERE._replace(zone="")
    assert numbers(selected(instance(1), instance(2, zone="b"), prefer=prefer, here=here)) == [1, 2]


def test_without_an_instance_in_the_own_zone_the_others_share_alike() -> None:
    assert numbers(selected(instance(1, zone="b"), instance(2, zone="c"), prefer="zone")) == [1, 2]


def test_round_trips_make_bands_and_hosts_without_one_are_last() -> None:
    here = HERE._replace(bands={"h1": 2, "h2": 0, "h3": 0})
    instances = [instance(number) for number in (1, 2, 3, 4)]
    assert numbers(selected(*instances, prefer="round-trip", here=here)) == [2, 3]
    assert [verdict.level for verdict in explained(*instances, prefer="round-trip", here=here)] == [1, 0, 0, 2]
    assert numbers(selected(instance(4), prefer="round-trip", here=here)) == [4]
    assert numbers(selected(*instances, prefer="round-trip")) == [1, 2, 3, 4], "nobody knows round trips"
    assert numbers(selected(*instances, here=here)) == [1, 2, 3, 4], "nobody asked for it"


def test_preference_does_not_reach_into_other_datacenters() -> None:
    far = [instance(21, datacenter="dc2", zone="a"), instance(22, datacenter="dc2", zone="b")]
    assert numbers(selected(*far, prefer="zone")) == [21, 22]


def test_a_host_whose_instances_are_in_two_levels_is_one_place() -> None:
    instances = [*group(1, 5, 5, zone="a"), instance(1, address="10.0.0.1:9009", zone="b")]
    selection = selected(*instances, prefer="zone")
    assert len({place.address for place in selection.places}) == len(selection.places) == 5
    total = sum(place.weight for place in selection.places)
    # A fifth of the 70 % that stay, and all of the rest.
    assert selection.places[0].weight / total == pytest.approx(0.14 + 0.3, abs=0.01)
    assert sum(verdict.share for verdict in explained(*instances, prefer="zone")) == pytest.approx(1.0)


def test_far_places_share_what_is_little_and_it_is_said_of_those_that_get_none() -> None:
    near = group(1, 13, 7, zone="a")
    far = [instance(n, host=f"far{n}", mesh=f"10.1.{n // 256}.{n % 256}:15443", zone="b") for n in range(2000)]
    verdicts = explained(*near, *far, prefer="zone")
    assert shares_by("zone", verdicts) == approximately(a=0.91, b=0.09)
    assert {verdict.why for verdict in verdicts[20:] if not verdict.used} == {
        "a few others carry the 9.0% of this level"
    }
    drawn = [
        {place.address for place in selected(*near, *far, prefer="zone", here=HERE._replace(host=host)).places}
        for host in ("h1", "h1", "h2")
    ]
    assert drawn[0] == drawn[1] != drawn[2]


# Reasons


def test_every_instance_has_its_reason() -> None:
    here = HERE._replace(zone="a")
    found = explained(
        instance(1, zone="a"),
        instance(2, zone="b"),
        instance(3, CRITICAL, reason="serfHealth"),
        instance(4, MAINTENANCE, reason=""),
        instance(5, weight=0),
        instance(6, mesh=""),
        instance(7, datacenter="dc2"),
        instance(8, datacenter="dc9"),
        instance(9, WARNING, zone="a"),
        prefer="zone",
        failover=("dc2",),
        here=here,
    )
    assert [(one.used, one.level, round(one.share, 2), one.why) for one in found] == [
        (True, 0, 0.5, ""),
        (False, 1, 0.0, "other zone: zone a has enough"),
        (False, 1, 0.0, "critical: check 'serfHealth'"),
        (False, -1, 0.0, "in maintenance"),
        (False, -1, 0.0, "weight 0"),
        (
            False,
            -1,
            0.0,
            "no hostproxy there, and policy does not permit plain text: [service.payments] permissive",
        ),
        (False, 2, 0.0, "datacenter dc2: only when dc1 has none healthy"),
        (False, -1, 0.0, "datacenter dc9: not in [service.payments] failover"),
        (True, 0, 0.5, "warning: check 'http'"),
    ]


def test_reasons_of_a_subset_a_spill_a_failover_and_a_panic() -> None:
    assert [one.why for one in explained(*MIXED[:2], subset="v2", subsets=SUBSETS)] == ["not in subset v2", ""]
    spilled = explained(*group(1, 1, 1, zone="a"), *group(5, 2, 0, zone="b"), prefer="zone")
    assert spilled[2].why == "zone a has not enough healthy ones"
    away = explained(*ill(NEAR), *FIRST, *SECOND, failover=("dc2", "dc3"))
    assert [one.why for one in away] == [
        *["critical: check 'http'"] * 2,
        *["datacenter dc1 has none healthy"] * 2,
        *["datacenter dc3: only when dc2 has none healthy"] * 2,
    ]
    assert [one.why for one in explained(*group(1, 1, 4))][:2] == [
        "panic: less than 50 % are healthy, health is ignored",
        "panic: less than 50 % are healthy, health is ignored; critical: check 'http'",
    ]
    bands = HERE._replace(bands={"h1": 0})
    farther = explained(instance(1), instance(2), prefer="round-trip", here=bands)[1]
    assert farther.why == "farther away: nearer hosts have enough"


# Whatever there is

instances_of_any_kind = st.lists(
    st.builds(
        lambda number, health, zone, datacenter, version, weight, plain: instance(
            number,
            health,
            zone=zone,
            datacenter=datacenter,
            version=version,
            weight=weight,
            mesh="" if plain else f"10.0.0.{number}:15443",
        ),
        st.integers(1, 12),
        st.sampled_from([PASSING, *HEALTH]),
        st.sampled_from(["a", "a", "b", "c"]),
        st.sampled_from(["", "dc1", "dc1", "dc2", "dc3"]),
        st.sampled_from(["1", "2"]),
        st.integers(0, 5),
        st.booleans(),
    ),
    max_size=25,
)
rules_of_any_kind = st.builds(
    ServicePolicy,
    permissive=st.booleans(),
    prefer=st.sampled_from(PREFER),
    failover=st.sampled_from([None, (), ("dc2",), ("dc3", "dc1", "dc2")]),
    panic_threshold=st.sampled_from([0, 20, 50, 100]),
    default_subset=st.sampled_from(["", "v1"]),
    subsets=st.just(SUBSETS),
)
bands_of_any_kind = st.dictionaries(st.sampled_from([f"h{n}" for n in range(1, 13)]), st.integers(0, 3))


@FAST
@given(instances_of_any_kind, rules_of_any_kind, st.sampled_from(["", "v2"]), bands_of_any_kind)
def test_the_explanation_is_the_selection(
    instances: list[Instance], rules: ServicePolicy, subset: str, bands: dict[str, int]
) -> None:
    here = HERE._replace(bands=bands)
    selection = select("payments", instances, rules, subset, here)
    verdicts = explain(instances, rules, subset, here)
    assert [verdict.instance for verdict in verdicts] == instances
    total = sum(place.weight for place in selection.places)
    shares: dict[tuple[str, bool, str], float] = {}
    for verdict in verdicts:
        one = verdict.instance
        assert verdict.used == (verdict.share > 0)
        assert verdict.used or verdict.why
        if verdict.used:
            key = (one.mesh or one.address, bool(one.mesh), one.datacenter or "dc1")
            shares[key] = shares.get(key, 0.0) + verdict.share
    assert shares == {
        (place.address, place.secure, place.datacenter): pytest.approx(place.weight / total)
        for place in selection.places
    }
    if selection.places:
        assert sum(shares.values()) == pytest.approx(1.0)
        assert not selection.obstacle
    else:
        assert selection.obstacle
    assert all(place.weight >= 1 for place in selection.places)


@FAST
@given(instances_of_any_kind, rules_of_any_kind, st.sampled_from(["", "v2"]))
def test_one_that_is_healthy_and_in_reach_is_enough(
    instances: list[Instance], rules: ServicePolicy, subset: str
) -> None:
    reached = [
        verdict
        for verdict in explain(instances, rules, subset, HERE)
        if verdict.level >= 0 and verdict.instance.health in (PASSING, WARNING)
    ]
    if reached:
        selection = select("payments", instances, rules, subset, HERE)
        assert selection.places
        if not selection.panic:
            assert all(one.instance.health != CRITICAL for one in explain(instances, rules, subset, HERE) if one.used)


@FAST
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=4),
    st.sampled_from([0, 20, 50, 100]),
    st.data(),
)
def test_more_healthy_instances_never_mean_less_traffic_for_the_nearest(
    sizes: list[tuple[int, int]], threshold: int, data: st.DataObject
) -> None:
    instances = [
        one for band, (healthy, critical) in enumerate(sizes) for one in group(20 * band + 1, healthy, critical)
    ]
    here = HERE._replace(bands={f"h{20 * band + n}": band for band in range(len(sizes)) for n in range(1, 20)})
    rules = ServicePolicy(prefer="round-trip", panic_threshold=threshold)

    def of_nearest(instances: list[Instance]) -> float:
        return sum(one.share for one in explain(instances, rules, "", here) if one.level == 0)

    nearest = [one.instance for one in explain(instances, rules, "", here) if one.level == 0]
    ailing = [one for one in nearest if one.health == CRITICAL]
    if not ailing:
        return
    recovered = data.draw(st.sampled_from(ailing))
    well = msgspec.structs.replace(recovered, health=PASSING)
    better = [well if one is recovered else one for one in instances]
    assert of_nearest(better) >= of_nearest(instances) - 0.0101  # the tolerance of shares, twice


def test_ten_thousand_instances_are_no_stall() -> None:
    instances = [
        instance(n, CRITICAL if n % 6 == 0 else PASSING, mesh=f"10.{n // 256}.{n % 256}.1:15443", zone="abc"[n % 3])
        for n in range(10_000)
    ]
    for prefer in ("none", "zone"):
        times = []
        for _ in range(5):
            started = time.process_time()
            assert selected(*instances, prefer=prefer).places
            times.append(time.process_time() - started)
        assert min(times) < 0.05, prefer
