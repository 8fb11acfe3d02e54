"""Two datacenters over a wide-area link; servers that die, elect and are restored. No request fails."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.consul import Consul
from tests.fakes.origin import Origin
from tests.integration.consul_hosts import Site, answer, answers, site, upstream, within
from tests.integration.load import Load

SOON = 2.0  # seconds


class World:
    """dc1 with three servers, an agent and two hosts, one that calls and one that runs payments; dc2 with the other."""

    def __init__(self, site: Site) -> None:
        self.servers: list[Consul] = []
        for number in (1, 2, 3):
            server = site.consul(f"server-{number}", wait=False, servers=3, join=tuple(self.servers))
            self.servers.append(server)
        self.far = site.consul("far-1", wait=False, datacenter="dc2", join_wan=(self.servers[0],))
        self.near = site.origin(b"dc1")
        self.remote = site.origin(b"dc2")
        for server in self.servers:
            server.wait_for_leader()
        # An agent that knows all servers survives the death of each of them.
        self.agent = site.consul("web-1", server=False, join=tuple(self.servers))
        self.far.wait_for_leader()
        self.host = site.host(
            "db-1", self.agent, services={"payments": self.near.address}, check={"http": "/"}, leave="1500ms"
        )
        self.other = site.host("db-2", self.far, services={"payments": self.remote.address}, check={"http": "/"})
        self.caller = site.caller("web-1", self.agent, "payments", "restored")
        self.caller.policy["service"] = {
            "payments": {"failover": ["dc2"]},
            "restored": {"permissive": True},
            "elected": {"permissive": True},
        }
        both = {"dc1", "dc2"}
        self.far.until(lambda: both <= set(self.far.get("/v1/catalog/datacenters")), "dc1 is not seen from dc2")
        site.start(self.caller, self.host, self.other)
        within(5, lambda: answer(self.caller, "payments") == b"dc1", "payments is not found")
        within(10, lambda: len(self.instances()) == 2, "dc2 is not seen")

    def instances(self) -> list[str]:
        found = self.caller.ask_json("/catalog?service=payments")["services"]["payments"]["instances"]
        return [each["datacenter"] for each in found]

    def entry(self, service: str, origin: Origin) -> bool:
        """Register one instance of a service at a node without an agent. Raises Refused, and says True."""
        entry = {"Service": service, "Address": "127.0.0.1", "Port": origin.port}
        body = {"Node": "outside", "Address": "10.255.0.1", "Service": entry}
        return bool(self.agent.put("/v1/catalog/register", body))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with site(tmp_path_factory.mktemp("world")) as made:
        yield World(made)


def test_another_datacenter_takes_over_and_gives_back(world: World) -> None:
    with Load(upstream(world.caller)) as load:
        assert answers(world.caller, "payments") == {b"dc1"}, "never more than the own one while it is well"
        world.host.terminate()
        assert world.host.wait() == 0
        within(SOON, lambda: answers(world.caller, "payments") == {b"dc2"})
        load.more(200)
        world.host.start().wait_ready()
        within(5, lambda: answers(world.caller, "payments") == {b"dc1"}, "it does not come back")
        load.more(200)
    assert load.failures == []


def test_a_restored_snapshot_is_used(world: World) -> None:
    """The index goes backwards."""
    world.entry("restored", world.near)
    within(SOON, lambda: answer(world.caller, "restored") == b"dc1")
    saved = world.agent.get("/v1/snapshot")
    world.entry("restored", world.remote)
    within(SOON, lambda: answer(world.caller, "restored") == b"dc2")
    with Load(upstream(world.caller)) as load:
        time.sleep(1.2)  # changes came fast, and the next question waits for a second
        world.agent.put("/v1/snapshot", saved)
        within(5, lambda: answer(world.caller, "restored") == b"dc1", "the state of the snapshot is not used")
        load.more(50)
    assert load.failures == []
    within(SOON, lambda: world.caller.metric("consul_index_resets_total") >= 1, "the index did not go backwards")


def test_a_leader_dies_and_another_is_elected(world: World) -> None:
    address = world.agent.get("/v1/status/leader")
    [leader] = [each for each in world.servers if address == f"{each.ip}:{each.ports['server']}"]
    with Load(upstream(world.caller)) as load:
        leader.kill()
        world.agent.until(lambda: world.agent.get("/v1/status/leader") not in ("", address), "no other leader", 20)
        world.agent.until(lambda: world.entry("elected", world.near), "nothing can be written")
        within(SOON + 3, lambda: answer(world.caller, "elected") == b"dc1", "what is new is not seen")
        load.more(200)
    assert load.failures == []
    within(15, lambda: not world.caller.ask_json("/discovery")["problem"], "it still has a problem")
