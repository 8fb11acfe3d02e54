"""Upgrade: WebSocket through the proxies, and nothing behind an Upgrade before it was granted."""

from __future__ import annotations

import random
import socket
import threading
import time
from typing import Any

import pytest

from tests.fakes import origin as fake
from tests.fakes.cases import HOST, get, head
from tests.fakes.client import connect, converse
from tests.fakes.origin import Answer, Connection, reply
from tests.fakes.reader import Received, RequestReader
from tests.integration import needs
from tests.integration.mesh import Service

ASK = head(
    b"GET /chat HTTP/1.1",
    HOST,
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
GRANT = head(
    b"HTTP/1.1 101 Switching Protocols",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
)


def read_head(sock: socket.socket) -> tuple[Received, bytes]:
    """One request head, and whatever came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(4096)
        if not part:
            raise ConnectionResetError
        data += part
    block, _, rest = data.partition(b"\r\n\r\n")
    reader = RequestReader()
    reader.feed(block + b"\r\n\r\n")
    return reader.messages[0] if reader.messages else reader.begun(), rest


class EchoServer:
    """A WebSocket server of wsproto that sends every message back."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.ended = threading.Event()

    def __call__(self, connection: Connection) -> None:
        from wsproto import ConnectionType, WSConnection, events

        ws = WSConnection(ConnectionType.SERVER)
        sock = connection.sock
        text, data = "", b""
        try:
            while received := sock.recv(1 << 16):
                ws.receive_data(received)
                for event in ws.events():
                    if isinstance(event, events.Request):
                        accept = events.AcceptConnection(subprotocol=next(iter(event.subprotocols), None))
                        sock.sendall(ws.send(accept))
                    elif isinstance(event, events.TextMessage):
                        text += event.data
                        if event.message_finished:
                            sock.sendall(ws.send(events.TextMessage(data=text)))
                            text = ""
                    elif isinstance(event, events.BytesMessage):
                        data += event.data
                        if event.message_finished:
                            sock.sendall(ws.send(events.BytesMessage(data=data)))
                            data = b""
                    elif isinstance(event, events.Ping):
                        sock.sendall(ws.send(event.response()))
                    elif isinstance(event, events.CloseConnection):
                        sock.sendall(ws.send(event.response()))
                        self.ends.append(f"close {event.code}")
                        return
            self.ends.append("end")
        except ConnectionResetError:
            self.ends.append("reset")
        finally:
            self.ended.set()


class WebSocket:
    """A WebSocket client of wsproto."""

    def __init__(self, address: str) -> None:
        from wsproto import ConnectionType, WSConnection, events

        self.events = events
        self.sock = connect(address, 10)
        self.ws = WSConnection(ConnectionType.CLIENT)
        self._waiting: list[Any] = []
        self.send(events.Request(host="origin.test", target="/chat", subprotocols=["echo"]))
        accepted = self.receive()
        assert isinstance(accepted, events.AcceptConnection), accepted
        assert accepted.subprotocol == "echo"

    def send(self, event: Any) -> None:
        self.sock.sendall(self.ws.send(event))

    def receive(self) -> Any:
        while not self._waiting:
            data = self.sock.recv(1 << 16)
            self.ws.receive_data(data or None)
            self._waiting.extend(self.ws.events())
        return self._waiting.pop(0)

    def message(self) -> Any:
        """One whole message, text or bytes."""
        parts = []
        while True:
            event = self.receive()
            assert isinstance(event, self.events.Message), event
            parts.append(event.data)
            if event.message_finished:
                return parts[0][:0].join(parts)


@pytest.fixture
def server(http: Service) -> EchoServer:
    needs.module("wsproto")
    server = EchoServer()
    http.origin.handle = server
    return server


def test_messages_both_ways_and_a_clean_close(http: Service, server: EchoServer) -> None:
    client = WebSocket(http.address)
    events = client.events
    client.send(events.TextMessage(data="héllo"))
    assert client.message() == "héllo"
    data = random.Random(1).randbytes(1 << 20)
    client.send(events.BytesMessage(data=data))
    assert client.message() == data
    client.send(events.Ping(payload=b"p"))
    pong = client.receive()
    assert isinstance(pong, events.Pong)
    assert pong.payload == b"p"
    client.send(events.CloseConnection(code=1000))
    closed = client.receive()
    assert isinstance(closed, events.CloseConnection)
    assert closed.code == 1000
    client.sock.close()
    assert server.ended.wait(2)
    assert server.ends == ["close 1000"]


def test_a_message_in_fragments_of_one_byte(http: Service, server: EchoServer) -> None:
    client = WebSocket(http.address)
    events = client.events
    for number in range(2000):
        client.send(events.BytesMessage(data=bytes((number % 256,)), message_finished=number == 1999))
    assert client.message() == bytes(number % 256 for number in range(2000))
    client.sock.close()


def test_a_vanished_client_is_noticed_at_once(http: Service, server: EchoServer) -> None:
    client = WebSocket(http.address)
    fake.reset(client.sock)
    assert server.ended.wait(1)
    assert server.ends == ["reset"] or server.ends == ["end"]


def test_a_vanished_server_is_noticed_at_once(http: Service) -> None:
    def handle(connection: Connection) -> None:
        read_head(connection.sock)
        connection.sock.sendall(GRANT)
        connection.sock.recv(1)
        fake.reset(connection.sock)

    http.origin.handle = handle
    with connect(http.address, 2) as sock:
        outcome = converse(sock, ASK, expect=0)
        sock.sendall(b"x")
        try:
            while sock.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert outcome.ended != "timeout"


def test_upgrade_reaches_the_origin_whole(http: Service) -> None:
    seen: list[Received] = []

    def handle(connection: Connection) -> None:
        request, _ = read_head(connection.sock)
        seen.append(request)
        connection.sock.sendall(GRANT + b"first")
        while part := connection.sock.recv(4096):
            connection.sock.sendall(part)

    http.origin.handle = handle
    with connect(http.address) as sock:
        sock.sendall(ASK)
        data = b""
        while not data.endswith(b"first"):
            part = sock.recv(4096)
            assert part, data
            data += part
        answer = data.lower()
        assert answer.startswith(b"http/1.1 101 ")
        assert b"upgrade: websocket" in answer
        assert b"connection: upgrade" in answer
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in answer
        sock.sendall(b"any \x00 bytes\r\n\r\n")
        assert sock.recv(4096) == b"any \x00 bytes\r\n\r\n"
    assert seen[0].value(b"upgrade") == b"websocket"
    assert [value.lower() for value in seen[0].values(b"connection")] == [b"upgrade"]
    assert seen[0].value(b"sec-websocket-key") == b"dGhlIHNhbXBsZSBub25jZQ=="


def test_bytes_behind_the_upgrade_wait_for_the_grant(http: Service) -> None:
    early: list[bytes] = []
    late: list[bytes] = []

    def handle(connection: Connection) -> None:
        _, rest = read_head(connection.sock)
        connection.sock.settimeout(0.2)
        try:
            rest += connection.sock.recv(4096)
        except TimeoutError:
            pass
        early.append(rest)
        connection.sock.settimeout(2)
        connection.sock.sendall(GRANT)
        late.append(connection.sock.recv(4096))
        connection.sock.sendall(b"pong")

    http.origin.handle = handle
    with connect(http.address) as sock:
        sock.sendall(ASK + b"\x81\x05hello")
        data = b""
        while not data.endswith(b"pong"):
            part = sock.recv(4096)
            assert part, data
            data += part
    assert early == [b""]
    assert late == [b"\x81\x05hello"]


def test_a_declined_upgrade_leaves_the_connection_http(http: Service) -> None:
    def respond(request: Received, connection: Connection) -> Answer:
        return Answer(reply(request.target, b"403 Forbidden" if request.target == b"/chat" else b"200 OK"))

    http.origin.respond = respond
    with connect(http.address) as sock:
        outcome = converse(sock, ASK + get(b"/next"), expect=2)
    assert outcome.statuses == [403, 200]
    assert outcome.responses[1].body == b"/next"
    assert [request.target for request in http.origin.requests] == [b"/chat", b"/next"]
    assert not http.origin.faults()


def test_frames_behind_a_declined_upgrade_never_reach_the_origin(http: Service) -> None:
    http.origin.respond = lambda request, connection: Answer(reply(b"no", b"403 Forbidden"))
    with connect(http.address) as sock:
        outcome = converse(sock, ASK + b"\x81\x05hello\r\n\r\n", expect=2, until_end=True)
    assert outcome.statuses[0] == 403
    assert outcome.ended in ("end", "reset")
    time.sleep(0.05)
    assert len(http.origin.requests) == 1
    assert not http.origin.faults()
    assert not http.origin.unfinished()


@pytest.mark.parametrize("granted", [b"", b"Upgrade: other\r\nConnection: Upgrade\r\n", b"Upgrade: websocket\r\n"])
def test_an_odd_grant_is_a_bad_gateway(http: Service, granted: bytes) -> None:
    """RFC 9110 section 15.2.2: a 101 says in Upgrade what it switched to; section 7.8: only to what was asked for."""
    http.origin.respond = lambda request, connection: Answer(
        b"HTTP/1.1 101 Switching Protocols\r\n" + granted + b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    )
    with connect(http.address) as sock:
        outcome = converse(sock, ASK + get(b"/next"), expect=2)
    assert b"poison" not in outcome.raw
    assert 101 not in [interim.status for interim in outcome.interim]
    assert outcome.statuses[0] == 502
    assert set(outcome.statuses) == {502}
    assert outcome.ended != "timeout"


def test_an_upgraded_connection_is_not_reused(http: Service) -> None:
    def handle(connection: Connection) -> None:
        while True:
            try:
                request, _ = read_head(connection.sock)
            except OSError:
                return
            connection.sock.sendall(GRANT if request.target == b"/chat" else reply(b"ordinary"))

    http.origin.handle = handle
    with connect(http.address) as sock:
        sock.sendall(ASK)
        assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
    with connect(http.address) as sock:
        outcome = converse(sock, get(b"/next"))
    assert outcome.statuses == [200]
    assert len(http.origin.connections) == 2
