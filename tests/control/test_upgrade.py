"""The predecessor's side: a successor that never becomes healthy is ended with all that it started."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hostproxy.control import upgrade as upgrade_module
from hostproxy.control.upgrade import Upgrade, command_of_successor, pinned
from tests.control.conftest import TurnedReactor
from tests.fakes.manager import alive

# Starts a child, tells both numbers, and hangs; the child is in the same group.
HANGS = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(100)"])
sys.stderr.write(f"{os.getpid()} {child.pid}"); sys.stderr.flush()
time.sleep(100)
"""
# Speaks, with names as they are between releases.
HELLO = """
import socket, struct, sys, time, msgspec
channel = socket.socket(fileno=int(sys.argv[-1].removeprefix("--successor=").split(",")[0]))
def send(**fields):
    data = msgspec.msgpack.encode(fields)
    channel.sendall(struct.pack(">I", len(data)) + data)
send(type="Hello", protocol={protocol}, software="9.9", colour="unheard of")
{then}
time.sleep(100)
"""


class Owner:
    def __init__(self) -> None:
        self.failed: list[tuple[str, bool]] = []
        self.taken = 0

    def upgrade_gives(self) -> int:
        raise AssertionError

    def upgrade_failed(self, reason: str, given: bool) -> None:
        self.failed.append((reason, given))

    def upgrade_taken(self, successor: Upgrade) -> None:
        raise AssertionError


def attempt(reactor: TurnedReactor, code: str, tmp_path: Path) -> str:
    """Try a successor of this code; why it failed."""
    owner = Owner()
    daemon: Any = SimpleNamespace(
        reactor=reactor,
        sources=SimpleNamespace(pause=lambda: None),
        sockets=SimpleNamespace(items=list),
        state=SimpleNamespace(software="1.0", ready=True),
        config=SimpleNamespace(host=SimpleNamespace(runtime_directory=str(tmp_path), state_directory=str(tmp_path))),
    )
    Upgrade(daemon, owner, [sys.executable, "-c", code], dict(os.environ)).begin()
    reactor.until(lambda: owner.failed, 20)
    reactor.turns()
    assert len(owner.failed) == 1
    reason, given = owner.failed[0]
    assert not given
    return reason


def test_one_that_hangs(reactor: TurnedReactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade_module, "TRIAL", 1.0)
    reason = attempt(reactor, HANGS, tmp_path)
    assert reason.startswith("it was not healthy within 1 s\n")
    pids = [int(word) for word in reason.splitlines()[1].split()]
    assert len(pids) == 2
    reactor.until(lambda: not any(map(alive, pids)), 5)


def test_one_that_ends_without_a_word(reactor: TurnedReactor, tmp_path: Path) -> None:
    assert attempt(reactor, "import sys; sys.exit('no such thing')", tmp_path) == (
        "the new supervisor ended: exit status 1\nno such thing"
    )


def test_one_that_cannot_be_started(reactor: TurnedReactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    assert attempt(reactor, "", tmp_path) == f"{tmp_path}/missing: No such file or directory"


def test_one_that_says_why(reactor: TurnedReactor, tmp_path: Path) -> None:
    """Also when it ends at once: what it said comes before how it ended."""
    code = HELLO.format(protocol=1, then='send(type="Failed", problems=["port 80 is taken"]); sys.exit(1)')
    assert attempt(reactor, code, tmp_path) == "port 80 is taken"


def test_one_of_another_protocol(reactor: TurnedReactor, tmp_path: Path) -> None:
    reason = attempt(reactor, HELLO.format(protocol=2, then=""), tmp_path)
    assert reason.startswith("hostproxy 9.9 cannot take over from 1.0 while that runs: systemctl restart")


def test_one_that_talks_nonsense(reactor: TurnedReactor, tmp_path: Path) -> None:
    reason = attempt(reactor, HELLO.format(protocol=1, then='send(type="Cuckoo")'), tmp_path)
    assert reason.startswith("its channel broke: not understood")


def test_the_command_of_a_successor(tmp_path: Path) -> None:
    script = tmp_path / "hostproxy"
    script.write_text("")
    script.chmod(0o755)
    link = tmp_path / "current"
    link.symlink_to(tmp_path)
    through = str(link / "hostproxy")
    assert command_of_successor([through, "run", "--successor=3,4"], []) == [through, "run"]
    module = ["python", "-P", "-m", "hostproxy", "run", "-c", "x"]
    assert command_of_successor(["/x/hostproxy/__main__.py", "run", "-c", "x"], module) == [sys.executable, *module[1:]]


def test_workers_are_of_our_own_code(tmp_path: Path) -> None:
    """The directory is the one behind the link, and python in it is not followed further: it makes the environment."""
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "python").symlink_to(sys.executable)
    (tmp_path / "current").symlink_to("v1")
    assert pinned(str(tmp_path / "current" / "python")) == str(tmp_path.resolve() / "v1" / "python")
