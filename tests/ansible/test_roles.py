"""The role ``hostproxy`` on this machine, into a directory, with no service and no user: what it writes and refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib

import pytest

from tests.ansible.conftest import stand_in

SITE, ROLLBACK = "hostproxy.mesh.site", "hostproxy.mesh.rollback"
RECAP = re.compile(r"web-1 +: .*")


def recap(done: subprocess.CompletedProcess[str]) -> str:
    found = RECAP.search(done.stdout)
    assert found, done.stdout + done.stderr
    return found[0]


class Host:
    """A host that is a directory."""

    def __init__(self, ansible, directory, wheelhouses):
        self.ansible = ansible
        self.directory = directory
        self.prefix, self.etc = directory / "opt", directory / "etc"
        certificates = directory / "made"
        command = [sys.executable, "-m", "hostproxy", "certs", "dev", str(certificates)]
        subprocess.run(
            [*command, "--trust-domain", "corp.example", "--host", "web-1", "--service", "cart"],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        self.variables = {
            "hostproxy_wheelhouse": str(wheelhouses["1.0"]),
            "hostproxy_prefix": str(self.prefix),
            "hostproxy_python": sys.executable,
            "hostproxy_config_directory": str(self.etc),
            "hostproxy_state_directory": str(directory / "state"),
            "hostproxy_manage_services": False,
            "hostproxy_trust_domain": "corp.example",
            "hostproxy_address": "10.0.0.1",
            "hostproxy_certificate_authorities": (certificates / "ca.pem").read_text(),
            "hostproxy_certificates": {
                name: {
                    "certificate": (certificates / f"{name}.pem").read_text(),
                    "key": (certificates / f"{name}.key").read_text(),
                }
                for name in ("host", "cart")
            },
            "hostproxy_config": {"service": [{"name": "cart"}]},
        }

    def play(self, *options, playbook=SITE, **variables):
        return self.ansible.play(playbook, self.variables | variables, *options)

    @property
    def current(self):
        link = self.prefix / "current"
        return str(link.readlink()) if link.is_symlink() else None


@pytest.fixture(scope="module")
def wheelhouses(tmp_path_factory):
    return stand_in(tmp_path_factory.mktemp("wheelhouses"))


@pytest.fixture(scope="module")
def host(ansible, wheelhouses, tmp_path_factory):
    return Host(ansible, tmp_path_factory.mktemp("host"), wheelhouses)


def test_from_nothing_to_a_version_and_back(host, wheelhouses):
    """One after the other, as each begins where the one before ended."""
    dry = host.play("--check", "--diff")
    assert dry.returncode == 0, dry.stdout
    assert host.current is None
    assert not host.etc.exists()

    done = host.play()
    assert done.returncode == 0, done.stdout
    assert host.current == "1.0"
    written = tomllib.loads((host.etc / "conf.toml").read_text())
    assert written["host"]["name"] == "web-1"
    assert written["service"] == [{"name": "cart"}]
    assert (host.etc / "certificates" / "cart.key").stat().st_mode & 0o777 == 0o600
    assert "PRIVATE KEY" not in done.stdout

    again = host.play("--diff")
    assert "changed=0 " in recap(again), again.stdout
    assert "changed=0 " in recap(host.play("--check"))

    before = (host.etc / "conf.toml").read_bytes()
    refused = host.play(hostproxy_config={"service": [{"name": "cart"}], "limits": {"idel": "1s"}})
    assert refused.returncode != 0
    assert "idel" in refused.stdout
    assert (host.etc / "conf.toml").read_bytes() == before

    other = {"service": [{"name": "cart", "weight": 2}]}
    failing = host.play(hostproxy_wheelhouse=str(wheelhouses["2.0"]), hostproxy_config=other)
    assert failing.returncode != 0
    assert "this version takes no conf.toml" in failing.stdout
    assert "It has 1.0 again" in failing.stdout
    assert host.current == "1.0"
    assert (host.etc / "conf.toml").read_bytes() == before

    nowhere = host.play(playbook=ROLLBACK)
    assert nowhere.returncode != 0
    assert "There is no version before 1.0" in nowhere.stdout


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"hostproxy_config": "text"}, "hostproxy_config"),
        ({"hostproxy_trust_domain": ""}, "hostproxy_trust_domain and hostproxy_address are needed"),
        ({"hostproxy_keep_versions": "many"}, "hostproxy_keep_versions"),
    ],
)
def test_arguments_are_checked_before_anything_is_done(host, tmp_path, variables, said):
    done = host.play(hostproxy_prefix=str(tmp_path / "opt"), **variables)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert not (tmp_path / "opt").exists()


def test_wheels_that_were_changed_are_not_installed(host, wheelhouses, tmp_path):
    changed = tmp_path / "wheelhouse"
    changed.mkdir()
    for path in wheelhouses["1.0"].iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    about = json.loads((changed / "wheelhouse.json").read_text())
    archive = changed / about["archive"]
    archive.write_bytes(archive.read_bytes() + b"\0")
    done = host.play(hostproxy_prefix=str(tmp_path / "opt"), hostproxy_wheelhouse=str(changed))
    assert done.returncode != 0
    assert "is not what wheelhouse.json says" in done.stdout
