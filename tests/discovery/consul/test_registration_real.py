"""Registration at a real Consul, seen by others through the catalog."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostproxy.config import Host
from hostproxy.config_discovery import ConsulConfig
from hostproxy.config_services import Check, LocalService
from hostproxy.discovery.consul.client import TxConsul
from hostproxy.discovery.consul.registration import Registration
from hostproxy.discovery.consul.transport import Reply
from hostproxy.health import Result
from tests import consul as real
from tests.discovery.consul.conftest import World, http

# What the documentation gives operators, for a host that runs "web".
MINIMAL = """
service "web" { policy = "write" }
service "hostproxy" { policy = "write" }
service_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
"""
WEB = "hostproxy-web-9001"
CHECK = "hostproxy:" + WEB
GOOD = Result(healthy=True, reason="", since=0.0)
BAD = Result(healthy=False, reason="connection refused", since=0.0)


def web(**more: Any) -> LocalService:
    return LocalService(name="web", instances=("127.0.0.1:9001",), check=Check(http="/healthz"), **more)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real.Consul]:
    with real.running(tmp_path_factory.mktemp("consul"), acl=True, memory=True) as agent:
        yield agent


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[real.Consul]:
    with real.running(tmp_path / "consul") as agent:
        yield agent


class Here:
    """Registrations at one agent; at the end nothing of them is left there."""

    def __init__(self, world: World, consul: real.Consul) -> None:
        self.world = world
        self.consul = consul
        self.registrations: list[Registration] = []
        self.counted: dict[tuple[str, str], int] = {}

    def begin(
        self, *services: LocalService, token: Callable[[], str] | str = "", health: Result | None = GOOD
    ) -> Registration:
        """Register these, with workers that serve and a web that is well."""
        use: Callable[[], str] = (lambda: token) if isinstance(token, str) else token
        agent = self.world.agent(self.consul.address, use)
        self.counted = agent.counters.requests
        host = Host(name="h1", address="10.0.0.7", zone="rack-3")
        registration = Registration(
            self.world.reactor,
            ConsulConfig(address=self.consul.address),
            host,
            15443,
            "1.2.3",
            services,
            TxConsul(agent),
            agent.counters,
            random.Random(1).random,
            use,
        )
        self.registrations.append(registration)
        if health is not None:
            registration.health({("web", "127.0.0.1:9001"): health})
        registration.start()
        registration.serving(True)
        return registration

    def status(self, service: str = "web") -> dict[str, str]:
        """The checks of all instances, as the catalog has them."""
        entries = self.consul.get(f"/v1/health/service/{service}")
        return {
            check["CheckID"]: check["Status"]
            for entry in entries
            for check in entry["Checks"]
            if check["CheckID"] != "serfHealth"
        }

    def watch(self, service: str) -> list[set[str]]:
        """The checks that a watcher sees of a service, from now on, state by state."""
        seen: list[set[str]] = []
        agent = self.world.agent(self.consul.address, lambda: self.consul.token)

        def ask(index: int) -> None:
            params = {"index": str(index), "wait": "10s"}
            path = f"/v1/health/service/{service}"
            asked = agent.request("GET", path, params, timeout=15.0, persistent=False, what="watch")
            asked.addCallbacks(take, lambda failure: None)  # closed at the end

        def take(reply: Reply) -> None:
            checks = [check["CheckID"] for entry in json.loads(reply.body) for check in entry["Checks"]]
            seen.append(set(checks) - {"serfHealth"})
            ask(reply.index or 0)

        ask(0)
        return seen

    def until(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        self.world.until(condition, seconds)

    def written(self, what: str) -> int:
        """How many requests of a kind the newest registration has made with success."""
        return self.counted.get((what, "200"), 0)

    def close(self) -> None:
        for registration in self.registrations:
            registration.stop()
        for ident in self.consul.get("/v1/agent/services") or ():
            self.consul.put(f"/v1/agent/service/deregister/{ident}")


@pytest.fixture
def at(world: World) -> Iterator[Callable[[real.Consul], Here]]:
    made: list[Here] = []

    def make(consul: real.Consul) -> Here:
        made.append(Here(world, consul))
        return made[-1]

    yield make
    for here in made:
        here.close()


def test_others_see_what_was_registered_with_the_least_rights(
    at: Callable[[real.Consul], Here], guarded: real.Consul
) -> None:
    here = at(guarded)
    service = web(tags=("blue",), version="2", weight=7, meta={"team": "pay"})
    registration = here.begin(service, token=guarded.policy("minimal", MINIMAL))
    here.until(lambda: here.status() == {CHECK: "passing"})
    here.until(lambda: here.status("hostproxy") == {"hostproxy:hostproxy": "passing"})
    assert registration.problem == ""
    (entry,) = guarded.get("/v1/health/service/web")
    found = entry["Service"]
    assert (found["ID"], found["Address"], found["Port"], found["Tags"]) == (WEB, "10.0.0.7", 9001, ["blue"])
    assert found["Weights"] == {"Passing": 7, "Warning": 1}
    assert found["Meta"] == {
        "registered_by": "h1",
        "mesh_port": "15443",
        "version": "2",
        "zone": "rack-3",
        "protocol": "http",
        "team": "pay",
    }
    (own,) = guarded.get("/v1/health/service/hostproxy")
    assert own["Service"]["Port"] == 15443
    assert own["Service"]["Meta"] == {
        "registered_by": "h1",
        "mesh_port": "15443",
        "version": "1.2.3",
        "zone": "rack-3",
    }


def test_what_the_token_may_not_register_is_named_and_the_rest_is_there(
    at: Callable[[real.Consul], Here], guarded: real.Consul
) -> None:
    here = at(guarded)
    db = LocalService(name="db", instances=("127.0.0.1:5432",))
    registration = here.begin(web(), db, token=guarded.policy("without-db", MINIMAL))
    here.until(lambda: here.status() == {CHECK: "passing"})
    here.until(lambda: "Missing service:write on db" in registration.problem)
    assert registration.problem.startswith('cannot register "hostproxy-db-5432": the ACL token does not allow it')


def test_another_token_is_in_use_within_a_minute_and_the_old_one_can_be_deleted(
    at: Callable[[real.Consul], Here], guarded: real.Consul
) -> None:
    here = at(guarded)
    token = old = guarded.policy("old", MINIMAL)
    registration = here.begin(web(), token=lambda: token)
    here.until(lambda: here.status() == {CHECK: "passing"})
    token = guarded.policy("new", MINIMAL)
    before = here.written("agent_service_register")  # more than two, when the agent learned of the old token late
    here.world.skip(61)
    here.until(lambda: here.written("agent_service_register") == before + 2)
    accessor = guarded.get("/v1/acl/token/self", token=old)["AccessorID"]
    guarded.request("DELETE", f"/v1/acl/token/{accessor}")
    # With the old token, this would be known to the agent and to nobody else.
    registration.health({("web", "127.0.0.1:9001"): BAD})
    here.until(lambda: here.status() == {CHECK: "critical"})


def test_states_of_a_check_that_hostproxy_runs(at: Callable[[real.Consul], Here], guarded: real.Consul) -> None:
    here = at(guarded)
    registration = here.begin(web(), token=real.MASTER, health=None)
    here.until(lambda: here.status() == {CHECK: "critical"})  # nobody has looked yet
    registration.health({("web", "127.0.0.1:9001"): GOOD})
    here.until(lambda: here.status() == {CHECK: "passing"}, 1)
    registration.health({("web", "127.0.0.1:9001"): BAD})
    here.until(lambda: here.status() == {CHECK: "critical"}, 1)
    (entry,) = guarded.get("/v1/health/service/web")
    assert [each["Output"] for each in entry["Checks"] if each["CheckID"] == CHECK] == ["connection refused"]
    registration.serving(False)
    here.until(lambda: here.status("hostproxy") == {"hostproxy:hostproxy": "critical"}, 1)


def test_a_restart_writes_nothing_but_reports(at: Callable[[real.Consul], Here], guarded: real.Consul) -> None:
    here = at(guarded)
    services = (web(tags=("a", "b")), LocalService(name="db", instances=("unix:/run/db.sock",)))
    first = here.begin(*services, token=real.MASTER)
    here.until(lambda: here.status() == {CHECK: "passing"})
    here.until(lambda: here.status("db") == {} and guarded.get("/v1/health/service/db"))
    first.stop()
    before = guarded.get("/v1/catalog/service/web")[0]["ModifyIndex"]
    here.begin(*services, token=real.MASTER, health=None)
    here.until(lambda: here.written("agent_check_pass"))
    here.world.loop.run_for(0.5)
    assert not any(here.written(f"agent_service_{what}") for what in ("register", "deregister", "maintenance"))
    assert here.written("agent_check_pass") == 1  # of hostproxy itself; of web nothing is known yet
    assert here.status() == {CHECK: "passing"}
    assert guarded.get("/v1/catalog/service/web")[0]["ModifyIndex"] == before


def test_a_reload_keeps_an_operators_maintenance(at: Callable[[real.Consul], Here], guarded: real.Consul) -> None:
    here = at(guarded)
    registration = here.begin(web(), token=real.MASTER)
    here.until(lambda: here.status() == {CHECK: "passing"})
    guarded.put(f"/v1/agent/service/maintenance/{WEB}?enable=true&reason=disk")
    registration.change((web(tags=("new",)),))
    here.until(lambda: guarded.get("/v1/agent/services")[WEB]["Tags"] == ["new"])
    here.until(lambda: here.status() == {CHECK: "passing", f"_service_maintenance:{WEB}": "critical"})


def test_checks_that_consul_runs(at: Callable[[real.Consul], Here], guarded: real.Consul) -> None:
    here = at(guarded)
    address = here.world.stub(http(b"fine")).address.removeprefix("http://")
    ident = f"hostproxy-web-{address.rpartition(':')[2]}"

    def checked(**check: Any) -> LocalService:
        return LocalService(name="web", instances=(address,), check=Check(run_by="consul", interval=1.0, **check))

    registration = here.begin(checked(http="/"), token=real.MASTER, health=None)
    here.until(lambda: here.status() == {f"hostproxy-http:{ident}": "passing"}, 10)
    registration.change((checked(tcp=True),))
    here.until(lambda: here.status() == {f"hostproxy-tcp:{ident}": "passing"})
    assert registration.problem == ""


def test_an_agent_that_comes_back_empty_is_told_everything_within_seconds(
    forgetful: real.Consul, at: Callable[[real.Consul], Here]
) -> None:
    here = at(forgetful)
    registration = here.begin(web(), LocalService(name="db", instances=("127.0.0.1:5432",)))
    here.until(lambda: here.status() == {CHECK: "passing"})
    forgetful.kill()
    shutil.rmtree(forgetful.directory / "data")
    forgetful.start()
    here.until(lambda: here.status() == {CHECK: "passing"}, 10 / 3 + 2)
    here.until(lambda: forgetful.get("/v1/health/service/db"))
    here.until(lambda: here.status("hostproxy") == {"hostproxy:hostproxy": "passing"})
    here.until(lambda: registration.problem == "")


def test_an_agent_that_restarts_has_it_all_and_is_told_nothing(
    forgetful: real.Consul, at: Callable[[real.Consul], Here]
) -> None:
    here = at(forgetful)
    here.begin(web())
    here.until(lambda: here.status() == {CHECK: "passing"} and here.written("agent_service_register") == 2)
    forgetful.stop()
    forgetful.start()
    here.until(lambda: here.status() == {CHECK: "passing"}, 10)
    here.world.skip(61)
    here.world.loop.run_for(1.0)
    assert here.written("agent_service_register") == 2  # those of the beginning


def test_leaving_is_seen_as_maintenance_and_then_as_absence(
    at: Callable[[real.Consul], Here], guarded: real.Consul
) -> None:
    here = at(guarded)
    registration = here.begin(web(), token=real.MASTER)
    here.until(lambda: here.status() == {CHECK: "passing"})
    seen = here.watch("web")
    here.until(lambda: seen)
    done: list[None] = []
    registration.leave().addCallback(done.append)
    here.until(lambda: done, 2)
    here.until(lambda: seen[-1] == set(), 1)
    assert {CHECK, f"_service_maintenance:{WEB}"} in seen
    assert guarded.get("/v1/health/service/hostproxy") == []
    assert set(guarded.get("/v1/agent/services")) == set()
    assert here.written("agent_service_maintenance") == 1
    assert here.written("agent_service_deregister") == 2
