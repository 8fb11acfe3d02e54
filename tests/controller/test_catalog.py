"""Certificates for what Consul's catalog says to run somewhere, with a real Consul: with ACLs, without, and away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs

from controller.registry.catalog import ACL_KEPT, KEPT, PROBLEM_KEPT, ConsulCatalog, Unknown
from controller.store import Unavailable
from controller.store.client import Address, Client, Reply
from controller.store.token import TokenFile
from hostproxy.mesh.messages import CertificateRequest, encode
from tests.consul import MASTER, Consul, running
from tests.controller.conftest import Scene, csr
from tests.controller.stores import failure, result
from tests.discovery.conftest import Loop, loop

__all__ = ("loop",)

READ = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    with running(tmp_path_factory.mktemp("consul"), name="Web-1", acl=True, memory=True) as agent:
        yield agent


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def opened(loop: Loop, time: Time) -> Iterator[Any]:
    catalogs = []

    def make(consul: Consul, token: str = "", outage: float = 3600.0, without_acl: bool = False) -> ConsulCatalog:
        client = Client(loop.reactor, Address(address=consul.address), lambda: token)
        catalogs.append(ConsulCatalog(client, time, outage, without_acl))
        return catalogs[-1]

    yield make
    for catalog in catalogs:
        result(loop, catalog.close())


def test_a_service_runs_where_its_node_or_its_owner_says(loop: Loop, agent: Consul, opened: Any) -> None:
    agent.register("payments", "10.0.0.1", 8080)
    agent.register("cart", "10.0.0.2", 8080, Meta={"registered_by": "web-2"})
    catalog = opened(agent, agent.policy("reads", READ))
    where = {
        (service, host): result(loop, catalog.runs(service, host))
        for service in ("payments", "cart", "db")
        for host in ("web-1", "web-2", "10.0.0.1")
    }
    assert {pair for pair, runs in where.items() if runs} == {("payments", "web-1"), ("cart", "web-2")}
    assert {"payments", "cart"} <= set(result(loop, catalog.names()))


def test_a_host_with_a_token_for_its_own_service_cannot_claim_another(
    loop: Loop, agent: Consul, opened: Any, time: Time
) -> None:
    agent.put("/v1/catalog/register", {"Node": "web-3", "Address": "10.0.0.3"})
    own = agent.policy("web-3", 'service "shop" { policy = "write" } node_prefix "" { policy = "read" }')
    claims = [
        {"Node": "web-3", "Address": "10.0.0.3", "SkipNodeUpdate": True, "Service": {"Service": name, "Port": 1}}
        for name in ("shop", "bank")
    ]
    agent.put("/v1/catalog/register", claims[0], token=own)
    with pytest.raises(Exception, match="403"):
        agent.put("/v1/catalog/register", claims[1], token=own)
    catalog = opened(agent, agent.policy("reads-too", READ))
    assert result(loop, catalog.runs("shop", "web-3"))
    assert not result(loop, catalog.runs("bank", "web-3"))


def test_a_consul_without_acls_is_not_believed_unless_that_is_wanted(
    loop: Loop, opened: Any, tmp_path: Path
) -> None:
    with running(tmp_path / "open", memory=True) as consul:
        consul.register("payments", "10.0.0.1", 8080, Meta={"registered_by": "web-1"})
        refused = failure(loop, opened(consul).runs("payments", "web-1"))
        assert isinstance(refused, Unknown)
        assert "no ACLs" in str(refused)
        assert isinstance(failure(loop, opened(consul).names()), Unknown)
        catalog = opened(consul, without_acl=True)
        assert result(loop, catalog.runs("payments", "web-1"))
        assert not result(loop, catalog.runs("payments", "web-2"))
        assert catalog.problem == ""


def test_a_consul_that_lets_anybody_write_is_not_believed(loop: Loop, opened: Any, tmp_path: Path) -> None:
    tokens = {"master": MASTER, "agent": MASTER, "default": MASTER}
    allows = {"enabled": True, "default_policy": "allow", "tokens": tokens}
    with running(tmp_path / "allows", name="web-1") as consul:
        consul.stop()
        consul.settings["acl"] = allows
        consul.token = MASTER
        consul.start()
        consul.until(lambda: bool(consul.get("/v1/acl/token/self")), "no ACLs")
        consul.register("payments", "10.0.0.1", 8080)
        reads = consul.policy("reads", READ)
        refused = failure(loop, opened(consul, reads).runs("payments", "web-1"))
        assert isinstance(refused, Unknown)
        assert "anybody may write the service payments" in str(refused)
        assert result(loop, opened(consul, reads, without_acl=True).runs("payments", "web-1"))


def test_a_token_without_rights_is_an_error_and_no_answer(loop: Loop, agent: Consul, opened: Any) -> None:
    agent.register("seen", "10.0.0.1", 8080)
    for name, rules in (
        ("nothing", 'key "x" { policy = "read" }'),
        ("services", 'service_prefix "" { policy = "read" }'),
        ("nodes", 'node_prefix "" { policy = "read" }'),
    ):
        catalog = opened(agent, agent.policy(name, rules))
        refused = failure(loop, catalog.runs("seen", "web-1"))
        assert isinstance(refused, Unknown)
        assert "may not read the" in str(refused)
        assert catalog.problem
    blind = opened(agent, agent.policy("none", 'key "x" { policy = "read" }'))
    assert isinstance(failure(loop, blind.names()), Unknown)


def test_an_unknown_token_is_an_error_and_no_answer(loop: Loop, agent: Consul, opened: Any) -> None:
    refused = failure(loop, opened(agent, "5a2a1c5e-dead-4000-8000-000000000001").runs("payments", "web-1"))
    assert isinstance(refused, Unknown)
    assert "service and node read" in str(refused)


class FakeClient:
    """Consul, as far as it is asked here."""

    def __init__(self) -> None:
        self.away = False
        self.nodes: list[str] = ["web-1"]
        self.asked: list[str] = []
        self.anybody: set[str] = set()  # services that may be written without a token
        self.unseen: set[str] = set()  # services and nodes that our token may not read
        self.filtered = False

    def request(self, method: str, path: str, params: object = None, **more: Any) -> Deferred[Reply]:
        self.asked.append(path)
        if self.away:
            return fail(Unavailable("nobody listens there"))
        if path == "/v1/internal/acl/authorize":
            rights = json.loads(more["body"])
            for right in rights:
                own = right["Segment"] not in self.unseen and right["Access"] == "read"
                right["Allow"] = right["Segment"] in self.anybody if more["token"] == "anonymous" else own
            return succeed(Reply(200, json.dumps(rights).encode()))
        if path == "/v1/catalog/services":
            return succeed(Reply(200, b'{"payments": []}' if self.unseen else b'{"consul": [], "payments": []}'))
        if path.rpartition("/")[2] in self.unseen:
            return succeed(Reply(200, b"[]", self.filtered))
        rows = ",".join(f'{{"Node":"{node}"}}' for node in self.nodes)
        return succeed(Reply(200, f"[{rows}]".encode()))

    def close(self) -> Deferred[None]:
        return succeed(None)


def now(asked: Any) -> Any:
    """What it gives at once; raises what it fails with."""
    found: list[Any] = []
    Deferred.fromCoroutine(asked).addBoth(found.append)
    if not isinstance(found[0], bool):
        found[0].raiseException()
    return found[0]


def test_while_consul_is_away_hosts_renew_for_a_time_and_none_gets_a_first_certificate(time: Time) -> None:
    client: Any = FakeClient()
    catalog = ConsulCatalog(client, time, 600.0, False)
    assert now(catalog.runs("payments", "web-1"))
    client.away = True
    client.nodes = ["web-2"]
    time.now += KEPT + 1
    assert now(catalog.runs("payments", "web-1"))
    with pytest.raises(Unknown):
        now(catalog.runs("payments", "web-2"))
    with pytest.raises(Unknown):
        now(catalog.runs("cart", "web-1"))
    time.now += 600.0
    with pytest.raises(Unknown, match="nobody listens there"):
        now(catalog.runs("payments", "web-1"))
    # What it says counts at once, and what it said before it says no counts no more.
    client.away = False
    assert not now(catalog.runs("payments", "web-1"))
    client.away = True
    time.now += KEPT + 1
    with pytest.raises(Unknown):
        now(catalog.runs("payments", "web-1"))


def test_many_hosts_of_a_service_cost_one_question(time: Time) -> None:
    client: Any = FakeClient()
    client.nodes = [f"web-{number}" for number in range(100)]
    catalog = ConsulCatalog(client, time, 600.0, False)
    assert all(now(catalog.runs("payments", f"web-{number}")) for number in range(100))
    known = ["/v1/acl/token/self", "/v1/internal/acl/authorize", "/v1/catalog/service/payments"]
    assert client.asked == known
    time.now += KEPT
    now(catalog.runs("payments", "web-1"))
    assert len(client.asked) == 4
    time.now += ACL_KEPT
    now(catalog.runs("payments", "web-1"))
    assert [client.asked.count(path) for path in known[:2]] == [2, 2]


@pytest.mark.parametrize("filtered", [False, True])
def test_a_token_that_lost_its_rights_is_like_an_outage(time: Time, filtered: bool) -> None:
    client: Any = FakeClient()
    client.filtered = filtered  # as newer ones say
    catalog = ConsulCatalog(client, time, 600.0, False)
    assert now(catalog.runs("payments", "web-1"))
    client.unseen = {"payments"}
    time.now += KEPT + 1
    with capturedLogs() as logged:
        assert now(catalog.runs("payments", "web-1"))
        with pytest.raises(Unknown, match="may not read"):
            now(catalog.runs("payments", "web-2"))
    assert len(logged) == 1
    assert "may not read" in catalog.problem
    time.now += 601.0
    with pytest.raises(Unknown, match="may not read"):
        now(catalog.runs("payments", "web-1"))
    client.unseen = set()
    assert now(catalog.runs("payments", "web-1"))
    assert catalog.problem == ""
    time.now += KEPT + 1
    client.unseen = {"web-3"}  # the node that the host would be
    with pytest.raises(Unknown, match="node web-3"):
        now(catalog.runs("payments", "web-3"))


def test_a_service_that_anybody_may_write_is_not_believed(time: Time) -> None:
    client: Any = FakeClient()
    client.anybody = {"payments"}
    client.nodes = ["web-1"]
    catalog = ConsulCatalog(client, time, 600.0, False)
    with pytest.raises(Unknown, match="anybody may write the service payments"):
        now(catalog.runs("payments", "web-1"))
    assert "payments" in catalog.problem
    assert "/v1/catalog/service/payments" not in client.asked
    assert now(catalog.runs("cart", "web-1"))
    assert "payments" in catalog.problem  # still
    time.now += PROBLEM_KEPT
    assert catalog.problem == ""
    assert now(ConsulCatalog(client, time, 600.0, True).runs("payments", "web-1"))


class FakeCatalog:
    problem = "Consul has no ACLs"

    def __init__(self) -> None:
        self.known: set[tuple[str, str]] = set()
        self.away = False

    async def runs(self, service: str, host: str) -> bool:
        if self.away:
            raise Unknown("Consul's catalog cannot be asked: nobody listens there")
        return (service, host) in self.known

    async def names(self) -> tuple[str, ...]:
        if self.away:
            raise Unknown("Consul's catalog cannot be asked: nobody listens there")
        return tuple(service for service, _ in self.known)


def certificate(scene: Scene, peer: Any, name: str) -> tuple[int, Any]:
    return scene.ask("POST", "/v1/certificates", encode(CertificateRequest(name=name, csr=csr())), peer=peer)


def test_a_host_gets_what_operators_or_the_catalog_say_and_nothing_else(scene: Scene) -> None:
    catalog = FakeCatalog()
    scene.parts.registry._catalog = catalog  # type: ignore[assignment]
    one, two = scene.host("web-1"), scene.host("web-2", "10.0.0.2")
    catalog.known = {("payments", "web-1")}
    scene.expect(200, "PUT", "/v1/services/cart/hosts/web-2")
    assert certificate(scene, one, "payments")[0] == 200
    assert certificate(scene, two, "payments")[0] == 403
    assert certificate(scene, one, "cart")[0] == 403
    catalog.away = True
    assert certificate(scene, two, "cart")[0] == 200
    assert scene.expect(200, "GET", "/v1/status")["catalog_problem"] == "Consul has no ACLs"
    status, answer = certificate(scene, one, "payments")
    assert (status, "nobody listens" in answer["error"]) == (503, False)
    assert "nobody listens" in scene.audit.lines[-1]["detail"]
    catalog.away = False
    scene.apply()
    scene.expect(200, "POST", "/v1/services/payments/deny", {})
    assert certificate(scene, one, "payments")[0] == 403


def test_policy_knows_the_services_of_the_catalog(scene: Scene) -> None:
    catalog = FakeCatalog()
    scene.parts.registry._catalog = catalog  # type: ignore[assignment]
    catalog.known = {("payments", "web-1"), ("cart", "web-1")}
    files = {"files": {"a.toml": '[service.paymets]\nprotocol = "http"\n'}}
    (warning,) = scene.expect(200, "POST", "/v1/policy/check", files)["warnings"]
    assert 'did you mean "payments"' in warning
    catalog.away = True
    assert scene.expect(200, "POST", "/v1/policy/check", files)["warnings"] == []


def test_a_token_is_read_again_and_the_one_before_serves_while_the_file_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    path.chmod(0o600)
    token = TokenFile(str(path))
    assert token() == "one"
    path.write_text("two\n")
    assert token() == "two"
    path.unlink()
    assert token() == "two"
    path.write_text("thr ee\n")
    path.chmod(0o600)
    assert token() == "two"
    path.write_text("four")
    assert token() == "four"
    assert TokenFile("")() == ""
