from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from hostproxy.__main__ import main
from hostproxy.cli import check as command

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
    "words", [["check", "-c"], ["check", "-c", "x", "--json", "--quiet"], ["check", "-x"]]
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: hostproxy" in capsys.readouterr().err


def test_the_usual_file_is_checked_when_none_is_named() -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    assert parser.parse_args([]).config == "/etc/hostproxy/conf.toml"


# With Consul, whose agent is not asked.


def with_consul(host: Path, *lines: str) -> None:
    conf = CONF.replace('[discovery.file]\npath = "catalog.toml"\n', '[discovery]\nbackend = "consul"\n')
    (host / "conf.toml").write_text("\n".join([conf, "[discovery.consul]", *lines, ""]))


def consul_files(host: Path) -> None:
    """A token, and certificates for TLS, as an operator has them."""
    directory = host / "consul"
    directory.mkdir()
    for name, source in (("ca.pem", "ca.pem"), ("client.pem", "payments.pem"), ("client.key", "payments.key")):
        (directory / name).write_bytes((host / "certs" / source).read_bytes())
    (directory / "token").write_text("7ad2b8b3-1f66-4b2e-9ce8-6ce8a9b8a2a4\n")
    for path in directory.iterdir():
        path.chmod(0o600)


HTTPS = 'address = "https://127.0.0.1:8501"'
FILES = ('ca = "consul/ca.pem"', 'certificate = "consul/client.pem"', 'key = "consul/client.key"')
TOKEN = 'token_file = "consul/token"'


def test_consul_without_anything_to_read(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_consul(host)
    (host / "catalog.toml").unlink()
    assert check(host) == 0
    assert capsys.readouterr() == (
        "ok: 1 service, the catalog of Consul at http://127.0.0.1:8500, policy for 0 services, 2 certificates\n",
        "",
    )


@pytest.mark.parametrize("address", ["https://127.0.0.1:8501", "https://[::1]:8501", "https://consul.corp.example:8501"])
def test_consul_with_everything(host: Path, capsys: pytest.CaptureFixture[str], address: str) -> None:
    consul_files(host)
    with_consul(host, f'address = "{address}"', *FILES, TOKEN)
    assert check(host) == 0
    out, err = capsys.readouterr()
    assert f"the catalog of Consul at {address}" in out
    assert err == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("token", None, "discovery.consul.token_file: {path} cannot be read: No such file or directory"),
        ("token", "", "discovery.consul.token_file: {path} is empty"),
        ("token", "two words", "discovery.consul.token_file: {path} holds more than one word"),
        ("ca.pem", None, "discovery.consul: {path} cannot be read: No such file or directory"),
        ("ca.pem", "no PEM", "discovery.consul: {path} holds no certificates in PEM"),
        ("client.pem", "no PEM", "discovery.consul: {path} holds no certificates in PEM"),
        ("client.key", None, "discovery.consul: {path} cannot be read: No such file or directory"),
        ("client.key", "no PEM", "discovery.consul: {path} holds no private key in PEM"),
    ],
)
def test_a_file_for_consul_that_cannot_be_used(
    host: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, message: str
) -> None:
    consul_files(host)
    path = host / "consul" / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with_consul(host, HTTPS, *FILES, TOKEN)
    assert check(host) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{host}/conf.toml: error: {message.format(path=path)}")
    assert "7ad2b8b3" not in line


def test_a_key_of_another_certificate(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    consul_files(host)
    (host / "consul" / "client.key").write_bytes((host / "certs" / "host.key").read_bytes())
    with_consul(host, HTTPS, *FILES)
    assert check(host) == 1
    assert "client.key is not the key of the first certificate in" in capsys.readouterr().err


def test_files_for_consul_that_everybody_may_read_are_worth_a_warning(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    consul_files(host)
    for name in ("token", "client.key"):
        (host / "consul" / name).chmod(0o644)
    with_consul(host, HTTPS, *FILES, TOKEN)
    assert check(host) == 0
    token, key = capsys.readouterr().err.splitlines()
    assert "warning: discovery.consul.token_file: every user of this host may read" in token
    assert "warning: discovery.consul: every user of this host may read" in key


def test_a_credential_is_there_for_the_service_only(
    host: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    consul_files(host)
    with_consul(host, 'token_credential = "token"')
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert check(host) == 0
    assert "warning: discovery.consul.token_credential: cannot be looked at here" in capsys.readouterr().err
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(host / "consul"))
    assert check(host) == 0
    assert capsys.readouterr().err == ""
    (host / "consul" / "token").unlink()
    assert check(host) == 1
    assert "error: discovery.consul.token_credential: " in capsys.readouterr().err


def test_what_is_wrong_with_conf_toml_is_not_said_twice(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    consul_files(host)
    with_consul(host, HTTPS, FILES[0], FILES[1])
    assert check(host) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "discovery.consul.certificate: is given without key" in line
