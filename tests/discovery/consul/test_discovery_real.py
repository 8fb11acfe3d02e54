"""The plain cases on a real Consul; what it can't be made to do is in test_discovery."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest

from hostproxy.config import Host
from hostproxy.config_discovery import ConsulConfig
from hostproxy.discovery.consul.counters import Counters
from hostproxy.discovery.consul.discovery import ConsulDiscovery
from tests import consul as real
from tests.discovery.consul.conftest import World

NODE_READ = 'service_prefix "" { policy = "read" }\nnode_prefix "" { policy = "read" }'


@pytest.fixture(scope="module")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real.Consul]:
    with real.running(tmp_path_factory.mktemp("consul"), acl=True, memory=True) as agent:
        yield agent


class Here:
    """A discovery that asks the real agent."""

    def __init__(self, world: World, consul: real.Consul, token: str = real.MASTER, hold_empty: float = 1.0) -> None:
        self.world = world
        self.token = token
        config = ConsulConfig(address=consul.address, hold_empty=hold_empty)
        counters = Counters()
        agent = world.agent(consul.address, lambda: self.token)
        host = Host(name=consul.name, address="10.0.0.5", datacenter=consul.datacenter)
        self.discovery = ConsulDiscovery(
            world.reactor, config, host, agent, counters, (), random.Random(1).random, time.time
        )

    def start(self, *upstreams: str, coordinates: bool = False) -> None:
        self.discovery.need(upstreams, (), {}, coordinates)
        self.discovery.start({}, 0.0)

    def seen(self, name: str) -> list[tuple[str, str, int]] | None:
        found = self.discovery.catalog.value.get(name)
        return None if found is None else [(one.address, one.health, one.weight) for one in found]

    def within(self, seconds: float, condition: Callable[[], object]) -> None:
        self.world.until(condition, seconds)


@pytest.fixture
def here(world: World, consul: real.Consul) -> Iterator[Here]:
    here = Here(world, consul)
    yield here
    here.discovery.stop()


def test_an_instance_comes_changes_and_goes_within_a_second(here: Here, consul: real.Consul) -> None:
    here.start("shop")
    here.within(5, lambda: here.seen("shop") == [])
    check = {"CheckID": "shop-ttl", "Name": "beat", "TTL": "60s", "Status": "passing"}
    meta = {"version": "3", "mesh_port": "15443"}
    consul.register(
        "shop", "10.1.0.1", 80, Tags=["x"], Meta=meta, Check=check, Weights={"Passing": 7, "Warning": 3}
    )
    here.within(1, lambda: here.seen("shop") == [("10.1.0.1:80", "passing", 7)])
    (instance,) = here.discovery.catalog.value["shop"]
    assert (instance.host, instance.mesh, instance.version, instance.tags, instance.reason) == (
        consul.name,
        "10.1.0.1:15443",
        "3",
        ("x",),
        "",
    )
    # A pause, so that what is measured is a change after a quiet time and not the pace under churn.
    for path, expected in (
        ("/v1/agent/check/warn/shop-ttl", ("warning", 3)),
        ("/v1/agent/check/fail/shop-ttl", ("critical", 7)),
        ("/v1/agent/service/maintenance/shop?enable=true", ("maintenance", 7)),
        ("/v1/agent/service/maintenance/shop?enable=false", ("critical", 7)),
        ("/v1/agent/check/pass/shop-ttl", ("passing", 7)),
        ("/v1/agent/maintenance?enable=true", ("maintenance", 7)),
        ("/v1/agent/maintenance?enable=false", ("passing", 7)),
    ):
        here.world.loop.run_for(1.5)
        consul.put(path)
        here.within(1, lambda expected=expected: here.seen("shop") == [("10.1.0.1:80", *expected)])  # type: ignore[misc]
    consul.register("shop", "10.1.0.2", 80, ID="shop-2")
    here.within(2, lambda: len(here.seen("shop") or ()) == 2)
    here.world.loop.run_for(1.5)
    consul.put("/v1/agent/service/deregister/shop-2")
    here.within(1, lambda: len(here.seen("shop") or ()) == 1)
    here.world.loop.run_for(1.5)
    consul.put("/v1/agent/service/deregister/shop")
    here.within(5, lambda: here.seen("shop") == [])  # held for a second, and believed
    assert here.discovery.state().problem == ""


def test_a_name_is_found_when_it_is_first_used(here: Here, consul: real.Consul) -> None:
    consul.register("late", "10.1.0.3", 80)
    here.start()
    answers: list[tuple[str, bool | str]] = []
    for name in ("late", "nobody"):
        here.discovery.want(name, lambda found, problem, name=name: answers.append((name, problem or found)))  # type: ignore[misc]
    here.within(2, lambda: len(answers) == 2)
    assert sorted(answers) == [("late", True), ("nobody", False)]
    assert here.seen("late") == [("10.1.0.3:80", "passing", 1)]
    here.within(3, lambda: "late" in here.discovery.state().names)


@pytest.mark.parametrize("rules", ["", 'service_prefix "" { policy = "read" }'])
def test_a_token_that_loses_its_rights_takes_no_instances_away(
    world: World, consul: real.Consul, request: pytest.FixtureRequest, rules: str
) -> None:
    name = f"rights-{len(rules)}"
    consul.register(name, "10.1.0.4", 80)
    here = Here(world, consul, consul.policy(name, NODE_READ), hold_empty=0.5)
    request.addfinalizer(here.discovery.stop)
    here.start(name)
    here.within(5, lambda: here.seen(name))
    here.token = consul.policy(f"{name}-less", rules or 'key_prefix "x" { policy = "read" }')
    consul.register(name, "10.1.0.4", 81)  # the query that this wakes was asked with the old token
    here.within(5, lambda: here.seen(name) == [("10.1.0.4:81", "passing", 1)])
    here.world.loop.run_for(1.5)
    consul.register(name, "10.1.0.4", 82)  # and this one with the new token
    here.within(10, lambda: "may not read" in here.discovery.state().services[0].problem)
    here.world.loop.run_for(2)
    assert here.seen(name) == [("10.1.0.4:81", "passing", 1)]
    here.token = real.MASTER
    here.within(20, lambda: here.seen(name) == [("10.1.0.4:82", "passing", 1)])
    here.within(5, lambda: here.discovery.state().services[0].problem == "")


def test_the_own_node_has_a_coordinate(here: Here, consul: real.Consul) -> None:
    consul.until(lambda: bool(consul.get("/v1/coordinate/nodes")), "no coordinate", 30)
    here.start(coordinates=True)
    here.within(5, lambda: here.discovery.bands.value == {consul.name: 0})
    assert here.discovery.state().round_trips == {consul.name: 0.0}
