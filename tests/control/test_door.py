"""Where a new supervisor finds the workers of a dead one."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hostproxy.control import door as door_module
from hostproxy.control.door import Door, Peer, door_path, knock, remove_door, tidy, trial_path
from tests.control.conftest import TurnedReactor


def test_whoever_knocks_is_connected(reactor: TurnedReactor, tmp_path: Path) -> None:
    visitors: list[socket.socket] = []
    door = Door(reactor, str(tmp_path), visitors.append)
    assert stat.S_IMODE(os.stat(door.path).st_mode) == 0o600
    ((pid, sock),) = knock(str(tmp_path), set())
    assert pid == os.getpid()
    reactor.until(lambda: visitors)
    visitors[0].send(b"welcome")
    reactor.until(lambda: True)
    assert sock.recv(100) == b"welcome"
    assert knock(str(tmp_path), {os.getpid()}) == [], "one that is known already was asked again"
    for one in (*visitors, sock):
        one.close()
    door.close()
    assert os.listdir(tmp_path) == []


def test_strangers_are_refused(reactor: TurnedReactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visitors: list[socket.socket] = []
    door = Door(reactor, str(tmp_path), visitors.append)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(door.path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "geteuid", lambda: 12345)
            patch.setattr(Peer, "of", lambda sock: Peer(1, 54321))
            reactor.turns()
        stranger.settimeout(1)
        assert stranger.recv(1) == b""
    assert visitors == []
    door.close()


def test_a_door_of_another_process_than_its_name_says_is_not_trusted(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind(door_path(str(tmp_path), 1))
        impostor.listen()
        assert knock(str(tmp_path), set()) == []


def test_doors_of_the_dead_are_taken_away_and_other_files_are_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(door_path(str(tmp_path), 4711))
    (tmp_path / "hostproxy.lock").write_text("")
    (tmp_path / "worker-x.sock").write_text("")
    assert knock(str(tmp_path), set()) == []
    assert sorted(os.listdir(tmp_path)) == ["hostproxy.lock", "worker-x.sock"]
    remove_door(str(tmp_path), 4711)  # nothing is left to do


def test_a_door_that_a_process_of_the_same_number_left_is_replaced(reactor: TurnedReactor, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as before:
        before.bind(door_path(str(tmp_path), os.getpid()))
    door = Door(reactor, str(tmp_path), lambda sock: sock.close())
    ((_, sock),) = knock(str(tmp_path), set())
    sock.close()
    door.close()


def test_no_directory_no_door(reactor: TurnedReactor, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Door(reactor, str(tmp_path / "missing"), door_module.socket.socket.close)


def test_what_the_dead_left_is_taken_away(tmp_path: Path) -> None:
    dead, living = 4194305, os.getpid()  # above the highest number that Linux gives
    for pid in (dead, living):
        Path(door_path(str(tmp_path), pid)).touch()
        Path(trial_path(str(tmp_path), pid, 3)).touch()
    (tmp_path / "worker-x.sock").touch()
    tidy(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(
        [f"worker-{living}.sock", f"trial-{living}-3.sock", "worker-x.sock"]
    )


def test_what_is_left_of_processes_that_have_ended_is_taken_away(tmp_path: Path) -> None:
    """Also of one that nobody has waited for yet."""
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        kept = [f"worker-{os.getpid()}.sock", f"trial-{os.getpid()}-0.sock", "admin.sock", "hostproxy.lock"]
        for name in (*kept, f"worker-{child.pid}.sock", f"trial-{child.pid}-3.sock", "trial-4194305-0.sock"):
            (tmp_path / name).touch()
        tidy(str(tmp_path))
        assert sorted(os.listdir(tmp_path)) == sorted(kept)
    finally:
        child.wait()
