"""Processes watched through their descriptors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from hostproxy.control.process import Process, vitals
from tests.control.conftest import TurnedReactor


def spawn(reactor: TurnedReactor, code: str, ends: list[str], descriptors: tuple[int, ...] = ()) -> Process:
    return Process.spawn(reactor, [sys.executable, "-S", "-E", "-c", code], descriptors, ends.append)


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("", "exit status 0"),
        ("raise SystemExit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ],
)
def test_how_it_ended(reactor: TurnedReactor, code: str, how: str) -> None:
    ends: list[str] = []
    process = spawn(reactor, code, ends)
    reactor.until(lambda: ends)
    assert ends == [how]
    assert not process.running
    process.signal(signal.SIGKILL)  # nothing happens


def test_it_has_the_descriptors_it_was_given_and_no_others(reactor: TurnedReactor) -> None:
    ends: list[str] = []
    read, write = os.pipe()
    secret = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(secret, True)
    code = f"import os; os.write({write}, ' '.join(sorted(os.listdir('/proc/self/fd'), key=int)).encode())"
    spawn(reactor, code, ends, (write,))
    os.close(write)
    reactor.until(lambda: ends)
    found = os.read(read, 1000).decode().split()
    assert found[:3] == ["0", "1", "2"]
    assert str(write) in found
    assert str(secret) not in found
    os.close(read)
    os.close(secret)


def test_the_terminals_signals_wait_until_it_has_decided(reactor: TurnedReactor) -> None:
    ends: list[str] = []
    code = (
        "import signal as s, time\n"
        "time.sleep(0.2)\n"
        "s.signal(s.SIGINT, s.SIG_IGN); s.signal(s.SIGHUP, s.SIG_IGN)\n"
        "s.pthread_sigmask(s.SIG_UNBLOCK, {s.SIGINT, s.SIGHUP})\n"
    )
    process = spawn(reactor, code, ends)
    process.signal(signal.SIGINT)
    process.signal(signal.SIGHUP)
    reactor.until(lambda: ends)
    assert ends == ["exit status 0"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ()), "blocked in us as well"


def test_a_process_that_is_not_ours(reactor: TurnedReactor) -> None:
    ends: list[str] = []
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        process = Process(reactor, other.pid, ends.append)
        process.signal(signal.SIGTERM)
        reactor.until(lambda: ends)
    assert ends == ["ended"]
    with pytest.raises(ProcessLookupError):
        Process(reactor, other.pid, ends.append)


def test_vital_signs(reactor: TurnedReactor) -> None:
    ends: list[str] = []
    process = spawn(reactor, "while True: pass", ends)
    deadline = time.monotonic() + 5
    signs = vitals(process.pid)
    while signs is not None and signs.cpu < 0.05 and time.monotonic() < deadline:
        time.sleep(0.02)
        signs = vitals(process.pid)
    assert signs is not None
    assert signs.state == "R"
    assert signs.cpu >= 0.05
    process.signal(signal.SIGSTOP)
    while signs is not None and signs.state == "R" and time.monotonic() < deadline:
        signs = vitals(process.pid)
    assert signs is not None
    assert signs.state == "T"
    process.signal(signal.SIGKILL)
    reactor.until(lambda: ends)
    assert vitals(process.pid) is None
