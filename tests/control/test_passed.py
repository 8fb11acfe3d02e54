"""Sockets that a process is born with."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.logger import capturedLogs

from hostproxy.control.passed import inherited, listening_address

FIRST = 150  # descriptors that nobody has in a test


@pytest.fixture
def given() -> Iterator[list[socket.socket]]:
    made: list[socket.socket] = []
    yield made
    for sock in made:
        sock.close()


def give(given: list[socket.socket], *socks: socket.socket, names: str = "", pid: int = 0) -> dict[str, str]:
    """Number ``socks`` as a service manager would; the environment that it would make."""
    given.extend(socks)
    for number, sock in enumerate(socks):
        os.dup2(sock.fileno(), FIRST + number)
    return {
        "LISTEN_FDS": str(len(socks)),
        "LISTEN_FDNAMES": names,
        "LISTEN_PID": str(pid or os.getpid()),
        "OTHER": "stays",
    }


def close(found: dict[str, socket.socket]) -> None:
    for sock in found.values():
        sock.close()


def test_they_are_known_by_address_whatever_their_names(given: list[socket.socket], tmp_path: Path) -> None:
    four = socket.create_server(("127.0.0.1", 0))
    six = socket.create_server(("::1", 0), family=socket.AF_INET6)
    path = socket.socket(socket.AF_UNIX)
    path.bind(str(tmp_path / "s"))
    path.listen()
    environment = give(given, four, six, path, names="same:same:other")
    found = inherited(environment, FIRST)
    try:
        assert set(found) == {
            f"127.0.0.1:{four.getsockname()[1]}",
            f"[::1]:{six.getsockname()[1]}",
            f"unix:{tmp_path}/s",
        }
        assert environment == {"OTHER": "stays"}
        assert not any(sock.get_inheritable() or sock.getblocking() for sock in found.values())
    finally:
        close(found)


def test_one_that_blocks_is_told_of(given: list[socket.socket]) -> None:
    """Workers of a supervisor that was killed would hang in accept() as soon as the next one is started."""
    blocking, other = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    other.setblocking(False)
    with capturedLogs() as logged:
        close(inherited(give(given, blocking, other, names="blocking:other"), FIRST))
    assert [event["name"] for event in logged] == ["blocking"]
    assert "NonBlocking=yes" in logged[0]["log_format"]


def test_those_of_another_process_are_left_alone(given: list[socket.socket]) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    environment = give(given, sock, pid=1)
    assert inherited(environment, FIRST) == {}
    assert environment == {"OTHER": "stays"}
    os.fstat(FIRST)
    os.close(FIRST)


def test_what_cannot_be_used_is_closed(given: list[socket.socket]) -> None:
    """A datagram socket, one that does not listen, a second one of the same address, and none at all."""
    good = socket.create_server(("127.0.0.1", 0))
    deaf = socket.socket()
    deaf.bind(("127.0.0.1", 0))
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    environment = give(given, good, datagram, deaf, good.dup())
    environment["LISTEN_FDS"] = "5"  # one more than there are
    found = inherited(environment, FIRST)
    try:
        assert list(found) == [f"127.0.0.1:{good.getsockname()[1]}"]
        for number in (1, 2, 3):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(FIRST + number)
    finally:
        close(found)


@pytest.mark.parametrize("count", ["", "-1", "x", "0"])
def test_nonsense(count: str) -> None:
    assert inherited({"LISTEN_FDS": count, "LISTEN_PID": str(os.getpid())}, FIRST) == {}


def test_an_abstract_name_is_no_address(given: list[socket.socket]) -> None:
    sock = socket.socket(socket.AF_UNIX)
    given.append(sock)
    sock.bind("\0hostproxy-test-passed")
    sock.listen()
    assert listening_address(sock) == ""
