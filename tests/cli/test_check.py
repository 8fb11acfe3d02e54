from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hostproxy.__main__ import main

CONF = """
[host]
name = "db-1"
address = "10.0.0.12"
[mesh]
trust_domain = "corp.example"
[[service]]
name = "payments"
instances = ["127.0.0.1:9001"]
[discovery.file]
path = "catalog.toml"
[identity.files]
ca = "certs/ca.pem"
directory = "certs"
[policy]
path = "policy.toml"
"""
CATALOG = '[[instance]]\nservice = "payments"\nhost = "db-1"\naddress = "10.0.0.12:9001"\n'
POLICY = '[defaults]\naccess = "deny"\n'


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A directory with everything that a host needs."""
    (tmp_path / "conf.toml").write_text(CONF)
    (tmp_path / "catalog.toml").write_text(CATALOG)
    (tmp_path / "policy.toml").write_text(POLICY)
    words = ["certs", "dev", str(tmp_path / "certs"), "--trust-domain", "corp.example"]
    assert main([*words, "--host", "db-1", "--service", "payments"]) == 0
    capsys.readouterr()
    return tmp_path


def check(host: Path, *options: str) -> int:
    return main(["check", "-c", str(host / "conf.toml"), *options])


def test_what_is_fit_to_run_is_summed_up(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(host) == 0
    out, err = capsys.readouterr()
    assert (
        out
        == "ok: 1 service, 1 instance of 1 service in the catalog, policy for 0 services, 2 certificates\n"
    )
    assert err == ""


def test_every_problem_of_every_file_in_one_go(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (host / "conf.toml").write_text(CONF + '[limits]\nidle = 60\n[admin]\nlistn = "unix:/a"\n')
    (host / "catalog.toml").write_text(CATALOG + "wieght = 2\n")
    (host / "policy.toml").write_text('[defaults]\naccess = "deny\n')
    (host / "certs" / "payments.pem").unlink()
    assert check(host) == 1
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == (
        f'{host}/conf.toml:18:1: error: limits.idle: expected a duration like "250ms", found the integer 60;'
        ' write "60s" if it means seconds'
    )
    assert lines[1] == f'{host}/conf.toml:20:1: error: admin.listn: unknown key; did you mean "listen"?'
    assert (
        lines[2] == f'{host}/catalog.toml:5:1: error: instance[0].wieght: unknown key; did you mean "weight"?'
    )
    assert lines[3].startswith(f"{host}/policy.toml:2:15: error: Illegal character")
    assert lines[4].startswith(f"{host}/certs/payments.pem: error: ")
    assert len(lines) == 5
    assert all(re.match(r"[^:]+(:\d+:\d+)?: error: ", line) for line in lines)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conf.toml", "cannot be read: No such file or directory"),
        ("catalog.toml", "cannot be read: No such file or directory"),
        ("policy.toml", "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_not_there(
    host: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (host / name).unlink()
    assert check(host) == 1
    assert capsys.readouterr().err == f"{host}/{name}: error: {message}\n"


def test_warnings_are_told_and_do_not_make_it_unfit(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (host / "conf.toml").write_text(CONF + "[trace]\n")
    assert check(host) == 0
    out, err = capsys.readouterr()
    assert out.startswith("ok: ")
    assert err == f"{host}/conf.toml:17:1: warning: trace: is not acted on in this version\n"


def test_quiet_tells_problems_only(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (host / "conf.toml").write_text(CONF + "[trace]\n")
    assert check(host, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    (host / "conf.toml").write_text(CONF + "[trase]\n")
    assert check(host, "--quiet") == 1
    assert "unknown key" in capsys.readouterr().err


def test_json_is_one_object(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (host / "conf.toml").write_text(CONF + "[trace]\n")
    assert check(host, "--json") == 0
    out, err = capsys.readouterr()
    warning = {
        "file": f"{host}/conf.toml",
        "line": 17,
        "column": 1,
        "key": "trace",
        "message": "is not acted on in this version",
        "hint": "",
    }
    assert json.loads(out) == {"valid": True, "problems": [], "warnings": [warning]}
    assert err == ""
    (host / "policy.toml").write_text("[default]\n")
    assert check(host, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["valid"] is False
    assert [problem["hint"] for problem in found["problems"]] == ['did you mean "defaults"?']


@pytest.mark.parametrize(
    "words", [["check"], ["check", "-c"], ["check", "-c", "x", "--json", "--quiet"], ["check", "-x"]]
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: hostproxy check" in capsys.readouterr().err
