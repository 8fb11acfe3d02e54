"""TCP services: any bytes both ways, half-close, and a reset that stays a reset."""

from __future__ import annotations

import hashlib
import random
import socket
import threading

import pytest

from tests.fakes import origin as fake
from tests.fakes.client import connect
from tests.fakes.origin import Connection
from tests.integration.mesh import Service

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def receive_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 18):
        parts.append(part)
    return b"".join(parts)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_bytes_both_ways_at_once(tcp: Service) -> None:
    up, down = noise(8 * MIB, 1), noise(8 * MIB, 2)
    received: list[bytes] = []

    def handle(connection: Connection) -> None:
        sender = threading.Thread(target=connection.sock.sendall, args=(down,))
        sender.start()
        received.append(receive_all(connection.sock))
        sender.join()

    tcp.origin.handle = handle
    with connect(tcp.address, 20) as sock:

        def send() -> None:
            sock.sendall(up)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        got = receive_all(sock)
        sender.join()
    assert digest(got) == digest(down)
    assert digest(received[0]) == digest(up)


def test_every_byte_value_one_at_a_time(tcp: Service) -> None:
    data = bytes(range(256))

    def handle(connection: Connection) -> None:
        while part := connection.sock.recv(4096):
            connection.sock.sendall(part)

    tcp.origin.handle = handle
    with connect(tcp.address) as sock:
        for value in data:
            sock.sendall(bytes((value,)))
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == data


def test_the_server_speaks_first(tcp: Service) -> None:
    def handle(connection: Connection) -> None:
        connection.sock.sendall(b"220 ready\r\n")
        assert connection.sock.recv(100) == b"QUIT\r\n"

    tcp.origin.handle = handle
    with connect(tcp.address) as sock:
        assert sock.recv(100) == b"220 ready\r\n"
        sock.sendall(b"QUIT\r\n")
        assert sock.recv(100) == b""


def test_http_on_a_tcp_service_passes_untouched(tcp: Service) -> None:
    request = b"GET  / HTTP/9.9\nConnection: close\r\n\x00\r\n\r\n"
    seen: list[bytes] = []

    def handle(connection: Connection) -> None:
        seen.append(receive_all(connection.sock))
        connection.sock.sendall(b"whatever")

    tcp.origin.handle = handle
    with connect(tcp.address) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b"whatever"
    assert seen == [request]


def test_client_half_closes_and_ten_megabytes_follow(tcp: Service) -> None:
    up, down = noise(MIB, 3), noise(10 * MIB, 4)
    received: list[bytes] = []

    def handle(connection: Connection) -> None:
        received.append(receive_all(connection.sock))
        connection.sock.sendall(down)

    tcp.origin.handle = handle
    with connect(tcp.address, 20) as sock:
        sock.sendall(up)
        sock.shutdown(socket.SHUT_WR)
        got = receive_all(sock)
    assert digest(received[0]) == digest(up)
    assert digest(got) == digest(down)


def test_server_half_closes_and_ten_megabytes_follow(tcp: Service) -> None:
    up, down = noise(10 * MIB, 5), noise(MIB, 6)
    received: list[bytes] = []
    done = threading.Event()

    def handle(connection: Connection) -> None:
        connection.sock.sendall(down)
        connection.sock.shutdown(socket.SHUT_WR)
        received.append(receive_all(connection.sock))
        done.set()

    tcp.origin.handle = handle
    with connect(tcp.address, 20) as sock:
        assert digest(receive_all(sock)) == digest(down)
        sock.sendall(up)
        sock.shutdown(socket.SHUT_WR)
        assert done.wait(20)
    assert digest(received[0]) == digest(up)


def test_a_half_close_before_any_byte(tcp: Service) -> None:
    def handle(connection: Connection) -> None:
        assert receive_all(connection.sock) == b""
        connection.sock.sendall(b"bye")

    tcp.origin.handle = handle
    with connect(tcp.address) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b"bye"


def test_reset_by_the_client_reaches_the_server(tcp: Service) -> None:
    ends: list[str] = []
    arrived, done = threading.Event(), threading.Event()

    def handle(connection: Connection) -> None:
        try:
            while connection.sock.recv(4096):
                arrived.set()
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")
        done.set()

    tcp.origin.handle = handle
    sock = connect(tcp.address)
    sock.sendall(b"hello")
    assert arrived.wait(5)
    fake.reset(sock)
    assert done.wait(5)
    assert ends == ["reset"]


def test_reset_by_the_server_reaches_the_client(tcp: Service) -> None:
    def handle(connection: Connection) -> None:
        assert connection.sock.recv(4096) == b"hello"
        fake.reset(connection.sock)

    tcp.origin.handle = handle
    with connect(tcp.address) as sock:
        sock.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            sock.recv(4096)


def test_a_close_by_the_server_is_no_reset(tcp: Service) -> None:
    def handle(connection: Connection) -> None:
        connection.sock.recv(4096)
        connection.sock.sendall(b"done")

    tcp.origin.handle = handle
    with connect(tcp.address) as sock:
        sock.sendall(b"hello")
        assert receive_all(sock) == b"done"


def test_many_connections_at_once(tcp: Service) -> None:
    def handle(connection: Connection) -> None:
        while part := connection.sock.recv(4096):
            connection.sock.sendall(part.upper())

    tcp.origin.handle = handle
    socks = [connect(tcp.address) for _ in range(50)]
    for number, sock in enumerate(socks):
        sock.sendall(b"hello %d" % number)
    for number, sock in enumerate(socks):
        assert sock.recv(4096) == b"HELLO %d" % number
        sock.close()
