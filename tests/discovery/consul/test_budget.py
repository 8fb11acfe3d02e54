from __future__ import annotations

from twisted.internet.task import Clock

from hostproxy.discovery.consul.budget import Bucket, Key, Needs, Traffic, plan


def keys(text: str) -> list[Key]:
    return [Key(*word.split("@")) for word in text.split()]


NEEDS = Needs(("u1", "u2"), ("t1", "t2", "u1"), ("p1", "t1"), {"u1": ("b",), "t2": ("b", "c"), "p1": ("b",)})
ORDER = keys("u1@a u2@a u1@b t1@a t2@a t2@b t2@c p1@a p1@b")


def test_upstreams_come_before_traffic_and_policy_and_the_own_datacenter_before_others() -> None:
    wanted = NEEDS.keys("a")
    assert list(wanted) == ORDER
    assert list(wanted.values()) == ["upstream"] * 3 + ["traffic"] * 4 + ["policy"] * 2


def test_what_is_over_budget_is_polled_unless_only_policy_names_it() -> None:
    wanted = NEEDS.keys("a")
    for limit in range(1, 12):
        planned = plan(wanted, (), limit)
        assert list(planned.watched) == ORDER[:limit]
        assert list(planned.polled) == ORDER[limit:7]


def test_running_queries_stay_among_those_wanted_for_the_same_reason_only() -> None:
    wanted = NEEDS.keys("a")
    assert set(plan(wanted, keys("t2@c p1@b"), 5).watched) == set(keys("u1@a u2@a u1@b t2@c t1@a"))
    assert set(plan(wanted, keys("t2@c p1@b"), 3).watched) == set(keys("u1@a u2@a u1@b"))
    assert set(plan(wanted, keys("p1@b"), 8).watched) == {*ORDER[:7], Key("p1", "b")}


def test_a_bucket_permits_a_burst_and_then_its_rate() -> None:
    clock = Clock()
    bucket = Bucket(10.0, 20, clock.seconds)
    assert sum(bucket.take() for _ in range(100)) == 20
    assert 0 < bucket.wait() <= 0.1
    clock.advance(bucket.wait())
    assert [bucket.take(), bucket.take()] == [True, False]
    clock.advance(1.0)
    assert sum(bucket.take() for _ in range(100)) == 10
    clock.advance(1000.0)
    assert sum(bucket.take() for _ in range(100)) == 20


def test_traffic_is_remembered_for_an_hour_and_bounded() -> None:
    clock = Clock()
    traffic = Traffic(clock.seconds)
    assert traffic.use(["a", "b"])
    clock.advance(1800)
    assert not traffic.use(["a"])
    assert traffic.services() == ["a", "b"]
    clock.advance(1801)
    assert traffic.expire()
    assert not traffic.expire()
    assert traffic.services() == ["a"]
    assert traffic.use(f"s{number}" for number in range(1000))
    assert len(traffic.services()) == 1000
    assert "a" not in traffic.services()
