from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hostproxy.__main__ import main
from hostproxy.demo.consul import Agent, Program
from hostproxy.demo.load import Tally
from hostproxy.demo.processes import SiteError
from hostproxy.demo.screen import Consul, document, table
from hostproxy.demo.story import Event, Story
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


CONSUL = Consul(
    "Consul 1.8.7",
    {"vault": "http://127.0.1.2:1", "shop": "http://127.0.1.1:2"},
    {"payments-1": "127.0.1.2:3 passing, share 50%"},
    (Event("payments-1 ended", 0.42, 300, 1),),
)


def test_the_table_shows_what_consul_knows_and_what_happened():
    lines = table(tally(4), 200.0, CONSUL).splitlines()
    assert "  found by   Consul 1.8.7: agents http://127.0.1.2:1 on vault and http://127.0.1.1:2 on shop" in lines
    assert any(line.endswith("2   50.0%  127.0.1.2:3 passing, share 50%") for line in lines)
    assert lines[-1].split() == ["0.4", "s", "300", "1", "payments-1", "ended"]


def test_without_consul_nothing_is_said_of_it():
    assert "Consul" not in table(tally(4), 200.0)
    assert "consul" not in document(tally(4))


def test_the_document_has_every_event():
    assert document(tally(4), CONSUL)["consul"] == {
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
    story = Story(site, site.tally, site.idle)
    with pytest.raises(SiteError, match=r"payments-1 ended.* but calls were taken by: payments-1, payments-2"):
        story.play()
    assert len(story.events) == 2


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
        assert (shown["failures"], shown["mtls"]) == (0, True)
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
        assert len(alive(tmp_path)) >= 9  # two agents, two daemons with a worker each, two instances, itself
        process.send_signal(number)
        process.communicate(timeout=20)
        eventually(lambda: alive(tmp_path) == [], 20.0, "something of the demo still runs")
        if number != signal.SIGKILL:
            assert list(tmp_path.iterdir()) == []
    finally:
        end(process, tmp_path)
