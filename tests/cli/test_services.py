"""``hostproxy services`` against a real admin address."""

from __future__ import annotations

import json

import msgspec
import pytest

from hostproxy.__main__ import main
from hostproxy.discovery.knowledge import ServiceKnowledge
from tests.admin.states import NOW, make_consul_state, make_state


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr("time.time", lambda: NOW)


def test_a_catalog_file(daemon, capsys):
    assert main(["services", "--admin", daemon()]) == 0
    assert capsys.readouterr().out == (
        "SERVICE   DC   PROTOCOL  INSTANCES  SOURCE  AGE  WANTED BY  PROBLEM\n"
        "payments  dc1  http      2/2        file    30s  -\n"
        "\n"
        "/etc/hostproxy/catalog.toml: 1 services known here\n"
    )


def test_consul(daemon, capsys):
    assert main(["services", "--admin", daemon(make_consul_state())]) == 0
    assert capsys.readouterr().out == (
        "SERVICE   DC   PROTOCOL  INSTANCES  SOURCE  AGE    WANTED BY  PROBLEM\n"
        "payments  dc1  http      2/3        watch   4s     upstream\n"
        "payments  dc2  http      1/1        poll    10s    policy\n"
        "stock     dc1  -         0/0        watch   never  traffic\n"
        "\n"
        "http://127.0.0.1:8500: 2 services known here, 1 more there (--all)\n"
    )


def test_all_that_consul_has(daemon, capsys):
    assert main(["services", "--all", "--admin", daemon(make_consul_state())]) == 0
    text = capsys.readouterr().out
    assert ["consul", "-", "-", "-", "not", "watched", "-", "-"] in [line.split() for line in text.splitlines()]
    assert text.index("\nconsul ") < text.index("\npayments ")
    assert text.endswith("2 services known here, 1 more there\n")


def test_problems(daemon, capsys):
    state = make_consul_state()
    state.discovery = msgspec.structs.replace(
        state.discovery,
        problem="connection refused",
        since=NOW - 90.0,
        services=(
            ServiceKnowledge(service="payments", source="watch", held=True, confirmed=NOW),
            ServiceKnowledge(service="stock", source="kept", confirmed=NOW - 3600.0, problem="time\x1b[2Jout"),
        ),
    )
    assert main(["services", "--admin", daemon(state)]) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    assert rows["payments"].endswith("Consul has no instance any more: the last ones are kept for a while")
    assert rows["stock"].split()[4:6] == ["kept", "1h"]
    assert rows["stock"].endswith("time?[2Jout")
    assert text.endswith("no news for 1m30s: connection refused\n")


def test_why_a_service_cannot_be_reached(daemon, capsys):
    state = make_consul_state()
    state.snapshot.services["payments"] = msgspec.structs.replace(
        state.snapshot.services["payments"], places=(), obstacle="no instance of payments is healthy: 4 critical"
    )
    main(["services", "--admin", daemon(state)])
    assert "no instance of payments is healthy: 4 critical" in capsys.readouterr().out


def test_nothing_is_known_yet(daemon, capsys):
    state = make_state()
    state.snapshot, state.catalog = None, {}
    assert main(["services", "--admin", daemon(state)]) == 0
    assert capsys.readouterr().out.endswith(": 0 services known here\n")


def test_json(daemon, capsys):
    assert main(["services", "-o", "json", "--admin", daemon(make_consul_state())]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["names"] == ["consul", "payments", "stock"]
    assert [row["service"] for row in document["services"]] == ["payments", "payments", "stock"]
