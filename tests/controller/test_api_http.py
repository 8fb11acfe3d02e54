"""Requests as strangers write them, byte by byte: what is not a plain request is refused, and nobody waits for ever."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from controller.api.calls import Answer
from controller.api.connections import BODIES, ApiFactory
from controller.api.dispatch import Dispatcher
from controller.api.http import (
    ANSWER_TIME,
    BODY_TIME,
    HEAD_SIZE,
    HEAD_TIME,
    IDLE_TIME,
    Channel,
    Question,
    Reply,
)

GET = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Wire(StringTransport):
    """A connection without a client certificate."""

    aborted = False

    def getPeerCertificate(self) -> None:
        return None

    def loseConnection(self) -> None:
        super().loseConnection()

    def abortConnection(self) -> None:
        self.aborted = True


class Server:
    """Connections to a factory whose answers the test gives."""

    def __init__(self, most: int = 1000, per_address: int = 1000) -> None:
        self.clock = Clock()
        self.asked: list[Question] = []
        self.answer: Deferred[Reply] | None = None
        self.factory = ApiFactory(self._respond, Dispatcher.limit, self.clock, most, per_address)

    def _respond(self, question: Question) -> Deferred[Reply]:
        self.asked.append(question)
        return self.answer or succeed(Reply(Answer(200, b"{}")))

    def connect(self, address: str = "10.0.0.1") -> tuple[Channel, Wire]:
        channel = self.factory.buildProtocol(IPv4Address("TCP", address, 4000))
        assert channel is not None
        wire = Wire()
        channel.makeConnection(wire)
        return channel, wire

    def send(self, *pieces: bytes) -> bytes:
        """What comes back for these on one connection."""
        channel, wire = self.connect()
        for piece in pieces:
            channel.dataReceived(piece)
        return wire.value()


@pytest.fixture
def server() -> Server:
    return Server()


def problem(answer: bytes, status: int) -> Any:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == b"%d" % status, answer
    return json.loads(body)


def test_a_plain_request_is_answered(server: Server) -> None:
    answer = server.send(GET)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n{}")
    assert b"Cache-Control: no-store" in answer
    assert server.send(*(GET[index : index + 1] for index in range(len(GET)))) == answer
    assert [question.target for question in server.asked] == [b"/v1/status"] * 2


def test_a_body_comes_whole(server: Server) -> None:
    head = b"POST /v1/report HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
    server.send(head, b"01234", b"56789")
    (question,) = server.asked
    assert question.body == b"0123456789"


HOST = b"Host: localhost\r\n"
POST = b"POST /v1/report HTTP/1.1\r\n" + HOST
MALFORMED = {
    "both lengths": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400, 411)),
    "both, the other way": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", (400, 411)),
    "chunked": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (411,)),
    "identity": (POST + b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello", (411,)),
    "unknown coding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", (400,)),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", (400,)),
    "the same length twice": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", (400,)),
    "a list of lengths": (POST + b"Content-Length: 5, 5\r\n\r\nhello", (400,)),
    "a signed length": (POST + b"Content-Length: +5\r\n\r\nhello", (400,)),
    "an underscored length": (POST + b"Content-Length: 1_0\r\n\r\nhello", (400,)),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n", (400,)),
    "too large a body": (POST + b"Content-Length: 999999999999\r\n\r\n", (413,)),
    "a large body of a stranger": (
        b"POST /v1/policy HTTP/1.1\r\n" + HOST + b"Content-Length: 4000000\r\n\r\n",
        (413,),
    ),
    "a body where there is no path": (b"GET /x HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nx", (413,)),
    "a folded line": (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n", (400,)),
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", (400,)),
    "no colon": (b"GET / HTTP/1.1\r\n" + HOST + b"nonsense\r\n\r\n", (400,)),
    "a NUL": (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n", (400,)),
    "a bare CR": (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n", (400,)),
    "two words": (b"GET /\r\n\r\n", (400,)),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", (400, 505)),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", (400, 505)),
    "TLS on top of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (400,)),
    "too many fields": (b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 200 + b"\r\n", (400, 431)),
    "too large a head": (b"GET / HTTP/1.1\r\n" + HOST + (b"X: " + b"y" * 1000 + b"\r\n") * 20 + b"\r\n", (431,)),
    "too long a line": (b"GET /" + b"a" * (HEAD_SIZE + 1000), (431,)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_refused(name: str, server: Server) -> None:
    sent, statuses = MALFORMED[name]
    channel, wire = server.connect()
    # What follows on the connection is nobody's request.
    channel.dataReceived(sent + GET)
    assert int(wire.value().split(b" ")[1]) in statuses, wire.value()
    assert wire.value().count(b"HTTP/1.1 ") == 1
    assert problem(wire.value(), int(wire.value().split(b" ")[1]))["error"]
    assert wire.disconnecting
    channel.dataReceived(GET)
    assert server.asked == []


def test_noise_never_reaches_a_handler(server: Server) -> None:
    chance = random.Random(7)
    for _ in range(500):
        noise = bytearray(POST + b"Content-Length: 5\r\n\r\nhello")
        for _ in range(chance.randint(1, 6)):
            noise[chance.randrange(len(noise))] = chance.randrange(256)
        server.send(bytes(noise))
    for question in server.asked:
        assert len(question.body) <= 256 * 1024
        assert b"\r" not in question.target
        assert b"\n" not in question.target


def test_a_head_that_drips_is_cut(server: Server) -> None:
    channel, wire = server.connect()
    for byte in range(HEAD_TIME):
        assert not wire.disconnecting
        channel.dataReceived(GET[byte : byte + 1])
        server.clock.advance(1)
    assert wire.disconnecting
    server.clock.advance(1)
    assert wire.aborted


def test_a_body_that_drips_is_cut(server: Server) -> None:
    channel, wire = server.connect()
    channel.dataReceived(POST + b"Content-Length: 100\r\n\r\n")
    for _ in range(BODY_TIME):
        assert not wire.disconnecting
        channel.dataReceived(b"x")
        server.clock.advance(1)
    assert wire.disconnecting


def test_a_connection_that_says_nothing_more_is_closed(server: Server) -> None:
    channel, wire = server.connect()
    channel.dataReceived(GET)
    server.clock.advance(IDLE_TIME - 1)
    assert not wire.disconnecting
    channel.dataReceived(GET)
    assert len(server.asked) == 2
    server.clock.advance(IDLE_TIME)
    assert wire.disconnecting


def test_whoever_does_not_read_is_cut(server: Server) -> None:
    server.answer = Deferred()
    channel, wire = server.connect()
    channel.dataReceived(GET)
    server.clock.advance(1000)
    assert not wire.disconnecting  # it waits for us, and not we for it
    channel.pauseProducing()
    server.answer.callback(Reply(Answer(200, b"x" * 1_000_000)))
    assert len(wire.value()) < 200_000
    server.clock.advance(ANSWER_TIME)
    assert wire.disconnecting
    server.clock.advance(1)
    assert wire.aborted


def test_there_are_so_many_connections_and_no_more() -> None:
    server = Server(most=10, per_address=4)
    held = [server.connect("10.0.0.1") for _ in range(4)]
    assert server.factory.buildProtocol(IPv4Address("TCP", "10.0.0.1", 1)) is None
    for number in range(6):
        server.connect(f"10.0.1.{number}")
    # Whoever has been silent for longest gives way to the next, unless a certificate was shown.
    held[0][0].trusted = True
    server.connect("10.0.2.1")
    assert [wire.aborted for _, wire in held] == [False, True, False, False]
    assert len(server.factory.open) == 10
    for channel in server.factory.open:
        channel.trusted = True
    assert server.factory.buildProtocol(IPv4Address("TCP", "10.0.2.2", 1)) is None
    assert server.factory.turned_away == 3


def test_bodies_have_so_much_room_together() -> None:
    server = Server(most=10_000, per_address=10_000)
    size = 256 * 1024
    head = POST + b"Content-Length: %d\r\n\r\n" % size
    channels = [server.connect() for _ in range(BODIES // size)]
    for channel, _ in channels:
        channel.dataReceived(head)
    assert problem(server.send(head), 503)["error"]
    channels[0][0].connectionLost(Any)  # type: ignore[arg-type]
    assert server.send(head) == b""
    channels[1][0].dataReceived(b"x" * size)
    assert server.send(head + b"x" * size).startswith(b"HTTP/1.1 200")


def test_drained_is_whoever_was_answered(server: Server) -> None:
    server.answer = Deferred()
    (busy, wire), (_, idle) = server.connect(), server.connect()
    busy.dataReceived(GET)
    server.factory.drain()
    assert idle.disconnecting
    assert not wire.disconnecting
    server.answer.callback(Reply(Answer(200, b"{}")))
    assert b"Connection: close" in wire.value()
    assert wire.disconnecting


def test_a_handler_that_breaks_is_a_500(server: Server) -> None:
    server.answer = Deferred()
    channel, wire = server.connect()
    channel.dataReceived(GET)
    server.answer.errback(ZeroDivisionError("secret"))
    assert b"secret" not in wire.value()
    assert problem(wire.value(), 500)["error"]
