"""``hostproxy status`` against a real admin address."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import msgspec
import pytest

from hostproxy.__main__ import main
from hostproxy.control.state import SourceState, WorkerState
from tests.admin.states import NOW, make_consul_state, make_state


def test_a_host_that_is_ready(daemon, capsys):
    assert main(["status", "--admin", daemon()]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines()]
    assert text.startswith(
        "web-1 (10.0.0.11, dc1/rack-3, example.org)  hostproxy 0.1.0  pid 4711  up 3m20s  ready\n"
    )
    assert ["0", "4712", "serving", "1m40s", "1", "6", "410", "4.1", "0.4", "ms"] in rows
    assert ["proxy", "127.0.0.1:15001", "-", "cart"] in rows
    assert ["payments", "2", "0", "400", "3", "1", "0", "0", "0"] in rows
    assert ["cart", "0", "1", "0", "0", "0", "10", "0", "0"] in rows
    assert "/etc/hostproxy/catalog.toml" in text
    assert "default: deny" in text
    assert "first to end: spiffe://example.org/service/cart ends in 1h" in text
    assert "\x1b" not in text


def test_a_host_that_is_not_ready(daemon, capsys):
    state = make_state()
    state.workers = (WorkerState(place=0, id=1, phase="waiting", restarts=4, problem="exited with status 1"),)
    assert main(["status", "--admin", daemon(state)]) == 1
    text = capsys.readouterr().out
    assert "NOT READY" in text
    assert "not ready: worker 0 is waiting: exited with status 1" in text


def test_what_does_not_work_is_shown_though_ready(daemon, capsys):
    state = make_state()
    state.policy_source = SourceState(path="/p.toml", problems=("p.toml:3: bad\x1b[31m",), since=NOW)
    assert main(["status", "--admin", daemon(state)]) == 0
    text = capsys.readouterr().out
    assert "degraded: policy: p.toml:3: bad?[31m" in text
    assert "never read" in text


def test_a_host_that_has_just_started(daemon, capsys):
    state = make_state()
    state.snapshot, state.policy, state.workers, state.listeners, state.identities = None, None, (), (), ()
    state.catalog_source = SourceState()
    assert main(["status", "--admin", daemon(state)]) == 1
    text = capsys.readouterr().out
    assert "no worker has been started yet" in text
    assert "not configured" in text


def test_an_expired_certificate(daemon, capsys):
    state = make_state()
    state.identities[1].not_after = NOW - 1.0
    main(["status", "--admin", daemon(state)])
    assert "HAS EXPIRED" in capsys.readouterr().out


def test_json_is_one_object_with_stable_keys(daemon, capsys):
    assert main(["status", "--admin", daemon(), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {
        *("host", "version", "pid", "uptime_seconds", "ready", "reasons", "degraded", "workers", "listeners"),
        *("services", "catalog", "discovery", "health", "policy", "certificates", "controller", "clocks", "reloads"),
        "upgrades",
    }


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("", True), ("1", False)])
def test_a_terminal_gets_colour_unless_told_otherwise(daemon, no_color, coloured):
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    if no_color is not None:
        environment["NO_COLOR"] = no_color
    ours, theirs = pty.openpty()
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "hostproxy", "status", "--admin", daemon()],
            stdout=theirs,
            env=environment,
            timeout=20,
            check=False,
        )
        assert ran.returncode == 0
        assert (b"\x1b[32mready\x1b[0m" in os.read(ours, 65536)) == coloured
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_catalog_file_has_no_line_of_discovery(daemon, capsys):
    main(["status", "--admin", daemon()])
    assert "discovery " not in capsys.readouterr().out


def test_consul(daemon, capsys, monkeypatch):
    monkeypatch.setattr("time.time", lambda: NOW)
    assert main(["status", "--admin", daemon(make_consul_state())]) == 0
    text = capsys.readouterr().out
    assert "catalog       http://127.0.0.1:8500, read 4s ago; instances: 4\n" in text
    assert (
        "discovery     2 of 3 services of Consul known; all confirmed within 10s; never confirmed: 1; watches: 2;"
        " registered: 2\n"
    ) in text


def test_consul_in_trouble(daemon, capsys):
    state = make_consul_state()
    problem = "connection refused: is the agent running?"
    state.discovery = msgspec.structs.replace(state.discovery, problem=problem, since=NOW - 60.0)
    state.registration = "the ACL token does not allow it"
    assert main(["status", "--admin", daemon(state)]) == 0
    text = capsys.readouterr().out
    assert f"degraded: discovery: {problem} (since 2025-11-20T19:29:00Z)" in text
    assert "degraded: registration: the ACL token does not allow it" in text
