"""What a request has to be for a retry: its body kept, its client not answered."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from hostproxy.exchange.retries import KEPT_BODY
from hostproxy.mesh.retries import CONDITIONS
from hostproxy.net.connect import Address
from hostproxy.net.stream import READ_SIZE
from tests.exchange.proxy import END, GET, OK, Proxy
from tests.exchange.retrying import BUSY, CHUNKED, PUT, asked, nothing_more, retrying
from tests.support import Loop, black_hole

Make = Callable[..., Proxy]


# The request's body

@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("reason", ["status", "reset"])
def test_a_body_in_pieces_is_kept(proxy: Proxy, framing: str, reason: str) -> None:
    pieces = [bytes([number]) * 5000 for number in range(8)]
    body = b"".join(pieces)
    retrying(proxy)
    client = proxy.client()
    client.send(CHUNKED if framing == "chunked" else PUT.replace(b"3\r\n\r\nabc", b"%d\r\n\r\n" % len(body)))
    origin = proxy.origin()
    head = origin.until(END)
    for piece in pieces:
        client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
    if framing == "chunked":
        client.send(b"0\r\nX-Sum: 7\r\n\r\n")
        origin.until(b"0\r\nX-Sum: 7\r\n\r\n")
    else:
        assert origin.until(len(body)) == body
    if reason == "status":
        origin.send(BUSY)
    else:
        origin.reset()
        origin = proxy.origin()
    assert origin.until(END) == head
    if framing == "chunked":  # now all of it is here at once
        assert origin.until(b"X-Sum: 7\r\n\r\n") == b"%x\r\n%b\r\n0\r\nX-Sum: 7\r\n\r\n" % (len(body), body)
    else:
        assert origin.until(len(body)) == body
    nothing_more(proxy, origin)
    origin.send(OK)
    assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")
    assert proxy.done[0].received == len(body)
    proxy.exchange(client, origin)  # nothing is between the requests, and nothing of the first in the second


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(("size", "retried"), [(KEPT_BODY, True), (KEPT_BODY + 1, False)])
def test_a_body_is_kept_up_to_its_bound(proxy: Proxy, framing: str, size: int, retried: bool) -> None:
    body = Random(size).randbytes(size)
    retrying(proxy)
    client = proxy.client()
    client.send(CHUNKED if framing == "chunked" else PUT.replace(b"3\r\n\r\nabc", b"%d\r\n\r\n" % size))
    origin = proxy.origin()
    origin.until(END)
    (connection,) = proxy.surroundings.connections
    exchange = connection.exchange
    assert exchange is not None
    for start in range(0, size, 10000):
        piece = body[start : start + 10000]
        client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
        assert len(exchange.body) <= (KEPT_BODY if retried or framing == "chunked" else 0)
    if framing == "chunked":
        client.send(b"0\r\n\r\n")
        origin.until(b"0\r\n\r\n")
    else:
        assert origin.until(size) == body
    assert exchange.body == (body if retried else b"")
    origin.send(BUSY)
    if retried:
        origin.until(END)
        if framing == "chunked":
            origin.until(b"\r\n")
        assert origin.until(size) == body
        origin.send(OK)
        client.until(END + b"ok")
    else:
        assert client.until(END + b"busy").startswith(b"HTTP/1.1 503 ")
        nothing_more(proxy, origin)
        assert proxy.done[0].flags == "-"
    assert exchange.body == b""


def test_a_longer_body_that_comes_with_its_head_is_not_sent_twice_either(proxy: Proxy) -> None:
    """At most two reads of a connection are one request's: whether that is so depends on the weather."""
    size = KEPT_BODY + 1
    request = PUT.replace(b"3\r\n\r\nabc", b"%d\r\n\r\n" % size) + bytes(size)
    retrying(proxy)
    client = proxy.client()
    client.send(GET)
    origin = proxy.origin()
    origin.until(END)
    client.send(request)
    (connection,) = proxy.surroundings.connections
    proxy.loop.until(lambda: connection._buffer)
    origin.send(OK)
    client.until(END + b"ok")
    origin.until(END)
    assert origin.until(size) == bytes(size)
    origin.send(BUSY)
    assert client.until(END + b"busy").startswith(b"HTTP/1.1 503 ")
    nothing_more(proxy, origin)


def test_memory_is_bounded_when_the_origin_does_not_read(proxy: Proxy, loop: Loop) -> None:
    retrying(proxy)
    client = proxy.client()
    client.send(CHUNKED)
    origin = proxy.origin()
    origin.until(END)
    (connection,) = proxy.surroundings.connections
    exchange = connection.exchange
    assert exchange is not None
    chunk = b"4000\r\n" + bytes(0x4000) + b"\r\n"
    pushed = worst = 0
    data = chunk * 64
    for _ in range(600):
        pushed += client.push(data[pushed % len(chunk) :])
        loop.settle(2)
        assert exchange.client is not None
        worst = max(worst, len(exchange.body) + exchange.client.stream.backlog)
    assert 0 < worst <= KEPT_BODY + 3 * READ_SIZE
    assert not exchange.body
    assert not loop.busy
    client.reset()


def test_a_large_body_arrives_whole(proxy: Proxy, loop: Loop) -> None:
    retrying(proxy, methods=("POST", "PUT"))
    body = Random(3).randbytes(3 << 20)
    client = proxy.client()
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    data = b"".join(
        b"%x\r\n%b\r\n" % (len(body[start : start + 50_000]), body[start : start + 50_000])
        for start in range(0, len(body), 50_000)
    )
    data += b"0\r\n\r\n"
    origin = proxy.origin()
    origin.until(END)
    sent = 0
    while not origin.received.endswith(b"0\r\n\r\n"):
        sent += client.push(data[sent : sent + 200_000])
        loop.settle(3)
        origin.read()
    received, found = origin.received, []
    while not received.startswith(b"0\r\n"):
        line, _, received = received.partition(b"\r\n")
        found.append(received[: int(line, 16)])
        received = received[int(line, 16) + 2 :]
    assert b"".join(found) == body


def test_a_body_that_came_while_connecting_is_whole_in_every_try(make: Make) -> None:
    proxy = retrying(make(refusing=1))
    body = bytes(range(256)) * 200
    client = proxy.client()
    client.push(PUT.replace(b"3\r\n\r\nabc", b"%d\r\n\r\n" % len(body)) + body[:1000])
    proxy.loop.step()
    client.push(body[1000:30000])
    client.send(body[30000:])
    origin = proxy.origin()
    for answer in (BUSY, OK):
        origin.until(END)
        assert origin.until(len(body)) == body
        nothing_more(proxy, origin)
        origin.send(answer)
    client.until(END + b"ok")


def test_one_that_grows_too_long_while_connecting_is_sent_once(make: Make, loop: Loop) -> None:
    proxy = retrying(make(refusing=1, connect=1.0))
    proxy.endpoints[0].address = Address.parse(black_hole(loop))
    client = proxy.client()
    body = Random(1).randbytes(KEPT_BODY + 1)
    client.send(CHUNKED + b"%x\r\n" % len(body) + body[:-40000])
    client.send(body[-40000:] + b"\r\n")
    (connection,) = proxy.surroundings.connections
    exchange = connection.exchange
    assert exchange is not None
    assert exchange.body == body
    proxy.later(1.5)
    origin = proxy.origin()
    origin.until(END)
    assert origin.until(b"\r\n") == b"%x\r\n" % len(body)
    assert origin.until(len(body)) == body
    assert exchange.body == b""
    client.send(b"0\r\n\r\n")
    origin.until(b"0\r\n\r\n")
    origin.send(BUSY)
    assert client.until(END + b"busy").startswith(b"HTTP/1.1 503 ")
    nothing_more(proxy, origin)


def test_a_response_before_the_request_s_end_passes(proxy: Proxy) -> None:
    """Nobody has the whole request, and the client is to learn that it need not send the rest."""
    client, origin, _ = asked(retrying(proxy, on=CONDITIONS), PUT.replace(b"3\r\n", b"10\r\n"))
    origin.until(b"abc")
    origin.send(BUSY)
    assert client.until(END + b"busy").startswith(b"HTTP/1.1 503 ")
    client.push(b"defghij")
    nothing_more(proxy, origin)
    assert proxy.done[0].flags == "-"


def test_a_connection_lost_before_the_request_s_end_is_no_try_to_repeat(proxy: Proxy) -> None:
    client, origin, _ = asked(retrying(proxy, on=CONDITIONS), PUT.replace(b"3\r\n", b"10\r\n"))
    origin.until(b"abc")
    origin.reset()
    assert client.all().startswith(b"HTTP/1.1 502 ")
    nothing_more(proxy)


def test_a_bad_chunk_ends_it(proxy: Proxy) -> None:
    client, origin, _ = asked(retrying(proxy, on=CONDITIONS), CHUNKED + b"3\r\nabc\r\n")
    origin.until(b"abc\r\n")
    client.send(b"zz\r\n")
    assert client.all().startswith(b"HTTP/1.1 400 ")
    assert origin.all() == b""
    nothing_more(proxy)


# Interim responses

def test_a_client_that_waits_for_100_hears_it_once(proxy: Proxy) -> None:
    retrying(proxy)
    client = proxy.client()
    client.send(PUT[:-5].replace(b"Content", b"Expect: 100-continue\r\nContent") + END[2:])
    origin = proxy.origin()
    head = origin.until(END)
    assert b"\r\nExpect: 100-continue\r\n" in head
    origin.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.until(END) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"abc")
    assert origin.until(3) == b"abc"
    origin.send(BUSY)
    assert origin.until(len(head) + 3) == head + b"abc"
    origin.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK)
    assert client.until(END).startswith(b"HTTP/1.1 103 ")
    assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")


def test_a_refusal_in_the_place_of_100_passes(proxy: Proxy) -> None:
    retrying(proxy)
    client = proxy.client()
    client.send(PUT[:-5].replace(b"Content", b"Expect: 100-continue\r\nContent") + END[2:])
    origin = proxy.origin()
    origin.until(END)
    origin.send(BUSY)
    assert client.all().endswith(b"busy")
    nothing_more(proxy, origin)


def test_a_status_after_an_interim_response_is_retried(proxy: Proxy) -> None:
    client, origin, first = asked(retrying(proxy))
    origin.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + BUSY)
    assert client.until(END) == b"HTTP/1.1 103 Early Hints\r\n\r\n"
    assert origin.until(len(first)) == first
    origin.send(OK)
    assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")
