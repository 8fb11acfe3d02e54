from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from hostproxy.net.connect import Address, Connecting, failure_word
from tests.support import Listening, Loop, closed_port


class Waiter:
    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.reason = ""

    def connected(self, sock: socket.socket) -> None:
        self.sock = sock

    def connect_failed(self, reason: str) -> None:
        self.reason = reason


@pytest.mark.parametrize(
    ("text", "family", "target"),
    [
        ("10.0.0.1:80", socket.AF_INET, ("10.0.0.1", 80)),
        ("[::1]:443", socket.AF_INET6, ("::1", 443)),
        ("unix:/run/app.sock", socket.AF_UNIX, "/run/app.sock"),
    ],
)
def test_addresses(text: str, family: int, target: object) -> None:
    assert Address.parse(text) == (family, target, text)


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.1:http", ""])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)


def test_it_connects_over_tcp(loop: Loop) -> None:
    server = Listening(loop)
    waiter = Waiter()
    Connecting(loop.reactor, Address.parse(server.address), waiter)
    sock = loop.until(lambda: waiter.sock)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert not sock.getblocking()
    peer = server.accept()
    sock.send(b"hello")
    assert peer.until(b"hello")
    sock.close()


def test_it_connects_to_a_unix_socket(loop: Loop, tmp_path: Path) -> None:
    server = Listening(loop, socket.AF_UNIX, str(tmp_path / "s"))
    waiter = Waiter()
    Connecting(loop.reactor, Address.parse(server.address), waiter)
    sock = loop.until(lambda: waiter.sock)
    server.accept()
    sock.close()


def test_a_refusal_is_told(loop: Loop) -> None:
    waiter = Waiter()
    Connecting(loop.reactor, Address.parse(closed_port()), waiter)
    loop.until(lambda: waiter.reason)
    assert waiter.reason == "refused"
    assert waiter.sock is None


def test_a_unix_socket_that_is_not_there_fails_at_once(loop: Loop, tmp_path: Path) -> None:
    waiter = Waiter()
    with pytest.raises(OSError) as caught:
        Connecting(loop.reactor, Address.parse(f"unix:{tmp_path}/none"), waiter)
    assert failure_word(caught.value.errno) == "refused"
    assert waiter.reason == ""


def test_cancelling_tells_nobody(loop: Loop) -> None:
    server = Listening(loop)
    waiter = Waiter()
    connecting = Connecting(loop.reactor, Address.parse(server.address), waiter)
    connecting.cancel()
    connecting.cancel()
    loop.settle()
    assert waiter.sock is None
    assert waiter.reason == ""


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (errno.ECONNREFUSED, "refused"),
        (errno.ETIMEDOUT, "timeout"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.EADDRNOTAVAIL, "no-ports"),
        (errno.EMFILE, "no-descriptors"),
        (errno.EPERM, "error"),
        (None, "error"),
    ],
)
def test_the_words_for_failures(code: int | None, word: str) -> None:
    assert failure_word(code) == word
