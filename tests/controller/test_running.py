"""What systemd hears of a controller: that it serves, how it stands, that it lives, and that it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from controller.notify import watchdog
from controller.running import PATIENCE, STATUS, Supervised
from tests.controller.conftest import Process, free_port, initialise


class Systemd:
    """The socket that a service says it to."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(20)
        self.heard: list[str] = []

    def until(self, wanted: str) -> None:
        """Listen until a line begins like this."""
        start = len(self.heard)
        while not any(line.startswith(wanted) for line in self.heard[start:]):
            self.heard += self._socket.recv(4096).decode().splitlines()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.path)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    yield systemd
    systemd.close()


def test_a_real_one_from_its_start_to_its_end(systemd: Systemd, tmp_path: Path) -> None:
    directory = tmp_path / "c"
    port = free_port()
    assert initialise(directory, port).returncode == 0
    process = Process(directory, port)
    process.start()
    try:
        systemd.until("READY=1")
        # It serves by then, and not only soon.
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        systemd.until("STATUS=leads, no policy yet, 0 hosts")
        systemd.until("WATCHDOG=1")
        systemd.until("WATCHDOG=1")
        process.process.send_signal(signal.SIGHUP)
        systemd.until("RELOADING=1")
        systemd.until("READY=1")
        process.process.send_signal(signal.SIGTERM)
        systemd.until("STOPPING=1")
        assert process.process.wait(10) == 0
    finally:
        process.kill()


def test_a_store_that_is_away_is_said_and_is_no_reason_to_be_killed() -> None:
    clock = Clock()
    said: list[str] = []
    answers: list[Deferred[str]] = []

    async def summary() -> str:
        answers.append(Deferred())
        return await answers[-1]

    supervised = Supervised(clock, summary, lambda *lines: said.extend(lines), 4.0)
    supervised.look()
    assert answers == []  # nothing is said before it serves
    supervised.start()
    for _ in range(int(PATIENCE)):
        clock.advance(1.0)
    assert said.count("WATCHDOG=1") == 6
    assert any(line.startswith("STATUS=the store does not answer") for line in said)
    clock.advance(STATUS)
    answers[-1].callback("leads, generation 1,\n2 hosts")
    assert said[-1] == "STATUS=leads, generation 1, 2 hosts"
    supervised.look()
    supervised.stop()
    answers[-1].callback("late")
    assert said[-1].startswith("STATUS=answers what is being asked")
    # While it ends it lives.
    clock.advance(2.0)
    assert said[-1] == "WATCHDOG=1"


def test_the_watchdog_of_another_process_is_none() -> None:
    assert watchdog({}) == 0.0
    assert watchdog({"WATCHDOG_USEC": "3000000"}) == 3.0
    assert watchdog({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}) == 3.0
    assert watchdog({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}) == 0.0
    assert watchdog({"WATCHDOG_USEC": "soon"}) == 0.0


def test_one_that_cannot_start_says_so(systemd: Systemd, tmp_path: Path) -> None:
    directory = tmp_path / "c"
    assert initialise(directory, free_port()).returncode == 0
    (directory / "passphrase").chmod(0o644)
    process = Process(directory, 0)
    began = time.monotonic()
    with pytest.raises(AssertionError, match="is a passphrase open to others"):
        process.start()
    systemd.until("STATUS=")
    assert "passphrase" in systemd.heard[-1]
    assert "READY=1" not in systemd.heard
    assert time.monotonic() - began < 20


def test_one_that_fails_as_nobody_expected_ends(tmp_path: Path) -> None:
    """And says how, in place of a process that serves nothing."""
    directory = tmp_path / "c"
    assert initialise(directory, free_port()).returncode == 0
    code = (
        "import sys\n"
        "from controller import app, running\n"
        "from controller.config import load\n"
        "def break_(*_): raise LookupError('no such thing')\n"
        "app.Listeners = break_\n"
        "sys.exit(running.run(load(sys.argv[1])))\n"
    )
    command = [sys.executable, "-c", code, str(directory / "controller.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1, done.stderr
    assert "hostproxy-controller: cannot start: LookupError: no such thing" in done.stderr
    assert "break_" in done.stderr  # where
