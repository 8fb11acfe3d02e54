"""Listening sockets: bound once, all or none, and never twice."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from hostproxy.control.listeners import CannotListen, Sockets, bind
from hostproxy.control.passed import listening_address


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"127.0.0.1:{sock.getsockname()[1]}"


def connect(address: str) -> None:
    if address.startswith("unix:"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(address[5:])
    else:
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port))).close()


def test_tcp() -> None:
    address = free_address()
    with bind(address) as sock:
        connect(address)
        assert not sock.getblocking()
        assert not sock.get_inheritable()
    with bind(address):  # at once, although a connection lingers
        pass


def test_ipv6_stays_out_of_the_way_of_ipv4() -> None:
    with bind(free_address()) as sock, bind(f"[::]:{sock.getsockname()[1]}") as sixth:
        connect(f"[::1]:{sixth.getsockname()[1]}")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nonsense", "is not an address"),
        ("192.0.2.1:80", "does not have that address"),
        ("unix:/nowhere/at/all.sock", "No such file"),
    ],
)
def test_the_reason_says_what_to_do(address: str, words: str) -> None:
    with pytest.raises(CannotListen, match=words) as caught:
        bind(address)
    assert str(caught.value).startswith(address)


def test_a_taken_port() -> None:
    address = free_address()
    with bind(address), pytest.raises(CannotListen, match="has it"):
        bind(address)


def test_a_unix_socket_has_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bind(f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        connect(f"unix:{path}")


def test_a_stale_unix_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 's'}"
    bind(address).close()
    with bind(address):
        connect(address)
        with pytest.raises(CannotListen, match="has it"):
            bind(address)


def test_a_file_in_the_place_of_a_unix_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(CannotListen):
        bind(f"unix:{path}")
    assert path.read_text() == "precious"


def test_all_or_none(tmp_path: Path) -> None:
    sockets = Sockets()
    kept, new, taken = free_address(), f"unix:{tmp_path / 'new'}", free_address()
    assert sockets.bind_new([kept]) == []
    before = sockets[kept]
    with bind(taken):
        (problem,) = sockets.bind_new([kept, new, taken])
        assert taken in problem
        assert sockets.addresses == {kept}
        assert not os.path.exists(tmp_path / "new")
    assert sockets.bind_new([kept, new, taken]) == []
    assert sockets.addresses == {kept, new, taken}
    assert sockets[kept] is before, "an address that is wanted still was bound again"
    sockets.keep_only([new])
    assert sockets.addresses == {new}
    with pytest.raises(ConnectionRefusedError):
        connect(kept)
    connect(new)
    sockets.keep_only(())
    assert not os.path.exists(tmp_path / "new")


def test_a_socket_that_was_handed_over_is_not_bound_again() -> None:
    sockets = Sockets()
    address = free_address()
    first, second = bind(address), None
    second = first.dup()
    sockets.adopt(address, first)
    sockets.adopt(address, second)  # another worker had the same
    assert second.fileno() == -1
    assert sockets.bind_new([address]) == []
    assert sockets[address] is first
    sockets.keep_only(())


class Store:
    """Keeps what it is told."""

    there = True

    def __init__(self) -> None:
        self.kept: set[str] = set()

    def store(self, address: str, sock: socket.socket) -> None:
        self.kept.add(address)

    def forget(self, address: str) -> None:
        self.kept.discard(address)


def test_a_socket_that_was_passed_is_used_and_a_stray_one_closed() -> None:
    wanted, stray = bind(free_address()), bind(free_address())
    addresses = [listening_address(sock) for sock in (wanted, stray)]
    store = Store()
    store.kept.add(addresses[1])  # from the last time
    sockets = Sockets(store)
    for address, sock in zip(addresses, (wanted, stray), strict=True):
        sockets.offer(address, sock)
    assert sockets.bind_new(addresses[:1]) == []
    assert sockets[addresses[0]] is wanted
    assert sockets.drop_passed() == addresses[1:]
    assert stray.fileno() == -1
    assert store.kept == set(addresses[:1])
    sockets.keep_only(())
    assert store.kept == set()


def test_what_was_passed_and_handed_over_too_is_kept_once() -> None:
    address = free_address()
    sock, store = bind(address), Store()
    sockets = Sockets(store)
    sockets.offer(address, sock.dup())
    sockets.adopt(address, sock)
    assert sockets.bind_new([address]) == []
    assert sockets.drop_passed() == []
    assert store.kept == {address}
    sockets.keep_only(())


def test_what_was_passed_stays_when_another_cannot_be_bound() -> None:
    passed = bind(free_address())
    address = listening_address(passed)
    taken = free_address()
    sockets = Sockets()
    sockets.offer(address, passed)
    with bind(taken):
        assert len(sockets.bind_new([address, taken])) == 1
    assert sockets.bind_new([address]) == []
    assert sockets[address] is passed
    sockets.keep_only(())


@pytest.mark.parametrize("there", [True, False])
def test_leaving_leaves_the_path_to_whoever_keeps_the_socket(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "s"
    store = Store()
    store.there = there
    sockets = Sockets(store)
    assert sockets.bind_new([f"unix:{path}"]) == []
    sockets.leave()
    assert path.exists() == there
    assert store.kept == {f"unix:{path}"}
