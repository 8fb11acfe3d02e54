"""``hostproxy-controller init``: everything that a mesh begins with, closed to others, and nothing replaced."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest
from cryptography import x509

from controller import config
from controller.audit import verify
from controller.authority.authority import Authority, fingerprint
from controller.authority.keys import Unusable, load_ec_key, load_signing_key, passphrase_from
from controller.cli.init import _warnings
from tests.controller.conftest import DNS, DOMAIN, initialise


def test_everything_is_there_and_closed(tmp_path: Path) -> None:
    directory = tmp_path / "c"
    made = initialise(directory, 15008)
    assert made.returncode == 0, made.stderr
    for path in [directory, *directory.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        public = path.suffix in (".pem", ".toml") or path.name == "authority.json"
        assert mode == (0o700 if path.is_dir() else 0o644 if public else 0o600), path
    loaded = config.load(str(directory / "controller.toml"))
    assert (loaded.mesh.trust_domain, loaded.serving.dns) == (DOMAIN, DNS)
    passphrase = passphrase_from(loaded.authority.passphrase_file)
    authority = Authority.load(loaded.authority.directory, passphrase)
    root = x509.load_pem_x509_certificate((directory / "root.pem").read_bytes())
    assert authority.fingerprint == fingerprint(root)
    assert authority.fingerprint in made.stdout
    load_signing_key(loaded.authority.signing_key, passphrase)
    # No two keys are one, and none is there without its passphrase.
    keys = [directory / "authority" / name for name in ("root-1.key", "issuing-1.key", "signing.key")]
    assert len({path.read_bytes() for path in keys}) == 3
    for path in keys:
        assert b"ENCRYPTED PRIVATE KEY" in path.read_bytes()
        with pytest.raises(Unusable):
            load_ec_key(str(path), b"another passphrase of some length")
    assert verify(str(directory / "state" / "audit.log")) is None
    token = (directory / "operator.token").read_text().strip()
    for secret in (token, passphrase.decode()):
        assert secret not in made.stdout
    assert token.split("~")[1].encode() not in (directory / "state" / "controller.db").read_bytes()


def test_the_configuration_says_what_was_asked_for(tmp_path: Path) -> None:
    initialise(tmp_path / "c", 25008)
    document = tomllib.loads((tmp_path / "c" / "controller.toml").read_text())
    assert document["controller"]["listen"] == "127.0.0.1:25008"
    assert document["mesh"] == {"trust_domain": DOMAIN}


def test_nothing_is_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "c"
    directory.mkdir()
    (directory / "mine").write_text("mine")
    made = initialise(directory, 15008)
    assert made.returncode == 1
    assert "is not empty" in made.stderr
    assert [path.name for path in directory.iterdir()] == ["mine"]


def test_a_path_too_long_for_a_socket_is_said_before_anything_is_made(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 100)
    made = initialise(directory, 15008)
    assert made.returncode == 1
    assert "Unix socket" in made.stderr
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("dns", "listen", "warning"),
    [
        ("localhost", "127.0.0.1:15008", ""),
        ("c.example", "0.0.0.0:15008", ""),
        ("c.example", "10.0.0.1:15008", ""),
        ("c.example", "[::]:15008", ""),
        ("c.example", "127.0.0.1:15008", "only this machine can reach 127.0.0.1:15008"),
        ("c.example", "[::1]:15008", "only this machine can reach"),
        ("localhost", "0.0.0.0:15008", "localhost is another machine on each host"),
    ],
)
def test_a_name_that_leads_hosts_astray_is_warned_of(dns: str, listen: str, warning: str) -> None:
    assert " ".join(_warnings(dns, listen)).startswith(warning)
    assert bool(_warnings(dns, listen)) == bool(warning)
