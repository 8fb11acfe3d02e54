from __future__ import annotations

from collections.abc import Callable

import pytest

from hostproxy.exchange.client import MAX_INFORMATIONAL
from tests.exchange.proxy import END, GET, OK, Proxy
from tests.support import Loop, Peer

Make = Callable[..., Proxy]

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def asked(proxy: Proxy, request: bytes = GET) -> tuple[Peer, Peer]:
    """A client that has sent ``request``, and the origin that has read its head."""
    client = proxy.client()
    client.send(request)
    origin = proxy.origin()
    origin.until(END)
    return client, origin


def is_kept(proxy: Proxy) -> bool:
    return proxy.endpoints[0].idle == 1


# Bodies of responses


@pytest.mark.parametrize("whole", [True, False])
def test_a_body_by_length(proxy: Proxy, whole: bool) -> None:
    client, origin = asked(proxy)
    for piece in [OK] if whole else [OK[index : index + 1] for index in range(len(OK))]:
        origin.send(piece)
    answer = client.until(b"\r\n\r\nok")
    assert b"\r\nContent-Length: 2\r\n" in answer
    assert is_kept(proxy)
    assert (proxy.done[0].sent, proxy.done[0].flags) == (2, "-")


@pytest.mark.parametrize("whole", [True, False])
def test_a_body_in_chunks_with_trailers(proxy: Proxy, whole: bool) -> None:
    data = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;ext=1\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 7\r\nX-Sum: 8\r\n\r\n"
    )
    client, origin = asked(proxy)
    for piece in [data] if whole else [data[index : index + 1] for index in range(len(data))]:
        origin.send(piece)
    head = client.until(END)
    assert b"\r\nTransfer-Encoding: chunked\r\n" in head
    body = client.until(b"X-Sum: 8\r\n\r\n")
    assert b"ext" not in body
    assert body.endswith(b"0\r\nX-Sum: 7\r\nX-Sum: 8\r\n\r\n")
    assert is_kept(proxy)
    assert proxy.done[0].sent == 7


def test_a_body_until_close_becomes_chunked(proxy: Proxy) -> None:
    client, origin = asked(proxy)
    origin.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
    origin.send(b"def")
    origin.close()
    head = client.until(END)
    assert b"\r\nTransfer-Encoding: chunked\r\n" in head
    assert client.until(b"0\r\n\r\n") == b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
    assert client.nothing()  # the client's connection stays
    assert not is_kept(proxy)
    assert proxy.done[0].flags == "-"


def test_an_empty_body_until_close(proxy: Proxy) -> None:
    client, origin = asked(proxy)
    origin.push(b"HTTP/1.0 200 OK\r\n\r\n")
    origin.close()
    client.until(END)
    assert client.until(b"0\r\n\r\n") == b"0\r\n\r\n"


@pytest.mark.parametrize(
    "body", [b"\r\n\r\nabcdef", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"]
)
def test_for_http_1_0_it_ends_with_the_connection(proxy: Proxy, body: bytes) -> None:
    client, origin = asked(proxy, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    origin.push(
        b"HTTP/1.1 200 OK\r\n" + body.removeprefix(b"\r\n") if body[0] == 84 else b"HTTP/1.1 200 OK" + body
    )
    origin.close()
    answer = client.all()
    assert b"chunked" not in answer
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(END + b"abcdef")
    assert client.end == "fin"


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
    ],
)
def test_answers_without_a_body_keep_both_connections(proxy: Proxy, request_: bytes, answer: bytes) -> None:
    client, origin = asked(proxy, request_)
    origin.send(answer)
    head = client.until(END)
    assert (b"Content-Length: 1000" in head) == (b"Content-Length: 1000" in answer)
    assert client.nothing()
    assert is_kept(proxy)
    proxy.exchange(client, origin)


@pytest.mark.parametrize(
    "half",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    ],
)
@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("minor", [b"1", b"0"])
def test_a_truncated_response_is_cut_where_it_broke(
    proxy: Proxy, half: bytes, ending: str, minor: bytes
) -> None:
    client, origin = asked(proxy, b"GET / HTTP/1.%b\r\nHost: a\r\n\r\n" % minor)
    origin.push(half)
    getattr(origin, ending)()
    answer = client.all()
    assert client.end == "reset"
    assert not answer.endswith(b"0\r\n\r\n")
    (exchange,) = proxy.done
    assert exchange.status == 200
    assert exchange.flags == "UC"


def test_a_reset_is_no_end_of_a_body_until_close(proxy: Proxy) -> None:
    client, origin = asked(proxy)
    origin.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    client.until(b"half\r\n")
    origin.reset()
    assert b"0\r\n\r\n" not in client.all()
    assert client.end == "reset"


def test_a_reset_noticed_by_sending_the_request_s_body_is_no_end_either(proxy: Proxy) -> None:
    client, origin = asked(proxy, UPLOAD)
    origin.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    client.until(b"half\r\n")
    client.push(b"d")  # read first in the same batch: the write meets the reset
    origin.reset()
    client.all()
    assert client.end == "reset"


# Connections


def test_surplus_bytes_cost_the_connection(proxy: Proxy) -> None:
    client, origin = asked(proxy)
    origin.send(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
    client.until(END + b"ok")
    assert not is_kept(proxy)
    client.send(GET)
    proxy.origin().send(OK)
    assert b"forged" not in client.until(END + b"ok")


def test_bytes_while_unused_cost_the_connection(proxy: Proxy) -> None:
    client = proxy.client()
    origin = proxy.exchange(client)
    assert is_kept(proxy)
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
    assert not is_kept(proxy)
    client.send(GET)
    proxy.origin().send(OK)
    assert b"forged" not in client.until(END + b"ok")


@pytest.mark.parametrize("ending", ["close", "reset", "finish"])
def test_an_unused_connection_that_the_endpoint_ends_is_forgotten(proxy: Proxy, ending: str) -> None:
    client = proxy.client()
    origin = proxy.exchange(client)
    getattr(origin, ending)()
    assert not is_kept(proxy)
    assert proxy.endpoints[0].open == 0
    proxy.exchange(client)


def test_connection_close_of_the_endpoint_is_kept(proxy: Proxy) -> None:
    client, origin = asked(proxy)
    origin.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    assert b"close" not in client.until(END + b"ok")
    assert origin.all() == b""
    assert not is_kept(proxy)
    assert client.nothing()


def test_an_unused_connection_is_closed_after_a_while(make: Make) -> None:
    proxy = make(upstream_idle=30.0, idle=1000.0)
    client = proxy.client()
    origin = proxy.exchange(client)
    proxy.later(29.0)
    assert is_kept(proxy)
    proxy.later(2.0)
    assert not is_kept(proxy)
    assert origin.all() == b""


def test_time_in_use_does_not_count_as_unused(make: Make) -> None:
    proxy = make(upstream_idle=30.0, idle=1000.0)
    client = proxy.client()
    origin = proxy.exchange(client)
    client.send(GET)
    origin.until(END)
    proxy.later(100.0)
    origin.send(OK)
    client.until(END + b"ok")
    assert is_kept(proxy)
    proxy.exchange(client, origin)


def test_so_many_unused_connections_are_kept_and_no_more(make: Make) -> None:
    proxy = make(upstream_idle_connections=2)
    clients = [proxy.client() for _ in range(4)]
    for client in clients:
        client.send(GET)
    origins = [proxy.origin() for _ in clients]
    for origin in origins:
        origin.until(END)
        origin.send(OK)
    assert proxy.endpoints[0].idle == 2
    assert proxy.endpoints[0].open == 2


def test_a_client_that_goes_costs_the_endpoint_s_connection(proxy: Proxy) -> None:
    client, origin = asked(proxy)
    client.reset()
    origin.all()
    assert origin.end == "reset"
    assert not is_kept(proxy)


# Interim responses


def test_100_continue_end_to_end(proxy: Proxy) -> None:
    client = proxy.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    origin = proxy.origin()
    assert b"\r\nExpect: 100-continue\r\n" in origin.until(END)
    origin.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.until(END) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"abc")
    assert origin.until(3) == b"abc"
    origin.send(OK)
    assert client.until(END).startswith(b"HTTP/1.1 200 ")
    assert is_kept(proxy)


def test_several_interim_responses_and_the_final_one_in_one_piece(proxy: Proxy) -> None:
    client, origin = asked(proxy)
    origin.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 2 + OK)
    assert client.until(END) == b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    client.until(END)
    assert client.until(END).startswith(b"HTTP/1.1 200 ")
    assert is_kept(proxy)


def test_interim_responses_never_go_to_http_1_0(proxy: Proxy) -> None:
    client, origin = asked(proxy, b"GET / HTTP/1.0\r\n\r\n")
    origin.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
    answer = client.all()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_interim_responses_without_end_are_refused(proxy: Proxy) -> None:
    client, origin = asked(proxy)
    origin.send(b"HTTP/1.1 102 Processing\r\n\r\n" * (MAX_INFORMATIONAL + 1))
    answer = client.until(b"HTTP/1.1 502 ")
    assert answer.count(b" 102 ") == MAX_INFORMATIONAL
    assert [exchange.flags for exchange in proxy.done] == ["UPE"]


def test_their_number_counts_for_each_request(proxy: Proxy) -> None:
    client, origin = asked(proxy)
    many = b"HTTP/1.1 102 Processing\r\n\r\n" * MAX_INFORMATIONAL
    origin.send(many + OK)
    client.until(END + b"ok")
    client.send(GET)
    origin.until(END)
    origin.send(many + OK)
    client.until(END + b"ok")


# Requests' bodies


def test_a_body_streams(proxy: Proxy) -> None:
    client, origin = asked(proxy, UPLOAD)
    assert origin.until(3) == b"abc"
    client.send(b"defg")
    assert origin.until(4) == b"defg"
    client.send(b"hij")
    assert origin.until(3) == b"hij"
    origin.send(OK)
    client.until(END + b"ok")
    assert is_kept(proxy)
    assert proxy.done[0].received == 10


@pytest.mark.parametrize("whole", [True, False])
def test_a_chunked_body_with_trailers(proxy: Proxy, whole: bool) -> None:
    body = b"3;ext\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n"
    client = proxy.client()
    client.send(CHUNKED + body if whole else CHUNKED)
    origin = proxy.origin()
    assert b"\r\nTransfer-Encoding: chunked\r\n" in origin.until(END)
    if not whole:
        for byte in body:
            client.send(bytes((byte,)))
    got = origin.until(b"X-Sum: 7\r\n\r\n")
    assert got.endswith(b"0\r\nX-Sum: 7\r\n\r\n")
    assert b"ext" not in got
    origin.send(OK)
    client.until(END + b"ok")
    assert is_kept(proxy)
    assert proxy.done[0].received == 7


def test_a_request_right_behind_a_chunked_body(proxy: Proxy) -> None:
    client = proxy.client()
    client.send(CHUNKED + b"3\r\nabc\r\n")
    origin = proxy.origin()
    origin.until(b"abc\r\n")
    client.send(b"0\r\n\r\n" + GET)
    origin.until(b"0\r\n\r\n")
    origin.send(OK)
    client.until(END + b"ok")
    assert origin.until(END).startswith(b"GET / ")
    origin.send(OK)
    client.until(END + b"ok")


def test_a_request_right_behind_a_body_by_length(proxy: Proxy) -> None:
    client, origin = asked(proxy, UPLOAD)
    client.send(b"defghij" + GET)
    origin.until(10)
    origin.send(OK)
    client.until(END + b"ok")
    assert origin.until(END).startswith(b"GET / ")
    origin.send(OK)
    client.until(END + b"ok")


def test_a_large_body_arrives_whole_through_a_slow_origin(proxy: Proxy, loop: Loop) -> None:
    body = bytes(range(256)) * 30_000
    client = proxy.client()
    client.push(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
    origin = proxy.origin()
    sent = 0

    def move() -> bool:
        nonlocal sent
        sent += client.push(body[sent : sent + 300_000])
        loop.settle(3)
        origin.read(100_000)
        return len(origin.received) > len(body)

    loop.until(move)
    assert origin.received.endswith(body)
    origin.send(OK)
    client.until(END + b"ok")
    assert is_kept(proxy)


def test_an_early_final_response_ends_the_upload(proxy: Proxy) -> None:
    client, origin = asked(proxy, UPLOAD)
    origin.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
    client.push(b"more")
    answer = client.all()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"no")
    assert client.end == "fin"
    assert not is_kept(proxy)
    assert proxy.done[0].flags == "-"


def test_an_early_response_and_an_upload_that_ends_after_all(proxy: Proxy) -> None:
    client, origin = asked(proxy, UPLOAD)
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
    client.until(b"ha")
    client.send(b"defghij")
    assert origin.until(10) == b"abcdefghij"
    origin.send(b"lf")
    assert client.all().endswith(b"lf")
    assert proxy.done[0].received == 10


def test_an_endpoint_that_resets_during_an_upload(proxy: Proxy) -> None:
    client, origin = asked(proxy, UPLOAD)
    origin.reset()
    answer = client.all()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert client.end == "fin"
    assert proxy.origins[0].pending() is None  # sent once
    assert [exchange.flags for exchange in proxy.done] == ["UR"]


def test_an_endpoint_that_answers_and_resets_during_an_upload(proxy: Proxy) -> None:
    """What it said before is heard, though our next write fails."""
    client, origin = asked(proxy, UPLOAD)
    origin.push(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
    client.push(b"d")
    origin.reset()
    assert client.all().startswith(b"HTTP/1.1 413 ")


# What is no answer


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/2 200\r\n\r\n",
    ],
)
def test_malformed_responses_are_refused(proxy: Proxy, answer: bytes) -> None:
    client, origin = asked(proxy)
    origin.send(answer)
    reply = client.until(END)
    assert reply.startswith(b"HTTP/1.1 502 ")
    assert b"error=http_protocol_error" in reply
    assert [exchange.flags for exchange in proxy.done] == ["UPE"]
    assert not is_kept(proxy)


def test_a_chunk_that_is_malformed_after_the_head_cuts_the_client(proxy: Proxy) -> None:
    client, origin = asked(proxy)
    origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    client.until(b"abc")
    origin.send(b"zz\r\n")
    client.all()
    assert client.end == "reset"


def test_half_a_head_and_an_end(proxy: Proxy) -> None:
    client, origin = asked(proxy)
    origin.push(b"HTTP/1.1 200 OK\r\nContent-Le")
    origin.close()
    assert client.until(END).startswith(b"HTTP/1.1 502 ")
    assert [exchange.flags for exchange in proxy.done] == ["UC"]


def test_an_end_without_a_byte_on_a_fresh_connection(proxy: Proxy) -> None:
    client, origin = asked(proxy)
    origin.close()
    assert client.until(END).startswith(b"HTTP/1.1 502 ")
    assert [exchange.flags for exchange in proxy.done] == ["UC"]
    assert proxy.origins[0].pending() is None


# Upgrades

UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_an_upgrade_hands_both_streams_over_with_what_was_sent_ahead(proxy: Proxy) -> None:
    client = proxy.client()
    client.send(UPGRADE + b"ahead")
    origin = proxy.origin()
    head = origin.until(END)
    assert b"\r\nUpgrade: websocket\r\n" in head
    assert b"\r\nConnection: Upgrade\r\n" in head
    origin.send(SWITCHING + b"first words")
    assert client.until(END).startswith(b"HTTP/1.1 101 ")
    ((_, ahead, exchange, surplus),) = proxy.tunnels
    assert (ahead, surplus) == (b"ahead", b"first words")
    assert not proxy.surroundings.connections
    assert exchange.status == 101
    assert proxy.done == []  # it lasts as long as the tunnel
    assert exchange.client is not None
    exchange.client.leave().abort()
    exchange.client = None
    assert exchange.endpoint is not None
    assert exchange.endpoint.open == 1  # the tunnel is a connection of the endpoint until its end
    exchange.endpoint.open -= 1


def test_a_tunnel_keeps_a_connection_that_was_unused_before(proxy: Proxy) -> None:
    client = proxy.client()
    origin = proxy.exchange(client)
    client.send(UPGRADE)
    origin.until(END)
    origin.send(SWITCHING)
    assert client.until(END).startswith(b"HTTP/1.1 101 ")
    exchange = proxy.tunnels[0][2]
    assert exchange.client is not None
    stream = exchange.client.leave()
    proxy.later(proxy.limits.upstream_idle + 1.0)
    assert stream.fd >= 0
    assert exchange.endpoint is not None
    assert exchange.endpoint.open == 1
    exchange.client = None
    exchange.endpoint.open -= 1


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (GET, SWITCHING),
        (UPGRADE, SWITCHING.replace(b"websocket", b"h2c")),
        (UPGRADE, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        (UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"), SWITCHING),
    ],
)
def test_a_switch_that_nobody_asked_for_is_refused(proxy: Proxy, request_: bytes, answer: bytes) -> None:
    client, origin = asked(proxy, request_)
    origin.send(answer)
    assert client.until(END).startswith(b"HTTP/1.1 502 ")
    assert proxy.tunnels == []
    origin.all()
    assert origin.end == "reset"


def test_a_switch_before_the_request_s_end_is_refused(proxy: Proxy) -> None:
    request = UPGRADE.replace(b"GET", b"POST").replace(b"Host", b"Content-Length: 10\r\nHost")
    client, origin = asked(proxy, request + b"abc")
    origin.send(SWITCHING)
    assert client.all().startswith(b"HTTP/1.1 502 ")
    assert proxy.tunnels == []


def test_a_refused_upgrade_is_an_ordinary_answer(proxy: Proxy) -> None:
    client, origin = asked(proxy, UPGRADE)
    origin.send(OK)
    client.until(END + b"ok")
    assert is_kept(proxy)
    proxy.exchange(client, origin)
