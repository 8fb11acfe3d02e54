"""Against the kernel, and against a kernel that answers oddly."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from hostproxy.identity.sockets import (
    Credentials,
    SocketDiag,
    Unknown,
    credentials,
    open_netlink,
    process_descriptor,
)
from tests.identity.calling import ROOT, Call, Listening, call, listen, make_cgroup, needs_cgroups, needs_root

__all__ = ["call", "listen", "make_cgroup"]

Listen = Callable[..., Listening]

RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def diag() -> Iterator[SocketDiag]:
    diag = SocketDiag()
    yield diag
    diag.close()


def connected(to: Any, family: int = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family)
    sock.connect(to)
    return sock


def refused(diag: SocketDiag, accepted: socket.socket) -> str:
    with pytest.raises(Unknown) as raised:
        diag.owner(accepted)
    return raised.value.reason


@needs_root
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_user_of_a_client(diag: SocketDiag, listen: Listen, call: Call, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = listen(family, (host, 0))
    for uid in (4001, 4002):
        call(server.address, uid, family=family)
        assert diag.owner(server.accept()).uid == uid


@needs_cgroups
def test_the_cgroup_is_the_one_where_the_socket_was_made(
    diag: SocketDiag, listen: Listen, call: Call, make_cgroup: Callable[[str], str]
) -> None:
    server = listen()
    path = make_cgroup("payments.service")
    caller = call(server.address, 4001, path)
    accepted = server.accept()
    assert diag.owner(accepted).cgroup == os.stat(path).st_ino
    with open(f"{ROOT}/cgroup.procs", "w") as file:
        file.write(str(caller.pid))  # moved away, by root
    assert diag.owner(accepted).cgroup == os.stat(path).st_ino


def test_ipv4_on_a_port_of_both(diag: SocketDiag, listen: Listen) -> None:
    server = listen(socket.AF_INET6, ("::", 0))
    with connected(("127.0.0.1", server.address[1])):
        accepted = server.accept()
        assert accepted.getpeername()[0] == "::ffff:127.0.0.1"
        assert diag.owner(accepted).uid == os.getuid()


def test_a_client_that_writes_ipv4_as_ipv6(diag: SocketDiag, listen: Listen) -> None:
    server = listen()
    with connected(("::ffff:127.0.0.1", server.address[1]), socket.AF_INET6):
        assert diag.owner(server.accept()).uid == os.getuid()


@needs_root
def test_a_client_bound_to_the_interface(diag: SocketDiag, listen: Listen, call: Call) -> None:
    server = listen()
    call(server.address, 4001, device="lo")
    assert diag.owner(server.accept()).uid == 4001


def test_a_client_that_has_sent_its_end(diag: SocketDiag, listen: Listen) -> None:
    server = listen()
    with connected(server.address) as client:
        client.shutdown(socket.SHUT_WR)
        accepted = server.accept()
        assert accepted.recv(1) == b""
        assert diag.owner(accepted).uid == os.getuid()


def test_a_client_that_has_closed_is_not_root(diag: SocketDiag, listen: Listen) -> None:
    """The kernel tells user 0 of a socket in TIME_WAIT, whosever it was."""
    server = listen()
    connected(server.address).close()
    accepted = server.accept()
    assert accepted.recv(1) == b""
    assert refused(diag, accepted) == "gone"


class Interrupted:
    """An accepted socket to which something happens while it is asked about."""

    def __init__(self, accepted: socket.socket, happens: Callable[[], object]) -> None:
        self._accepted = accepted
        self._happens = happens

    def getsockname(self) -> Any:
        self._happens()
        return self._accepted.getsockname()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accepted, name)


def reusing(address: Any) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    return sock


def test_what_a_reset_client_left_is_not_the_next_ones_on_its_port(diag: SocketDiag, listen: Listen) -> None:
    server = listen()
    with reusing(("127.0.0.1", 0)) as first, ExitStack() as stack:
        first.connect(server.address)
        first.send(b"POST /make-payment")
        accepted = server.accept()

        def replaced() -> None:
            address = first.getsockname()
            first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            first.close()
            stack.enter_context(reusing(address)).connect(server.address)

        assert refused(diag, Interrupted(accepted, replaced)) == "gone"  # type: ignore[arg-type]
        assert accepted.recv(100) == b"POST /make-payment"  # which would have been the second's
        assert diag.owner(server.accept()).uid == os.getuid()


def test_a_reset_connection_is_nobodys(diag: SocketDiag, listen: Listen) -> None:
    server = listen()
    client = connected(server.address)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()
    assert refused(diag, server.accept()) == "gone"


class Misnamed:
    """An accepted socket that names another client."""

    def __init__(self, accepted: socket.socket, peer: Any) -> None:
        self._accepted = accepted
        self._peer = peer

    def getpeername(self) -> Any:
        return self._peer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accepted, name)


def test_who_listens_on_the_clients_port_is_no_client(diag: SocketDiag, listen: Listen) -> None:
    """That is what the kernel finds where there is no connection."""
    server, other = listen(), listen()
    with connected(server.address):
        # Nothing is found for it, as if there were none; nor is there one of ours that it would be connected to.
        assert refused(diag, Misnamed(server.accept(), other.address)) == "kernel"  # type: ignore[arg-type]


def test_who_is_still_connecting_from_the_clients_port_is_no_client(diag: SocketDiag, listen: Listen) -> None:
    server, full = listen(), socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    with full, connected(full.getsockname()), socket.socket() as waiting, connected(server.address):
        accepted = server.accept()
        waiting.setblocking(False)
        waiting.connect_ex(full.getsockname())  # the queue is full: no answer
        local = full.getsockname()
        wrapped = Misnamed(Named(accepted, local), waiting.getsockname())  # type: ignore[arg-type]
        assert refused(diag, wrapped) == "gone"  # type: ignore[arg-type]


class Named:
    """An accepted socket that gives itself another name."""

    def __init__(self, accepted: socket.socket, name: Any) -> None:
        self._accepted = accepted
        self._name = name

    def getsockname(self) -> Any:
        return self._name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accepted, name)


# A kernel that answers oddly


class Netlink:
    """A netlink socket whose answers the test gives."""

    def __init__(self, real: socket.socket, answer: Callable[[bytes], bytes | OSError]) -> None:
        self._real = real
        self._answer = answer
        self.closed = False

    def setblocking(self, flag: bool) -> None:
        self._real.setblocking(flag)

    def send(self, data: bytes) -> int:
        return self._real.send(data)

    def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
        data, sender = self._real.recvfrom(size)
        answer = self._answer(data)
        if isinstance(answer, OSError):
            raise answer
        return answer, sender

    def close(self) -> None:
        self.closed = True
        self._real.close()


def odd(answers: Iterator[Callable[[bytes], bytes | OSError]]) -> tuple[SocketDiag, list[Netlink]]:
    """With each socket that is opened comes the next way to answer."""
    opened: list[Netlink] = []

    def open_socket() -> Any:
        opened.append(Netlink(open_netlink(), next(answers)))
        return opened[-1]

    return SocketDiag(open_socket), opened


def number(data: bytes, sequence: int) -> bytes:
    return data[:8] + struct.pack("=I", sequence) + data[12:]


def problem(code: int) -> Callable[[bytes], bytes]:
    def answer(data: bytes) -> bytes:
        sequence = struct.unpack_from("=I", data, 8)[0]
        return struct.pack("=IHHIIi", 36, 2, 0, sequence, 0, -code) + bytes(16)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        lambda data: OSError(errno.ENOBUFS, "No buffer space available"),
        lambda data: BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        lambda data: data[:30],
        lambda data: b"",
        lambda data: number(data, 77),
        lambda data: struct.pack("=I", 4000) + data[4:],
        lambda data: data[:4] + struct.pack("=H", 3) + data[6:],
    ],
)
def test_a_bad_answer_is_asked_for_again_and_then_nobodys(listen: Listen, answer: Any) -> None:
    server = listen()
    with connected(server.address):
        accepted = server.accept()
        diag, opened = odd(iter([answer, lambda data: data]))
        assert diag.owner(accepted).uid == os.getuid()
        diag.close()
        assert [one.closed for one in opened] == [True, True]
        diag, opened = odd(iter([answer, answer]))
        assert refused(diag, accepted) == "kernel"
        assert [one.closed for one in opened] == [True, True]


def test_an_answer_to_an_earlier_question_is_not_taken(listen: Listen) -> None:
    server = listen()
    sock = Remembering(open_netlink())
    diag = SocketDiag(lambda: sock)  # type: ignore[arg-type,return-value]
    with connected(server.address), connected(server.address):
        diag.owner(server.accept())
        sock.send(sock.asked)  # its answer will be the first to come, and is about the first client
        assert diag.owner(server.accept()).uid == os.getuid()
    diag.close()


class Remembering:
    """A netlink socket that remembers what was asked."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.asked = b""

    def send(self, data: bytes) -> int:
        self.asked = data
        return self._real.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EINVAL])
def test_errors_of_the_kernel_are_named(listen: Listen, code: int) -> None:
    server = listen()
    with connected(server.address):
        diag, _ = odd(iter([problem(code)]))
        with pytest.raises(Unknown, match=os.strerror(code)) as raised:
            diag.owner(server.accept())
        assert raised.value.reason == "kernel"
        diag.close()


def test_a_kernel_without_tcp_diag_is_no_client_elsewhere(listen: Listen) -> None:
    server = listen()
    with connected(server.address):
        diag, _ = odd(iter([problem(errno.ENOENT)]))
        with pytest.raises(Unknown, match="tcp_diag") as raised:
            diag.owner(server.accept())
        assert raised.value.reason == "kernel"
        diag.close()


def test_who_is_not_found_while_we_are_is_not_local(listen: Listen) -> None:
    server = listen()
    with connected(server.address):
        accepted = server.accept()
        missing = iter([True, False])
        nothing = problem(errno.ENOENT)
        diag, _ = odd(iter([lambda data: nothing(data) if next(missing) else data]))
        assert refused(diag, accepted) == "not-local"
        diag.close()


def test_a_program_that_may_not_use_netlink(listen: Listen) -> None:
    def forbidden() -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    server = listen()
    with connected(server.address):
        with pytest.raises(Unknown, match="not supported") as raised:
            SocketDiag(forbidden).owner(server.accept())
        assert raised.value.reason == "kernel"


# Unix sockets


def test_the_credentials_of_a_unix_socket(tmp_path: Any, listen: Listen, call: Call) -> None:
    server = listen(socket.AF_UNIX, str(tmp_path / "s"))
    caller = call(server.address)
    accepted = server.accept()
    assert credentials(accepted) == Credentials(caller.pid, os.getuid())
    descriptor = process_descriptor(accepted)
    if descriptor is not None:
        with open(f"/proc/self/fdinfo/{descriptor}") as file:
            assert f"\nPid:\t{caller.pid}\n" in file.read()
        os.close(descriptor)


class Old:
    """An accepted socket on a kernel that knows less."""

    def __init__(self, code: int) -> None:
        self._code = code

    def getsockopt(self, *_: int) -> int:
        raise OSError(self._code, os.strerror(self._code))


def test_a_kernel_without_descriptors_of_peers() -> None:
    assert process_descriptor(Old(errno.ENOPROTOOPT)) is None  # type: ignore[arg-type]
    for code, reason in ((errno.ESRCH, "gone"), (errno.EMFILE, "kernel")):
        with pytest.raises(Unknown) as raised:
            process_descriptor(Old(code))  # type: ignore[arg-type]
        assert raised.value.reason == reason
