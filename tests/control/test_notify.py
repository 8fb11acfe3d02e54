"""What systemd is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostproxy.control.notify import Manager, notify, stored_name


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


@pytest.fixture
def there(tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.settimeout(0.2)
        yield sock, {"NOTIFY_SOCKET": str(tmp_path / "s")}


def test_a_listening_socket_is_kept_and_forgotten(there: tuple[socket.socket, dict[str, str]]) -> None:
    sock, environment = there
    manager = Manager(environment)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        manager.store(address, server)
        data, descriptors, _, _ = socket.recv_fds(sock, 1000, 3)
        assert data.decode() == f"FDSTORE=1\nFDNAME=listener-{address.replace(':', '%3A')}"
        with socket.socket(fileno=descriptors[0]) as kept:
            assert kept.getsockname() == server.getsockname()
    manager.forget(address)
    assert sock.recv(1000).decode() == f"FDSTOREREMOVE=1\nFDNAME=listener-{address.replace(':', '%3A')}"


def test_a_name_is_one_that_systemd_takes() -> None:
    assert stored_name("unix:/run/a:b") != stored_name("unix:/run/a,b")
    for address in ("[::1]:80", "unix:/" + "\n:\u00e4" * 30):
        name = stored_name(address)
        assert name.isprintable()
        assert name.isascii()
        assert ":" not in name
        assert len(name) <= 255


def test_a_supervisor_on_trial_is_silent(there: tuple[socket.socket, dict[str, str]]) -> None:
    sock, environment = there
    manager = Manager(environment, silent=True)
    manager.tell("READY=1")
    manager.reloading()
    manager.status("fine")
    with socket.create_server(("127.0.0.1", 0)) as server:
        manager.store("a", server)
    manager.silent = False
    manager.status("fine")  # which nobody has heard so far
    manager.status("fine")
    manager.reloading()
    assert sock.recv(1000) == b"STATUS=fine"
    lines = sock.recv(1000).decode().split("\n")
    assert lines[0] == "RELOADING=1"
    assert lines[1].startswith("MONOTONIC_USEC=")
    with pytest.raises(TimeoutError):
        sock.recv(1000)
