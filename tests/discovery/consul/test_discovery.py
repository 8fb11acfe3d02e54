from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from hostproxy.config import Host
from hostproxy.config_discovery import ConsulConfig
from hostproxy.discovery.catalog import Catalog, Instance
from hostproxy.discovery.consul.budget import Key
from hostproxy.discovery.consul.counters import Counters
from hostproxy.discovery.consul.discovery import ConsulDiscovery
from hostproxy.discovery.consul.firstuse import BUSY, ENDED, FULL
from hostproxy.discovery.consul.names import explain
from hostproxy.discovery.consul.slices import Slices
from hostproxy.discovery.consul.transport import Reply
from hostproxy.discovery.knowledge import ServiceKnowledge
from tests.discovery.consul.entries import body, entry
from tests.discovery.consul.fake_agent import FakeAgent

START = 1_700_000_000.0  # Unix seconds at which the clock is 0
SAVED = START - 500.0


class World:
    """A host with a Consul."""

    def __init__(self, clock: Clock | None = None, **config: Any) -> None:
        self.clock = clock or Clock()
        self.agent = FakeAgent(self.clock)
        self.counters = Counters()
        self.published: list[Catalog] = []
        self.config = ConsulConfig(**config)
        self.discovery = self.make()
        self.needs: dict[str, Any] = {"upstreams": (), "policy": (), "failover": {}, "coordinates": False}

    def make(self) -> ConsulDiscovery:
        discovery = ConsulDiscovery(
            self.clock,
            self.config,
            Host(name="here", address="10.0.0.5", datacenter="dc1"),
            self.agent,  # type: ignore[arg-type]
            self.counters,
            {"10.0.0.5:15001"},
            random=lambda: 0.5,
            now=lambda: START + self.clock.seconds(),
        )
        discovery.catalog.subscribe(self.published.append)
        return discovery

    def start(self, kept: Catalog | None = None, **needs: Any) -> None:
        self.need(**needs)
        self.discovery.start(kept or {}, SAVED)

    def need(self, **needs: Any) -> None:
        self.needs.update(needs)
        self.discovery.need(**self.needs)

    def run(self, seconds: float, step: float = 0.01) -> None:
        for _ in range(round(seconds / step)):
            self.clock.advance(step)

    def run_slowly(self, seconds: float) -> None:
        self.run(seconds, step=0.25)

    def hosts(self, service: str) -> list[str] | None:
        instances = self.discovery.catalog.value.get(service)
        return None if instances is None else [instance.host for instance in instances]

    def known(self, service: str, datacenter: str = "dc1") -> ServiceKnowledge:
        (found,) = (
            one
            for one in self.discovery.state().services
            if (one.service, one.datacenter) == (service, datacenter)
        )
        return found

    def want(self, service: str) -> list[bool | str]:
        """What comes of a first use: whether it is known, or why that can't be said."""
        answers: list[bool | str] = []
        self.discovery.want(service, lambda found, problem: answers.append(problem or found))
        return answers


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    stop(world)


def stop(world: World) -> None:
    world.discovery.stop()
    catalog = world.discovery.catalog.value
    asked = len(world.agent.asked)
    world.agent.set("web", entry(node="after-the-end"))
    world.run_slowly(120)
    assert (world.discovery.catalog.value is catalog, len(world.agent.asked)) == (True, asked)


def instance(service: str, host: str, datacenter: str = "dc1") -> Instance:
    return Instance(service, host, "10.0.0.1:8080", datacenter=datacenter)


# What is watched


def test_an_upstream_is_in_the_catalog_and_follows_consul_within_a_second(world: World) -> None:
    world.agent.set("web", entry(node="one"))
    world.start(upstreams=["web"])
    world.run(0.1)
    assert world.hosts("web") == ["one"]
    world.run(3)
    world.agent.set("web", entry(node="one"), entry("10.0.0.2", node="two"))
    world.run(1)
    assert world.hosts("web") == ["one", "two"]
    world.run(3)
    world.agent.set("web", entry("10.0.0.2", node="two", health="critical"))
    world.run(1)
    assert world.hosts("web") == ["two"]
    assert world.discovery.catalog.value["web"][0].health == "critical"
    known = world.known("web")
    assert (known.source, known.wanted_by, known.problem, known.index) == ("watch", "upstream", "", world.agent.index)
    assert START + 6 < known.changed <= known.confirmed <= START + world.clock.seconds()


def test_a_service_without_instances_is_known_to_have_none(world: World) -> None:
    world.start(upstreams=["web"])
    world.run(0.1)
    assert world.hosts("web") == []


def test_a_change_of_one_service_is_one_publication_that_shares_the_rest(world: World) -> None:
    names = [f"s{number}" for number in range(20)]
    for name in names:
        world.agent.set(name, entry())
    world.start(upstreams=names)
    world.run(1)
    before = world.discovery.catalog.value
    world.run(5)
    count = len(world.published)
    world.agent.set("s3", entry(node="other"))
    world.run(1)
    after = world.discovery.catalog.value
    assert len(world.published) == count + 1
    assert [name for name in names if after[name] is not before[name]] == ["s3"]


def test_the_most_important_get_the_blocking_queries(world: World) -> None:
    world = World(watches=3)
    world.start(
        kept={"used": (instance("used", "k"),)},
        upstreams=["up1", "up2"],
        policy=["named"],
        failover={"up1": ("dc2",), "used": ("dc2",)},
    )
    world.run(1)
    state = world.discovery.state()
    by_source = {(one.service, one.datacenter): one.source for one in state.services}
    assert by_source == {
        ("up1", "dc1"): "watch",
        ("up2", "dc1"): "watch",
        ("up1", "dc2"): "watch",
        ("used", "dc1"): "kept",  # asked already, but suddenly empty
        ("used", "dc2"): "poll",
    }
    assert state.watches == 3
    assert world.agent.questions("used", "dc2")
    assert not world.agent.questions("named")
    stop(world)


def test_a_change_of_needs_keeps_the_running_queries(world: World) -> None:
    world.start(upstreams=["a", "b"], policy=["c"])
    world.run(3)
    blocking = [waiting for waiting, question in world.agent.under_way.items() if question.blocking]
    assert len(blocking) == 3
    world.need(upstreams=["d", "a"], policy=["b"])
    world.run(3)
    left = {question.service: waiting for waiting, question in world.agent.under_way.items() if question.blocking}
    assert set(left) == {"a", "b", "d"}
    assert {left["a"], left["b"]} <= set(blocking)
    assert world.hosts("c") is None
    assert world.known("b").wanted_by == "policy"


@pytest.mark.parametrize("count", [61, 301])
def test_what_is_over_budget_is_asked_in_turn_at_a_bounded_rate(count: int) -> None:
    names = [f"s{number:03}" for number in range(count)]
    world = World(watches=1)
    for name in names:
        world.agent.set(name, entry(node="one"))
    world.start(upstreams=names)
    world.run(4)  # nothing is known yet: faster
    assert all(world.hosts(name) == ["one"] for name in names)
    start, asked = world.clock.seconds(), len(world.agent.asked)
    for name in names:
        world.agent.set(name, entry(node="two"))
    world.run(25)
    assert all(world.hosts(name) == ["two"] for name in names)
    assert (len(world.agent.asked) - asked) / 25 < 21
    for name in names[1:]:
        times = [question.at for question in world.agent.questions(name)]
        assert all(after - before >= 10 - 1e-6 for before, after in pairwise(times))
        assert sum(at > start for at in times) >= 1
    assert world.known(names[-1]).source == "poll"
    stop(world)


def test_an_agent_that_fails_is_not_polled_at_the_same_rate() -> None:
    world = World(watches=1)
    names = [f"s{number:03}" for number in range(100)]
    world.start({name: (instance(name, "kept"),) for name in names}, upstreams=names)
    world.agent.broken = "refused"
    world.run_slowly(20)
    before = len(world.agent.asked)
    world.run_slowly(60)
    about_services = [question for question in world.agent.asked[before:] if question.service]
    assert len(about_services) < 30
    assert world.hosts("s050") == ["kept"]
    stop(world)


def test_the_start_is_spread_and_the_most_important_come_first() -> None:
    world = World(watches=1000)
    world.start(upstreams=["up"], policy=[f"p{number}" for number in range(400)], failover={"up": ("dc2",)})
    world.run(1, step=0.001)
    assert [question.path for question in world.agent.asked if question.service][:2] == ["/v1/health/service/up"] * 2
    assert 150 <= len({question.service for question in world.agent.asked}) <= 250
    world.run(1.5, step=0.001)
    assert len({question.service for question in world.agent.asked if question.service}) == 401
    stop(world)


def test_failover_datacenters_are_watched_and_their_instances_follow_those_of_the_own(world: World) -> None:
    world.agent.set("web", entry("10.0.0.9", node="zz"))
    world.agent.set("web", entry("10.2.0.1", node="aa"), datacenter="dc2")
    world.start(upstreams=["web"], failover={"web": ("dc2", "dc1")})
    world.run(0.2)
    found = [(one.datacenter, one.host) for one in world.discovery.catalog.value["web"]]
    assert found == [("dc1", "zz"), ("dc2", "aa")]
    world.need(failover={})
    world.run(0.2)
    assert world.hosts("web") == ["zz"]


def test_the_own_datacenter_is_asked_under_the_name_that_consul_has_for_it() -> None:
    world = World(datacenter="east")
    world.agent.set("web", entry(), datacenter="east")
    world.start(upstreams=["web"], failover={"web": ("east",)})
    world.run(0.2)
    assert [one.datacenter for one in world.discovery.catalog.value["web"]] == ["dc1"]
    stop(world)


# Faults


def test_with_the_agent_gone_the_last_known_stays_for_ever_and_heals(world: World) -> None:
    world.agent.set("web", entry(node="one"))
    world.start(upstreams=["web"])
    world.run(1)
    world.agent.broken = "refused"
    world.agent.wake()
    world.run_slowly(3600)
    assert world.hosts("web") == ["one"]
    state = world.discovery.state()
    assert "does not answer" in state.problem
    assert START < state.since < START + 100
    assert world.known("web").problem
    world.agent.broken = ""
    world.agent.set("web", entry(node="two"))
    world.run_slowly(61)
    assert world.hosts("web") == ["two"]
    assert (world.discovery.state().problem, world.known("web").problem) == ("", "")


@pytest.mark.parametrize("watches", [1, 20])
def test_all_is_known_within_two_seconds_after_the_agent_has_come_back(watches: int) -> None:
    world = World(watches=watches)  # with one, the others are polled
    names = [f"s{number}" for number in range(20)]
    world.agent.broken = "refused"
    world.start(upstreams=names)
    world.run_slowly(300)
    assert [world.hosts(name) for name in names] == [None] * 20
    assert len(world.agent.asked) < 300 * 20
    world.agent.broken = ""
    for name in names:
        world.agent.set(name, entry(node="one"))
    world.run(2)
    assert [world.hosts(name) for name in names] == [["one"]] * 20
    assert world.discovery.state().problem == ""
    stop(world)


def test_all_is_known_within_two_seconds_after_a_leader_was_elected() -> None:
    world = World()
    recoveries: list[float] = []
    world.discovery.recovered = lambda: recoveries.append(world.clock.seconds())
    world.agent.broken = "refused"
    world.start(upstreams=["web"])
    world.run_slowly(60)
    world.agent.broken = ""
    world.agent.status = 500  # "No cluster leader"
    world.run_slowly(5)
    assert recoveries == []
    world.agent.status = 200
    world.agent.set("web", entry(node="one"))
    world.run(2)
    assert world.hosts("web") == ["one"]
    assert len(recoveries) == 1
    stop(world)


@pytest.mark.parametrize("data", [b"<html>", b"null", b"[1,2,3]", b'[{"Node"', b""])
def test_an_answer_that_is_none_changes_nothing(world: World, data: bytes) -> None:
    world.agent.set("web", entry(node="one"))
    world.start(upstreams=["web"])
    world.run(1)
    world.agent.raw("web", data)
    world.run_slowly(60)
    assert world.hosts("web") == ["one"]
    assert "not what Consul answers" in world.known("web").problem
    assert world.counters.errors["malformed"] >= 1
    world.agent.set("web", entry(node="two"))
    world.run_slowly(60)
    assert world.hosts("web") == ["two"]


def test_poisoned_instances_are_left_out_counted_and_told(world: World) -> None:
    world.agent.set("web", entry("127.0.0.1", node="bad"), entry(node="good"))
    world.start(upstreams=["web"])
    world.run(1)
    assert world.hosts("web") == ["good"]
    assert world.counters.refused_instances == 1
    assert world.known("web").problem == "left out: 1 loopback"
    # All that are left are poisoned: nothing is to be doubted about that.
    world.agent.set("web", entry("127.0.0.1", node="bad"))
    world.run(1)
    assert world.hosts("web") == []


@pytest.mark.parametrize("seconds", [60, 3600])
def test_an_answer_that_acls_emptied_is_an_error(world: World, seconds: int) -> None:
    world.agent.set("web", entry(node="one"))
    world.start(upstreams=["web"])
    world.run(1)
    world.agent.filtered = True
    world.agent.wake()
    world.run_slowly(seconds)
    assert world.hosts("web") == ["one"]
    assert "ACL token" in world.known("web").problem
    assert world.counters.errors["filtered"] >= 1
    world.agent.filtered = False
    world.agent.set("web", entry(node="two"))
    world.run_slowly(60)
    assert world.hosts("web") == ["two"]


def test_an_answer_that_acls_emptied_is_no_knowledge_either(world: World) -> None:
    world.agent.filtered = True
    world.start(upstreams=["web"])
    world.run(5)
    assert world.hosts("web") is None
    assert "ACL token" in world.known("web").problem
    assert world.want("web") == []
    world.run(2.1)
    assert world.hosts("web") is None


def test_an_answer_that_acls_thinned_out_is_used_only_when_nothing_better_is_known(world: World) -> None:
    world.agent.filtered = world.agent.partly = True
    world.agent.set("web", entry(node="visible"))
    world.start(upstreams=["web"])
    world.run(1)
    assert world.hosts("web") == ["visible"]
    world.agent.filtered = False
    world.agent.set("web", entry(node="visible"), entry("10.0.0.2", node="hidden"))
    world.run(5)
    assert world.hosts("web") == ["hidden", "visible"]
    world.agent.filtered = True
    world.agent.set("web", entry(node="visible"))
    world.run_slowly(60)
    assert world.hosts("web") == ["hidden", "visible"]
    assert "ACL token" in world.known("web").problem


@pytest.mark.parametrize("rights", ["no_rights", "no_node_rights"])
def test_rights_that_were_lost_without_a_word_are_found_out_by_the_names(world: World, rights: str) -> None:
    world.agent.set("web", entry(node="one"))
    world.start(upstreams=["web"])
    world.run(1)
    setattr(world.agent, rights, True)
    world.agent.index += 1
    world.agent.wake()
    world.run_slowly(3600)
    assert world.hosts("web") == ["one"]
    assert "ACL token may not read" in world.known("web").problem
    assert ("may not read" in world.discovery.state().problem) is (rights == "no_rights")
    assert world.counters.suppressed_empty == 1
    assert len(world.agent.asked) < 3600 / 3
    setattr(world.agent, rights, False)
    world.agent.set("web", entry(node="two"))
    world.run_slowly(60)
    assert world.hosts("web") == ["two"]
    assert world.known("web").problem == ""


def test_a_service_that_went_while_rights_were_lost_goes_in_the_end(world: World) -> None:
    world.agent.set("web", entry(node="one"))
    world.start(upstreams=["web"])
    world.run(1)
    world.agent.no_rights = True
    world.agent.set("web")
    world.run_slowly(600)
    assert world.hosts("web") == ["one"]
    world.agent.no_rights = False
    world.run_slowly(100)
    assert world.hosts("web") == []


@pytest.mark.parametrize("watches", [1, 2])
def test_a_service_that_is_gone_is_held_and_then_believed(watches: int) -> None:
    world = World(watches=watches, hold_empty=30.0)  # with one, "web" is polled
    world.agent.set("web", entry(node="one"))
    world.start(upstreams=["a", "web"])
    world.run_slowly(30)
    world.agent.set("web")
    world.run_slowly(15)
    assert world.hosts("web") == ["one"]
    assert world.known("web").held
    world.run_slowly(13)
    assert world.hosts("web") == ["one"]
    world.run_slowly(20)
    assert world.hosts("web") == []
    assert not world.known("web").held
    assert world.counters.suppressed_empty == 1
    world.agent.set("web", entry(node="two"))
    world.run_slowly(15)
    assert world.hosts("web") == ["two"]
    stop(world)


def test_a_service_that_comes_back_while_it_is_held_was_never_gone(world: World) -> None:
    world.agent.set("web", entry(node="one"))
    world.start(upstreams=["web"])
    world.run(1)
    published = len(world.published)
    world.agent.set("web")
    world.run_slowly(20)
    assert world.known("web").held
    world.agent.set("web", entry(node="one"))
    world.run_slowly(100)
    assert world.hosts("web") == ["one"]
    assert not world.known("web").held
    assert len(world.published) == published


def test_what_is_held_stays_when_the_agent_is_gone_at_its_end(world: World) -> None:
    world.agent.set("web", entry(node="one"))
    world.start(upstreams=["web"])
    world.run(1)
    world.agent.set("web")
    world.run_slowly(20)
    assert world.known("web").held
    world.agent.broken = "refused"
    world.agent.wake()
    world.run_slowly(600)
    assert world.hosts("web") == ["one"]
    world.agent.broken = ""
    world.run_slowly(20)
    assert world.hosts("web") == ["one"]
    world.run_slowly(100)
    assert world.hosts("web") == []


def test_with_no_hold_a_service_that_is_gone_is_still_looked_into(world: World) -> None:
    world = World(hold_empty=0.0)
    world.agent.set("web", entry(node="one"))
    world.start(upstreams=["web"])
    world.run(1)
    world.agent.names = {"consul": [], "web": []}
    world.agent.set("web")
    world.run(5)
    assert world.hosts("web") == ["one"]
    world.agent.names = None
    world.run_slowly(60)
    assert world.hosts("web") == []
    stop(world)


@pytest.mark.parametrize("watches", [1, 2])
@pytest.mark.parametrize("rights", ["no_rights", "no_node_rights"])
@pytest.mark.parametrize("kept", [{}, {"web": ()}])
def test_a_token_without_rights_at_the_first_start_is_told_and_mended_soon(
    rights: str, watches: int, kept: Catalog
) -> None:
    world = World(watches=watches)  # with one, "web" is polled
    world.agent.set("a", entry(node="one"))
    world.agent.set("web", entry(node="one"))
    setattr(world.agent, rights, True)
    world.start(kept, upstreams=["a", "web"])
    world.run_slowly(30)
    assert world.hosts("a") is None
    assert world.hosts("web") == (None if not kept else [])
    assert world.known("web").problem == explain(rights)
    assert world.discovery.state().problem == (explain(rights) if rights == "no_rights" else "")
    assert world.counters.suppressed_empty == 0
    world.run_slowly(3600)
    assert len(world.agent.asked) < 3600 * 0.6
    setattr(world.agent, rights, False)  # and nothing else: no query is answered because of that
    world.run_slowly(16)
    assert [world.hosts("a"), world.hosts("web")] == [["one"], ["one"]]
    assert (world.known("web").problem, world.discovery.state().problem) == ("", "")
    stop(world)


def test_a_service_that_is_registered_while_it_is_looked_into_is_no_question_of_rights(world: World) -> None:
    told: list[str] = []
    observer = lambda event: told.append(str(event.get("problem", "")))  # noqa: E731
    globalLogPublisher.addObserver(observer)
    try:
        world.agent.names = {"consul": [], "web": []}  # its names are newer than its answers
        world.start(upstreams=["web"])
        world.run(0.2)
        world.agent.names = None
        world.agent.set("web", entry(node="one"))
        world.run(2)
    finally:
        globalLogPublisher.removeObserver(observer)
    assert world.hosts("web") == ["one"]
    assert explain("no_node_rights") not in told


def test_an_empty_service_is_not_believed_while_the_names_are_unknown(world: World) -> None:
    world.agent.names = {"consul": "x" * 3_000_000}  # more than is read
    world.start(upstreams=["web"])
    world.run_slowly(20)
    assert world.hosts("web") is None
    assert "being looked into" in world.known("web").problem
    world.agent.names = None
    world.run_slowly(20)
    assert (world.hosts("web"), world.known("web").problem) == ([], "")


def test_what_was_asked_before_the_token_had_rights_is_asked_again_when_it_has(world: World) -> None:
    world.agent.set("web", entry(node="visible"))
    world.start(upstreams=["web"])
    world.run(5)
    world.agent.names = {}
    world.run_slowly(80)
    assert world.discovery.state().problem == explain("no_rights")
    world.agent.broken = "refused"  # which does not make it forgotten
    world.run_slowly(10)
    world.agent.broken = ""
    world.agent.services["", "web"] = body(entry(node="visible"), entry("10.0.0.2", node="too"))
    assert [question.blocking for question in world.agent.under_way.values()] == [True]
    world.agent.names = None
    world.run_slowly(16)
    assert world.discovery.state().problem == ""
    assert world.hosts("web") == ["too", "visible"]
    asked = len(world.agent.questions("web"))
    world.agent.broken = "refused"
    world.run_slowly(70)
    assert world.discovery.state().problem
    world.agent.broken = ""
    world.run_slowly(10)
    assert world.discovery.state().problem == ""
    assert len(world.agent.questions("web")) == asked  # rights were the same all the time


def test_a_service_that_the_token_may_read_from_now_on_is_known_within_a_minute(world: World) -> None:
    world.agent.set("web", entry(node="one"))
    world.start(upstreams=["web", "later"])
    world.run_slowly(70)
    assert world.hosts("later") == []
    # Rights that are added wake no query, but the names have it.
    world.agent.services["", "later"] = body(entry(node="two"))
    world.run_slowly(70)
    assert world.hosts("later") == ["two"]
    stop(world)


def test_another_token_has_every_watch_ask_again_one_after_the_other() -> None:
    names = [f"s{number}" for number in range(300)]
    world = World(watches=400)
    world.start(upstreams=names)
    world.run(5)
    assert all(world.hosts(name) == [] for name in names)  # the token sees that there is a Consul, and nothing else
    for name in names:
        world.agent.services["", name] = body(entry(node="one"))
    asked = len(world.agent.asked)
    world.run(5)
    assert len(world.agent.asked) == asked
    world.agent.token_changed()
    world.run(0.5, step=0.001)
    assert 50 <= len(world.agent.asked) - asked <= 150
    world.need(policy=["more"])  # which does not make it forgotten
    world.run(2.5, step=0.001)
    assert all(world.hosts(name) == ["one"] for name in names)
    assert all(len([q for q in world.agent.questions(name)[-3:] if not q.blocking]) >= 1 for name in names)
    stop(world)
    asked = len(world.agent.asked)
    world.agent.token_changed()
    world.run(1)
    assert len(world.agent.asked) == asked


def test_that_everything_is_gone_costs_few_questions_about_names() -> None:
    world = World()
    names = [f"s{number}" for number in range(100)]
    for name in names:
        world.agent.set(name, entry())
    world.start(upstreams=names)
    world.run(3)
    world.agent.no_rights = True
    world.agent.index += 1
    before = len(world.agent.asked)
    world.agent.wake()
    world.run_slowly(60)
    catalog = [question for question in world.agent.asked[before:] if not question.service]
    assert len(catalog) <= 65
    assert all(world.hosts(name) == ["db-1"] for name in names)
    stop(world)


# From disk


def test_the_kept_catalog_is_in_force_until_consul_answers(world: World) -> None:
    world.agent.silent = True
    kept = {"web": (instance("web", "k1"), instance("web", "k2", "dc2")), "old": (instance("old", "k3"),), "none": ()}
    world.start(kept, upstreams=["web"], failover={"web": ("dc2",)})
    assert (world.hosts("web"), world.hosts("old"), world.hosts("none")) == (["k1", "k2"], ["k3"], [])
    world.run_slowly(600)
    assert (world.hosts("web"), world.hosts("old")) == (["k1", "k2"], ["k3"])
    known = world.known("web")
    assert (known.source, known.confirmed, known.changed) == ("kept", SAVED, SAVED)
    assert world.known("old").wanted_by == "traffic"
    world.agent.silent = False
    world.agent.set("web", entry(node="new"))
    world.agent.set("web", entry("10.0.0.2", node="far"), datacenter="dc2")
    world.run_slowly(400)
    assert world.hosts("web") == ["new", "far"]
    assert world.known("web").source == "watch"


def test_kept_services_that_nobody_uses_are_forgotten_after_an_hour(world: World) -> None:
    for name in ("old", "busy"):
        world.agent.set(name, entry(node="one"))
    world.start({name: (instance(name, "k"),) for name in ("old", "busy")})
    world.run_slowly(1800)
    world.discovery.used(["busy", "never heard of"])
    world.run_slowly(1870)
    assert (world.hosts("old"), world.hosts("busy")) == (None, ["one"])
    world.run_slowly(1800)
    assert world.hosts("busy") is None


# First use


def test_a_name_is_looked_up_when_it_is_used_first(world: World) -> None:
    world.agent.set("web", entry(node="one"))
    world.start()
    world.run(1)
    assert world.hosts("web") is None
    known_before: list[Any] = []
    world.discovery.want("web", lambda found, _: known_before.append((found, world.hosts("web"))))
    also = world.want("web")
    world.run(0.05)
    assert known_before == [(True, ["one"])]
    assert also == [True]
    world.run(5)
    assert len([question for question in world.agent.questions("web") if not question.blocking]) == 2
    assert (world.known("web").wanted_by, world.known("web").source) == ("traffic", "watch")
    world.agent.set("web", entry(node="two"))
    world.run(1)
    assert world.hosts("web") == ["two"]
    assert world.want("web") == [True]


def test_a_name_that_nobody_has_costs_one_question_a_second(world: World) -> None:
    world.start()
    world.run(1)
    answers = []
    for _ in range(500):
        answers.append(world.want("nobody"))
        world.run(0.01)
    world.run(1)
    assert answers == [[False]] * 500
    assert len(world.agent.questions("nobody")) <= 6
    assert world.hosts("nobody") is None
    world.agent.set("nobody", entry())
    world.run(1)
    answer = world.want("nobody")
    world.run(0.1)
    assert answer == [True]


@pytest.mark.parametrize("name", ["", "A", "a.b", "../x", "x" * 64, "host", "a/b", "a?dc=x", "é"])
def test_what_is_no_name_is_refused_at_once(world: World, name: str) -> None:
    world.start()
    world.run(1)
    before = len(world.agent.asked)
    assert world.want(name) == [False]
    world.run(1)
    assert len(world.agent.asked) == before


def test_made_up_names_are_bounded_in_rate_number_and_time(world: World) -> None:
    world.start()
    world.run(2)
    before, start = len(world.agent.asked), world.clock.seconds()
    answers = [world.want(f"n{number}") for number in range(300)]
    assert sum(answer == [FULL] for answer in answers) == 200  # more than may wait
    world.run(0.5)
    assert len(world.agent.asked) - before <= 20 + 5
    world.run(1.6)
    counts = Counter(answer for (answer,) in answers)
    assert set(counts) == {False, BUSY, FULL}  # the rest: patience is over
    assert 55 <= counts[BUSY] <= 65
    assert len(world.agent.asked) - before <= 20 + 10 * (world.clock.seconds() - start)
    assert world.counters.errors["first_use_full"] == 200


@pytest.mark.parametrize(
    ("fault", "value", "problem"),
    [
        ("silent", True, "no answer of use from Consul within 2 s"),
        ("broken", "refused", "the agent does not answer: refused"),
        ("status", 500, "Consul answers 500 'No cluster leader'"),
        ("status", 403, "Consul answers 403 'No cluster leader'"),
        ("filtered", True, "the ACL token may not read all of it: give it service_prefix and node_prefix read"),
        ("services", {("", "web"): b"<html>"}, explain("malformed")),
    ],
)
def test_a_first_use_that_consul_does_not_answer_ends_in_time_and_is_not_remembered(
    world: World, fault: str, value: object, problem: str
) -> None:
    world.start()
    world.run(1)
    before = getattr(world.agent, fault)
    setattr(world.agent, fault, value)
    answers = world.want("web")
    world.run(2.05)
    assert answers == [problem]
    assert world.hosts("web") is None
    setattr(world.agent, fault, before)
    world.agent.set("web", entry(node="one"))
    answers = world.want("web")
    world.run(0.1)
    assert (answers, world.hosts("web")) == ([True], ["one"])


@pytest.mark.parametrize("rights", ["no_rights", "no_node_rights"])
def test_a_first_use_of_what_the_token_may_not_read_says_so(world: World, rights: str) -> None:
    world.agent.set("web", entry(node="one"))
    setattr(world.agent, rights, True)
    world.start()
    world.run(1)
    answers = [world.want("web"), world.want("web")]
    world.run(1.1)
    assert answers == [[explain(rights)]] * 2
    assert world.hosts("web") is None
    setattr(world.agent, rights, False)
    answer = world.want("web")
    world.run(0.1)
    assert (answer, world.hosts("web")) == ([True], ["one"])


def test_a_first_use_is_no_proof_before_the_names_were_read(world: World) -> None:
    world.start()
    assert not world.discovery.state().names
    unknown = world.want("web")
    world.run(0.04)
    assert unknown == []
    world.run(0.1)
    assert unknown == [False]


def test_a_first_use_after_all_rights_were_lost_says_so(world: World) -> None:
    world.start()
    world.run(2)
    assert world.discovery.state().names == ("consul",)
    world.agent.set("web", entry(node="one"))
    world.agent.no_rights = True
    world.run_slowly(70)
    answer = world.want("web")
    world.run(1.1)
    assert answer == [explain("no_rights")]


def test_a_first_use_whose_other_datacenter_does_not_answer_is_a_problem(world: World) -> None:
    world.agent.raw("web", b"<html>", datacenter="dc2")
    world.start(failover={"web": ("dc2",)})
    world.run(1)
    answer = world.want("web")
    world.run(0.1)
    assert answer == [explain("malformed")]


def test_a_first_use_looks_in_the_datacenters_of_failover_too() -> None:
    world = World(watches=1)
    world.agent.set("web", entry(node="far"), datacenter="dc2")
    world.start(upstreams=["a"], policy=["web"], failover={"web": ("dc2",)})
    world.run(1)
    assert world.hosts("web") is None  # over budget, and nobody used it
    answer = world.want("web")
    world.run(0.2)
    assert (answer, world.hosts("web")) == ([True], ["far"])
    world.run(1)
    assert world.known("web").source == "poll"
    stop(world)


def test_nobody_waits_after_the_end(world: World) -> None:
    world.agent.silent = True
    world.start()
    answer = world.want("web")
    world.discovery.stop()
    assert answer == [ENDED]
    assert world.want("web") == [ENDED]


# Names, and many instances


def test_the_names_of_all_services_are_shown(world: World) -> None:
    for name in ("b", "a"):
        world.agent.set(name, entry())
    world.start()
    world.run_slowly(5)
    assert world.discovery.state().names == ("a", "b", "consul")
    world.agent.set("c", entry())
    world.run_slowly(70)
    assert world.discovery.state().names == ("a", "b", "c", "consul")
    assert len(world.agent.asked) <= 3


class Turns(Clock):
    """A clock that runs what is due, but nothing that this has put off to the next turn."""

    def advance(self, amount: float) -> None:
        self.rightNow += amount
        for call in [call for call in self.getDelayedCalls() if call.getTime() <= self.rightNow]:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)


def test_a_long_answer_is_one_publication() -> None:
    def many(node: str) -> list[Any]:
        return [entry(f"10.0.{number >> 8}.{number & 255}", node=node) for number in range(1000)]

    world = World(clock=Turns())
    world.agent.set("web", *many("one"))
    world.start(upstreams=["web"])
    world.run(3, step=0.001)
    assert set(world.hosts("web") or ()) == {"one"}
    count = len(world.published)
    world.agent.set("web", *many("two"))
    world.run(1, step=0.001)
    assert set(world.hosts("web") or ()) == {"two"}
    assert len(world.published) == count + 1


def test_no_turn_takes_more_than_a_piece_and_only_the_newest_answer_is_finished() -> None:
    clock = Turns()
    slices = Slices(clock)
    done: list[str] = []

    def job(name: str) -> Iterator[None]:
        for number in range(3):
            done.append(f"{name}{number}")
            yield

    one, two = job("a"), job("b")
    slices.add(one)
    slices.add(two)
    for expected in (["a0"], ["a0", "a1"]):
        clock.advance(0)
        assert done == expected
    slices.remove(one)
    for _ in range(6):
        clock.advance(0)
    assert done == ["a0", "a1", "b0", "b1", "b2"]
    assert not clock.getDelayedCalls()


def test_an_answer_that_is_being_taken_gives_way_to_a_newer_one() -> None:
    world = World(clock=Turns())
    world.start(upstreams=["web"])
    world.run(0.2, step=0.001)
    watched = world.discovery._watched[Key("web", "dc1")]

    def answer(node: str) -> Reply:
        entries = [entry(f"10.0.{number >> 8}.{number & 255}", node=node) for number in range(1000)]
        return Reply(status=200, body=body(*entries))

    count = len(world.published)
    assert watched.take(answer("old")) == ""
    for _ in range(5):
        world.clock.advance(0)
    assert world.hosts("web") == []  # under way
    assert watched.take(answer("new")) == ""
    world.run(0.2, step=0.001)
    assert set(world.hosts("web") or ()) == {"new"}
    assert len(world.published) == count + 1


def test_a_very_long_answer_that_is_none_changes_nothing(world: World) -> None:
    world.agent.set("web", entry(node="one"))
    world.start(upstreams=["web"])
    world.run(1)
    for number, data in enumerate((b"x" * 3_000_000, b"[" + b"1," * 2_000_000 + b"1]"), 1):
        world.agent.raw("web", data)
        world.run(20)
        assert world.hosts("web") == ["one"]
        assert "not what Consul answers" in world.known("web").problem
        assert world.counters.errors["malformed"] == number
    many = [entry(f"10.0.{number >> 8}.{number & 255}", node="two") for number in range(2500)]
    world.agent.set("web", *many)
    world.run(20)
    assert world.hosts("web") == ["two"] * 2500
    assert world.known("web").problem == ""
