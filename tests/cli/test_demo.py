from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hostproxy.__main__ import main
from hostproxy.demo import story as story_module
from hostproxy.demo.consul import Agent, Program
from hostproxy.demo.controller import Controller
from hostproxy.demo.load import Tally
from hostproxy.demo.processes import SiteError
from hostproxy.demo.screen import Consul, Control, document, table
from hostproxy.demo.story import ConsulStory, Event, PolicyStory
from tests import consul
from tests.integration.host import eventually

PEER = "By=spiffe://demo.mesh/service/payments;URI=spiffe://demo.mesh/service/cart"


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


# Finding a Consul


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """Neither PATH nor the directory of the interpreter has a Consul."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_without_a_consul_it_says_how_to_get_one(nowhere, capsys):
    assert main(["demo", "--once", "--consul"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "no Consul on PATH" in err
    assert "https://developer.hashicorp.com/consul/install" in err
    assert "tests/get-consul" in err


def test_another_program_is_not_taken_for_consul(nowhere, capsys):
    other = executable(nowhere / "other", "echo nginx version: 1")
    assert main(["demo", "--once", "--consul", str(other)]) == 2
    assert "is not Consul" in capsys.readouterr().err


def test_a_program_that_is_not_there(nowhere, capsys):
    assert main(["demo", "--once", "--consul", str(nowhere / "absent")]) == 2
    assert f"{nowhere / 'absent'} is no program" in capsys.readouterr().err


def test_a_program_that_cannot_be_run(nowhere, capsys):
    broken = nowhere / "broken"
    broken.write_text("#!/absent/interpreter\n")
    broken.chmod(0o755)
    assert main(["demo", "--once", "--consul", str(broken)]) == 2
    assert "can't be run" in capsys.readouterr().err


def test_a_consul_that_ends_is_reported_with_what_it_said(nowhere, capsys):
    script = 'case $1 in version) echo "Consul v1.8.7";; *) echo "no such option"; exit 3;; esac'
    broken = executable(nowhere / "consul", script)
    assert main(["demo", "--once", "--consul", str(broken)]) == 1
    err = capsys.readouterr().err
    assert "consul-vault ended with status 3" in err
    assert "no such option" in err


@pytest.mark.parametrize(("version", "closed"), [((1, 8, 7), False), ((1, 14, 0), True), ((2, 0, 0), True)])
def test_a_port_that_is_open_by_default_is_closed_where_there_is_one(tmp_path, version, closed):
    ports = {"http": 1, "server": 2, "serf_lan": 3, "serf_wan": 4}
    agent = Agent(Program("/usr/bin/consul", version), "shop", "127.0.1.1", ports)
    command = agent.configure(tmp_path, None)
    settings = json.loads(Path(command[2].removeprefix("-config-file=")).read_text())
    assert (settings["ports"].get("grpc_tls") == -1) is closed


# What is shown


def tally(calls: int) -> Tally:
    made = Tally()
    for number in range(calls):
        made.succeeded(f"payments-{number % 2 + 1}", PEER, 0.001)
    return made


CONTROL = Control("https://localhost:1", (Event("POST /refund is denied", 0.04, 80, 0),))
CONSUL = Consul(
    "Consul 1.8.7",
    {"vault": "http://127.0.1.2:1", "shop": "http://127.0.1.1:2"},
    {"payments-1": "127.0.1.2:3 passing, share 50%"},
    (Event("payments-1 ended", 0.42, 300, 1),),
)


def test_the_table_shows_what_consul_knows_and_what_happened():
    lines = table(tally(4), 200.0, CONTROL, CONSUL).splitlines()
    assert "  found by   Consul 1.8.7: agents http://127.0.1.2:1 on vault and http://127.0.1.1:2 on shop" in lines
    assert any(line.endswith("2   50.0%  127.0.1.2:3 passing, share 50%") for line in lines)
    assert lines[-1].split() == ["0.4", "s", "300", "1", "payments-1", "ended"]


def test_the_table_shows_what_the_controller_did():
    lines = table(tally(4), 200.0, CONTROL).splitlines()
    assert "  policy     and certificates come from the controller, https://localhost:1" in lines
    assert lines[-1].split() == ["0.0", "s", "80", "0", "POST", "/refund", "is", "denied"]
    assert document(tally(4), CONTROL)["controller"] == {
        "url": "https://localhost:1",
        "events": [
            {"event": "POST /refund is denied", "shown_after_seconds": 0.04, "requests": 80, "failures": 0},
        ],
    }


def test_without_consul_nothing_is_said_of_it():
    assert "Consul" not in table(tally(4), 200.0, CONTROL)
    assert "consul" not in document(tally(4), CONTROL)


def test_the_document_has_every_event():
    assert document(tally(4), CONTROL, CONSUL)["consul"] == {
        "title": "Consul 1.8.7",
        "agents": {"vault": "http://127.0.1.2:1", "shop": "http://127.0.1.1:2"},
        "events": [{"event": "payments-1 ended", "shown_after_seconds": 0.42, "requests": 300, "failures": 1}],
    }


class Calls:
    """A site where everything is known at once, and instances that take calls although they should not."""

    def __init__(self) -> None:
        self.instances = {"payments-1": ("127.0.1.2", 1), "payments-2": ("127.0.1.2", 2)}
        self.tally = Tally()

    def wait(self, condition, problem, process, idle):
        pass

    def end_instance(self, name):
        pass

    def idle(self):
        for name in self.instances:
            self.tally.succeeded(name, PEER, 0.001)


def test_a_story_that_does_not_go_as_told_is_an_error():
    site = Calls()
    story = ConsulStory(site, site.tally, site.idle)
    with pytest.raises(SiteError, match=r"payments-1 ended.* but calls were taken by: payments-1, payments-2"):
        story.play()
    assert len(story.events) == 2


class Answering:
    """payments, which answers each call for a refund in turn with these statuses and bodies, and others with 200."""

    def __init__(self, *refunds: tuple[int, bytes]) -> None:
        self._refunds = list(refunds)
        answering = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                status, body = answering._next(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = self._server.server_address
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def _next(self, path: str) -> tuple[int, bytes]:
        if path != "/refund":
            return 200, b""
        return self._refunds.pop(0) if len(self._refunds) > 1 else self._refunds[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Steered(Calls):
    """A site with a controller that says what it is given to say."""

    def __init__(self, upstream: tuple[str, int], rollout: str = "done", generation: int = 2) -> None:
        super().__init__()
        self.upstream = upstream
        self.controller = self
        self._rollout = rollout
        self._generation = generation

    def wait(self, condition, problem, process, idle):
        if not condition():
            raise SiteError(f"{problem} after 30 s")

    def apply_policy(self, *paths, options):
        assert paths == ("/make-payment", "/refund")
        return 2

    def get(self, path):
        match path:
            case "/v1/rollout":
                version = {"epoch": 1, "generation": 2}
                waves = [["vault"], ["shop"]]
                rollout = {"phase": self._rollout, "reason": "vault refuses it", "version": version, "waves": waves}
                return {"rollout": rollout}
            case "/v1/hosts":
                hosts = (("vault", 2), ("shop", self._generation))
                return {"hosts": [{"name": name, "state": "SYNCED", "generation": has} for name, has in hosts]}
        service = {"/v1/hosts/vault": "payments", "/v1/hosts/shop": "cart"}[path]
        return {"host": {"state": "SYNCED", "report": {"certificates": {"host": 1.0, service: 1.0}}}}


DENIED = (
    403,
    b"hostproxy: spiffe://demo.mesh/service/cart may not POST this path of payments: "
    b"no rule allows it (mesh.toml:2: [defaults] access) (UAEX)",
)


@pytest.fixture
def policy_story():
    """Plays the story of policy; returns its events."""
    servers = []

    def play(*refunds: tuple[int, bytes], **more: object) -> list[str]:
        server = Answering(*refunds)
        servers.append(server)
        site = Steered(server.address, **more)
        story = PolicyStory(site, site.tally, site.idle)
        story.play()
        return [event.text for event in story.events]

    yield play
    for server in servers:
        server.close()


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr(story_module, "CALM", 0.01)


def test_the_story_of_policy_names_the_line_that_denies(policy_story, no_pause):
    _, denied, tried, done = policy_story(DENIED, (200, b"{}"))
    assert denied == "POST /refund is denied: no rule allows it (mesh.toml:2: [defaults] access)"
    assert "vault" in tried
    assert "shop" in done


@pytest.mark.parametrize(
    ("refunds", "more", "why"),
    [
        ([(200, b"{}")], {}, r"should be denied.*status=200"),
        ([(403, b"no")], {}, r"should be denied.*body='no'"),
        ([(503, DENIED[1])], {}, r"should be denied.*status=503"),
        ([DENIED], {}, r"POST /refund is answered.* did not happen"),
        ([DENIED, (200, b"")], {"rollout": "stopped"}, r"the rollout was stopped: vault refuses it"),
        ([DENIED, (200, b"")], {"rollout": "running"}, r"POST /refund is answered.* did not happen"),
        ([DENIED, (200, b"")], {"generation": 1}, r"POST /refund is answered.* did not happen"),
    ],
    ids=["allowed", "no line", "unavailable", "still denied", "stopped", "not done", "not on both hosts"],
)
def test_a_policy_without_the_effect_that_is_told_is_an_error(policy_story, no_pause, refunds, more, why):
    with pytest.raises(SiteError, match=why):
        policy_story(*refunds, **more)


def test_without_the_controllers_package_it_says_what_to_install(monkeypatch, tmp_path):
    # -S and -I: an interpreter that knows nothing but its standard library.
    monkeypatch.setattr(sys, "executable", str(executable(tmp_path / "python", f'exec {sys.executable} -S -I "$@"')))
    with pytest.raises(SiteError, match="the package controller is not there"):
        Controller(tmp_path / "ctl", 1).init("demo.mesh")


def test_what_a_command_of_the_controller_complains_of_is_shown(tmp_path):
    with pytest.raises(SiteError, match=r"(?s)hostproxy-controller init .*ended with status 2:\n.*'demo mesh'"):
        Controller(tmp_path / "ctl", 1).init("demo mesh")


# The real thing


def start(temporary: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hostproxy", "demo", *options],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def alive(temporary: Path) -> list[int]:
    """Every process of that demo: they have its environment."""
    mark = f"TMPDIR={temporary}".encode()
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and mark in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                found.append(int(entry))
        except OSError:
            continue  # it has ended, or is another user's
    return found


def end(process: subprocess.Popen[str], temporary: Path) -> None:
    for pid in alive(temporary):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=10)


def test_once_by_file(tmp_path):
    process = start(tmp_path, "--json")
    try:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        shown = json.loads(out)
        assert (shown["requests"], shown["failures"], shown["mtls"]) == (1000, 0, True)
        joined, denied, tried, done = shown["controller"]["events"]
        assert "mesh.toml:2: [defaults] access" in denied["event"]
        assert all(event["requests"] > 0 and event["failures"] == 0 for event in (joined, denied, tried, done))
        assert "consul" not in shown
        assert alive(tmp_path) == []
        assert list(tmp_path.iterdir()) == []
    finally:
        end(process, tmp_path)


def test_once_by_consul(tmp_path):
    process = start(tmp_path, "--json", "--consul", consul.path())
    try:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
        shown = json.loads(out)
        assert (shown["requests"], shown["failures"], shown["mtls"]) == (1000, 0, True)
        assert len(shown["controller"]["events"]) == 4
        assert shown["consul"]["title"].startswith("Consul ")
        events = shown["consul"]["events"]
        assert len(events) == 5
        assert all(event["requests"] > 0 and event["failures"] == 0 for event in events)
        assert alive(tmp_path) == []
        assert list(tmp_path.iterdir()) == []
    finally:
        end(process, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_nothing_outlives_it(tmp_path, number):
    process = start(tmp_path, "--consul", consul.path())
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("hostproxy demo")  # the first table: all of it runs
        assert len(alive(tmp_path)) >= 10  # itself, controller, two agents, two daemons, a worker each, two instances
        process.send_signal(number)
        process.communicate(timeout=20)
        eventually(lambda: alive(tmp_path) == [], 20.0, "something of the demo still runs")
        if number != signal.SIGKILL:
            assert list(tmp_path.iterdir()) == []
    finally:
        end(process, tmp_path)
