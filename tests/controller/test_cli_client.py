"""How commands find a controller, and what they say when it is not there, or says no."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.__main__ import COMMANDS, main
from controller.cli.client import Client, _UnixConnection
from tests.controller.operator_api import FakeApi, host, serving

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    with serving(tmp_path / "s") as server:
        yield server


HOSTS = {"hosts": [host("web-1")], "now": 1010.0}


def test_the_socket_is_named_by_option_or_by_configuration(api: FakeApi, tmp_path: Path, capsys: Captured) -> None:
    api.answers["GET /v1/hosts"] = 200, HOSTS
    assert main(["hosts", "--controller", api.address]) == 0
    path = tmp_path / "controller.toml"
    text = '[mesh]\ntrust_domain = "a.example"\n[controller]\ndns = "c.example"\noperator_socket = "s"\n'
    path.write_text(text)
    assert main(["hosts", "-c", str(path)]) == 0
    assert main(["hosts", "-c", str(path), "list"]) == 0
    assert main(["hosts", "list", "-c", str(path)]) == 0
    assert capsys.readouterr().out.count("web-1") == 4
    assert api.hosts == {"localhost"}


@pytest.mark.parametrize(
    ("answer", "status", "part"),
    [
        ((403, {"error": "an operator with role admin may do this", "problems": []}), 1, "with role admin"),
        ((409, {"error": "no", "problems": ["a.toml:1: bad"]}), 1, "no\n  a.toml:1: bad\n"),
        ((503, {"error": "this controller does not lead", "problems": []}), 3, "does not lead"),
        ((429, {"error": "too many", "problems": []}), 3, "too many"),
        ((500, {"error": "see the log", "problems": []}), 3, "see the log"),
        ((502, b"<html>"), 3, "answered with status 502"),
        ((200, b"hello"), 3, "is not JSON"),
        ((200, b"[]"), 3, "is not JSON"),
        ((403, {"error": "\x1b[2J\nforged", "problems": ["\x07"]}), 1, "?[2J?forged\n  ?\n"),
    ],
)
def test_what_is_not_an_answer(api: FakeApi, answer: Any, status: int, part: str, capsys: Captured) -> None:
    api.answers["GET /v1/hosts"] = answer
    assert main(["hosts", "--controller", api.address]) == status
    found = capsys.readouterr()
    assert part in found.err
    assert found.out == ""


def test_silence(api: FakeApi, capsys: Captured) -> None:
    api.answers["GET /v1/hosts"] = None
    api.answers["POST /v1/hosts/web-1/deny"] = None
    assert main(["hosts", "--controller", api.address, "--timeout", "0.2"]) == 3
    assert "whether it was done" not in capsys.readouterr().err
    assert main(["hosts", "deny", "web-1", "--controller", api.address, "--timeout", "0.2"]) == 3
    assert "no answer within 0.2 s" in (text := capsys.readouterr().err)
    assert "whether it was done is not known" in text


def test_nobody_listens(tmp_path: Path, capsys: Captured) -> None:
    address = f"unix:{tmp_path}/none"
    assert main(["hosts", "--controller", address]) == 3
    assert f"{address}: nobody listens" in capsys.readouterr().err


REMOTE = ["--controller", "https://c.example:1", "--ca", "ca.pem"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--controller", "http://c.example:1"], 'write "unix:/path" or "https://name:15008"'),
        (["--controller", "unix:relative"], "absolute path"),
        (["--controller", "unix:/s", "-c", "x"], "leave one out"),
        (["--controller", "unix:/s", "--token-file", "x"], "the Unix socket knows who asks"),
        (["--controller", "https://c.example", "--ca", "x"], "is not https://name:port"),
        (["--controller", "https://c.example:1"], "--ca is needed"),
        (REMOTE, "say who asks"),
        ([*REMOTE, "--token-file", "t", "--certificate", "c", "--key", "k"], "either --token-file or"),
        ([*REMOTE, "--certificate", "c"], "belong together"),
        ([*REMOTE, "--token-file", "t"], "ca.pem: No such file"),
        (["-c", "/nonexistent/controller.toml"], "name the controller with --controller instead"),
    ],
)
def test_wrong_usage(arguments: list[str], part: str, capsys: Captured) -> None:
    assert main(["hosts", *arguments]) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["hosts", "deny", "../tokens"],
        ["hosts", "deny", "web-1/allow"],
        ["service", "assign", "payments?x", "web-1"],
        ["service", "assign", "payments"],
        ["token", "create"],
        ["token", "create", "--host", "web-1", "--ttl", "25h"],
        ["token", "create", "--host", "web-1", "--ttl", "15"],
        ["token", "revoke", "../../x"],
        ["policy", "show", "0"],
        ["policy", "show", "-1"],
        ["policy", "apply", ".", "--waves", "1,50%"],
        ["policy", "apply", ".", "--success-drop", "0.01"],
        ["authority", "use-root", "x"],
        ["audit", "verify", "--head", "7:abc"],
        ["audit", "show", "--last", "1001"],
        ["operator", "create", "ann", "--role", "root"],
        ["rollout", "stop"],
        ["policy"],
    ],
)
def test_what_is_no_command(arguments: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--controller", "unix:/nonexistent"])
    assert caught.value.code == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert COMMANDS[command] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_a_token_that_others_can_read_is_not_used(made: Path, tmp_path: Path, mode: int, capsys: Captured) -> None:
    token = tmp_path / "token"
    token.write_text("ann~hpo_x\n")
    token.chmod(mode)
    ca = str(made / "authority" / "root-1.pem")
    arguments = ["--controller", "https://c.example:1", "--ca", ca, "--token-file", str(token)]
    assert main(["hosts", *arguments]) == 2
    assert "chmod 600" in capsys.readouterr().err


def test_a_server_that_speaks_no_tls(made: Path, tmp_path: Path, capsys: Captured) -> None:
    token = tmp_path / "token"
    token.write_text("ann~hpo_x\n")
    token.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"https://127.0.0.1:{server.getsockname()[1]}"
        ca = str(made / "authority" / "root-1.pem")
        arguments = ["--controller", address, "--ca", ca, "--token-file", str(token), "--timeout", "0.3"]
        assert main(["hosts", *arguments]) == 3
    assert "no answer within" in capsys.readouterr().err


def test_nothing_is_asked_for_a_certificate_that_has_no_place(tmp_path: Path, capsys: Captured) -> None:
    place = str(tmp_path / "none")
    assert main(["operator", "certificate", place, "--controller", f"unix:{tmp_path}/no"]) == 2
    assert f"{place} is no directory" in capsys.readouterr().err


def test_one_connection_for_many_questions(api: FakeApi) -> None:
    """Between them it may be closed by the controller, which this one does after each answer."""
    api.answers["GET /v1/hosts"] = 200, HOSTS
    asked = Client("unix", lambda: _UnixConnection(api.address.removeprefix("unix:"), 5.0), 5.0)
    with asked.held():
        assert [asked.get("/v1/hosts") for _ in range(3)] == [HOSTS] * 3
    assert asked.get("/v1/hosts") == HOSTS
