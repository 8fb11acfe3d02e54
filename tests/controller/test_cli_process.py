"""Every command against a real controller, over its Unix socket and over HTTPS."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from controller.__main__ import main
from controller.audit import chain
from tests.controller.conftest import DNS, DOMAIN, POLICY, Process, csr

Captured = pytest.CaptureFixture[str]
Run = Callable[..., str]


@pytest.fixture
def run(process: Process, capsys: Captured) -> Run:
    """Run a command on the controller's machine; what it says on stdout."""

    def asked(*arguments: str, status: int = 0) -> str:
        found = main([*arguments, "-c", str(process.directory / "controller.toml")])
        said = capsys.readouterr()
        assert found == status, said
        return said.out

    return asked


def test_from_nothing_to_a_host_in_step(process: Process, run: Run, tmp_path: Path) -> None:
    run("service", "assign", "payments", "web-1")
    assert run("service", "list").splitlines()[1].split() == ["payments", "-", "web-1"]
    made = json.loads(run("token", "create", "--host", "web-1", "-o", "json"))
    assert made["url"] == f"https://{DNS}:{process.port}"
    web = Enrolled(process, tmp_path, made["token"])
    assert json.loads(run("token", "list", "-o", "json"))["tokens"][0]["state"] == "used"
    directory = tmp_path / "policy"
    directory.mkdir()
    (directory / "payments.toml").write_text(POLICY["payments.toml"])
    assert run("policy", "diff", str(directory), status=1).splitlines()[0] == "--- /dev/null"
    assert run("policy", "apply", str(directory), "--dry-run") == "it would be applied\n"
    assert run("policy", "apply", str(directory), "--note", "first") == "generation 1 is on its way to all hosts\n"
    assert run("policy", "diff", str(directory)) == ""
    assert run("hosts").splitlines()[1].split()[:2] == ["web-1", "AWAY"]
    web.report(0)
    assert run("hosts").splitlines()[1].split()[:2] == ["web-1", "STALE"]
    web.report(1)
    assert run("hosts").splitlines()[1].split()[:3] == ["web-1", "SYNCED", "1"]
    web.report(1, state="refused", refused=[1, 2], problems=["payments.toml:2: no"])
    assert "payments.toml:2: no" in run("hosts", status=1)
    web.report(1)
    # In waves, and back again.
    (directory / "payments.toml").write_text(POLICY["payments.toml"].replace("cart", "shop"))
    assert run("policy", "apply", str(directory), "--waves", "1,100%", "--hold", "1s") == (
        "generation 2 is being rolled out\n"
    )
    assert run("rollout", "status").startswith("generation 2  running\n")
    run("policy", "apply", str(directory), status=1)
    assert run("rollout", "stop", "--reason", "lunch").startswith("generation 2  stopped\n")
    assert "lunch" in run("rollout", "status", status=1)
    history = [line.split()[0] for line in run("policy", "history").splitlines()[1:]]
    assert history == ["3", "2", "1"]
    assert run("policy", "show", "newest", "payments.toml") == POLICY["payments.toml"]
    run("policy", "rollback", "2", "--note", "after lunch")
    assert "the files of 2 again; after lunch" in run("policy", "history")
    assert run("why", "--from", "shop", "http://payments/").startswith("ALLOWED")
    assert run("why", "--from", "cart", "http://payments/", status=1).startswith("DENIED")
    # Out, in again, and gone.
    run("hosts", "deny", "web-1", "--reason", "stolen")
    assert run("hosts").splitlines()[1].split()[:2] == ["web-1", "DENIED"]
    assert web.ask("GET", "/v1/bundle?epoch=0&generation=0") == 403
    run("hosts", "allow", "web-1")
    assert web.ask("GET", "/v1/bundle?epoch=0&generation=0") == 200
    run("hosts", "forget", "web-1")
    assert "no host has enrolled" in run("hosts")
    run("service", "unassign", "payments", "web-1")
    assert run("policy", "raise-epoch").startswith("epoch 2 begins with generation 7")


class Enrolled:
    """A host, as far as the controller sees it."""

    def __init__(self, process: Process, directory: Path, token: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        body = {"host": "web-1", "token": token, "csr": csr(key)}
        status, answer = process.https("POST", "/v1/enrol", body)
        assert status == 200, answer
        self._process = process
        self._certificate = str(directory / "web-1.pem"), str(directory / "web-1.key")
        Path(self._certificate[0]).write_text(answer["certificate"])
        plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        Path(self._certificate[1]).write_bytes(plain)

    def ask(self, method: str, path: str, body: Any = None) -> int:
        return self._process.https(method, path, body, certificate=self._certificate)[0]

    def report(self, generation: int, **more: Any) -> None:
        body = {"software": "1", "epoch": 1, "generation": generation, "state": "applied", **more}
        assert self.ask("POST", "/v1/report", body) == 200


def test_keys(run: Run, process: Process) -> None:
    first = json.loads(run("authority", "status", "-o", "json"))
    assert "signs" in run("authority", "status")
    run("authority", "rotate-issuing")
    run("authority", "add-root")
    run("authority", "use-root", "2")
    run("authority", "drop-root", "1", status=1)
    run("authority", "drop-root", "1", "--force")
    run("authority", "drop-root", "2", status=1)
    second = json.loads(run("authority", "status", "-o", "json"))
    assert [root["number"] for root in second["roots"]] == [2]
    assert second["issuing"] == first["issuing"] + 2
    run("signing-key", "rotate")
    third = json.loads(run("signing-key", "status", "-o", "json"))
    assert third["signer"] != second["signer"]
    assert third["next_signer"] is None


def test_the_audit_log(run: Run, process: Process, tmp_path: Path) -> None:
    run("operator", "create", "ann", "--role", "deploy")
    shown = run("audit", "show", "--last", "2")
    assert "operator.create" in shown
    count, head = (line.rpartition(" ")[2] for line in run("audit", "verify").splitlines())
    assert count == "written"
    run("token", "create", "--host", "web-1")
    assert "each as it was written" in run("audit", "verify", "--head", head)
    number, _, found = head.partition(":")
    wrong = f"{number}:{found[:-1]}{'0' if found[-1] != '0' else '1'}"
    assert f"line {number}: " in run("audit", "verify", "--head", wrong, status=1)
    # Without the controller, and with a line that somebody changed.
    process.stop()
    log = process.directory / "state" / "audit.log"
    assert main(["audit", "verify", str(log), "--head", head]) == 0
    lines = log.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"operator.create", b"operator.revoke")
    log.write_bytes(b"".join(lines))
    assert main(["audit", "verify", str(log)]) == 1
    Path(chain.head_path(str(log))).unlink()
    assert main(["audit", "verify", str(log)]) == 1
    assert main(["audit", "verify", str(tmp_path / "none.log")]) == 1
    assert main(["status", "--controller", f"unix:{process.socket}"]) == 3


@pytest.fixture
def _resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller's name leads to loopback."""
    known = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest: known("127.0.0.1" if host == DNS else host, *rest))


@pytest.mark.usefixtures("_resolved")
def test_from_elsewhere(process: Process, run: Run, tmp_path: Path, capsys: Captured) -> None:
    base = ["--controller", f"https://{DNS}:{process.port}", "--ca", str(process.directory / "root.pem")]

    def ask(*arguments: str) -> tuple[int, str, str]:
        status = main([*arguments, *base])
        said = capsys.readouterr()
        return status, said.out, said.err

    admin = ["--token-file", str(process.directory / "operator.token")]
    status, text, _ = ask("status", *admin)
    assert (status, DOMAIN in text) == (0, True)
    pair = [f"--{name}={process.directory}/operator.{end}" for name, end in (("certificate", "pem"), ("key", "key"))]
    assert ask("status", *pair)[0] == 0
    # A token of a lesser role, and the certificate that it gets.
    made = json.loads(ask("operator", "create", "ann", "--role", "read", "-o", "json", *admin)[1])
    token = tmp_path / "ann.token"
    token.write_text(made["token"] + "\n")
    token.chmod(0o600)
    ann = ["--token-file", str(token)]
    assert "ann" in ask("operator", "list", *admin)[1]
    assert ask("hosts", *ann)[0] == 0
    status, _, said = ask("token", "create", "--host", "web-1", *ann)
    assert (status, "with role deploy" in said) == (1, True)
    status, text, _ = ask("operator", "certificate", str(tmp_path), *ann)
    assert status == 0
    assert oct((tmp_path / "operator.key").stat().st_mode & 0o777) == "0o600"
    options = text.split()
    assert main(["hosts", *base[:2], *options]) == 0
    capsys.readouterr()
    assert ask("operator", "revoke", "ann", *admin)[0] == 0
    assert ask("hosts", *ann)[0] == 1
    assert main(["hosts", *base[:2], *options]) == 1
    capsys.readouterr()
    # Another name than its certificate has, and another root.
    address = f"https://127.0.0.1:{process.port}"
    assert main(["hosts", "--controller", address, *base[2:], *admin]) == 3
    assert "its certificate is not believed" in capsys.readouterr().err
    other = tmp_path / "other.pem"
    other.write_text(ssl.DER_cert_to_PEM_cert(_another_root()))
    assert main(["hosts", *base[:2], "--ca", str(other), *admin]) == 3
    assert "its certificate is not believed" in capsys.readouterr().err


def _another_root() -> bytes:
    from datetime import UTC, datetime

    from controller.authority import minting

    made = minting.root("other.example", ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC), _bits)
    return made.public_bytes(Encoding.DER)


def _bits(count: int) -> int:
    return (1 << count) - 5
