"""What commands make of answers: hosts, tokens, services, rollouts, keys, and the wait for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.__main__ import main
from controller.cli import applying, rollout, signing_key
from tests.controller import operator_api
from tests.controller.operator_api import FakeApi, host, serving

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    with serving(tmp_path / "s") as server:
        yield server


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (applying, rollout, signing_key):
        monkeypatch.setattr(module, "PERIOD", 0.01)


def run(api: FakeApi, *arguments: str) -> int:
    return main([*arguments, "--controller", api.address])


def lines(capsys: Captured) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


# Hosts


def test_hosts(api: FakeApi, capsys: Captured) -> None:
    api.answers["GET /v1/hosts"] = (
        200,
        {
            "now": 1010.0,
            "hosts": [
                host("db-1"),
                host("db-2", "STALE", generation=2, push_problem="connection refused"),
                host("db-3", "AWAY", reported=None, certificate_ends=1000.0, generation=0, address="", version=""),
                host("db-4", "ERROR", denied=True, denied_because="stolen"),
                host("db-5", confirmed=False),
            ],
        },
    )
    assert run(api, "hosts") == 0
    assert lines(capsys) == [
        "HOST STATE GENERATION REPORT CERTIFICATE VERSION ADDRESS PROBLEM",
        "db-1 SYNCED 3 10s ago 1h6m 0.1.0 10.0.0.1",
        "db-2 STALE 2, not 3 10s ago 1h6m 0.1.0 10.0.0.1 could not be told: connection refused",
        "db-3 AWAY 0, not 3 never over since 10s - -",
        "db-4 DENIED 3 10s ago 1h6m 0.1.0 10.0.0.1 denied: stolen",
        "db-5 SYNCED 3 10s ago 1h6m 0.1.0 10.0.0.1 not confirmed yet: it goes back unless it is",
        "",
        "5 hosts: 2 SYNCED, 1 STALE, 1 AWAY, 1 DENIED",
    ]


def test_a_host_in_error_is_loud(api: FakeApi, capsys: Captured) -> None:
    wrong = host("db-1", "ERROR", problems=["payments.toml:3: no", "\x1b[2J"])
    api.answers["GET /v1/hosts"] = 200, {"now": 1010.0, "hosts": [wrong, host("db-2")]}
    assert run(api, "hosts") == 1
    assert "payments.toml:3: no; ?[2J" in capsys.readouterr().out
    assert run(api, "hosts", "-o", "json") == 1
    assert json.loads(capsys.readouterr().out)["hosts"][0] == wrong


def test_deny_allow_and_forget(api: FakeApi, capsys: Captured) -> None:
    version = {"epoch": 1, "generation": 9}
    well = {"problem": "", "known": True}
    api.answers["POST /v1/hosts/db-1/deny"] = 200, {"denied": "spiffe://a/host/db-1", "generation": version, **well}
    api.answers["POST /v1/hosts/db-1/allow"] = 200, {"allowed": "spiffe://a/host/db-1", "generation": None, **well}
    api.answers["DELETE /v1/hosts/db-1"] = 200, {"forgotten": "db-1"}
    assert run(api, "hosts", "deny", "db-1", "--reason", "stolen") == 0
    assert api.bodies("POST /v1/hosts/db-1/deny") == [{"reason": "stolen"}]
    assert run(api, "hosts", "allow", "db-1") == 0
    assert run(api, "hosts", "forget", "db-1") == 0
    assert [line.partition(":")[0] for line in lines(capsys)] == [
        "spiffe",
        "hosts hear of it with generation 9, which is on its way",
        "spiffe",
        "hosts hear of it with the next generation of policy",
        "db-1 is forgotten",
    ]


def test_who_is_not_known_is_denied_and_said_to_be_so(api: FakeApi, capsys: Captured) -> None:
    version = {"epoch": 1, "generation": 9}
    found = {"denied": "spiffe://a/host/db-1", "generation": version, "problem": "", "known": False}
    api.answers["POST /v1/hosts/db-1/deny"] = 200, found
    assert run(api, "hosts", "deny", "db-1") == 0
    assert "nobody has enrolled under this name" in capsys.readouterr().err
    found = {**found, "denied": "spiffe://a/service/db-1", "problem": "raise-epoch", "generation": None}
    api.answers["POST /v1/services/db-1/deny"] = 200, found
    assert run(api, "service", "deny", "db-1") == 4
    said = capsys.readouterr()
    assert "nobody knows this service" in said.err
    assert "DO NOT HEAR OF IT: raise-epoch" in said.out


def test_a_service_on_several_hosts(api: FakeApi, capsys: Captured) -> None:
    no = 409, {"error": "no", "problems": []}
    down = 503, {"error": "the store does not answer", "problems": []}
    api.answers["PUT /v1/services/payments/hosts/a"] = 200, {}
    api.answers["PUT /v1/services/payments/hosts/b"] = no
    api.answers["PUT /v1/services/payments/hosts/c"] = down
    assert run(api, "service", "assign", "payments", "a") == 0
    assert run(api, "service", "assign", "payments", "b") == 1
    assert run(api, "service", "assign", "payments", "c") == 3
    capsys.readouterr()
    assert run(api, "service", "assign", "payments", "a", "b", "-o", "json") == 4
    found = capsys.readouterr()
    assert json.loads(found.out) == {"service": "payments", "done": ["a"], "failed": ["b"]}
    assert found.err == "b: no\n"
    # Where the store is down nothing more is tried.
    api.asked.clear()
    assert run(api, "service", "assign", "payments", "a", "c", "b") == 4
    assert [asked for asked, _ in api.asked] == [f"PUT /v1/services/payments/hosts/{name}" for name in "ac"]


def test_the_configuration_for_a_token_is_one(api: FakeApi, tmp_path: Path, capsys: Captured) -> None:
    from hostproxy import config

    fingerprint = "sha256:" + "5f" * 32
    api.answers["POST /v1/tokens"] = (
        201,
        {
            "token": "hpj_secret",
            "id": "0" * 32,
            "host": "web-1",
            "expires": 1000.0,
            "fingerprint": fingerprint,
            "url": "https://c.example:15008",
        },
    )
    assert run(api, "token", "create", "--host", "web-1", "--ttl", "1h", "--reenrol") == 0
    assert api.bodies("POST /v1/tokens") == [{"host": "web-1", "life": 3600.0, "reenrol": True}]
    text = capsys.readouterr().out
    assert text.startswith("token        hpj_secret\n")
    path = tmp_path / "conf.toml"
    path.write_text('[host]\nname = "web-1"\naddress = "10.0.0.1"\n[mesh]\ntrust_domain = "a.example"\n')
    with path.open("a") as file:
        file.write(text[text.index("[identity]") :])
    loaded, problems = config.examine(str(path))
    assert not problems
    assert loaded.identity.mode == "controller"
    assert (loaded.controller.url, loaded.controller.ca_fingerprint) == ("https://c.example:15008", fingerprint)


# Waiting

GOOD = '[service.payments]\nprotocol = "http"\naccess = "allow"\n'


@pytest.fixture
def policy(tmp_path: Path) -> str:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "p.toml").write_text(GOOD)
    return str(tmp_path / "policy")


def applied(rollout: bool) -> tuple[int, dict[str, Any]]:
    return 201, {"generation": 4, "epoch": 1, "rollout": rollout, "warnings": ["p.toml:1: strange"]}


def seen(*hosts: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return 200, {"hosts": list(hosts), "now": 1000.0}


def test_apply_waits_for_every_host(api: FakeApi, policy: str, capsys: Captured) -> None:
    api.answers["POST /v1/policy"] = applied(False)
    stale, away = host("db-1", "STALE"), host("db-9", "ERROR", denied=True)
    # What it has refused is the generation before.
    wrong = host("db-2", "ERROR")
    api.answers["GET /v1/hosts/db-2"] = 200, {"host": {**wrong, "report": {"refused": [1, 3], "problems": ["old"]}}}
    there = host("db-1", generation=4), host("db-2", generation=5)
    api.answers["GET /v1/hosts"] = [seen(stale, wrong, away), seen(stale, wrong, away), seen(*there, away)]
    assert run(api, "policy", "apply", policy, "--wait") == 0
    found = capsys.readouterr()
    assert found.out == "generation 4 is on its way to all hosts\n"
    assert found.err.splitlines() == [
        "warning: p.toml:1: strange",
        "2 hosts do not have it yet: db-1, db-2",
        "every host has it",
    ]
    assert api.bodies("POST /v1/policy") == [{"files": {"p.toml": GOOD}, "note": "", "dry_run": False}]


def test_apply_says_who_refuses_it(api: FakeApi, policy: str, capsys: Captured) -> None:
    api.answers["POST /v1/policy"] = applied(False)
    wrong = host("db-2", "ERROR")
    api.answers["GET /v1/hosts/db-2"] = 200, {"host": {**wrong, "report": {"refused": [1, 4], "problems": ["p:1: no"]}}}
    api.answers["GET /v1/hosts"] = seen(host("db-1", generation=4), wrong, host("db-3", "AWAY"))
    assert run(api, "policy", "apply", policy, "--wait") == 1
    assert "db-2: p:1: no\n1 hosts are away" in capsys.readouterr().err


def test_apply_does_not_wait_for_ever(
    api: FakeApi, policy: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "PATIENCE", 0.05)
    api.answers["POST /v1/policy"] = applied(False)
    api.answers["GET /v1/hosts"] = seen(host("db-1", "STALE"))
    assert run(api, "policy", "apply", policy, "--wait") == 4
    assert "1 hosts do not have it after 0.05 s: db-1" in capsys.readouterr().err


PLAN = {
    "waves": ["1", "5%", "100%"],
    "hold": 30.0,
    "patience": 120.0,
    "bounds": {
        "success_drop": 0.005,
        "p99_factor": 3.0,
        "p99_floor": 0.01,
        "denied_rise": 0.01,
        "least_requests": 50,
    },
}


def test_apply_in_waves(api: FakeApi, policy: str, capsys: Captured) -> None:
    api.answers["POST /v1/policy"] = applied(True)
    ended = operator_api.rollout("done", wave=1, ended=990.0, reason="every host has it and is well")
    running = operator_api.rollout(reason="held for 3 s more"), operator_api.rollout(reason="held for 2 s more")
    api.answers["GET /v1/rollout"] = [(200, each) for each in (operator_api.rollout(), *running, ended)]
    waves = ["--waves", "1,5%,100%", "--hold", "30s", "--success-drop", "0.5%", "--p99-factor", "3"]
    assert run(api, "policy", "apply", policy, "--note", "pay", "--expect", "3", "--wait", *waves) == 0
    body = {"files": {"p.toml": GOOD}, "note": "pay", "dry_run": False, "expect": 3, "plan": PLAN}
    assert api.bodies("POST /v1/policy") == [body]
    assert capsys.readouterr().err.splitlines()[1:] == [
        "generation 4: wave 1 of 2, 1 of 3 hosts: the first wave was told",
        "generation 4: wave 1 of 2, 1 of 3 hosts: held",
        "generation 4: done: every host has it and is well",
    ]


def test_a_rollout_that_stopped(api: FakeApi, policy: str, capsys: Captured) -> None:
    api.answers["POST /v1/policy/2/rollback"] = applied(True)
    stopped = 200, operator_api.rollout("stopped", ended=990.0, reason="3.0% of the requests fail")
    api.answers["GET /v1/rollout"] = stopped
    assert run(api, "policy", "rollback", "2", "--hold", "1s", "--wait") == 1
    assert "3.0% of the requests fail" in capsys.readouterr().err
    assert run(api, "rollout", "status") == 1
    assert lines(capsys) == [
        "generation 4 stopped",
        "instead of 3",
        "by uid 0 (root)",
        "began 1m40s ago",
        "ended 10s ago",
        "reason 3.0% of the requests fail",
        "",
        "wave 1 failed 1 hosts: db-1",
        "wave 2 untold 2 hosts: db-2, web-1",
    ]


def test_watching_a_rollout(api: FakeApi, capsys: Captured) -> None:
    running, done = operator_api.rollout(), operator_api.rollout("done", wave=1, ended=990.0)
    api.answers["GET /v1/rollout"] = [(200, running), (200, done)]
    assert run(api, "rollout", "status", "--watch") == 0
    found = capsys.readouterr()
    assert "wave 1 of 2" in found.err
    assert found.out.startswith("generation 4  done\n")


def test_a_dry_run_applies_nothing(api: FakeApi, policy: str, capsys: Captured) -> None:
    answer = {"dry_run": True, "changed": False, "generation": 3, "warnings": []}
    api.answers["POST /v1/policy"] = 200, answer
    assert run(api, "policy", "apply", policy, "--dry-run", "--wait") == 0
    assert capsys.readouterr().out == "it is what the newest generation has already\n"
    assert api.bodies("POST /v1/policy")[0]["dry_run"] is True


# At a glance


def test_a_catalog_that_is_not_believed_is_shown(api: FakeApi, capsys: Captured) -> None:
    found = {
        "name": "c", "version": "1", "started": 0.0, "now": 10.0, "leading": True, "leader": "c", "role": "admin",
        "trust_domain": "a", "url": "https://c", "fingerprint": "ab", "generation": None, "rollout": None,
        "hosts": {"SYNCED": 1, "ERROR": 0}, "problem": "", "catalog_problem": "", "told_in_vain": 0,
        "certificate_ends": 100.0, "issuing_ends": 100.0, "audit": {"lines": 1, "failures": 0},
    }
    api.answers["GET /v1/status"] = 200, found
    assert run(api, "status") == 0
    assert "PROBLEM" not in capsys.readouterr().out
    api.answers["GET /v1/status"] = 200, {**found, "catalog_problem": "Consul has no ACLs"}
    assert run(api, "status") == 1
    assert lines(capsys)[0] == "PROBLEM [registry.consul]: Consul has no ACLs"


# Keys


def keys(behind: list[str], next_signer: str | None = "bbbb", problem: str = "") -> tuple[int, dict[str, Any]]:
    told = {"behind": behind, "untold": problem, "problem": problem}
    return 200, {"signer": "aaaa", "next_signer": next_signer, **told}


def test_the_next_signing_key_waits_for_every_host(api: FakeApi, capsys: Captured) -> None:
    api.answers["GET /v1/authority"] = [keys([], None), keys(["db-1"]), keys([])]
    api.answers["POST /v1/signing/next"] = keys(["db-1", "db-2"])
    api.answers["POST /v1/signing/use"] = keys([], None)
    assert run(api, "signing-key", "rotate") == 0
    assert [asked for asked, _ in api.asked] == [
        "GET /v1/authority",
        "POST /v1/signing/next",
        "GET /v1/authority",
        "GET /v1/authority",
        "POST /v1/signing/use",
    ]


def test_hosts_that_are_away_keep_the_old_signing_key(api: FakeApi, capsys: Captured) -> None:
    api.answers["GET /v1/authority"] = keys(["db-1"])
    assert run(api, "signing-key", "rotate", "--patience", "10ms") == 4
    assert {asked for asked, _ in api.asked} == {"GET /v1/authority"}
    assert "1 hosts do not know it yet: db-1" in capsys.readouterr().err
    api.answers["POST /v1/signing/use?force=true"] = keys([], None)
    assert run(api, "signing-key", "rotate", "--patience", "10ms", "--force") == 0


def test_what_no_host_is_told_is_said_at_once(api: FakeApi, capsys: Captured) -> None:
    problem = "the store was restored from a backup"
    api.answers["GET /v1/authority"] = keys([], None)
    api.answers["POST /v1/signing/next"] = keys(["db-1"], problem=problem)
    assert run(api, "signing-key", "rotate") == 4  # without waiting for two minutes
    assert problem in capsys.readouterr().err
    root = {"number": 1, "used": True, "ends": 1e9, "fingerprint": "ab"}
    rest = {"roots": [root], "trust_domain": "a", "issuing": 1, "issuing_ends": 1e9}
    found = {**keys(["db-1"], problem=problem)[1], **rest, "controller_certificate_ends": 1e9}
    api.answers["POST /v1/authority/roots"] = 200, found
    assert run(api, "authority", "add-root") == 4
    captured = capsys.readouterr()
    assert (f"1 hosts: db-1; {problem}" in captured.out, "DO NOT HEAR" in captured.err) == (True, True)


def test_too_early_is_told_as_an_option(api: FakeApi, capsys: Captured) -> None:
    early = {"error": "1 hosts would be lost: wait, or add ?force=true", "problems": ["db-1"]}
    api.answers["POST /v1/authority/roots/2/use"] = 409, early
    assert run(api, "authority", "use-root", "2") == 1
    assert capsys.readouterr().err == "1 hosts would be lost: wait, or add --force\n  db-1\n"
