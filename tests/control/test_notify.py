"""What systemd is told."""

from __future__ import annotations

import socket
from pathlib import Path

from hostproxy.control.notify import notify


def test_a_path_and_an_abstract_name(tmp_path: Path) -> None:
    for written, bound in ((str(tmp_path / "s"), str(tmp_path / "s")), ("@hp-test-notify", "\0hp-test-notify")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(bound)
            manager.settimeout(1)
            notify("READY=1", "STATUS=fine", environment={"NOTIFY_SOCKET": written})
            assert manager.recv(100) == b"READY=1\nSTATUS=fine"


def test_nobody_listens(tmp_path: Path) -> None:
    notify("READY=1", environment={})
    notify("READY=1", environment={"NOTIFY_SOCKET": str(tmp_path / "nobody")})


def test_a_manager_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        for _ in range(2000):
            notify("STATUS=" + "x" * 1000, environment={"NOTIFY_SOCKET": path})
        manager.settimeout(1)
        assert manager.recv(10) == b"STATUS=xxx"
