"""HTTP/1.1 end to end: interim and early responses, framing of both sides, connections that are used again."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from tests.fakes import origin as fake
from tests.fakes.cases import HOST, get, head, post
from tests.fakes.client import connect, converse, exchange, receive_until
from tests.fakes.delivery import Delivery
from tests.fakes.origin import Answer, Connection, reply
from tests.fakes.reader import Received
from tests.integration.host import fetch
from tests.integration.mesh import Service
from tests.integration.test_websocket import read_head

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_continue_end_to_end(http: Service) -> None:
    """The body is sent only when the origin itself says so."""
    asked = threading.Event()
    go = threading.Event()

    def handle(connection: Connection) -> None:
        request, rest = read_head(connection.sock)
        assert request.value(b"expect") == b"100-continue"
        assert rest == b""
        asked.set()
        assert go.wait(5)
        connection.sock.sendall(CONTINUE)
        connection.sock.sendall(reply(receive_until(connection.sock, b"hello")))

    http.origin.handle = handle
    with connect(http.address) as sock:
        sock.sendall(post(b"Expect: 100-continue", b"Content-Length: 5"))
        assert asked.wait(5)
        sock.settimeout(0.15)
        with pytest.raises(TimeoutError):  # not from the proxy
            sock.recv(100)
        go.set()
        sock.settimeout(5)
        assert sock.recv(1000).startswith(b"HTTP/1.1 100 ")
        outcome = converse(sock, b"hello")
    assert outcome.statuses == [200]
    assert outcome.responses[0].body == b"hello"


def test_continue_refused_by_a_final_response(http: Service) -> None:
    def handle(connection: Connection) -> None:
        read_head(connection.sock)
        connection.sock.sendall(reply(b"no", b"417 Expectation Failed", b"Connection: close"))

    http.origin.handle = handle
    outcome = exchange(http.address, post(b"Expect: 100-continue", b"Content-Length: 5"))
    assert outcome.statuses == [417]
    assert outcome.responses[0].body == b"no"


def test_early_hints_arrive_before_the_final_response(http: Service) -> None:
    go = threading.Event()

    def handle(connection: Connection) -> None:
        read_head(connection.sock)
        connection.sock.sendall(head(b"HTTP/1.1 103 Early Hints", b"Link: </style.css>; rel=preload"))
        assert go.wait(5)
        connection.sock.sendall(reply(b"page"))

    http.origin.handle = handle
    with connect(http.address) as sock:
        sock.sendall(get())
        early = sock.recv(1000)
        assert early.startswith(b"HTTP/1.1 103 ")
        assert b"Link: </style.css>; rel=preload" in early
        go.set()
        outcome = converse(sock, b"")
    assert outcome.statuses == [200]
    assert outcome.responses[0].body == b"page"


def test_early_final_response_while_uploading(http: Service) -> None:
    """413 before the end of the body: the client reads it, and the rest of its body is nobody's request."""
    size = 4 << 20

    def handle(connection: Connection) -> None:
        request, _ = read_head(connection.sock)
        if request.method == b"GET":
            connection.sock.sendall(reply(b"fine"))
            return
        connection.sock.sendall(reply(b"too large", b"413 Content Too Large", b"Connection: close"))
        time.sleep(0.2)  # unread: the upload stalls until the proxy gives up

    http.origin.handle = handle
    outcome = exchange(http.address, post(b"Content-Length: %d" % size, body=b"G" * size), until_end=True)
    assert outcome.statuses == [413]
    assert outcome.responses[0].body == b"too large"
    assert fetch(http.address).statuses == [200]


def test_early_final_response_on_a_kept_connection(http: Service) -> None:
    """An origin that answers early and keeps the connection: what follows must not be read as a request."""

    def handle(connection: Connection) -> None:
        request, _ = read_head(connection.sock)
        if request.method == b"GET":
            connection.sock.sendall(reply(b"fine"))
            return
        connection.sock.sendall(reply(b"early"))
        while connection.sock.recv(1 << 16):
            pass

    http.origin.handle = handle
    with connect(http.address) as sock:
        first = converse(sock, post(b"Content-Length: 100", body=b"x" * 50))
        assert first.statuses == [200]
        assert first.responses[0].body == b"early"
    assert fetch(http.address).responses[0].body == b"fine"


def test_close_delimited_body_is_streamed(http: Service) -> None:
    go = threading.Event()

    def handle(connection: Connection) -> None:
        read_head(connection.sock)
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nfirst ")
        assert go.wait(5)
        connection.sock.sendall(b"second")

    http.origin.handle = handle
    with connect(http.address) as sock:
        sock.sendall(get())
        data = receive_until(sock, b"first ")
        go.set()
        receive_until(sock, b"second", data)


def test_response_is_not_held_back(http: Service) -> None:
    """Each event of a stream arrives when it was sent."""
    step = threading.Semaphore(0)

    def handle(connection: Connection) -> None:
        read_head(connection.sock)
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            assert step.acquire(timeout=5)
            connection.sock.sendall(b"8\r\nevent %d\n\r\n" % number)
        connection.sock.sendall(b"0\r\n\r\n")

    http.origin.handle = handle
    with connect(http.address) as sock:
        sock.sendall(get())
        data = b""
        for number in range(3):
            step.release()
            data = receive_until(sock, b"event %d\n" % number, data)


def test_request_is_not_held_back(http: Service) -> None:
    arrived: list[bytes] = []
    signal = threading.Semaphore(0)

    def handle(connection: Connection) -> None:
        _, body = read_head(connection.sock)
        for number in range(3):
            body = receive_until(connection.sock, b"piece %d" % number, body)
            signal.release()
        arrived.append(receive_until(connection.sock, b"\r\n0\r\n\r\n", body))
        connection.sock.sendall(reply())

    http.origin.handle = handle
    with connect(http.address) as sock:
        sock.sendall(post(b"Transfer-Encoding: chunked"))
        for number in range(3):
            sock.sendall(b"7\r\npiece %d\r\n" % number)
            assert signal.acquire(timeout=5)
        outcome = converse(sock, b"0\r\n\r\n")
    assert outcome.statuses == [200]


@pytest.mark.parametrize("delivery", list(Delivery), ids=lambda delivery: delivery.value)
def test_trailers_both_ways(http: Service, delivery: Delivery) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Down\r\n\r\n"
        b"4\r\ndown\r\n0\r\nX-Down: 1\r\nX-More: 2\r\n\r\n"
    )
    http.origin.respond = lambda request, connection: Answer(answer, delivery)
    request = post(
        b"Transfer-Encoding: chunked",
        b"TE: trailers",
        b"Connection: TE",
        b"Trailer: X-Up",
        body=b"2\r\nup\r\n0\r\nX-Up: a\r\nX-More: b\r\n\r\n",
    )
    outcome = exchange(http.address, request, delivery)
    assert outcome.statuses == [200]
    assert outcome.responses[0].body == b"down"
    assert outcome.responses[0].trailers == [(b"x-down", b"1"), (b"x-more", b"2")]
    received = http.origin.requests[0]
    assert received.body == b"up"
    assert received.trailers == [(b"x-up", b"a"), (b"x-more", b"b")]


def test_head_keeps_the_length_and_the_connection(http: Service) -> None:
    http.origin.respond = lambda request, connection: Answer(
        b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n" if request.method == b"HEAD" else reply(b"body")
    )
    with connect(http.address) as sock:
        outcome = converse(sock, head(b"HEAD / HTTP/1.1", HOST) + get(), methods=[b"HEAD", b"GET"], expect=2)
    assert outcome.statuses == [200, 200]
    assert outcome.responses[0].values(b"content-length") == [b"12345"]
    assert outcome.responses[1].body == b"body"


def test_pipelined_answers_keep_their_order(http: Service) -> None:
    def respond(request: Received, connection: Connection) -> Answer:
        wait = 0.1 if request.target == b"/0" else 0.0
        return Answer(reply(request.target), wait=wait)

    http.origin.respond = respond
    outcome = exchange(http.address, b"".join(get(b"/%d" % n) for n in range(10)), expect=10)
    assert [bytes(response.body) for response in outcome.responses] == [b"/%d" % n for n in range(10)]


def test_connections_are_used_again(http: Service) -> None:
    with connect(http.address) as sock:
        for _ in range(20):
            assert converse(sock, get()).statuses == [200]
    for _ in range(5):
        assert fetch(http.address).statuses == [200]
    assert len(http.origin.requests) == 25
    assert len(http.origin.connections) == 1


def test_connection_close_of_the_origin_is_its_own(http: Service) -> None:
    """Hop by hop: the client's connection goes on."""
    http.origin.respond = lambda request, connection: Answer(
        reply(b"ok", b"200 OK", b"Connection: close"), ending="close"
    )
    with connect(http.address) as sock:
        for _ in range(5):
            outcome = converse(sock, get())
            assert outcome.statuses == [200]
            assert outcome.responses[0].values(b"connection") == []
    assert len(http.origin.connections) == 5


def test_idle_connection_closed_by_the_origin_costs_nothing(http: Service) -> None:
    """The keep-alive race: a GET on a pooled connection that is just being closed is sent again, unseen."""
    http.origin.respond = lambda request, connection: Answer(reply(), ending="close")  # without announcing it
    with connect(http.address) as sock:
        for _ in range(100):
            assert converse(sock, get()).statuses == [200]


def test_get_on_a_connection_that_dies_is_sent_again(http: Service) -> None:
    def respond(request: Received, connection: Connection) -> Answer:
        first = [r for r in http.origin.requests if r.connection == connection.number]
        if len(first) == 2:  # the second request of this connection
            return Answer(b"", ending="close")
        return Answer(reply(request.target))

    http.origin.respond = respond
    with connect(http.address) as sock:
        assert converse(sock, get(b"/1")).statuses == [200]
        outcome = converse(sock, get(b"/2"))
    assert outcome.statuses == [200]
    assert outcome.responses[0].body == b"/2"
    assert [request.target for request in http.origin.requests] == [b"/1", b"/2", b"/2"]


@pytest.mark.parametrize("body", [b"", b"hello"])
def test_post_on_a_connection_that_dies_is_sent_once(http: Service, body: bytes) -> None:
    def respond(request: Received, connection: Connection) -> Answer:
        if request.method == b"POST":
            return Answer(b"", ending="close")
        return Answer(reply(request.target))

    http.origin.respond = respond
    with connect(http.address) as sock:
        assert converse(sock, get(b"/1")).statuses == [200]
        outcome = converse(sock, post(b"Content-Length: %d" % len(body), body=body))
    assert len(outcome.statuses) == 1
    assert outcome.statuses[0] in (502, 503)
    assert [request.method for request in http.origin.requests] == [b"GET", b"POST"]


def test_the_keep_alive_race(http: Service) -> None:
    """fi-d14: the origin closes idle connections at every moment around the next request.

    Every GET is answered; a POST is answered or refused, and the origin never sees one twice.
    """
    origin = http.origin
    waits = itertools.cycle(number * 0.0002 for number in range(25))

    def respond(request: Received, connection: Connection) -> Answer:
        answer = Answer(reply(request.target))
        connection.answer(answer)
        time.sleep(next(waits))
        return Answer(b"", ending="close")

    origin.respond = respond
    with connect(http.address) as sock:
        for number in range(300):
            time.sleep(number % 7 * 0.0007)
            if number % 3:
                outcome = converse(sock, get(b"/%d" % number))
                assert outcome.statuses == [200]
                assert outcome.responses[0].body == b"/%d" % number
            else:
                outcome = converse(sock, post(b"Content-Length: 2", body=b"hi", target=b"/%d" % number))
                assert outcome.statuses in ([200], [502], [503])
    posts = [request.target for request in origin.requests if request.method == b"POST"]
    assert len(posts) == len(set(posts))


def test_a_get_is_not_sent_again_once_an_answer_began(http: Service) -> None:
    http.origin.respond = lambda request, connection: Answer(b"HTTP/1.1 200 OK\r\nContent-Le", ending="close")
    outcome = fetch(http.address)
    assert outcome.statuses == [502]
    assert len(http.origin.requests) == 1


def test_reset_while_uploading_is_a_bad_gateway_sent_once(http: Service) -> None:
    def handle(connection: Connection) -> None:
        read_head(connection.sock)
        fake.reset(connection.sock)

    http.origin.handle = handle
    outcome = exchange(http.address, post(b"Content-Length: 1000000", body=b"x" * 500_000))
    assert len(outcome.statuses) == 1
    assert outcome.statuses[0] in (502, 503)
    assert len(http.origin.connections) == 1


def test_client_that_resets_ends_the_request(http: Service) -> None:
    ended = threading.Event()

    def handle(connection: Connection) -> None:
        read_head(connection.sock)
        try:
            while connection.sock.recv(100):
                pass
        finally:
            ended.set()

    http.origin.handle = handle
    sock = connect(http.address)
    sock.sendall(get())
    http.origin.wait_for_connections(1)
    time.sleep(0.05)
    fake.reset(sock)
    assert ended.wait(5)


def test_client_that_half_closes_gets_its_answer(http: Service) -> None:
    http.origin.respond = lambda request, connection: Answer(reply(request.target), wait=0.1)
    outcome = exchange(http.address, get(b"/1") + get(b"/2"), expect=2, half_close=True)
    assert [bytes(response.body) for response in outcome.responses] == [b"/1", b"/2"]
