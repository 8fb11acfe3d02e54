"""What a client can and cannot make the admin address do, over real sockets."""

from __future__ import annotations

import json
import socket
import time

import pytest

from hostproxy.admin import documents, pages
from hostproxy.admin import http as room
from hostproxy.admin.server import listen
from hostproxy.config import Admin
from tests.admin.states import NOW, make_state


@pytest.fixture
def address(loop):
    state = make_state(services=1500)
    port = loop.run(listen, loop.reactor, Admin(listen="127.0.0.1:0"), state, state.totals, lambda: NOW)
    host, _, number = port.address.rpartition(":")
    yield host, int(number)
    loop.run(port.stopListening)


def connect(address):
    return socket.create_connection(address, timeout=5.0)


def read_all(sock):
    """Everything until the other side closes."""
    received = b""
    while piece := sock.recv(65536):
        received += piece
    return received


def exchange(address, request):
    """Send one request whose answer ends with the connection; return status, fields and body."""
    with connect(address) as sock:
        sock.sendall(request)
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), fields, body


def get(path="/live", *more, method="GET", host="localhost"):
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *more, "", ""]
    return "\r\n".join(lines).encode()


def test_an_answer_has_its_length_and_may_not_be_kept(address):
    status, fields, body = exchange(address, get("/live"))
    assert (status, json.loads(body)) == (200, {"live": True})
    assert int(fields["content-length"]) == len(body)
    assert fields["content-type"] == "application/json"
    assert fields["cache-control"] == "no-store"
    assert fields["x-content-type-options"] == "nosniff"
    assert "server" not in fields


def test_the_query_is_not_looked_at(address):
    assert exchange(address, get("/live?x=1&x=%zz"))[0] == 200


@pytest.mark.parametrize("path", ["/live", "/metrics", "/snapshot"])
def test_head_is_the_answer_without_its_body(address, path):
    status, fields, body = exchange(address, get(path, method="HEAD"))
    assert (status, body) == (200, b"")
    assert int(fields["content-length"]) > 0


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "10.0.0.11", ""])
def test_a_foreign_host_is_refused(address, host):
    status, _, body = exchange(address, get("/snapshot", host=host))
    assert status == 403
    assert "localhost" in json.loads(body)["error"]


def test_two_hosts_are_refused(address):
    assert exchange(address, get("/live", "Host: localhost"))[0] == 400


def test_an_origin_is_refused(address):
    assert exchange(address, get("/live", "Origin: http://localhost"))[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_other_methods_are_refused(address, method):
    status, fields, _ = exchange(address, get("/live", method=method))
    assert (status, fields["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "body",
    [
        ("Content-Length: 5", "\r\nhello"),
        ("Content-Length: 99999999", "\r\nhello"),
        ("Transfer-Encoding: chunked", "\r\n5\r\nhello\r\n0\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_body_is_refused_and_not_waited_for(address, method, body):
    field, content = body
    request = f"{method} /live HTTP/1.1\r\nHost: localhost\r\n{field}\r\n{content}".encode()
    status, fields, answer = exchange(address, request)
    assert (status, fields["connection"]) == (413, "close")
    assert json.loads(answer) == {"error": "requests may not have a body"}


def test_who_expects_100_is_told_no_instead(address):
    request = b"POST /live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    assert exchange(address, request)[0] == 413


def test_a_head_that_is_too_long_is_refused(address):
    assert exchange(address, get("/live", "X-Long: " + "x" * room.HEAD_SIZE))[0] == 431
    assert exchange(address, get("/live", *["X-Long: " + "x" * 1000] * 20))[0] == 400


def test_too_many_fields_are_refused(address):
    assert exchange(address, get("/live", *["X-Many: 1"] * room.HEADER_COUNT))[0] == 400


def test_garbage_is_refused(address):
    assert exchange(address, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")[0] == 400


def test_a_connection_can_be_used_again(address):
    with connect(address) as sock:
        for _ in range(3):
            sock.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}\n"):
                answer += sock.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_answered_in_order(address):
    live = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(address) as sock:
        sock.sendall(live * 200 + get("/nothing"))
        answers = read_all(sock)
    assert answers.count(b"HTTP/1.1 200 ") == 200
    assert answers.count(b"HTTP/1.1 404 ") == 1
    assert answers.rindex(b" 200 OK") < answers.index(b" 404 ")


def test_a_large_answer_arrives_whole(address):
    status, fields, body = exchange(address, get("/snapshot"))
    assert status == 200
    assert len(body) == int(fields["content-length"]) > 16 * room.PIECE
    assert len(json.loads(body)["snapshot"]["services"]) == 1500


def test_a_fault_shows_no_inside(address, monkeypatch):
    def break_down(moment):
        raise RuntimeError("the inside")

    monkeypatch.setitem(pages.PAGES, b"/status", pages.Page("", break_down))
    status, _, body = exchange(address, get("/status"))
    assert status == 500
    assert b"inside" not in body
    assert b"Traceback" not in body
    assert b"log" in body


def test_at_most_so_many_connections(address, monkeypatch):
    monkeypatch.setattr(room, "CONNECTIONS", 3)
    holders = [connect(address) for _ in range(3)]
    try:
        for holder in holders:  # each is accepted once it has an answer
            holder.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert holder.recv(65536).startswith(b"HTTP/1.1 200 ")
        with connect(address) as waiting:
            waiting.sendall(get("/live"))
            waiting.settimeout(0.3)
            with pytest.raises(TimeoutError):
                waiting.recv(1)
            holders.pop().close()
            waiting.settimeout(5.0)
            assert read_all(waiting).startswith(b"HTTP/1.1 200 ")
    finally:
        for holder in holders:
            holder.close()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(room, "TIMEOUT", 0.3)
    monkeypatch.setattr(room.AdminChannel, "abortTimeout", 0.1)


def test_who_says_nothing_is_cut(impatient, address):
    with connect(address) as sock:
        begin = time.monotonic()
        assert read_all(sock) == b""
        assert time.monotonic() - begin < 3.0


def test_who_dribbles_its_head_is_cut(impatient, address):
    """A byte now and then does not buy more time."""
    with connect(address) as sock:
        begin = time.monotonic()
        sent = 0
        with pytest.raises(OSError):
            while time.monotonic() - begin < 3.0:
                sock.sendall(b"GET /live HTTP/1.1\r\n"[sent : sent + 1] or b"x")
                sent += 1
                time.sleep(0.05)
        assert time.monotonic() - begin < 3.0


def test_who_never_reads_is_cut(impatient, address):
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(5.0)
        sock.connect(address)
        sock.sendall(get("/snapshot"))
        time.sleep(1.0)
        with pytest.raises(ConnectionResetError):
            read_all(sock)
    finally:
        sock.close()


def test_who_reads_slowly_but_steadily_within_the_time_gets_all(address):
    with connect(address) as sock:
        sock.sendall(get("/snapshot"))
        received = 0
        while piece := sock.recv(32768):
            received += len(piece)
            time.sleep(0.0005)
    assert received > 16 * room.PIECE


def test_who_leaves_while_the_answer_is_made_harms_nobody(address, monkeypatch):
    real = documents.status

    def slowly(moment):
        time.sleep(0.2)
        return real(moment)

    monkeypatch.setitem(pages.PAGES, b"/status", pages.Page("", slowly))
    with connect(address) as sock:
        sock.sendall(get("/status"))
        time.sleep(0.05)
    assert exchange(address, get("/status"))[0] == 200


def test_a_hundred_scrapes_render_once_a_second_at_most(address, monkeypatch):
    rendered = []
    real = pages.render

    def counting(*arguments, **keywords):
        rendered.append(1)
        return real(*arguments, **keywords)

    monkeypatch.setattr(pages, "render", counting)
    begin = time.monotonic()
    for _ in range(100):
        assert exchange(address, get("/metrics"))[0] == 200
    assert len(rendered) <= 1 + (time.monotonic() - begin) / pages.CACHE_TIME
