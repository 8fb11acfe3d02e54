"""``hostproxy endpoints`` against a real admin address."""

from __future__ import annotations

import json

import msgspec
import pytest

from hostproxy.__main__ import main
from hostproxy.discovery.catalog import CRITICAL
from tests.admin.states import make_consul_state


def rows(text):
    """The table, without what is above it."""
    return [line.split(maxsplit=9) for line in text.partition("\n\n")[2].splitlines() if line]


def test_consul(daemon, capsys):
    assert main(["endpoints", "payments", "--admin", daemon(make_consul_state())]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[:3] == [
        "payments  http  used: 2 of 4 instances",
        "  dc1: watch for upstream, confirmed 4s ago, changed 1h ago, index 1234, 0.2 s behind the leader",
        "  dc2: poll for policy, confirmed 10s ago, changed 2h ago",
    ]
    head, *table = rows(text)
    assert head == ["ADDRESS", "HOST", "ZONE", "DC", "VERSION", "HEALTH", "WEIGHT", "SHARE", "USED", "WHY"]
    assert table[0] == ["10.0.0.1:9001", "db-1", "rack-3", "dc1", "2", "passing", "1", "50.0%", "yes"]
    assert table[1][5:9] == ["critical", "1", "-", "no"]
    assert "serfHealth" in table[1][9]
    assert table[2][5:9] == ["warning", "1", "50.0%", "yes"]
    assert table[3][:4] == ["10.9.0.9:9001", "db-9", "-", "dc2"]


def test_a_catalog_file(daemon, capsys):
    assert main(["endpoints", "payments", "--admin", daemon()]) == 0
    assert "  file, read 30s ago\n" in capsys.readouterr().out


def test_a_subset(daemon, capsys):
    assert main(["endpoints", "payments", "--subset", "v2", "--admin", daemon(make_consul_state())]) == 0
    text = capsys.readouterr().out
    assert text.startswith("payments, subset v2  http  used: 1 of 4 instances\n")
    assert [row[8] for row in rows(text)[1:]] == ["yes", "no", "no", "no"]


def test_a_subset_that_policy_has_not(daemon, capsys):
    assert main(["endpoints", "payments", "--subset", "v3", "--admin", daemon(make_consul_state())]) == 1
    assert 'policy has no subset "v3" of payments' in capsys.readouterr().out


def test_no_usable_endpoint(daemon, capsys):
    state = make_consul_state()
    state.policy = None
    state.catalog = {
        "payments": tuple(msgspec.structs.replace(one, weight=0) for one in state.catalog["payments"])
    }
    assert main(["endpoints", "payments", "--admin", daemon(state)]) == 1
    text = capsys.readouterr().out
    assert "used: 0 of 4" in text
    assert "no instance of payments is usable" in text


def test_panic_uses_what_is_critical(daemon, capsys):
    state = make_consul_state()
    state.policy = None
    state.catalog = {
        "payments": tuple(
            msgspec.structs.replace(one, health=CRITICAL, reason="serfHealth") for one in state.catalog["payments"]
        )
    }
    assert main(["endpoints", "payments", "--admin", daemon(state)]) == 0
    assert "panic" in capsys.readouterr().out


def test_held_and_in_trouble(daemon, capsys):
    state = make_consul_state()
    first, *others = state.discovery.services
    trouble = msgspec.structs.replace(first, held=True, problem="no path\x1b[2J to datacenter dc2", confirmed=0.0)
    state.discovery = msgspec.structs.replace(state.discovery, services=(trouble, *others))
    assert main(["endpoints", "payments", "--admin", daemon(state)]) == 0
    text = capsys.readouterr().out
    assert "dc2: poll for policy, never confirmed" in text
    assert "Consul has no instance any more" in text
    assert "no path?[2J to datacenter dc2" in text


def test_a_service_that_is_not_watched(daemon, capsys):
    assert main(["endpoints", "consul", "--admin", daemon(make_consul_state())]) == 1
    assert "is in Consul, but not watched here" in capsys.readouterr().out


def test_a_service_that_nobody_knows(daemon, capsys):
    assert main(["endpoints", "nobody", "--admin", daemon(make_consul_state())]) == 1
    assert capsys.readouterr().out == "nobody: no such service is known here\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["Payments"], 'did you mean "payments"?'),
        (["pay ments"], "is not the name of a service"),
        (["payments", "--subset", "V2"], 'did you mean "v2"?'),
    ],
)
def test_names_that_are_none(arguments, part, capsys):
    assert main(["endpoints", *arguments, "--admin", "127.0.0.1:1"]) == 2
    assert part in capsys.readouterr().err


def test_json(daemon, capsys):
    assert main(["endpoints", "payments", "-o", "json", "--admin", daemon(make_consul_state())]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["used"] for one in document["services"]["payments"]["instances"]] == [True, False, True, False]
    assert main(["endpoints", "nobody", "-o", "json", "--admin", daemon(make_consul_state())]) == 1
    assert json.loads(capsys.readouterr().out)["services"]["nobody"]["known"] is False
