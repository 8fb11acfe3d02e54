"""The process: what it needs to begin, how it ends, and what it does about what time brings."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from controller.registry.denied import Denial
from tests.controller.conftest import DOMAIN, NOON, POLICY, Process, Scene, free_port, initialise
from tests.controller.test_generations import done


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("initialised") / "c"
    assert initialise(directory, 25008).returncode == 0
    return directory


def start(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controller", "run", "-c", str(directory / "controller.toml")],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def change(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


BROKEN = {
    "no passphrase": (lambda d: (d / "passphrase").unlink(), "passphrase"),
    "an open passphrase": (lambda d: (d / "passphrase").chmod(0o644), "chmod 600"),
    "another passphrase": (lambda d: (d / "passphrase").write_text("x" * 40), "passphrase does not open it"),
    "an open key": (lambda d: (d / "authority" / "issuing-1.key").chmod(0o640), "chmod 600"),
    "no signing key": (lambda d: (d / "authority" / "signing.key").unlink(), "signing.key"),
    "no authority": (lambda d: shutil.rmtree(d / "authority"), "authority.json"),
    "another mesh": (
        lambda d: (d / "controller.toml").write_text(
            change((d / "controller.toml").read_text(), f'"{DOMAIN}"', '"other.example"')
        ),
        "trust_domain",
    ),
    "a changed audit log": (
        lambda d: (d / "state" / "audit.log").write_text("nonsense\n"),
        "audit.log",
    ),
    "a database that is none": (lambda d: (d / "state" / "controller.db").write_bytes(b"x" * 9000), "controller.db"),
    "a file for a socket": (lambda d: (d / "operator.sock").write_text("x"), "is no socket"),
    "no configuration": (lambda d: (d / "controller.toml").unlink(), "controller.toml"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_it_says_why_it_does_not_start(name: str, initialised: Path, tmp_path: Path) -> None:
    directory = tmp_path / "c"
    shutil.copytree(initialised, directory)
    damage, expected = BROKEN[name]
    damage(directory)
    path = directory / "controller.toml"
    if path.exists():
        path.write_text(change(path.read_text(), "25008", str(free_port())))
    ended = start(directory)
    assert ended.returncode == 1, ended.stderr
    assert expected in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken(initialised: Path, tmp_path: Path) -> None:
    directory = tmp_path / "c"
    shutil.copytree(initialised, directory)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        path = directory / "controller.toml"
        path.write_text(change(path.read_text(), "25008", str(taken.getsockname()[1])))
        ended = start(directory)
    assert ended.returncode == 1
    assert "Address already in use" in ended.stderr


def test_two_on_one_directory_are_one_too_many(process: Process) -> None:
    ended = start(process.directory)
    assert ended.returncode == 1
    assert "another controller" in ended.stderr
    assert process.local("GET", "/v1/status")[0] == 200


def test_it_ends_when_it_is_told_to(process: Process) -> None:
    process.local("POST", "/v1/policy", {"files": POLICY})
    idle = socket.create_connection(("127.0.0.1", process.port))
    began = time.monotonic()
    process.process.send_signal(signal.SIGINT)
    assert process.stop() == 0  # and told once more
    idle.close()
    assert time.monotonic() - began < 8
    assert not os.path.exists(process.socket)
    assert "Traceback" not in process.log
    # What was applied is there again, and nobody has to tidy up.
    process.start()
    assert process.local("GET", "/v1/status")[1]["generation"] == {"epoch": 1, "generation": 1}


def test_killed_it_starts_again(process: Process) -> None:
    process.local("POST", "/v1/policy", {"files": POLICY})
    process.process.kill()
    process.process.wait(10)
    assert os.path.exists(process.socket)
    process.start()
    status, found = process.local("GET", "/v1/status")
    assert (status, found["generation"]["generation"], found["term"]) == (200, 1, 2)
    assert process.local("POST", "/v1/audit/verify")[1]["broken"] is None


def test_keys_are_read_anew_on_a_hangup(process: Process) -> None:
    before = process.local("GET", "/v1/authority")[1]
    process.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 5
    ends = "controller_certificate_ends"
    while (after := process.local("GET", "/v1/authority")[1])[ends] <= before[ends]:
        assert time.monotonic() < deadline, "no certificate was made anew"
        time.sleep(0.1)
        process.process.send_signal(signal.SIGHUP)
    assert after["fingerprint"] == before["fingerprint"]


def test_the_certificate_is_renewed_at_half_of_its_life(scene: Scene) -> None:
    care: Any = scene.controller._take_care
    shown = scene.parts.leaf.credential
    scene.clock.advance(6 * 3600 - 1)
    care()
    assert scene.parts.leaf.credential is shown
    scene.clock.advance(2)
    care()
    fresh = scene.parts.leaf.credential
    assert fresh.certificates[0].public_key() != shown.certificates[0].public_key()
    assert fresh.certificates[0].not_valid_after_utc.timestamp() == NOON + 18 * 3600 + 1


def test_bundles_are_issued_again_before_they_end(scene: Scene) -> None:
    scene.apply()
    care: Any = scene.controller._take_care
    scene.clock.advance(3 * 86400)
    care()
    assert scene.expect(200, "GET", "/v1/status")["generation"]["generation"] == 1
    scene.clock.advance(86400)
    care()
    care()
    assert scene.expect(200, "GET", "/v1/status")["generation"]["generation"] == 2
    assert scene.audit.acts().count("policy.reissue") == 1


def test_what_was_cut_off_before_hosts_were_told_is_told_later(scene: Scene) -> None:
    scene.host()
    scene.apply()
    # A denial whose generation was never made: the process was killed between the two.
    identity = f"spiffe://{DOMAIN}/host/web-1"
    done(scene.parts.registry.denied.deny(Denial(identity=identity, at=NOON, by="ann")))
    scene.controller._take_care()
    assert scene.expect(200, "GET", "/v1/status")["generation"]["generation"] == 2
    scene.controller._take_care()
    assert scene.expect(200, "GET", "/v1/status")["generation"]["generation"] == 2


def test_who_leads_no_more_lets_go(scene: Scene) -> None:
    scene.apply()
    leadership: Any = scene.parts.leadership
    leadership.stop()
    assert scene.clock.getDelayedCalls() == []
    scene.expect(503, "POST", "/v1/policy", {"files": POLICY})


def test_the_command_without_a_command() -> None:
    for arguments, status in (([], 2), (["--version"], 0), (["run", "-c", "/nowhere/controller.toml"], 1)):
        command = [sys.executable, "-m", "controller", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert ended.returncode == status, ended.stderr
        assert "Traceback" not in ended.stderr
