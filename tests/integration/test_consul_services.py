"""Services in a real Consul, whoever registered them: they come and go, fall ill, and are picked by subsets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.origin import Answer, Origin, reply
from tests.integration.consul_hosts import Site, answer, answers, call, command, knowledge, site, within
from tests.integration.host import Host, fetch
from tests.stopwatch import Stopwatch

SOON = 1.0  # seconds from Consul knowing it to its being used
PLAIN = tuple(f"plain-{number}" for number in range(4))
SUBSETS = {
    "v2": {"version": "2"},
    "blue": {"tags": ["blue"]},
    "eu": {"meta": {"region": "eu"}},
}


class Town:
    """A host that calls, and two that run payments: version 1 checked by hostproxy, version 2 by Consul."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.server = site.consul("server-1")
        self.agents = [site.agent(name, self.server, wait=False) for name in ("db-1", "db-2")]
        self.origins = [site.origin(b"one"), site.origin(b"two")]
        for agent in self.agents:
            agent.wait_for_leader()
        self.hosts = []
        names = ("payments", "orders", "invoices")
        for number, (agent, instance) in enumerate(zip(self.agents, self.origins, strict=True)):
            host = site.host(agent.name, agent, services=dict.fromkeys(names, instance.address))
            payments, *others = host.conf["service"]
            payments |= {"version": str(number + 1), "weight": 10}
            for other in others:
                other["register"] = False  # somebody else does
            check = {"http": "/healthz", "healthy": 1, "unhealthy": 2, "interval": "100ms"}
            payments["check"] = {**check, "run_by": ("hostproxy", "consul")[number]}
            self.hosts.append(host)
        self.hosts[1].conf["service"][0] |= {"tags": ["blue"], "meta": {"region": "eu"}}
        self.caller = site.caller("web-1", self.server, "payments")
        self.by_subset = self.caller.add_upstream("payments")
        self.caller.conf["outbound"]["upstream"][1]["subset"] = "v2"
        self.caller.policy["service"] = {name: {"permissive": True} for name in PLAIN} | {
            "payments": {"subset": SUBSETS}
        }
        site.start(self.caller, *self.hosts)
        within(5, lambda: self.answers("payments") == {b"one", b"two"}, "payments is not found")

    def answers(self, service: str) -> set[bytes | int]:
        return answers(self.caller, service)

    def plain(self, name: str, number: int, **more: Any) -> None:
        """Register an origin as it is, without a hostproxy."""
        self.server.register(name, "127.0.0.1", self.origins[number].port, ID=f"{name}-{number}", **more)

    def meshed(self, name: str, number: int) -> None:
        """Register an origin as somebody else does who knows of the hostproxy there; wait until Consul knows it."""
        agent = self.agents[number]
        meta = {"mesh_port": self.hosts[number].mesh.rpartition(":")[2], "version": "7"}
        agent.register(name, agent.ip, self.origins[number].port, ID=f"{name}-1", Meta=meta)
        known = f"/v1/catalog/service/{name}"
        self.server.until(lambda: agent.name in {each["Node"] for each in self.server.get(known)}, "not in the catalog")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with site(tmp_path_factory.mktemp("town")) as made:
        yield Town(made)


@pytest.fixture
def origins(town: Town) -> Iterator[list[Origin]]:
    """The origins, which answer as before at the end."""
    usual = [each.respond for each in town.origins]
    yield town.origins
    for each, respond in zip(town.origins, usual, strict=True):
        each.respond = respond


def test_what_a_host_registers_is_there_for_everybody(town: Town) -> None:
    entries = {each["Node"]: each for each in town.server.get("/v1/catalog/service/payments")}
    assert set(entries) == {"db-1", "db-2"}
    one, two = entries["db-1"], entries["db-2"]
    port = town.origins[1].port
    assert (two["ServiceID"], two["ServiceAddress"]) == (f"hostproxy-payments-{port}", town.agents[1].ip)
    assert (two["ServicePort"], two["ServiceTags"], two["ServiceWeights"]["Passing"]) == (port, ["blue"], 10)
    mesh_port = town.hosts[1].mesh.rpartition(":")[2]
    assert two["ServiceMeta"] == {
        "registered_by": town.hosts[1].name,
        "mesh_port": mesh_port,
        "version": "2",
        "region": "eu",
        "protocol": "http",
    }
    assert one["ServiceMeta"]["version"] == "1"
    own = {each["Node"]["Node"] for each in town.server.get("/v1/health/service/hostproxy?passing")}
    assert own == {"db-1", "db-2"}, "and hostproxy itself, where it registers"


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_subset_by_version_tag_or_meta(town: Town, subset: str) -> None:
    assert town.answers(f"{subset}.payments") == {b"two"}


def test_an_upstream_of_a_subset(town: Town) -> None:
    bodies = {bytes(fetch(town.by_subset).responses[0].body) for _ in range(12)}
    assert bodies == {b"two"}


def test_a_subset_that_policy_does_not_have(town: Town) -> None:
    outcome = call(town.caller, "v9.payments")
    assert outcome.statuses == [404]
    assert b"v9" in outcome.responses[0].body


@pytest.mark.parametrize(("number", "other", "limit"), [(0, b"two", 2.0), (1, b"one", 4.5)], ids=["ttl", "consul"])
def test_an_ill_instance_gets_no_traffic_until_it_is_well(
    town: Town, origins: list[Origin], number: int, other: bytes, limit: float
) -> None:
    """Checked by hostproxy every 100 ms and reported as TTL; or by Consul, every second at most."""
    well = origins[number].respond
    origins[number].respond = lambda request, connection: Answer(reply(b"ill", b"500 Internal Server Error"))
    within(limit, lambda: town.answers("payments") == {other}, "it still gets traffic")
    # The host where it runs sends it nothing more at once. That it says so to Consul, and Consul to others, follows.

    def states() -> list[str]:
        checks = town.server.get(f"/v1/health/node/{town.agents[number].name}")
        return [each["Status"] for each in checks if each["ServiceName"] == "payments"]

    def shown() -> list[tuple[str, str, bool]]:
        instances = town.caller.ask_json("/catalog?service=payments")["services"]["payments"]["instances"]
        return [(each["host"], each["health"], each["used"]) for each in instances]

    expected = [
        ("db-1", "critical" if number == 0 else "passing", number == 1),
        ("db-2", "critical" if number == 1 else "passing", number == 0),
    ]
    within(limit, lambda: states() == ["critical"], "Consul does not know it")
    within(limit, lambda: shown() == expected, "it is not shown as ill")
    origins[number].respond = well
    within(limit, lambda: town.answers("payments") == {b"one", b"two"}, "it gets no traffic again")


def test_somebody_else_registers_a_service_that_runs_behind_hostproxy(town: Town) -> None:
    town.meshed("orders", 0)
    within(SOON, lambda: answer(town.caller, "orders") == b"one")
    town.meshed("orders", 1)
    within(SOON, lambda: answer(town.caller, "orders") == b"two", "it came, and gets nothing")
    town.agents[0].put("/v1/agent/service/deregister/orders-1")
    within(SOON, lambda: town.answers("orders") == {b"two"}, "it is gone, and still gets requests")
    instances = town.caller.ask_json("/catalog?service=orders")["services"]["orders"]["instances"]
    assert [(each["version"], each["mesh"]) for each in instances] == [("7", town.hosts[1].mesh)]


def test_plain_services_are_used_as_they_are_where_policy_permits_it(town: Town) -> None:
    town.plain("plain-0", 0)
    town.plain("secret", 0)
    within(SOON, lambda: answer(town.caller, "plain-0") == b"one")
    outcome = call(town.caller, "secret")
    assert outcome.statuses == [503]
    assert b"permissive" in outcome.responses[0].body


def test_a_plain_service_comes_and_goes(town: Town) -> None:
    town.plain("plain-1", 0)
    within(SOON, lambda: answer(town.caller, "plain-1") == b"one")
    time.sleep(2 * SOON)  # changes that follow each other faster wait up to a second
    town.plain("plain-1", 1)
    within(SOON, lambda: answer(town.caller, "plain-1") == b"two")
    town.server.put("/v1/agent/service/deregister/plain-1-0")
    within(SOON, lambda: town.answers("plain-1") == {b"two"})


def test_maintenance_moves_traffic_and_ends(town: Town) -> None:
    for number in (0, 1):
        town.plain("plain-2", number)
    within(SOON, lambda: town.answers("plain-2") == {b"one", b"two"})
    town.server.put("/v1/agent/service/maintenance/plain-2-0?enable=true&reason=disk")
    within(SOON, lambda: town.answers("plain-2") == {b"two"})
    town.server.put("/v1/agent/service/maintenance/plain-2-0?enable=false")
    within(SOON + 1, lambda: town.answers("plain-2") == {b"one", b"two"}, "the third change may wait for a second")


def test_a_warning_changes_the_weight_and_critical_ends_it(town: Town) -> None:
    for number in (0, 1):
        town.plain(
            "plain-3",
            number,
            Weights={"Passing": 9, "Warning": 1},
            Check={"CheckID": f"plain-3-{number}", "TTL": "1m", "Status": "passing"},
        )

    def shares() -> list[float]:
        found = town.caller.ask_json("/catalog?service=plain-3")["services"]["plain-3"]["instances"]
        by_port = {int(each["address"].rpartition(":")[2]): each["share"] for each in found}
        return [round(by_port[each.port], 2) if each.port in by_port else 0.0 for each in town.origins]

    within(SOON, lambda: town.answers("plain-3") == {b"one", b"two"})
    assert shares() == [0.5, 0.5]
    town.server.put("/v1/agent/check/warn/plain-3-0")
    within(SOON, lambda: shares() == [0.1, 0.9])
    counted = [answer(town.caller, "plain-3") for _ in range(100)]
    assert counted.count(b"one") < 30
    town.server.put("/v1/agent/check/fail/plain-3-0")
    within(SOON + 1, lambda: town.answers("plain-3") == {b"two"})


def test_a_name_is_found_on_first_use(town: Town) -> None:
    """Nobody watched it: the request waits for the answer, and finds an instance that came a moment ago."""
    assert not knowledge(town.caller, "invoices")
    town.meshed("invoices", 1)
    asked = Stopwatch()
    assert answer(town.caller, "invoices") == b"two"
    assert asked.seconds < SOON
    known = within(2, lambda: knowledge(town.caller, "invoices"), "it is not shown")
    assert (known["source"], known["wanted_by"]) == ("watch", "traffic")


def test_a_name_that_nobody_has(town: Town) -> None:
    asked = Stopwatch()
    outcome = call(town.caller, "no-such-service")
    assert outcome.statuses == [404]
    assert asked.seconds < SOON
    within(3, lambda: {(404, "NR")} & {(each["status"], each["flags"]) for each in town.caller.access_log()})


def test_what_only_policy_names_is_found_on_first_use_beyond_the_watches(town: Town) -> None:
    """A policy of the whole mesh names more services than one host watches."""
    small = town.site.caller("web-2", town.server, watches=1)
    small.policy["service"] = {"aaa": {"timeout": "3s"}, "payments": {"timeout": "3s", "subset": SUBSETS}}
    town.site.start(small)
    within(3, lambda: small.ask_json("/discovery")["watches"] == 1)
    within(SOON, lambda: answer(small, "payments") in (b"one", b"two"), "it is never asked for")
    within(SOON, lambda: answer(small, "v2.payments") == b"two")


def test_what_a_hosts_own_programs_call_goes_through_the_same_catalog(town: Town) -> None:
    host: Host = town.hosts[0]
    within(SOON, lambda: answers(host, "payments") == {b"one", b"two"})


def test_the_command_services(town: Town) -> None:
    status, text = command(town.caller, "services")
    assert status == 0
    [line] = [each for each in text.splitlines() if each.startswith("payments ")]
    assert line.split()[:6] == ["payments", "dc1", "http", "2/2", "watch", *line.split()[5:6]]
    assert "upstream" in line
    assert "not watched" not in text
    status, text = command(town.caller, "services", "--all")
    assert status == 0
    [line] = [each for each in text.splitlines() if each.startswith("consul ")]
    assert "not watched" in line
    status, text = command(town.caller, "services", "-o", "json")
    assert status == 0
    assert json.loads(text)["backend"] == "consul"


def test_the_command_endpoints(town: Town) -> None:
    status, text = command(town.caller, "endpoints", "payments")
    assert status == 0
    for agent, instance in zip(town.agents, town.origins, strict=True):
        [line] = [each for each in text.splitlines() if f"{agent.ip}:{instance.port}" in each]
        assert "passing" in line
        assert "50.0%" in line
        assert agent.name in line
    status, text = command(town.caller, "endpoints", "payments", "--subset", "v2")
    assert status == 0
    assert "used: 1 of 2" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["endpoints", "no-such-thing"], 1),
        (["endpoints", "secret"], 1),
        (["endpoints", "payments", "--subset", "v9"], 1),
        (["endpoints", "Not A Name"], 2),
        (["endpoints"], 2),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_exit_statuses(town: Town, arguments: list[str], expected: int) -> None:
    status, text = command(town.caller, *arguments)
    assert status == expected, text
    assert text.strip(), "and it says why"


def test_exit_status_when_nobody_answers(town: Town, tmp_path: Path) -> None:
    absent = Host(tmp_path, "absent", certificates=tmp_path)
    absent.write()
    status, text = command(absent, "services")
    assert status == 3
    assert absent.admin in text
