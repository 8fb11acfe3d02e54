from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from consul import Check
from consul.base import Response
from consul.exceptions import ACLPermissionDenied, BadRequest, ConsulException

from hostproxy.config_discovery import ConsulConfig
from hostproxy.discovery.consul.client import AgentError, TxConsul, TxHTTPClient, endpoint_name
from hostproxy.discovery.consul.token import Token
from tests.consul import MASTER
from tests.discovery.consul.conftest import Authority, SecuredConsul, World, http


def lines(requests: list[bytes]) -> list[bytes]:
    return [each.split(b" HTTP/", 1)[0] for each in requests]


# On a stub


def test_what_registration_sends(world: World) -> None:
    stub = world.stub(http(b""))
    client = TxConsul(world.agent(stub))
    assert world.get(client.agent.service.register("web", service_id="web-1", port=80, check=Check.ttl("30s"))) is True
    assert world.get(client.agent.check.ttl_pass("service:web-1", "fine & well")) is True
    assert world.get(client.agent.service.maintenance("web-1", True, "drain")) is True
    assert world.get(client.agent.service.deregister("web-1")) is True
    assert lines(stub.requests) == [
        b"PUT /v1/agent/service/register",
        b"PUT /v1/agent/check/pass/service:web-1?note=fine+%26+well",
        b"PUT /v1/agent/service/maintenance/web-1?enable=true&reason=drain",
        b"PUT /v1/agent/service/deregister/web-1",
    ]
    assert json.loads(stub.requests[0].partition(b"\r\n\r\n")[2])["id"] == "web-1"


def test_the_answers_of_an_index(world: World) -> None:
    stub = world.stub(http(b'[{"a": 1}]', X_Consul_Index="77"), http(b"[]"))
    client = TxConsul(world.agent(stub), "east")
    assert world.get(client.health.service("web")) == ("77", [{"a": 1}])
    assert stub.requests[0].startswith(b"GET /v1/health/service/web?dc=east HTTP")
    with pytest.raises(ConsulException, match="index"):
        world.get(client.health.service("web"))


def test_errors_are_those_of_py_consul(world: World) -> None:
    stub = world.stub(http(b"no", "403 Forbidden"), http(b"no", "500 Oh"), http(b"no", "400 Bad"), http(b"{"))
    client = TxConsul(world.agent(stub))
    for error in (ACLPermissionDenied, ConsulException, BadRequest, ConsulException):
        with pytest.raises(error):
            world.get(client.status.leader())


def test_no_answer_is_an_agent_error(world: World, tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        world.get(TxConsul(world.agent(f"unix:{tmp_path}/none")).status.leader())
    assert caught.value.kind == "refused"


def test_the_environment_has_no_say(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "stolen")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "http://192.0.2.1:1")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")
    monkeypatch.setenv("CONSUL_HTTP_SSL_VERIFY", "false")
    stub = world.stub(http(b'""'))
    world.get(TxConsul(world.agent(stub)).kv.put("a", "b"))
    world.get(TxConsul(world.agent(stub, lambda: "ours")).kv.put("a", "b"))
    assert b"X-Consul-Token" not in stub.requests[0]
    assert re.findall(b"X-Consul-Token: (.*)\r", stub.requests[1]) == [b"ours"]


def test_another_token_is_refused(world: World) -> None:
    stub = world.stub(http())
    with pytest.raises(ValueError, match="configured"):
        TxConsul(world.agent(stub)).kv.put("a", "b", token="other")
    assert not stub.connections


def test_a_blocking_query_waits_longer_and_in_no_line(world: World) -> None:
    stub = world.stub(lambda served: None)
    agent = world.agent(stub)
    client = TxConsul(agent)
    short = [client.status.leader() for _ in range(4)]
    asked = client.kv.get("a", index="5", wait="160s")
    forever = client.kv.get("a", index="5")
    world.until(lambda: len(stub.requests) == 6)
    for each in short:
        each.addErrback(lambda failure: failure.trap(AgentError))
    world.skip(10.0)
    world.until(lambda: all(each.called for each in short))
    world.skip(169.0)
    world.loop.run_for(0.02)
    assert not asked.called
    world.skip(2.0)
    with pytest.raises(AgentError, match="180 s"):
        world.get(asked)
    assert not forever.called
    forever.addErrback(lambda failure: None)
    assert agent.counters.requests == {("status_leader", "timeout"): 4, ("kv", "timeout"): 1}


def test_text_and_bytes(world: World) -> None:
    stub = world.stub(http("\u00e9".encode()), http(b"\xff\x00"), http(b"\xff"))
    client = TxHTTPClient(world.agent(stub))

    def body(response: Response) -> Any:
        return response.body

    assert world.get(client.get(body, "/v1/x")) == "\u00e9"
    assert world.get(client.get(body, "/v1/x", raw=True)) == b"\xff\x00"
    assert world.get(client.post(body, "/v1/x", data="\u00e9")) == "\ufffd"
    assert stub.requests[2].endswith("\r\n\r\n\u00e9".encode())


def test_closing(world: World) -> None:
    agent = world.agent(world.stub(http()))
    world.get(TxHTTPClient(agent).close())
    with pytest.raises(AgentError, match="no more"):
        world.get(TxConsul(agent).status.leader())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/agent/service/register", "agent_service_register"),
        ("/v1/agent/check/pass/service:web", "agent_check_pass"),
        ("/v1/agent/service/my-secret-id", "agent_service"),
        ("/v1/agent/services", "agent"),
        ("/v1/health/service/web", "health_service"),
        ("/v1/health/service/service", "health_service"),
        ("/v1/kv/agent/service", "kv"),
        ("/v1/query/5a2a1c5e/execute", "query"),
        ("/v1/session/renew/5a2a1c5e", "session_renew"),
        ("/v1/coordinate/nodes", "coordinate_nodes"),
        ("/v1/txn", "txn"),
    ],
)
def test_names_of_endpoints_hold_nothing_of_a_user(path: str, name: str) -> None:
    assert endpoint_name(path) == name


def test_only_who_needs_it_pays_for_py_consul() -> None:
    modules = "transport", "token", "counters"
    imports = "; ".join(f"import hostproxy.discovery.consul.{each}" for each in modules)
    # Nor is the process's reactor chosen by an import.
    code = f"import sys; {imports}; print(*{{'consul', 'requests', 'twisted.internet.reactor'}} & {{*sys.modules}})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True).stdout
    assert out.split() == []


# On a real Consul


def token_of(secured: SecuredConsul, world: World, path: Path, text: str = MASTER) -> Token:
    path.write_text(text)
    path.chmod(0o600)
    return Token(ConsulConfig(token_file=str(path)), {}, world.reactor.seconds)


def test_key_value_store(world: World, secured: SecuredConsul) -> None:
    kv = TxConsul(world.agent(secured.address, lambda: MASTER)).kv
    key = "test/key & value/\u00e9"
    assert world.get(kv.put(key, "one", cas=0)) is True
    assert world.get(kv.put(key, "two", cas=0)) is False
    index, found = world.get(kv.get(key))
    assert (found["Key"], found["Value"]) == (key, b"one")

    # A blocking query returns when it changes, and goes on over its connection.
    waiting = kv.get(key, index=index, wait="60s")
    world.loop.run_for(0.2)
    assert not waiting.called
    assert world.get(kv.put(key, b"\x00\xff", cas=found["ModifyIndex"])) is True
    newer, found = world.get(waiting)
    assert found["Value"] == b"\x00\xff"
    assert int(newer) > int(index)
    assert world.get(kv.delete(key)) is True
    assert world.get(kv.get(key))[1] is None


def test_sessions(world: World, secured: SecuredConsul) -> None:
    client = TxConsul(world.agent(secured.address, lambda: MASTER))
    session = world.get(client.session.create("test", ttl=60, lock_delay=0))
    assert world.get(client.kv.put("test/lock", "me", acquire=session)) is True
    assert world.get(client.session.renew(session))["ID"] == session
    assert world.get(client.session.destroy(session)) is True


def test_a_service_with_a_ttl_check(world: World, secured: SecuredConsul) -> None:
    agent = world.agent(secured.address, lambda: MASTER)
    client = TxConsul(agent)

    def health() -> tuple[str, str]:
        _, [entry] = world.get(client.health.service("ttl"))
        [check] = [each for each in entry["Checks"] if each["CheckID"] == "service:ttl-1"]
        return check["Status"], check["Output"]

    register = client.agent.service.register
    assert world.get(
        register(
            "ttl",
            service_id="ttl-1",
            address="10.0.0.1",
            port=9001,
            tags=["a"],
            meta={"mesh_port": "15443"},
            weights={"Passing": 5, "Warning": 1},
            check=Check.ttl("30s"),
            replace_existing_checks=True,
        )
    )
    secured.until(lambda: bool(secured.get("/v1/health/service/ttl")), "not in the catalog")
    assert health()[0] == "critical"
    assert world.get(client.agent.check.ttl_pass("service:ttl-1", "well"))
    secured.until(lambda: health() == ("passing", "well"), "not passing")
    assert world.get(client.agent.service.maintenance("ttl-1", True, "drain"))
    [entry] = secured.get("/v1/health/service/ttl")
    assert (entry["Service"]["Weights"], entry["Service"]["Meta"]) == (
        {"Passing": 5, "Warning": 1},
        {"mesh_port": "15443"},
    )
    assert world.get(client.agent.service.deregister("ttl-1"))
    secured.until(lambda: secured.get("/v1/health/service/ttl") == [], "still there")
    with pytest.raises(ConsulException):  # unknown by now
        world.get(client.agent.check.ttl_pass("service:ttl-1"))
    names = {name for name, _ in agent.counters.requests}
    assert {"agent_service_register", "agent_check_pass", "agent_service_maintenance", "health_service"} <= names


def test_a_token_that_changes(world: World, secured: SecuredConsul, tmp_path: Path) -> None:
    reader = 'key_prefix "rotate" { policy = "read" }'
    first, second = secured.policy("rotate-1", reader), secured.policy("rotate-2", reader)
    token = token_of(secured, world, tmp_path / "token", first)
    kv = TxConsul(world.agent(secured.address, token)).kv
    assert world.get(kv.get("rotate"))[1] is None
    with pytest.raises(ACLPermissionDenied):
        world.get(kv.put("rotate", "x"))
    accessor = secured.get("/v1/acl/token/self", token=first)["AccessorID"]
    secured.request("DELETE", f"/v1/acl/token/{accessor}")

    def refused() -> bool:
        try:
            world.get(kv.get("rotate"))
        except ACLPermissionDenied:
            return True
        return False

    secured.until(refused, "the old token is still good", 60.0)
    (tmp_path / "token").write_text(second)
    world.skip(1.0)
    assert world.get(kv.get("rotate"))[1] is None


def test_over_its_unix_socket(world: World, secured: SecuredConsul) -> None:
    client = TxConsul(world.agent(f"unix:{secured.socket}", lambda: MASTER))
    assert secured.name in [node["Node"] for node in world.get(client.catalog.nodes())[1]]


def test_over_https_with_certificates(world: World, secured: SecuredConsul, authority: Authority) -> None:
    address = f"https://{secured.ip}:{secured.ports['https']}"
    certificate, key = authority.issue("hostproxy")
    agent = world.agent(address, lambda: MASTER, ca=secured.ca, certificate=certificate, key=key)
    for _ in range(3):
        world.get(TxConsul(agent).catalog.nodes())
    assert agent.connections == 1
    with pytest.raises(AgentError) as caught:
        world.get(TxConsul(world.agent(address, lambda: MASTER, ca=secured.ca)).catalog.nodes())
    assert caught.value.kind == "tls"
    answer = world.get(world.agent(address.replace("https", "http")).request("GET", "/v1/x", timeout=5.0, what="x"))
    assert (answer.status, b"HTTPS" in answer.body) == (400, True)


def test_the_headers_of_a_real_answer(world: World, secured: SecuredConsul) -> None:
    agent = world.agent(secured.address, lambda: MASTER)
    answer = world.get(agent.request("GET", "/v1/catalog/services", {"stale": ""}, timeout=5.0, what="x"))
    assert (answer.status, answer.known_leader, answer.filtered) == (200, True, False)
    assert answer.index > 0
    assert 0.0 <= answer.last_contact < 5.0
    # An error says nothing about the index.
    answer = world.get(agent.request("GET", "/v1/catalog/services", {"dc": "nowhere"}, timeout=5.0, what="x"))
    assert answer.status == 500


def test_many_blocking_queries(world: World, secured: SecuredConsul) -> None:
    agent = world.agent(secured.address, lambda: MASTER)

    def wait(number: int) -> Any:
        params = {"index": "999999999", "wait": "1s"}
        return agent.request("GET", f"/v1/kv/many/{number}", params, timeout=5.0, persistent=False, what="kv")

    began = time.monotonic()
    asked = [wait(number) for number in range(150)]
    assert {world.get(each).status for each in asked} == {404}
    assert time.monotonic() - began < 4.0
    assert agent.connections == 150
    assert {world.get(each).status for each in [wait(number) for number in range(150)]} == {404}
    assert agent.connections == 150


def test_an_agent_that_is_killed_and_comes_back(world: World, secured: SecuredConsul, tmp_path: Path) -> None:
    agent = world.agent(secured.address, lambda: MASTER)
    client = TxConsul(agent)
    world.get(client.status.leader())
    waiting = client.kv.get("gone", index="999999999", wait="60s")
    world.loop.run_for(0.2)
    secured.kill()
    for asked in (waiting, client.status.leader()):
        with pytest.raises(AgentError) as caught:
            world.get(asked)
        assert caught.value.kind == "refused"  # the first as well: it was asked again over a new connection
    secured.start()
    assert world.get(client.status.leader())


