"""The units in systemd/: what systemd itself says of them, and that they fit what the programs do by default."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from controller import config as controller_config
from controller.__main__ import COMMANDS as CONTROLLER_COMMANDS
from controller.cli import run as controller_run
from hostproxy import config
from hostproxy.__main__ import COMMANDS
from hostproxy.cli import run
from hostproxy.limits import Limits
from tests.integration import needs

UNITS = Path(__file__).parent.parent / "systemd"
SERVICES = ("hostproxy.service", "hostproxy-controller.service")
PROGRAMS = {"hostproxy": COMMANDS, "hostproxy-controller": CONTROLLER_COMMANDS}
EXPOSURE = 20  # of 100 that systemd gives to a unit without any hardening
# What the units ask to have been reached. Empty ones do: what is verified is our side of it.
TARGETS = ("basic", "multi-user", "network-online", "nss-user-lookup", "shutdown", "sockets", "sysinit")

Unit = dict[str, list[str]]


def read(name: str) -> Unit:
    """The settings of a unit, each with all of its values; continued lines are one."""
    found: Unit = {}
    text = (UNITS / name).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def one(unit: Unit, key: str) -> str:
    """The value of a setting that is there once."""
    (value,) = unit[key]
    return value


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [needs.program("systemd-analyze"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A root directory with the units, and everything that they name."""
    system = tmp_path / "etc/systemd/system"
    system.mkdir(parents=True)
    for path in [*UNITS.glob("*.service"), *UNITS.glob("*.socket")]:
        shutil.copy(path, system)
    for target in TARGETS:
        (system / f"{target}.target").write_text("[Unit]\n")
    for program in ("bin/kill", "bin/sh", "usr/bin/env", *(f"opt/hostproxy/current/bin/{name}" for name in PROGRAMS)):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755)
    return tmp_path


def verify(root: Path, *units: str) -> list[str]:
    """What systemd finds wrong with units."""
    done = analyze(f"--root={root}", "verify", *units)
    return done.stderr.splitlines() or ([] if done.returncode == 0 else [f"status {done.returncode}"])


def test_systemd_finds_nothing_wrong(installed: Path) -> None:
    names = sorted(path.name for path in (installed / "etc/systemd/system").glob("hostproxy*"))
    assert names == sorted([*SERVICES, "hostproxy.socket"])
    assert verify(installed, *names) == []


def test_systemd_would_find_something(installed: Path) -> None:
    path = installed / "etc/systemd/system/hostproxy.service"
    path.write_text(path.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    assert "Unknown key 'WatchdogSecs'" in "\n".join(verify(installed, "hostproxy.service"))


@pytest.mark.parametrize("name", SERVICES)
def test_exposure(name: str) -> None:
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(UNITS / name))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_commands_are_those_that_there_are(name: str) -> None:
    unit = read(name)
    lines = [line for line in [*unit["ExecStart"], *unit["ExecReload"]] if "/opt/hostproxy/" in line]
    assert lines
    for line in lines:
        _, _, called = line.partition("/opt/hostproxy/current/bin/")
        program, command, *_ = shlex.split(called)
        assert command in PROGRAMS[program], line


def test_files_and_directories_are_the_defaults() -> None:
    unit = read("hostproxy.service")
    host = config.Host(name="a", address="10.0.0.1")
    assert f"/run/{one(unit, 'RuntimeDirectory')}" == host.runtime_directory
    assert f"/var/lib/{one(unit, 'StateDirectory')}" == host.state_directory
    assert Path(run.DEFAULT_PATH).parent == Path("/etc") / one(unit, "ConfigurationDirectory")
    assert run.DEFAULT_PATH in one(unit, "ExecStart").split()
    unit = read("hostproxy-controller.service")
    serving = controller_config.Serving(dns="a.example")
    assert Path(serving.operator_socket).parent == Path("/run") / one(unit, "RuntimeDirectory")
    assert serving.state_directory == f"/var/lib/{one(unit, 'StateDirectory')}"
    assert controller_run.DEFAULT_PATH in one(unit, "ExecStart").split()


@pytest.mark.parametrize("name", SERVICES)
def test_what_they_notify_of_is_heard(name: str) -> None:
    unit = read(name)
    assert (one(unit, "Type"), one(unit, "NotifyAccess")) == ("notify", "main")
    assert int(one(unit, "WatchdogSec")) >= 30


def test_accepting_never_waits() -> None:
    """systemd sets that anew at each start, also for those who are left from the last one."""
    assert one(read("hostproxy.service"), "NonBlocking") == "yes"


def test_a_stop_has_the_time_to_drain() -> None:
    unit = read("hostproxy.service")
    assert int(one(unit, "TimeoutStopSec")) >= Limits().drain + 10


def test_the_socket_unit_has_the_default_ports() -> None:
    socket = read("hostproxy.socket")
    mesh, outbound = config.Mesh(trust_domain="a.example"), config.Outbound()
    assert socket["ListenStream"] == [mesh.listen, outbound.listen]


@pytest.mark.parametrize("name", SERVICES)
def test_users_and_directories_are_made(name: str) -> None:
    unit = read(name)
    user = one(unit, "User")
    assert one(unit, "Group") == user == name.removesuffix(".service")
    made = (UNITS / f"sysusers.d/{user}.conf").read_text()
    assert re.findall(r"^u (\S+) ", made, re.MULTILINE) == [user]
    rows = [
        line.split() for line in (UNITS / f"tmpfiles.d/{user}.conf").read_text().splitlines() if line.startswith("d ")
    ]
    modes = {path: (mode, owner) for _, path, mode, owner, _ in rows}
    # As systemd itself makes them, or it would complain of the difference at each start.
    for kind, place in (("State", "/var/lib"), ("Logs", "/var/log"), ("Configuration", "/etc")):
        if f"{kind}Directory" in unit:
            mode = unit.get(f"{kind}DirectoryMode", ["0755"])[0]
            owner = "root" if kind == "Configuration" else user
            assert modes[f"{place}/{one(unit, f'{kind}Directory')}"] == (mode, owner)
    assert modes["/etc/credstore"] == ("0700", "root")
