from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hostproxy.health.probe import HEAD_SIZE, RESULTS, Outcome, Probe, Question
from hostproxy.net.connect import Address
from hostproxy.net.deadlines import STALLED
from tests.support import Listening, Loop, Peer, black_hole, closed_port

OK = Outcome("ok")


class Asked:
    """A probe, and how it ended."""

    def __init__(self, loop: Loop, address: str, question: Question) -> None:
        self.loop = loop
        self.outcomes: list[Outcome] = []
        self.probe = Probe(loop.reactor, Address.parse(address), question, self.outcomes.append)
        assert not self.outcomes  # never before the constructor has returned

    @property
    def outcome(self) -> Outcome:
        self.loop.until(lambda: self.outcomes)
        self.loop.settle()
        (outcome,) = self.outcomes
        return outcome


def get(path: str = "/healthz", timeout: float = 5.0) -> Question:
    return Question.get(path, "payments", "hostproxy/1-check", timeout)


def answered(loop: Loop, *pieces: bytes) -> Outcome:
    """The outcome of an instance that answers this, and leaves the connection open."""
    server = Listening(loop)
    asked = Asked(loop, server.address, get())
    peer = server.accept()
    peer.until(b"\r\n\r\n")
    for piece in pieces:
        if not asked.outcomes:
            peer.send(piece)
    outcome = asked.outcome
    peer.close()
    return outcome


def test_what_is_asked(loop: Loop) -> None:
    server = Listening(loop)
    asked = Asked(loop, server.address, get("/healthz?deep=1"))
    peer = server.accept()
    assert peer.until(b"\r\n\r\n") == (
        b"GET /healthz?deep=1 HTTP/1.1\r\n"
        b"Host: payments\r\n"
        b"User-Agent: hostproxy/1-check\r\n"
        b"Accept: */*\r\n"
        b"Connection: close\r\n"
        b"\r\n"
    )
    assert peer.nothing()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert asked.outcome == OK
    peer.close()


def was_reset(peer: Peer) -> bool:
    """Whether what the instance has sent was answered with a reset. After a FIN, reading would not tell."""
    return peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", OK),
        (b"HTTP/1.0 204\r\n\r\n", OK),
        (b"HTTP/1.1 299 \r\n", OK),  # only the status line matters
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", OK),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3 + b"HTTP/1.1 500 No\r\n\r\n", "status 500"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "status 503"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", "status 302"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "status 101"),
        (b"HTTP/1.1 200 OK\n\n", "protocol first line ends without carriage return"),
        (b"HTTP/1.1 2000 OK\r\n", "protocol status is not three digits from 100 to 599"),
        (b"HTTP/1.1 +20 OK\r\n", "protocol status is not three digits from 100 to 599"),
        (b"HTTP/2.0 200 OK\r\n", "protocol response does not start with HTTP/1.0 or HTTP/1.1 and a space"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "protocol response does not start with HTTP/"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "protocol response does not start with HTTP/"),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "protocol response does not start with HTTP/"),
    ],
)
def test_what_an_answer_means(loop: Loop, answer: bytes, outcome: Outcome | str) -> None:
    if isinstance(outcome, str):
        result, _, text = outcome.partition(" ")
        outcome = Outcome(result, f"GET /healthz: {text}")
    assert answered(loop, answer) == outcome
    assert answered(loop, *(answer[at : at + 1] for at in range(len(answer)))) == outcome
    assert outcome.result in RESULTS


@pytest.mark.parametrize(
    "endless",
    [
        b"HTTP/1.1 200 " + b"a" * HEAD_SIZE,
        b"HTTP/1.1 100 Continue\r\nx: " + b"a" * HEAD_SIZE,
        b"HTTP/1.1 100 Continue\r\n\r\n" * (HEAD_SIZE // 25 + 1),
    ],
)
def test_the_status_comes_soon_or_not_at_all(loop: Loop, endless: bytes) -> None:
    outcome = Outcome("protocol", "GET /healthz: no status within 4096 bytes")
    assert answered(loop, endless[: HEAD_SIZE - 1], endless[HEAD_SIZE - 1 :]) == outcome


def test_reasons_hold_nothing_that_may_be_secret(loop: Loop) -> None:
    server = Listening(loop)
    asked = Asked(loop, server.address, get("/healthz?token=secret"))
    server.accept().send(b"HTTP/1.1 401 secret\r\n\r\n")
    assert asked.outcome == Outcome("status", "GET /healthz: 401")
    Peer.close_all()


def test_an_instance_that_sends_for_ever_is_left(loop: Loop) -> None:
    server = Listening(loop)
    asked = Asked(loop, server.address, get())
    peer = server.accept()
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    assert asked.outcome == OK
    sent = 0

    def refused() -> bool:
        nonlocal sent
        try:
            sent += peer.push(bytes(65536))
        except ConnectionError:
            return True
        return False

    loop.until(refused)
    assert sent < 16 * 1024 * 1024


def test_the_connection_is_closed_in_order_after_an_answer(loop: Loop) -> None:
    server = Listening(loop)
    asked = Asked(loop, server.address, get())
    peer = server.accept()
    peer.until(b"\r\n\r\n")
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    assert asked.outcome == OK
    peer.send(bytes(100_000))
    assert not was_reset(peer)
    assert peer.all() == b""
    assert peer.end == "fin"
    peer.close()


def test_connecting_is_enough(loop: Loop) -> None:
    server = Listening(loop)
    asked = Asked(loop, server.address, Question.connect(5.0))
    peer = server.accept()
    assert asked.outcome == OK
    peer.send(b"220 mail.corp.example ESMTP\r\n")
    assert not was_reset(peer)
    assert peer.all() == b""
    assert peer.end == "fin"
    peer.close()


def test_a_unix_socket(loop: Loop, tmp_path: Path) -> None:
    server = Listening(loop, socket.AF_UNIX, str(tmp_path / "app.sock"))
    asked = Asked(loop, server.address, get())
    server.accept().send(b"HTTP/1.1 200 OK\r\n\r\n")
    assert asked.outcome == OK
    Peer.close_all()


def test_nobody_listens(loop: Loop) -> None:
    assert Asked(loop, closed_port(), get()).outcome == Outcome("refused", "GET /healthz: connection refused")


def test_a_unix_socket_that_is_not_there(loop: Loop, tmp_path: Path) -> None:
    asked = Asked(loop, f"unix:{tmp_path}/none", Question.connect(5.0))
    assert asked.outcome == Outcome("refused", "connect: connection refused")


def test_what_the_kernel_says_of_an_odd_path(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    asked = Asked(loop, f"unix:{tmp_path}/file/app.sock", Question.connect(5.0))
    assert asked.outcome == Outcome("refused", "connect: Not a directory")


def test_a_connection_that_is_not_made_in_time(loop: Loop) -> None:
    asked = Asked(loop, black_hole(loop), get(timeout=0.05))
    assert asked.outcome == Outcome("timeout", "GET /healthz: no connection within 50ms")


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 O"])
def test_an_answer_that_does_not_come_in_time(loop: Loop, beginning: bytes) -> None:
    server = Listening(loop)
    asked = Asked(loop, server.address, get(timeout=0.1))
    peer = server.accept()
    if beginning:
        peer.send(beginning)
    assert asked.outcome == Outcome("timeout", "GET /healthz: no answer within 100ms")
    peer.until(b"\r\n\r\n")
    assert peer.all() == b""
    assert peer.end == "fin"


def test_bytes_that_drip_do_not_buy_time(loop: Loop) -> None:
    server = Listening(loop)
    began = time.monotonic()
    asked = Asked(loop, server.address, get(timeout=0.2))
    peer = server.accept()
    for byte in b"HTTP/1.1 200 a very slow reason":
        if asked.outcomes:
            break
        peer.push(bytes([byte]))
        loop.step(0.02)
        time.sleep(0.01)
    assert asked.outcome.result == "timeout"
    assert time.monotonic() - began < 0.4


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 20"])
def test_an_instance_that_closes_without_an_answer(loop: Loop, beginning: bytes) -> None:
    server = Listening(loop)
    asked = Asked(loop, server.address, get())
    peer = server.accept()
    peer.until(b"\r\n\r\n")
    peer.push(beginning)
    peer.close()
    assert asked.outcome == Outcome("reset", "GET /healthz: closed without an answer")


def test_an_instance_that_resets(loop: Loop) -> None:
    server = Listening(loop)
    asked = Asked(loop, server.address, get())
    peer = server.accept()
    peer.until(b"\r\n\r\n")
    peer.reset()
    assert asked.outcome == Outcome("reset", "GET /healthz: connection reset")


@contextmanager
def no_descriptors() -> Iterator[None]:
    """No file or socket can be opened meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(taken)


def test_a_host_that_cannot_ask_blames_nobody(loop: Loop) -> None:
    server = Listening(loop)
    with no_descriptors():
        asked = Asked(loop, server.address, get())
    assert asked.outcome == Outcome("skipped", "GET /healthz: the limit of open files is reached")


def test_a_process_that_stood_still_blames_nobody(loop: Loop) -> None:
    server = Listening(loop)
    asked = Asked(loop, server.address, get(timeout=0.05))
    time.sleep(0.05 + STALLED + 0.1)
    outcome = asked.outcome
    assert outcome.result == "skipped"
    assert outcome.reason.startswith("GET /healthz: this process stood still for 1.")
    server.accept().close()


def test_nothing_is_told_after_cancelling(loop: Loop, tmp_path: Path) -> None:
    server = Listening(loop)
    connecting = Asked(loop, black_hole(loop), get(timeout=0.05))
    failed = Asked(loop, f"unix:{tmp_path}/none", get(timeout=0.05))
    connecting.probe.cancel()
    failed.probe.cancel()
    waiting = Asked(loop, server.address, get(timeout=0.05))
    peer = server.accept()
    peer.until(b"\r\n\r\n")
    waiting.probe.cancel()
    assert peer.all() == b""
    assert peer.end == "fin"
    assert loop.reactor.getDelayedCalls() == []
    assert connecting.outcomes == failed.outcomes == waiting.outcomes == []


def test_ipv6(loop: Loop) -> None:
    try:
        server = Listening(loop, socket.AF_INET6, ("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    port = server.sock.getsockname()[1]
    asked = Asked(loop, f"[::1]:{port}", Question.connect(5.0))
    server.accept().close()
    assert asked.outcome == OK
