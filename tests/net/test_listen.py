from __future__ import annotations

import errno
import socket

import pytest

from hostproxy.net import listen
from hostproxy.net.listen import Acceptor
from tests.support import Loop, Peer


class Door:
    """An acceptor, and what it let in."""

    def __init__(self, loop: Loop, sock: socket.socket | None = None) -> None:
        self.inside: list[socket.socket] = []
        self.room = 1000
        self.exhausted = 0
        self.sock = sock or socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = self.sock.getsockname()
        self.acceptor = Acceptor(
            loop.reactor, self.sock, self.accepted, lambda: len(self.inside) < self.room, self.full
        )

    def accepted(self, sock: socket.socket, address: object) -> None:
        assert not sock.getblocking()
        self.inside.append(sock)

    def full(self) -> None:
        self.exhausted += 1

    def close(self) -> None:
        self.acceptor.close()
        for sock in self.inside:
            sock.close()


class OutOfDescriptors:
    """A listening socket whose accept fails."""

    def __init__(self, sock: socket.socket, code: int) -> None:
        self.sock = sock
        self.code = code
        self.calls = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.sock, name)

    def accept(self) -> tuple[socket.socket, object]:
        self.calls += 1
        if self.code:
            raise OSError(self.code, "accept")
        return self.sock.accept()


def test_it_accepts_bursts_larger_than_a_batch(loop: Loop) -> None:
    door = Door(loop)
    peers = [Peer.to(loop, door.address) for _ in range(listen.BATCH * 2 + 5)]
    loop.until(lambda: len(door.inside) == len(peers))
    assert not loop.busy
    door.close()


def test_without_room_connections_wait_in_the_queue(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "PAUSE", 0.02)
    door = Door(loop)
    door.room = 2
    for _ in range(4):
        Peer.to(loop, door.address)
    loop.settle()
    assert len(door.inside) == 2
    assert not loop.busy
    door.room = 4
    loop.until(lambda: len(door.inside) == 4)
    door.close()


def test_out_of_descriptors_it_rests_and_goes_on(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "PAUSE", 0.02)
    failing = OutOfDescriptors(socket.create_server(("127.0.0.1", 0)), errno.EMFILE)
    door = Door(loop, failing)  # type: ignore[arg-type]
    Peer.to(loop, door.address)
    loop.settle()
    assert door.exhausted == 1
    assert failing.calls == 1
    assert not loop.busy
    failing.code = 0
    loop.until(lambda: door.inside)
    door.close()


def test_a_client_that_has_gone_is_passed_over(loop: Loop) -> None:
    failing = OutOfDescriptors(socket.create_server(("127.0.0.1", 0)), errno.ECONNABORTED)
    door = Door(loop, failing)  # type: ignore[arg-type]
    Peer.to(loop, door.address)
    loop.step()
    assert door.exhausted == 0
    failing.code = 0
    loop.until(lambda: door.inside)
    door.close()


def test_it_stops_when_told_even_by_the_connection_it_has_just_accepted(loop: Loop) -> None:
    door = Door(loop)
    door.acceptor.accepted = lambda sock, address: (door.inside.append(sock), door.acceptor.close())
    for _ in range(3):
        Peer.to(loop, door.address)
    loop.settle()
    assert len(door.inside) == 1
    door.acceptor.close()
    door.close()


def test_closing_while_it_rests_leaves_no_timer(loop: Loop) -> None:
    door = Door(loop)
    door.room = 0
    Peer.to(loop, door.address)
    loop.settle()
    door.close()
    assert loop.reactor.getDelayedCalls() == []


def test_a_fault_of_the_taker_costs_that_connection_only(loop: Loop) -> None:
    door = Door(loop)

    def fault(sock: socket.socket, address: object) -> None:
        door.acceptor.accepted = door.accepted
        sock.close()
        raise RuntimeError("a fault of ours")

    door.acceptor.accepted = fault
    first, second = Peer.to(loop, door.address), Peer.to(loop, door.address)
    loop.until(lambda: door.inside)
    first.all()
    assert second.nothing()
    door.close()


def test_two_that_share_a_socket_take_each_connection_once(loop: Loop) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    doors = [Door(loop, sock), Door(loop, sock.dup())]
    for _ in range(20):
        Peer.to(loop, sock.getsockname())
    loop.until(lambda: sum(len(door.inside) for door in doors) == 20)
    for door in doors:
        door.close()
