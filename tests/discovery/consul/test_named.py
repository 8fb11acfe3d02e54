from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from hostproxy.discovery.consul.connection import CONNECT
from hostproxy.discovery.consul.named import KEPT
from hostproxy.discovery.consul.transport import Agent, AgentError, Reply
from tests.discovery.consul.conftest import Stub, World, http

NAME = "consul.example"


class Names:
    """Stands where DNS stands."""

    def __init__(self) -> None:
        self.ready = threading.Event()  # to answer
        self.ready.set()
        self.addresses = ["127.0.0.1"]
        self.asked: list[tuple[str, threading.Thread]] = []

    def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append((host, threading.current_thread()))
        assert self.ready.wait(30)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (each, port, 0, 0))
            if ":" in each
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in self.addresses
        ]


@pytest.fixture
def names(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.ready.set()
    for _, thread in names.asked:
        thread.join(5)


def agent_of(world: World, stub: Stub) -> Agent:
    return world.agent(stub.address.replace("127.0.0.1", NAME), watches=50)


def ask(agent: Agent, timeout: float = 30.0) -> Deferred[Reply]:
    return agent.request("GET", "/v1/x", timeout=timeout, persistent=False, what="x")


def cut(world: World, stub: Stub, agent: Agent) -> None:
    """End the connection, so that the next request needs another one."""
    transport: Any = stub.connections[-1].transport
    transport.abortConnection()
    world.until(lambda: not agent.connections)


def results(asked: list[Deferred[Reply]]) -> list[Any]:
    found: list[Any] = []
    for each in asked:
        each.addCallbacks(lambda reply: found.append(reply.status), lambda failure: found.append(failure.value))
    return found


def test_slow_dns_takes_one_thread_of_its_own_and_ends_with_the_limit_for_connecting(
    world: World, names: Names
) -> None:
    agent = agent_of(world, world.stub(http()))
    names.ready.clear()
    for _ in range(3):
        found = results([ask(agent) for _ in range(20)])
        world.loop.run_for(0.05)
        assert found == []
        world.skip(CONNECT)
        world.until(lambda found=found: len(found) == 20)  # type: ignore[misc]
        assert {each.kind for each in found} == {"timeout"}
        assert "within 3 s" in str(found[0])
    assert [host for host, _ in names.asked] == [NAME]
    assert names.asked[0][1].daemon  # the end of the process does not wait for it
    ran: list[bool] = []
    world.reactor.callInThread(ran.append, True)
    world.until(lambda: ran, 1)  # nor is the reactor's pool any the busier
    found = results([ask(agent) for _ in range(20)])
    names.ready.set()
    world.until(lambda: len(found) == 20)
    assert found == [200] * 20
    assert len(names.asked) == 1


def test_an_address_is_kept_for_a_minute_and_stays_in_use_while_it_is_looked_up_again(
    world: World, names: Names
) -> None:
    stub = world.stub(http())
    agent = agent_of(world, stub)
    assert world.get(ask(agent)).status == 200
    for seconds, asked in ((KEPT - 1, 1), (2, 2)):
        world.skip(seconds)
        cut(world, stub, agent)
        names.ready.clear()
        assert world.get(ask(agent)).status == 200
        assert len(names.asked) == asked
    names.addresses = ["127.0.0.9"]
    names.ready.set()
    names.asked[-1][1].join(5)
    world.loop.run_for(0.02)
    cut(world, stub, agent)
    with pytest.raises(AgentError, match="refused"):  # nobody is there
        world.get(ask(agent))


def test_a_name_that_nobody_has_is_told_and_looked_up_again(world: World, names: Names) -> None:
    agent = agent_of(world, world.stub(http()))
    names.addresses = []
    with pytest.raises(AgentError, match=NAME) as caught:
        world.get(ask(agent))
    assert caught.value.kind == "refused"
    names.addresses = ["::1", "127.0.0.1"]  # nobody is at the first
    assert world.get(ask(agent)).status == 200
    assert len(names.asked) == 2


def test_known_addresses_stay_when_the_name_is_not_found_any_more(world: World, names: Names) -> None:
    stub = world.stub(http())
    agent = agent_of(world, stub)
    assert world.get(ask(agent)).status == 200
    names.addresses = []
    for asked in (2, 3):
        world.skip(KEPT + 1)
        cut(world, stub, agent)
        assert world.get(ask(agent)).status == 200
        names.asked[-1][1].join(5)
        world.loop.run_for(0.02)
        assert len(names.asked) == asked


def test_an_ip_address_is_not_looked_up(world: World, names: Names) -> None:
    assert world.get(ask(world.agent(world.stub(http())))).status == 200
    assert not names.asked
