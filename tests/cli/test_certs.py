from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from hostproxy.__main__ import main
from hostproxy.config import IdentityConfig
from hostproxy.identity.contexts import client_context, server_context
from hostproxy.identity.development import create_authority
from hostproxy.identity.files import Identities, load
from hostproxy.mesh import storage
from tests.identity.crafting import Handshake


def certs(directory: Path, *more: str, host: str = "web-1", services: tuple[str, ...] = ("cart",)) -> int:
    arguments = ["certs", "dev", str(directory), "--trust-domain", "mesh.test", "--host", host]
    if services:
        arguments += ["--service", *services]
    return main([*arguments, *more])


def loaded(directory: Path, host: str, *names: str) -> Identities:
    config = IdentityConfig(
        mode="files", authorities_path=str(directory / "ca.pem"), directory=str(directory)
    )
    return load(config, names, "mesh.test", host)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def talk(server: Identities, client: Identities) -> bool:
    """Whether cart of one directory reaches payments of another."""
    return Handshake(
        server_context(server.by_name["payments"], server.authorities, ("h2",)),
        client_context(client.by_name["cart"], client.authorities, ("h2",)),
    ).complete


def test_one_command_makes_what_a_host_needs(tmp_path, capsys):
    assert certs(tmp_path / "certs", services=("cart", "payments")) == 0
    names = {
        "ca.pem",
        "ca.key",
        "host.pem",
        "host.key",
        "cart.pem",
        "cart.key",
        "payments.pem",
        "payments.key",
    }
    assert set(contents(tmp_path / "certs")) == names
    identities = loaded(tmp_path / "certs", "web-1", "cart", "payments")
    assert identities.by_name["payments"].uri == "spiffe://mesh.test/service/payments"
    assert talk(identities, identities)
    output = capsys.readouterr().out
    for name in names:
        assert f"wrote {tmp_path}/certs/{name}  " in output


def test_the_output_says_what_goes_into_the_configuration(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert certs(Path('my "certs"')) == 0
    output = capsys.readouterr().out
    settings = tomllib.loads(output[output.index("[host]") : output.index("For another host")])
    directory = str(tmp_path / 'my "certs"')
    assert settings == {
        "host": {"name": "web-1"},
        "mesh": {"trust_domain": "mesh.test"},
        "identity": {"mode": "files", "files": {"ca": f"{directory}/ca.pem", "directory": directory}},
    }
    assert "hostproxy certs dev DIR --ca 'my \"certs\"' --trust-domain mesh.test" in output


def test_keys_are_closed_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        assert certs(tmp_path / "certs") == 0
    finally:
        os.umask(before)
    for path in (tmp_path / "certs").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if path.suffix == ".key" else 0o644)
    assert stat.S_IMODE((tmp_path / "certs").stat().st_mode) == 0o755


def test_again_renews_the_leaves_and_keeps_the_authority(tmp_path):
    certs(tmp_path, services=("cart", "payments"))
    before, old = contents(tmp_path), loaded(tmp_path, "web-1", "cart", "payments")
    assert certs(tmp_path, services=("cart",)) == 0
    after, new = contents(tmp_path), loaded(tmp_path, "web-1", "cart", "payments")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"host.pem", "host.key", "cart.pem", "cart.key"}
    assert set(after) == set(before)
    assert talk(old, new)


def test_two_hosts_have_one_authority_and_its_key_is_on_one_of_them(tmp_path):
    web, db = tmp_path / "web-1", tmp_path / "db-1"
    assert certs(web) == 0
    assert certs(db, "--ca", str(web), host="db-1", services=("payments",)) == 0
    assert set(contents(db)) == {"ca.pem", "host.pem", "host.key", "payments.pem", "payments.key"}
    assert talk(loaded(db, "db-1", "payments"), loaded(web, "web-1", "cart"))
    assert certs(db, "--ca", str(web), host="db-1", services=("payments",)) == 0


def test_an_authority_can_have_a_directory_of_its_own(tmp_path):
    for host in ("web-1", "db-1"):
        assert (
            certs(tmp_path / host, "--ca", str(tmp_path / "ca"), host=host, services=("cart", "payments"))
            == 0
        )
    assert set(contents(tmp_path / "ca")) == {"ca.pem", "ca.key"}
    assert "ca.key" not in contents(tmp_path / "web-1")
    assert talk(
        loaded(tmp_path / "web-1", "web-1", "payments"),
        loaded(tmp_path / "db-1", "db-1", "cart"),
    )


def test_two_commands_at_once_make_one_authority(tmp_path):
    shared = tmp_path / "ca"
    shared.mkdir()
    lock = os.open(shared, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    commands = [
        threading.Thread(target=certs, args=(tmp_path / host, "--ca", str(shared)), kwargs={"host": host})
        for host in ("web-1", "db-1")
    ]
    for command in commands:
        command.start()
    commands[0].join(0.1)
    assert list(shared.iterdir()) == []  # both wait for the one that is at it
    os.close(lock)
    for command in commands:
        command.join(10)
    pem = (shared / "ca.pem").read_bytes()
    assert {(tmp_path / host / "ca.pem").read_bytes() for host in ("web-1", "db-1")} == {pem}


def test_a_host_may_have_no_services(tmp_path):
    assert certs(tmp_path, services=()) == 0
    assert set(loaded(tmp_path, "web-1").by_name) == {"host"}


def test_days_say_how_long(tmp_path):
    assert certs(tmp_path, "--days", "3") == 0
    assert loaded(tmp_path, "web-1", "cart").validity["cart"].not_after == pytest.approx(
        time.time() + 3 * 86400, abs=60
    )
    assert certs(tmp_path) == 0
    assert loaded(tmp_path, "web-1", "cart").validity["cart"].not_after == pytest.approx(
        time.time() + 30 * 86400, abs=60
    )


def refused(capsys, status: int, *words: str) -> None:
    assert status == 1
    captured = capsys.readouterr()
    assert "wrote" not in captured.out
    assert captured.err.startswith("hostproxy certs dev: ")
    assert captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err


def test_the_directory_of_another_host_is_not_overwritten(tmp_path, capsys):
    certs(tmp_path)
    before = contents(tmp_path)
    capsys.readouterr()
    refused(
        capsys,
        certs(tmp_path, host="db-1"),
        "belongs to host web-1",
        "a directory of its own",
        f"--ca {tmp_path}",
    )
    assert contents(tmp_path) == before


def test_another_authority_does_not_take_a_directory_over(tmp_path, capsys):
    certs(tmp_path / "web-1")
    certs(tmp_path / "other", host="other-1")
    before = contents(tmp_path / "web-1")
    capsys.readouterr()
    status = certs(tmp_path / "web-1", "--ca", str(tmp_path / "other"))
    refused(
        capsys, status, f"{tmp_path}/web-1/ca.pem: is another authority", "remove it to move this host over"
    )
    status = certs(tmp_path / "web-1", "--ca", str(tmp_path / "new"))
    refused(capsys, status, "is another authority")
    assert contents(tmp_path / "web-1") == before


def test_an_authority_without_its_key_points_to_the_option(tmp_path, capsys):
    certs(tmp_path / "web-1")
    certs(tmp_path / "db-1", "--ca", str(tmp_path / "web-1"), host="db-1")
    capsys.readouterr()
    refused(capsys, certs(tmp_path / "db-1", host="db-1"), "the key of this authority is not here", "--ca")


def test_the_authority_of_another_mesh_is_refused(tmp_path, capsys):
    certs(tmp_path / "web-1")
    capsys.readouterr()
    status = main(
        [
            "certs",
            "dev",
            str(tmp_path / "x"),
            "--ca",
            str(tmp_path / "web-1"),
            "--trust-domain",
            "b.test",
            "--host",
            "x",
        ]
    )
    refused(capsys, status, "is the authority of spiffe://mesh.test, not of spiffe://b.test")
    assert not (tmp_path / "x").exists()


def test_an_expired_authority_is_refused_with_what_to_do(tmp_path, capsys):
    old = create_authority("mesh.test", datetime.now(UTC) - timedelta(days=4000))
    key = old.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    storage.write(str(tmp_path / "ca.pem"), old.pem, 0o644)
    storage.write(str(tmp_path / "ca.key"), key, 0o600)
    refused(capsys, certs(tmp_path), "the authority expired at", "remove its ca.pem and ca.key")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda path: (path / "ca.key").chmod(0o644),
            "is a private key open to others (mode 0644); chmod 600",
        ),
        (lambda path: (path / "ca.key").write_bytes(b"x"), "is not an unencrypted private key"),
        (lambda path: (path / "ca.pem").write_bytes(b"x"), "is not a certificate in PEM"),
        (lambda path: (path / "ca.pem").unlink(), "remove it to begin with a new authority"),
        (lambda path: (path / "ca.key").write_bytes((path / "cart.key").read_bytes()), "does not belong to"),
        (lambda path: os.rename(path / "cart.pem", path / "ca.pem"), "does not belong to"),
        (lambda path: (path / "host.pem").write_bytes(b"x"), "is not a certificate in PEM"),
        (lambda path: (path / "host.pem").write_bytes((path / "ca.pem").read_bytes()), "remove it"),
    ],
)
def test_spoilt_files_are_refused_and_left_alone(tmp_path, capsys, spoil, words):
    certs(tmp_path)
    spoil(tmp_path)
    before = contents(tmp_path)
    capsys.readouterr()
    refused(capsys, certs(tmp_path), words)
    assert contents(tmp_path) == before


def test_a_directory_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    refused(
        capsys,
        certs(tmp_path / "file" / "certs"),
        f"{tmp_path}/file/certs: cannot be written: Not a directory",
    )


def test_what_was_written_before_a_failure_counts_as_a_part(tmp_path, capsys):
    (tmp_path / "cart.pem").mkdir(parents=True)
    assert certs(tmp_path) == 4
    captured = capsys.readouterr()
    assert "wrote" in captured.out
    assert "cannot be written" in captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "KIND"),
        (["dev"], "DIR"),
        (["dev", "d", "--host", "h"], "--trust-domain"),
        (["dev", "d", "--trust-domain", "mesh"], "--host"),
        (["dev", "d", "--trust-domain", "Mesh", "--host", "h"], "not 'Mesh'"),
        (["dev", "d", "--trust-domain", "mesh", "--host", "../h"], "not '../h'"),
        (["dev", "d", "--trust-domain", "mesh", "--host", "h", "--service", "a/b"], "not 'a/b'"),
        (["dev", "d", "--trust-domain", "mesh", "--host", "h", "--service", "ca"], "'ca'"),
        (["dev", "d", "--trust-domain", "mesh", "--host", "h", "--days", "0"], "from 1 to 3650"),
        (["dev", "d", "--trust-domain", "mesh", "--host", "h", "--days", "+5"], "from 1 to 3650"),
        (["dev", "d", "--trust-domain", "mesh", "--host", "h", "--days", "٣"], "from 1 to 3650"),
    ],
)
def test_wrong_usage_writes_nothing(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["certs", *arguments])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
