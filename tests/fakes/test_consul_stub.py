"""The stub of Consul: its answers against those of a real one, what it blocks on, and what goes wrong when told to."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import consul
from tests.fakes.consul_stub import LIMIT, ROOT, ConsulStub

WEB = {"address": "10.0.0.1", "port": 80, "status": "passing"}
HEALTH = "/v1/health/service/"


class Answer:
    """What came back."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = {name: value for name, value in answer.getheaders() if name != "Date"}
        self.content = answer.read()

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def index(self) -> int:
        return int(self.headers["X-Consul-Index"])


def ask(host: str, port: int, target: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
    with closing(http.client.HTTPConnection(host, port, timeout=10)) as connection:
        connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
        return Answer(connection.getresponse())


class Client:
    """Asks a stub."""

    def __init__(self, stub: ConsulStub) -> None:
        self.stub = stub

    def __call__(self, target: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
        text = None if body is None else json.dumps(body)
        return ask("127.0.0.1", self.stub.port, target, method, text, **headers)

    def blocked(self, target: str) -> tuple[threading.Thread, list[Answer]]:
        """Ask in another thread, and see that the answer doesn't come."""
        answers: list[Answer] = []
        before = self.stub.state()["blocked"]
        thread = threading.Thread(target=lambda: answers.append(self(target)))
        thread.start()
        self.stub.until(lambda state: state["blocked"] == before + 1)
        assert answers == []
        return thread, answers


@pytest.fixture(scope="module")
def running() -> Iterator[ConsulStub]:
    with ConsulStub() as stub:
        yield stub


@pytest.fixture
def stub(running: ConsulStub) -> Iterator[ConsulStub]:
    running.set("web", WEB)
    running.set("other", {"port": 1})
    yield running
    running.heal()
    running.forget()
    running.forget_registrations()
    running.settings(connections=0, unknown_check=500)


@pytest.fixture
def get(stub: ConsulStub) -> Client:
    return Client(stub)


# Against a real one


REGISTRATIONS = (
    {
        "Name": "web",
        "ID": "web-1",
        "Address": "10.0.0.1",
        "Port": 80,
        "Tags": ["b", "a"],
        "Meta": {"version": "2"},
        "Weights": {"Passing": 3, "Warning": 1},
        "Check": {"TTL": "15m", "Status": "passing", "CheckID": "web-check", "Name": "a name", "Notes": "a note"},
    },
    {"Name": "web", "ID": "web-2", "Port": 81, "Checks": [{"TTL": "10m"}, {"TCP": "127.0.0.1:1", "Interval": "1h"}]},
    {"name": "lower", "port": 3},
)

# One after the other, with what is to be the same in both.
DIALOGUE: tuple[tuple[str, str, Any], ...] = (
    *(("PUT", "/v1/agent/service/register?replace-existing-checks=true", one) for one in REGISTRATIONS),
    ("GET", "/v1/health/service/web", None),
    ("GET", "/v1/health/service/web?stale=", None),
    ("GET", "/v1/health/service/lower?index=0&wait=10s", None),
    ("GET", "/v1/health/service/nobody", None),
    ("GET", "/v1/agent/services", None),
    ("GET", "/v1/agent/checks", None),
    ("GET", "/v1/catalog/services", None),
    ("GET", "/v1/catalog/datacenters", None),
    ("GET", "/v1/coordinate/nodes", None),
    ("GET", "/v1/health/service/web?dc=nowhere", None),
    ("GET", "/v1/health/service/web?index=many", None),
    ("GET", "/v1/health/service/web?index=1&wait=long", None),
    ("GET", "/v1/nothing", None),
    ("PUT", "/v1/agent/service/register", {"ID": "nameless"}),
    ("PUT", "/v1/agent/service/register", {"Name": "x", "Check": {"TTL": "long"}}),
    ("PUT", "/v1/agent/service/register", {"Name": "x", "Check": {"Interval": "3s"}}),
    ("PUT", "/v1/agent/service/register", {"Name": "x", "Weights": {"Passing": -1, "Warning": 1}}),
    ("PUT", "/v1/agent/check/warn/web-check?note=hm", None),
    ("GET", "/v1/agent/checks", None),
    ("GET", "/v1/health/service/web", None),
    ("PUT", "/v1/agent/check/update/web-check", {"Status": "critical", "Output": "bad"}),
    ("PUT", "/v1/agent/check/update/web-check", {"Status": "good"}),
    ("PUT", "/v1/agent/check/pass/unknown", None),
    ("PUT", "/v1/agent/check/fail/service:web-2:2", None),
    ("PUT", "/v1/agent/service/maintenance/web-1", None),
    ("PUT", "/v1/agent/service/maintenance/web-1?enable=maybe", None),
    ("PUT", "/v1/agent/service/maintenance/unknown?enable=true", None),
    ("PUT", "/v1/agent/service/maintenance/web-1?enable=true&reason=drain", None),
    ("PUT", "/v1/agent/service/maintenance/lower?enable=true", None),
    ("GET", "/v1/agent/checks", None),
    ("GET", "/v1/health/service/web", None),
    # Registered again: a check that is known keeps its state, one that is left out goes only when told so.
    ("PUT", "/v1/agent/service/register", REGISTRATIONS[0]),
    ("PUT", "/v1/agent/service/register", {"Name": "web", "ID": "web-2", "Port": 82}),
    ("GET", "/v1/agent/checks", None),
    ("PUT", "/v1/agent/service/register?replace-existing-checks=true", {"Name": "web", "ID": "web-2", "Port": 82}),
    ("GET", "/v1/agent/checks", None),
    ("PUT", "/v1/agent/service/maintenance/web-1?enable=false", None),
    ("PUT", "/v1/agent/service/deregister/web-1", None),
    ("PUT", "/v1/agent/service/deregister/unknown", None),
    ("GET", "/v1/agent/services", None),
    ("GET", "/v1/agent/checks", None),
    ("GET", "/v1/health/service/web", None),
    ("GET", "/v1/catalog/services", None),
)


def plain(value: Any, name: str = "") -> Any:
    """The same without what belongs to one server: identifiers, its address, indexes."""
    if isinstance(value, dict):
        node = name in ("Node", "of a node")
        return {key: plain(one, "of a node" if node and key != "Meta" else key) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if name in ("CreateIndex", "ModifyIndex", "of a node"):
        return type(value).__name__
    return value


def ordered(value: Any) -> Any:
    """The same with what Consul has in no certain order sorted: checks of an instance, tags in the list of names."""
    if isinstance(value, list):
        for entry in value:
            if isinstance(entry, dict):
                entry.get("Checks", []).sort(key=lambda one: one["CheckID"])
    elif isinstance(value, dict):
        return {key: sorted(one) if isinstance(one, list) else one for key, one in value.items()}
    return value


def told(answer: Answer) -> tuple[int, dict[str, str], Any]:
    """What a client reads out of an answer."""
    headers = dict(answer.headers)
    headers.pop("Allow", None)
    length = headers.pop("Content-Length", "")
    if "X-Consul-Index" in headers:
        headers["X-Consul-Index"] = "1" if answer.index == 1 else "more"
    if answer.status == 404 and not answer.content:
        return 404, {}, b""
    if headers.get("Content-Type") == "application/json":
        headers["length"] = "known" if length else "unknown"
        return answer.status, headers, plain(ordered(answer.json))
    return answer.status, headers, answer.content


def test_it_answers_like_a_real_one(tmp_path: Path) -> None:
    """Status, names and values of headers, every field of every answer and its type, texts of errors.

    But for Date, Allow, the values of indexes other than 1, and a node's own identifiers and addresses. Both say how
    long a short answer is, and send a long one in chunks.
    """
    with consul.running(tmp_path / "consul") as real, ConsulStub(node=real.name) as stub:
        for step, (method, target, body) in enumerate(DIALOGUE):
            text = None if body is None else json.dumps(body)
            expected = ask(real.ip, real.port, target, method, text)
            if method == "PUT":
                time.sleep(0.1)  # what the agent is told reaches the catalog a little later
            found = ask("127.0.0.1", stub.port, target, method, text)
            assert told(found) == told(expected), f"step {step}: {method} {target}"


# Blocking queries


def test_a_query_waits_for_news_of_its_service(stub: ConsulStub, get: Client) -> None:
    index = get(HEALTH + "web").index
    thread, answers = get.blocked(f"{HEALTH}web?index={index}&wait=60s")
    stub.set("other", {"port": 2})
    stub.set("new", {"port": 2})
    assert answers == []
    stub.change("web", "web-80", status="critical")
    thread.join(LIMIT)
    assert answers[0].index > index
    assert answers[0].json[0]["Checks"][1]["Status"] == "critical"


def test_a_query_ends_after_its_wait(get: Client) -> None:
    first = get(HEALTH + "web")
    start = time.monotonic()
    second = get(f"{HEALTH}web?index={first.index}&wait=300ms")
    assert 0.29 < time.monotonic() - start < 2
    assert (second.index, second.content) == (first.index, first.content)


def test_an_index_of_the_past_is_answered_at_once(get: Client) -> None:
    assert get(HEALTH + "web?index=1&wait=60s").status == 200


@pytest.mark.parametrize("target", [HEALTH + "nobody", "/v1/catalog/services"])
def test_what_concerns_no_service_alone_waits_for_news_of_any(stub: ConsulStub, get: Client, target: str) -> None:
    thread, answers = get.blocked(f"{target}?index={get(target).index}&wait=60s")
    stub.set("other", {"port": 2})
    thread.join(LIMIT)
    assert answers[0].status == 200


def test_the_end_of_a_service_is_news(stub: ConsulStub, get: Client) -> None:
    thread, answers = get.blocked(f"{HEALTH}web?index={get(HEALTH + 'web').index}&wait=60s")
    stub.set("web")
    thread.join(LIMIT)
    assert answers[0].json == []
    assert "web" not in get("/v1/catalog/services").json


def test_the_same_instances_again_move_the_index_only(stub: ConsulStub, get: Client) -> None:
    before = get(HEALTH + "web")
    stub.set("web", WEB)
    after = get(HEALTH + "web")
    assert after.index > before.index
    assert after.content == before.content


def test_a_restored_snapshot_wakes_all_with_another_index(stub: ConsulStub, get: Client) -> None:
    index = get(HEALTH + "web").index
    waiting = [get.blocked(f"{target}?index={index + 9}&wait=60s") for target in (HEALTH + "web", HEALTH + "nobody")]
    stub.restore(3)
    for thread, answers in waiting:
        thread.join(LIMIT)
        assert answers[0].index == 3


def test_who_has_gone_waits_no_more(stub: ConsulStub, get: Client) -> None:
    index = get(HEALTH + "web").index
    with closing(socket.create_connection(("127.0.0.1", stub.port))) as sock:
        sock.sendall(f"GET {HEALTH}web?index={index} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        stub.until(lambda state: state["blocked"] == 1)
    stub.until(lambda state: state["blocked"] == 0 and state["connections"] == 0)


def test_other_datacenters(stub: ConsulStub, get: Client) -> None:
    stub.set("web", {"port": 7}, datacenter="dc2")
    assert get("/v1/catalog/datacenters").json == ["dc1", "dc2"]
    (entry,) = get(HEALTH + "web?dc=dc2").json
    assert (entry["Node"]["Datacenter"], entry["Service"]["Port"]) == ("dc2", 7)
    assert get(HEALTH + "web?dc=dc1").json[0]["Service"]["Port"] == 80


def test_every_state_of_an_instance(stub: ConsulStub, get: Client) -> None:
    stub.set(
        "web",
        {
            "id": "a",
            "node": "n",
            "node_address": "10.0.0.9",
            "node_meta": {"zone": "z"},
            "node_status": "critical",
            "node_maintenance": "why",
            "maintenance": "because",
            "status": "warning",
            "tags": ["t"],
            "meta": {"version": "1"},
            "weights": [5, 2],
        },
    )
    (entry,) = get(HEALTH + "web").json
    assert {check["CheckID"]: (check["Status"], check["Notes"]) for check in entry["Checks"]} == {
        "serfHealth": ("critical", ""),
        "_node_maintenance": ("critical", "why"),
        "_service_maintenance:a": ("critical", "because"),
        "service:a": ("warning", ""),
    }
    assert entry["Node"]["Address"] == "10.0.0.9"
    assert entry["Node"]["Meta"]["zone"] == "z"
    assert entry["Service"]["Weights"] == {"Passing": 5, "Warning": 2}


def test_coordinates(stub: ConsulStub, get: Client) -> None:
    node = {"Node": "n1", "Segment": "", "Coord": {"Vec": [0.0] * 8, "Error": 1.5, "Adjustment": 0, "Height": 1e-5}}
    thread, answers = get.blocked(f"/v1/coordinate/nodes?index={get('/v1/coordinate/nodes').index}&wait=60s")
    stub.set("other", {"port": 2})
    assert answers == []
    stub.coordinates(node)
    thread.join(LIMIT)
    assert answers[0].json == [node]


# Registration, where the dialogue with a real one would take too long


def test_a_ttl_check_expires_and_recovers(get: Client) -> None:
    get("/v1/agent/service/register", "PUT", {"Name": "a", "Check": {"TTL": "0.3s", "Status": "passing"}})
    index = get(HEALTH + "a").index
    expired = get(f"{HEALTH}a?index={index}&wait=5s").json[0]["Checks"][1]
    assert (expired["Status"], expired["Output"]) == ("critical", "TTL expired")
    assert get("/v1/agent/check/pass/service:a?note=fine", "PUT").status == 200
    recovered = get(HEALTH + "a").json[0]["Checks"][1]
    assert (recovered["Status"], recovered["Output"]) == ("passing", "fine")


def test_registering_the_same_again_is_no_news(get: Client) -> None:
    service = {"Name": "a", "Port": 1, "Check": {"TTL": "10s"}}
    get("/v1/agent/service/register", "PUT", service)
    index = get(HEALTH + "a").index
    get("/v1/agent/service/register", "PUT", service)
    assert get(HEALTH + "a").index == index


def test_an_agent_that_forgets(stub: ConsulStub, get: Client) -> None:
    get("/v1/agent/service/register", "PUT", {"Name": "web", "ID": "mine", "Check": {"TTL": "10s"}})
    assert len(get(HEALTH + "web").json) == 2
    stub.settings(unknown_check=404)
    stub.forget_registrations()
    assert get("/v1/agent/services").json == get("/v1/agent/checks").json == {}
    assert [entry["Service"]["ID"] for entry in get(HEALTH + "web").json] == ["web-80"]
    assert get("/v1/agent/check/pass/service:mine", "PUT").status == 404


# What goes wrong


def test_an_answer_of_its_own(stub: ConsulStub, get: Client) -> None:
    stub.fault("/v1/health/*", status=500, body=b"No cluster leader", times=2)
    for _ in range(2):
        answer = get(HEALTH + "web?index=999999")
        assert (answer.status, answer.content, answer.index) == (500, b"No cluster leader", 1)
        assert answer.headers["X-Consul-Knownleader"] == "false"
    assert get(HEALTH + "web").status == 200


def test_a_fault_concerns_some_requests_and_the_last_one_told_counts(stub: ConsulStub, get: Client) -> None:
    stub.fault("/v1/health/*", params={"stale": ""}, status=500)
    stub.fault(HEALTH + "other", method="GET", status=403)
    assert get(HEALTH + "web").status == 200
    assert get(HEALTH + "web?stale=").status == 500
    assert get(HEALTH + "other?stale=").status == 403
    assert get("/v1/agent/services").status == 200


def test_headers_that_lie(stub: ConsulStub, get: Client) -> None:
    stub.fault(known_leader=False, last_contact=60.0, filtered=True, headers={"X-Other": "1", "Vary": None})
    headers = get(HEALTH + "web").headers
    assert headers["X-Consul-Knownleader"] == "false"
    assert headers["X-Consul-Lastcontact"] == "60000"
    assert headers["X-Consul-Results-Filtered-By-Acls"] == "true"
    assert headers["X-Other"] == "1"
    assert "Vary" not in headers
    thread, _ = get.blocked(f"{HEALTH}web?index={get(HEALTH + 'web').index}&wait=500ms")  # it blocks all the same
    thread.join(LIMIT)


def test_indexes_one_after_the_other(stub: ConsulStub, get: Client) -> None:
    stub.fault(HEALTH + "web", index=["100", "50", "", "many"])
    found = [get(HEALTH + "web?index=99999").headers.get("X-Consul-Index") for _ in range(4)]
    assert found == ["100", "50", None, "many"]
    assert get(HEALTH + "web").headers["X-Consul-Index"].isdigit()


@pytest.mark.parametrize("wake", [True, False])
def test_a_fault_for_those_who_wait_already(stub: ConsulStub, get: Client, wake: bool) -> None:
    thread, answers = get.blocked(f"{HEALTH}web?index={get(HEALTH + 'web').index}&wait=500ms")
    start = time.monotonic()
    stub.fault(HEALTH + "web", status=500, wake=wake)
    thread.join(LIMIT)
    assert answers[0].status == 500
    assert (time.monotonic() - start < 0.3) == wake


def test_late_answers(stub: ConsulStub, get: Client) -> None:
    stub.fault(HEALTH + "web", delay=0.3)
    start = time.monotonic()
    assert get(HEALTH + "web").status == 200
    assert time.monotonic() - start > 0.29


def test_no_answer_until_the_client_gives_up(stub: ConsulStub) -> None:
    stub.fault(HEALTH + "web", hang=True)
    with closing(socket.create_connection(("127.0.0.1", stub.port))) as sock:
        sock.sendall(f"GET {HEALTH}web HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.recv(1)


def test_a_reset(stub: ConsulStub, get: Client) -> None:
    stub.fault(HEALTH + "web", drop=True)
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        get(HEALTH + "web")


@pytest.mark.parametrize("instances", [1, 10], ids=["with a length", "in a chunk"])
def test_a_body_that_is_cut(stub: ConsulStub, get: Client, instances: int) -> None:
    stub.set("web", *({"port": port} for port in range(instances)))
    stub.fault(HEALTH + "web", truncate=100)
    with pytest.raises(http.client.IncompleteRead) as caught:
        get(HEALTH + "web")
    assert len(caught.value.partial) <= 100


def test_a_body_as_large_as_wanted(stub: ConsulStub, get: Client) -> None:
    stub.fault(HEALTH + "web", huge=20_000_000)
    answer = get(HEALTH + "web")
    assert len(answer.content) == 20_000_000
    assert answer.headers["Content-Length"] == "20000000"


def test_a_huge_body_takes_no_memory(stub: ConsulStub) -> None:
    stub.fault(HEALTH + "web", huge=10**10)
    with closing(socket.create_connection(("127.0.0.1", stub.port))) as sock:
        sock.sendall(f"GET {HEALTH}web HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert sock.recv(1)
        time.sleep(0.2)
        assert stub.state()["poured"] < 50_000_000
    stub.until(lambda state: state["connections"] == 0)


def test_too_many_connections_are_reset(stub: ConsulStub, get: Client) -> None:
    stub.settings(connections=2)
    index = get(HEALTH + "web").index
    stub.until(lambda state: state["connections"] == 0)
    waiting = [get.blocked(f"{HEALTH}web?index={index}&wait=60s") for _ in range(2)]
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        get(HEALTH + "web")
    stub.change("web", "web-80", status="critical")
    for thread, answers in waiting:
        thread.join(LIMIT)
        assert answers[0].status == 200


def test_an_instance_that_flaps(stub: ConsulStub, get: Client) -> None:
    stub.flap("web", "web-80", 20)
    before = stub.state()["index"]
    time.sleep(1)
    stub.flap("web", "web-80", 0)
    after = stub.state()["index"]
    assert 15 <= after - before <= 22
    time.sleep(0.2)
    assert stub.state()["index"] == after


# How it is used


def test_it_writes_down_what_was_asked(stub: ConsulStub, get: Client) -> None:
    start = time.monotonic()
    get(HEALTH + "web?stale=&near=_agent", X_Consul_Token="secret")
    get("/v1/agent/services")
    (one,) = stub.requests("/v1/health/*")
    assert (one.method, one.path, one.params, one.token) == (
        "GET",
        HEALTH + "web",
        {"stale": "", "near": "_agent"},
        "secret",
    )
    assert start <= one.time <= time.monotonic()
    assert len(stub.requests()) == 2
    stub.forget()
    assert stub.requests() == []


def test_several_requests_over_one_connection_in_whatever_pieces(stub: ConsulStub) -> None:
    request = "PUT /v1/agent/service/deregister/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    request += f"GET {HEALTH}web HT"
    with closing(socket.create_connection(("127.0.0.1", stub.port))) as sock:
        for piece in (request[:10], request[10:90], request[90:], "TP/1.1\r\nHost: a\r\n", "\r\n"):
            sock.sendall(piece.encode())
            time.sleep(0.02)
        received = b""
        while not received.endswith(b"}]}]"):
            received += sock.recv(65536)
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert len({one.connection for one in stub.requests()}) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "text"),
    [
        ("PUT", "nothing", None, "there is no PUT /_stub/nothing"),
        ("PUT", "fault", {"stauts": 500}, "stauts"),
        ("PUT", "service/web", [{"adress": "a"}], "adress"),
        ("PATCH", "service/web/nobody", {"status": "passing"}, "nobody"),
        ("PUT", "service/web", [{"port": 1}, {"port": 1}], "two instances"),
    ],
)
def test_mistakes_in_a_script_are_told(get: Client, method: str, path: str, body: Any, text: str) -> None:
    answer = get(f"/_stub/{path}", method, body)
    assert answer.status == 400
    assert text in answer.content.decode()


def test_two_thousand_services_and_ten_thousand_instances(get: Client, stub: ConsulStub) -> None:
    with ConsulStub() as large:
        start = time.monotonic()
        large.fill(2000, 20)
        large.fill(1, 10_000, "big")
        ask_large = Client(large)
        assert len(ask_large("/v1/catalog/services").json) == 2002
        big = ask_large(HEALTH + "big-0").json
        assert len({entry["Service"]["Address"] for entry in big}) == 10_000
        assert time.monotonic() - start < 5
        large.change("big-0", "big-0-7", status="critical")
        start = time.monotonic()
        ask_large(HEALTH + "big-0")
        assert time.monotonic() - start < 0.5


def test_it_is_the_same_place_after_a_restart(stub: ConsulStub) -> None:
    with ConsulStub() as other:
        address = other.address
        other.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", other.port)).close()
        other.start()
        assert other.address == address
        assert Client(other)("/v1/status/leader").json == "127.0.0.1:8300"


def test_it_ends_with_whoever_started_it() -> None:
    program = """if True:
        import time
        from tests.fakes.consul_stub import ConsulStub
        stub = ConsulStub().start()
        print(stub.process.pid, stub.port, flush=True)
        time.sleep(60)
    """
    starter = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    assert starter.stdout is not None
    with starter.stdout:
        pid, port = map(int, starter.stdout.readline().split())
    socket.create_connection(("127.0.0.1", port)).close()
    starter.send_signal(signal.SIGKILL)
    starter.wait(LIMIT)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return  # nobody has waited for it, but it has ended
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.01)
    raise AssertionError("it goes on")
