"""Backpressure: what one side does not read, the other side may not send, and no worker keeps it in memory."""

from __future__ import annotations

import hashlib
import socket
import threading
import time

from tests.fakes.cases import get, post
from tests.fakes.client import connect, receive_until
from tests.fakes.origin import Connection, reply
from tests.fakes.reader import ResponseReader
from tests.integration.host import resident
from tests.integration.mesh import Mesh, Service
from tests.integration.test_websocket import read_head

SIZE = 100 * 1000 * 1000
PIECE = bytes(range(256)) * 256
GROWTH = 6 << 20  # bytes of a worker, allocator noise included; a whole body would be 100 MB
STALL = 60 << 20  # bytes: socket buffers of up to four connections


def digest_of_all() -> str:
    whole, rest = divmod(SIZE, len(PIECE))
    digest = hashlib.sha256()
    for _ in range(whole):
        digest.update(PIECE)
    digest.update(PIECE[:rest])
    return digest.hexdigest()


class Sender(threading.Thread):
    """Sends SIZE bytes as fast as they are taken."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(daemon=True)
        self.sock = sock
        self.sent = 0

    def run(self) -> None:
        while self.sent < SIZE:
            self.sock.sendall(PIECE[: SIZE - self.sent])
            self.sent += min(len(PIECE), SIZE - self.sent)


def stalled(sender: Sender) -> int:
    """Wait until ``sender`` gets no further; how far it got."""
    deadline = time.monotonic() + 10
    before = -1
    while before != sender.sent or sender.sent == 0:
        assert time.monotonic() < deadline, "nothing holds the sender back"
        before = sender.sent
        time.sleep(0.3)
    return sender.sent


def receive_body(sock: socket.socket, already: bytes) -> str:
    digest = hashlib.sha256(already)
    left = SIZE - len(already)
    while left:
        part = sock.recv(1 << 18)
        assert part, f"{left} bytes are missing"
        digest.update(part)
        left -= len(part)
    return digest.hexdigest()


def test_upload_to_an_origin_that_does_not_read(mesh: Mesh, http: Service) -> None:
    go = threading.Event()
    digests: list[str] = []

    def handle(connection: Connection) -> None:
        _, rest = read_head(connection.sock)
        assert go.wait(20)
        digests.append(receive_body(connection.sock, rest))
        connection.sock.sendall(reply())

    http.origin.handle = handle
    before = {pid: resident(pid) for pid in mesh.workers()}
    with connect(http.address, 30) as sock:
        sock.sendall(post(b"Content-Length: %d" % SIZE))
        sender = Sender(sock)
        sender.start()
        assert stalled(sender) < STALL
        growth = {pid: resident(pid) - before[pid] for pid in before}
        go.set()
        sender.join(30)
        assert not sender.is_alive()
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert digests == [digest_of_all()]
    assert max(growth.values()) < GROWTH, growth


def test_download_by_a_client_that_does_not_read(mesh: Mesh, http: Service) -> None:
    senders: list[Sender] = []
    started = threading.Event()

    def handle(connection: Connection) -> None:
        read_head(connection.sock)
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        senders.append(Sender(connection.sock))
        started.set()
        senders[0].run()

    http.origin.handle = handle
    before = {pid: resident(pid) for pid in mesh.workers()}
    with connect(http.address, 30) as sock:
        sock.sendall(get())
        assert started.wait(5)
        assert stalled(senders[0]) < STALL
        growth = {pid: resident(pid) - before[pid] for pid in before}
        data = receive_until(sock, b"\r\n\r\n")
        assert receive_body(sock, data.partition(b"\r\n\r\n")[2]) == digest_of_all()
    assert max(growth.values()) < GROWTH, growth


def test_tcp_to_a_server_that_does_not_read(mesh: Mesh, tcp: Service) -> None:
    go = threading.Event()
    digests: list[str] = []

    def handle(connection: Connection) -> None:
        assert go.wait(20)
        digests.append(receive_body(connection.sock, b""))
        connection.sock.sendall(b"done")

    tcp.origin.handle = handle
    before = {pid: resident(pid) for pid in mesh.workers()}
    with connect(tcp.address, 30) as sock:
        sender = Sender(sock)
        sender.start()
        assert stalled(sender) < STALL
        growth = {pid: resident(pid) - before[pid] for pid in before}
        go.set()
        sender.join(30)
        assert sock.recv(1000) == b"done"
    assert digests == [digest_of_all()]
    assert max(growth.values()) < GROWTH, growth


def test_chunked_both_ways_at_once(http: Service) -> None:
    """An echo while uploading: neither direction waits for the end of the other."""

    def handle(connection: Connection) -> None:
        _, rest = read_head(connection.sock)
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + rest)
        tail = rest
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            part = connection.sock.recv(1 << 16)
            assert part
            connection.sock.sendall(part)
            tail = (tail + part)[-16:]

    http.origin.handle = handle
    reader = ResponseReader()
    piece = b"1000\r\n" + b"e" * 4096 + b"\r\n"
    with connect(http.address, 20) as sock:
        sock.sendall(post(b"Transfer-Encoding: chunked"))
        sender = threading.Thread(target=lambda: sock.sendall(piece * 2000 + b"0\r\n\r\n"))
        sender.start()
        while not reader.messages:
            data = sock.recv(1 << 18)
            assert data
            reader.feed(data)
        sender.join()
    assert reader.messages[0].body == b"e" * 4096 * 2000
