"""Instances, hosts, agents and configuration come and go in an order that operators bring about; no request fails."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.consul import Consul
from tests.fakes.client import Outcome
from tests.fakes.origin import Answer, Connection, Received, reply
from tests.integration.consul_hosts import Site, answer, answers, call, knowledge, site, upstream, within
from tests.integration.host import Host, fetch
from tests.integration.load import Load

SOON = 1.0  # seconds from Consul knowing it to its being used
HOLD = 4.0  # seconds for which the last instances are kept; more than SHOWN
SHOWN = 2.5  # seconds until /discovery has it: it looks once a second, and an answer is good for a second
PLAIN = ("emptied", "slow", "fresh")
BOTH = {b"one", b"two"}


class Town:
    """A host that calls, and two that run payments, each with an agent of its own."""

    def __init__(self, site: Site) -> None:
        self.server = site.consul("server-1")
        names = ("db-1", "db-2")
        self.agents = [site.agent(name, self.server, wait=False) for name in (*names, "web-1")]
        self.origins = [site.origin(b"one"), site.origin(b"two")]
        for agent in self.agents:
            agent.wait_for_leader()
        self.hosts = [
            site.host(
                name,
                self.agents[number],
                services={"payments": self.origins[number].address},
                check={"http": "/healthz", "interval": "200ms", "healthy": 1},
            )
            for number, name in enumerate(names)
        ]
        self.caller = site.caller("web-1", self.agents[2], "payments", hold_empty=f"{HOLD:g}s")
        self.caller.policy["service"] = {name: {"permissive": True} for name in PLAIN}
        site.start(self.caller, *self.hosts)
        within(5, lambda: self.answers("payments") == BOTH, "payments is not found")

    def answers(self, service: str) -> set[bytes | int]:
        return answers(self.caller, service)

    def plain(self, name: str, number: int) -> None:
        """Register an origin as it is, without a hostproxy."""
        self.server.register(name, "127.0.0.1", self.origins[number].port, ID=f"{name}-{number}")

    def registered(self, name: str) -> set[str]:
        """The nodes that have it."""
        return {each["Node"] for each in self.server.get(f"/v1/catalog/service/{name}")}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with site(tmp_path_factory.mktemp("town")) as made:
        yield Town(made)


def test_a_response_outlives_the_registration_of_its_instance(town: Town) -> None:
    """fi-c15: deregistered under a request whose response comes when others have long been sent elsewhere."""
    town.plain("slow", 0)
    within(SOON, lambda: answer(town.caller, "slow") == b"one")
    first = town.origins[0]
    usual, release = first.respond, threading.Event()

    def slow(request: Received, connection: Connection) -> Answer | None:
        if b"/slow" not in request.line:
            return usual(request, connection)
        return Answer(reply(b"late")) if release.wait(10) else None

    first.respond = slow
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(call(town.caller, "slow", "/slow", timeout=10)))
    try:
        first.forget()
        thread.start()
        first.wait_for_requests(1)
        town.plain("slow", 1)
        town.server.put("/v1/agent/service/deregister/slow-0")
        within(SOON + 1, lambda: town.answers("slow") == {b"two"}, "it still gets new requests")
        first.forget()
        assert town.answers("slow") == {b"two"}
        assert not [each for each in first.requests if b"/healthz" not in each.line]
        assert outcomes == []
        release.set()
        thread.join()
    finally:
        release.set()
        first.respond = usual
    assert [(each.statuses, bytes(each.responses[0].body)) for each in outcomes] == [([200], b"late")]


def test_the_last_instance_is_kept_for_a_while_and_then_gone(town: Town) -> None:
    """fi-c12."""
    town.plain("emptied", 0)
    within(SOON, lambda: answer(town.caller, "emptied") == b"one")
    begin = time.monotonic()
    town.server.put("/v1/agent/service/deregister/emptied-0")
    within(SOON + SHOWN, lambda: knowledge(town.caller, "emptied")["held"], "it is not shown as held")
    while (answered := answer(town.caller, "emptied")) == b"one" and time.monotonic() < begin + HOLD:
        time.sleep(0.05)
    assert time.monotonic() >= begin + HOLD, answered
    within(HOLD + 2, lambda: answer(town.caller, "emptied") == 503, "it is never believed")
    assert b"no instance of emptied is known" in call(town.caller, "emptied").responses[0].body
    assert "emptied in dc1 has no instance any more" in town.caller.output()
    assert town.caller.metric("consul_empty_result_suppressed_total") >= 1
    town.plain("emptied", 1)
    within(SOON + 1, lambda: answer(town.caller, "emptied") == b"two", "it came back, and gets nothing")


def test_a_host_leaves_and_comes_back_under_load(town: Town) -> None:
    """SIGTERM: out of Consul first, then out of service, and what is under way ends well."""
    host, first = town.hosts[0], town.origins[0]
    usual, reached, release = first.respond, threading.Event(), threading.Event()

    def slow(request: Received, connection: Connection) -> Answer | None:
        if b"/slow" not in request.line:
            return usual(request, connection)
        reached.set()
        return Answer(reply(b"late")) if release.wait(10) else None

    first.respond = slow
    with Load(upstream(town.caller)) as load, ThreadPoolExecutor(8) as pool:
        load.more(100)
        under_way = [pool.submit(call, town.caller, "payments", "/slow", 10) for _ in range(8)]
        assert reached.wait(5), "none of eight requests came to db-1"
        host.terminate()
        within(2, lambda: town.registered("payments") == {"db-2"}, "it is not deregistered")
        assert host.processes(), "it still serves then"
        within(SOON, lambda: town.answers("payments") == {b"two"})
        release.set()
        assert host.wait() == 0
        assert {tuple(each.result().statuses) for each in under_way} == {(200,)}
        first.respond = usual
        load.more(200)
        host.start().wait_ready()
        within(5, lambda: town.answers("payments") == BOTH, "it does not come back")
        load.more(200)
    assert load.failures == []
    assert town.registered("hostproxy") >= {"db-1", "db-2"}


def test_an_agent_that_forgot_everything_is_told_again(town: Town) -> None:
    agent = town.agents[1]
    with Load(upstream(town.caller)) as load:
        agent.kill()
        for each in ("services", "checks", "serf"):
            shutil.rmtree(agent.directory / "data" / each, ignore_errors=True)
        agent.start()
        ident = f"hostproxy-payments-{town.origins[1].port}"
        within(15, lambda: set(agent.get("/v1/agent/services")) == {"hostproxy", ident}, "it is not registered again")
        within(10, lambda: "db-2" in town.registered("payments"), "its agent does not tell the servers")
        within(10, lambda: town.answers("payments") == BOTH, "it gets no traffic")
    assert load.failures == []


def requests(host: Host) -> float:
    """Answers to questions for instances."""
    return host.metric("consul_requests_total", "health_service")


def test_a_reload_that_says_the_same_of_consul_keeps_the_watches(town: Town) -> None:
    caller = town.caller
    before, asked = knowledge(caller, "payments"), requests(caller)
    assert before["index"] > 0
    caller.add_upstream("payments")
    caller.write_conf()
    with Load(upstream(caller)) as load:
        caller.reload()
        within(3, lambda: caller.ask_json("/status")["reloads"]["succeeded"] == 2)
        within(SOON, lambda: served(upstream(caller, 1)))
        load.more(50)
    assert load.failures == []
    after = knowledge(caller, "payments")
    assert (after["index"], after["changed"]) == (before["index"], before["changed"])
    assert requests(caller) == asked, "the questions under way go on, and none is new"


def served(address: str) -> bool:
    """Whether somebody listens there, and an instance answers."""
    try:
        return fetch(address).statuses == [200]
    except OSError:
        return False


def test_another_agent_takes_over_without_a_gap(town: Town) -> None:
    caller = town.caller
    consul = caller.conf["discovery"]["consul"]
    consul["address"] = town.server.address
    caller.write_conf()
    with Load(upstream(caller)) as load:
        caller.reload()
        within(3, lambda: caller.ask_json("/discovery")["source"] == town.server.address)
        load.more(100)
        within(3, lambda: knowledge(caller, "payments")["source"] == "watch", "only what was kept is known")
        town.agents[2].kill()
        town.plain("fresh", 1)
        within(SOON, lambda: answer(caller, "fresh") == b"two", "the new agent is not asked")
        load.more(100)
    assert load.failures == []


def test_from_consul_to_a_file_deregisters(town: Town) -> None:
    host: Host = town.hosts[0]
    agent: Consul = town.agents[0]
    within(5, lambda: town.answers("payments") == BOTH)
    host.conf["discovery"]["backend"] = "file"
    host.write_conf()
    with Load(upstream(town.caller)) as load:
        host.reload()
        within(5, lambda: not agent.get("/v1/agent/services"), "its services are still registered")
        within(SOON, lambda: town.answers("payments") == {b"two"})
        load.more(50)
    assert load.failures == []
