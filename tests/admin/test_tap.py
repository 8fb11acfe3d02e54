"""/tap: what may be asked for, by whom, and what becomes of a client that does not read."""

from __future__ import annotations

import json
import socket
import time

import pytest
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from hostproxy.admin import tap as room
from hostproxy.admin.http import Question
from hostproxy.admin.server import listen
from hostproxy.admin.tap import TapPage, parse
from hostproxy.config import Admin
from hostproxy.control import messages
from hostproxy.control.taps import LONGEST, WATCHERS, Taps
from hostproxy.telemetry.tap import Filter
from tests.admin.states import NOW, make_state


def ask(query=b"", objection=""):
    return Question(b"GET", b"/tap", [b"localhost"], [], b"", query, lambda: objection)


@pytest.mark.parametrize(
    ("query", "wanted", "seconds"),
    [
        (b"", Filter(), LONGEST),
        (b"service=web&caller=cart", Filter(service="web", caller="cart"), LONGEST),
        (b"direction=inbound&method=GET", Filter(direction="inbound", method=b"GET"), LONGEST),
        (b"path=/a%3Fb", Filter(path=b"/a?b"), LONGEST),
        (b"status=5xx", Filter(lowest=500, highest=599), LONGEST),
        (b"peer=[fd00::1]&slower=200ms&denied=&headers", Filter(peer="fd00::1", slower=0.2, denied=True, headers=True),
         LONGEST),
        (b"tcp=&duration=30s", Filter(tcp=True), 30.0),
    ],
)  # fmt: skip
def test_what_can_be_asked_for(query, wanted, seconds):
    assert parse(query) == (wanted, seconds)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (b"servce=web", "no such parameter: there are service, caller"),
        (b"service=", "service is empty"),
        (b"service=a&service=b", "service is given twice"),
        (b"direction=in", "neither inbound nor outbound"),
        (b"path=a", "is no path"),
        (b"status=6xx", "is no status"),
        (b"slower=200", "slower is not a duration"),
        (b"denied=yes", "denied takes no value"),
        (b"duration=2h", "duration is not between 0 and 1h"),
        (b"duration=0s", "duration is not between 0 and 1h"),
        (b"tcp&method=GET", "no TCP connection has them"),
        (b"tcp&status=500", "no TCP connection has them"),
        (b"path=/" + b"a" * 300, "longer than 256"),
    ],
)
def test_what_cannot(query, problem):
    with pytest.raises(ValueError, match=problem):
        parse(query)
    answer = TapPage(Clock(), Taps(Clock(), lambda message: [])).respond(ask(query))
    assert answer.status == 400
    assert problem in json.loads(answer.body)["error"]


class Client:
    """The sink of an answer."""

    def __init__(self):
        self.lines = []
        self.finished = self.aborted = False

    def write(self, data):
        self.lines += [json.loads(line) for line in data.splitlines()]

    def finish(self):
        self.finished = True

    def abort(self):
        self.aborted = True


class Scene:
    def __init__(self):
        self.clock = Clock()
        self.told = []
        self.taps = Taps(self.clock, lambda message: self.told.append(message) or [])
        self.page = TapPage(self.clock, self.taps)

    def open(self, query=b""):
        client = Client()
        client.stream = self.page.respond(ask(query)).stream
        client.stream.begin(client)
        return client

    def happen(self, count, dropped=0):
        for number in [message.number for message in self.told if isinstance(message, messages.Watch)]:
            self.taps.seen(1, messages.Seen(number, b'{"event":"request"}\n' * count, dropped))


@pytest.fixture
def scene():
    return Scene()


def test_records_come_as_they_are_and_the_end_is_told(scene):
    client = scene.open(b"duration=10s")
    scene.happen(2)
    scene.clock.advance(10.0)
    assert [line["event"] for line in client.lines] == ["begin", "request", "request", "end"]
    assert client.finished
    assert scene.told[-1] == messages.Unwatch(1)
    assert scene.clock.getDelayedCalls() == []


def test_what_the_workers_dropped_is_told(scene):
    client = scene.open()
    scene.happen(0, dropped=3)
    scene.happen(1, dropped=4)
    assert client.lines[1:] == [
        {"event": "dropped", "records": 3},
        {"event": "request"},
        {"event": "dropped", "records": 4},
    ]


def test_who_does_not_read_gets_what_there_is_room_for_and_the_number_of_the_rest(scene):
    client = scene.open(b"duration=10s")
    client.stream.pauseProducing()
    fit = room.QUEUE_BYTES // (100 * len(b'{"event":"request"}\n'))
    for _ in range(fit + 50):
        scene.happen(100)
    assert client.lines == [{"event": "begin", "workers": 0, "seconds": 10.0}]
    client.stream.resumeProducing()
    assert len(client.lines) == 1 + 100 * fit + 1
    assert client.lines[-1] == {"event": "dropped", "records": 5000}
    scene.clock.advance(10.0)
    assert client.lines[-1] == {"event": "end", "dropped": 5000}


def test_who_reads_nothing_for_long_is_cut(scene):
    client = scene.open()
    client.stream.pauseProducing()
    scene.clock.advance(room.STUCK / 2)
    client.stream.resumeProducing()
    client.stream.pauseProducing()
    scene.clock.advance(room.STUCK - 1.0)
    assert not client.aborted
    scene.clock.advance(1.0)
    assert client.aborted
    client.stream.stopProducing()
    assert scene.told[-1] == messages.Unwatch(1)
    assert scene.clock.getDelayedCalls() == []


def test_who_goes_is_forgotten(scene):
    client = scene.open()
    client.stream.stopProducing()
    client.stream.stopProducing()
    assert scene.told[1:] == [messages.Unwatch(1)]
    scene.happen(1)
    assert len(client.lines) == 1
    assert scene.clock.getDelayedCalls() == []


def test_so_many_and_no_more(scene):
    clients = [scene.open() for _ in range(WATCHERS)]
    refused = scene.page.respond(ask())
    assert (refused.status, refused.stream) == (503, None)
    assert "8 watch already" in json.loads(refused.body)["error"]
    clients[0].stream.stopProducing()
    assert scene.page.respond(ask()).status == 200


def test_not_everybody_may(scene):
    answer = scene.page.respond(ask(objection="user 7 may not"))
    assert (answer.status, json.loads(answer.body)) == (403, {"error": "user 7 may not"})
    assert scene.told == []


@pytest.fixture
def served(loop):
    """A real admin address; the taps behind it."""
    taps = Taps(loop.reactor, lambda message: [])
    state = make_state()
    live = {b"/tap": TapPage(loop.reactor, taps)}
    port = loop.run(listen, loop.reactor, Admin(listen="127.0.0.1:0"), state, state.totals, lambda: NOW, live=live)
    host, _, number = port.address.rpartition(":")
    yield taps, (host, int(number))
    loop.run(port.stopListening)


def request(address, method="GET", query="", more=""):
    sock = socket.create_connection(address, timeout=10.0)
    sock.sendall(f"{method} /tap{query} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
    return sock


def read_until(sock, end):
    received = b""
    while end not in received:
        piece = sock.recv(65536)
        assert piece, received
        received += piece
    return received


@pytest.fixture
def errors():
    """What is logged as one."""
    logged = []

    def observe(event):
        if event.get("log_failure") is not None or event.get("isError"):
            logged.append(event)

    globalLogPublisher.addObserver(observe)
    yield logged
    globalLogPublisher.removeObserver(observe)


def test_over_a_socket(loop, served, errors):
    taps, address = served
    with request(address, query="?duration=500ms") as sock:
        received = read_until(sock, b"\r\n0\r\n\r\n")
        assert b'{"event":"end","dropped":0}\n' in received
        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"application/x-ndjson" in received
        sock.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        read_until(sock, b'"live": true')
    assert errors == []
    assert taps.for_new() == []


def test_a_client_that_closes_is_forgotten(loop, served):
    taps, address = served
    with request(address) as sock:
        read_until(sock, b'"event":"begin"')
        assert len(loop.run(taps.for_new)) == 1
    deadline = time.monotonic() + 5.0
    while loop.run(taps.for_new):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_index_and_the_methods(served):
    _, address = served
    with request(address, "HEAD", more="Connection: close\r\n") as sock:
        assert b"\r\nallow: get\r\n" in read_until(sock, b"\r\n\r\n").lower()
