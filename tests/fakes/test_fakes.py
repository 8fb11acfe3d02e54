"""The fakes against each other: readers, deliveries, and a replay that does notice a careless proxy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import h11
import pytest

from tests.fakes import replay
from tests.fakes.cases import Verdict, get, post
from tests.fakes.client import connect, exchange
from tests.fakes.delivery import Delivery
from tests.fakes.hostile_corpus import REQUESTS, REQUESTS_BY_TOPIC, RESPONSES
from tests.fakes.origin import Answer, Connection, Origin, reply
from tests.fakes.reader import Malformed, Received, RequestReader, ResponseReader

# An empty line before a request is a leniency of RFC 9112 section 2.2 that the strict reader does not have.
FORWARDED = [case for case in REQUESTS if case.verdict is Verdict.FORWARD and "empty-line" not in case.name]


BLANKS = ("chunk-extension-blanks", "chunk-extension-tabs")


def test_the_corpus_is_large_and_its_names_are_its_own() -> None:
    assert Counter(case.name for case in REQUESTS).most_common(1)[0][1] == 1
    assert Counter(case.name for case in RESPONSES).most_common(1)[0][1] == 1
    verdicts = Counter([case.verdict for case in REQUESTS] + [case.verdict for case in RESPONSES])
    assert verdicts[Verdict.FORWARD] + verdicts[Verdict.PASS] >= 200
    assert verdicts[Verdict.REFUSE] >= 400
    assert verdicts[Verdict.BAD_GATEWAY] >= 100


@pytest.mark.parametrize("delivery", list(Delivery))
def test_pieces_make_up_the_message(delivery: Delivery) -> None:
    for data in [case.data for case in REQUESTS] + [case.data for case in RESPONSES]:
        assert b"".join(delivery.pieces(data)) == data


def test_legal_requests_are_legal_to_another_parser() -> None:
    """h11 is no judge of what a proxy refuses, but what it cannot read is hardly legal.

    But for blanks in chunk extensions, which RFC 9112 section 7.1.1 has and h11 has not.
    """
    for case in FORWARDED:
        if len(case.messages) > 1 or len(case.data) > 10_000 or case.name in BLANKS:
            continue
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(case.data)
        body = b""
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                assert event.method == case.messages[0].method, case.name
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                break
        assert isinstance(event, h11.EndOfMessage), case.name
        assert body == case.messages[0].body, case.name


@pytest.mark.parametrize("delivery", list(Delivery))
def test_the_strict_reader_takes_legal_requests(delivery: Delivery) -> None:
    for case in FORWARDED:
        reader = RequestReader()
        try:
            for piece in delivery.pieces(case.data):
                reader.feed(piece)
        except Malformed:
            assert case.name == "pipeline-close-then-junk"
        seen = [(message.method, bytes(message.body)) for message in reader.messages]
        assert seen[: len(case.messages)] == [(m.method, m.body) for m in case.messages], case.name


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n X: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_the_strict_reader_takes_nothing_else(data: bytes) -> None:
    reader = RequestReader()
    with pytest.raises(Malformed):
        reader.feed(data)


def test_the_response_reader_knows_cut_short_from_complete() -> None:
    def read(data: bytes, *, reset: bool = False) -> ResponseReader:
        reader = ResponseReader()
        reader.feed(data)
        reader.end(reset=reset)
        return reader

    assert len(read(b"HTTP/1.1 200 OK\r\n\r\nhello").messages) == 1
    assert read(b"HTTP/1.1 200 OK\r\n\r\nhello", reset=True).messages == []
    assert read(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello").messages == []
    assert read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").messages == []
    assert len(read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").messages) == 1


@pytest.mark.parametrize("delivery", list(Delivery))
def test_client_and_origin_understand_each_other(delivery: Delivery) -> None:
    def respond(request: Received, connection: Connection) -> Answer:
        return Answer(reply(bytes(request.body)), delivery)

    with Origin(respond) as origin:
        request = post(b"Content-Length: 5", body=b"hello")
        outcome = exchange(origin.address, request + get(b"/2"), delivery, expect=2)
        assert [bytes(response.body) for response in outcome.responses] == [b"hello", b""]
        assert [r.method for r in origin.requests] == [b"POST", b"GET"]
        assert bytes(origin.connections[0].raw) == request + get(b"/2")


@pytest.mark.parametrize(("ending", "ended"), [("close", "end"), ("reset", "reset"), ("half-close", "end")])
def test_endings(ending: str, ended: str) -> None:
    answer = Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", ending=ending)
    with Origin(lambda request, connection: answer) as origin:
        outcome = exchange(origin.address, get())
    assert outcome.responses == []
    assert outcome.unfinished is not None
    assert bytes(outcome.unfinished.body) == b"hello"
    assert outcome.ended == ended


def careless(origin: Origin) -> Callable[[Connection], None]:
    """A "proxy" that passes every byte on as it is."""
    import socket
    import threading

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def handle(connection: Connection) -> None:
        with socket.create_connection(("127.0.0.1", origin.port)) as upstream:
            thread = threading.Thread(target=pump, args=(connection.sock, upstream))
            thread.start()
            pump(upstream, connection.sock)
            connection.sock.shutdown(socket.SHUT_RD)
            thread.join()

    return handle


def test_the_replay_notices_a_careless_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "TIMEOUT", 0.2)
    with Origin() as origin, Origin(handle=careless(origin)) as proxy:
        lanes = [replay.Lane(lambda: connect(proxy.address), origin)]
        bad = [case for case in REQUESTS_BY_TOPIC["framing"] if case.name.startswith(("both-l", "coding-twice"))]
        failures = replay.run(lanes, bad, Delivery.WHOLE)
        assert len(failures) == len(bad)
        assert "no strict reader takes" in failures[0]
        good = [
            case for case in REQUESTS_BY_TOPIC["framing"] if case.name in ("post-length", "post-chunked", "get-no-body")
        ]
        assert replay.run(lanes, good, Delivery.WHOLE) == []
        cut = [case for case in RESPONSES if case.name in ("length-twice-different", "line-icy", "surplus-response")]
        assert len(replay.run(lanes, cut, Delivery.WHOLE)) >= 2
