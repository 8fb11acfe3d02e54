from __future__ import annotations

from collections.abc import Callable

import pytest

from hostproxy.net.stream import READ_SIZE
from tests.exchange.proxy import END, GET, OK, Proxy
from tests.support import Loop, narrow_pair, unix_pair

Make = Callable[..., Proxy]


def test_requests_one_after_the_other_on_one_connection(proxy: Proxy) -> None:
    client = proxy.client()
    origin = proxy.exchange(client)
    proxy.exchange(client, origin)
    assert [exchange.status for exchange in proxy.done] == [200, 200]
    assert client.nothing()


def test_a_request_byte_by_byte(proxy: Proxy) -> None:
    client = proxy.client()
    for byte in b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc":
        client.send(bytes((byte,)))
    origin = proxy.origin()
    assert origin.until(END + b"abc").startswith(b"POST /x HTTP/1.1\r\n")
    origin.send(OK)
    client.until(b"ok")


def test_pipelined_requests_are_answered_in_order(proxy: Proxy) -> None:
    client = proxy.client()
    client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(5)))
    origin = proxy.origin()
    for number in range(5):
        assert origin.until(END).startswith(b"GET /%d " % number)
        assert origin.nothing()
        origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
    for number in range(5):
        client.until(END)
        assert client.until(1) == b"%d" % number
    assert len(proxy.done) == 5


def test_what_is_sent_ahead_is_bounded(proxy: Proxy, loop: Loop) -> None:
    """While one request is under way, at most one read of what follows is taken."""
    client = proxy.client()
    client.send(GET)
    proxy.origin().until(END)
    for _ in range(200):
        client.push(GET * 2000)
        loop.settle(2)
    (connection,) = proxy.surroundings.connections
    assert len(connection._buffer) <= READ_SIZE
    assert not loop.busy


def test_a_client_that_reads_no_answers_gets_no_more_of_them(proxy: Proxy, loop: Loop) -> None:
    """Pipelining without reading must not fill the memory with answers."""
    client = proxy.client()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + bytes(50000)
    requests = GET * 2000
    client.push(requests[: len(requests) // 2])
    origin = proxy.origin()
    worst = served = 0
    for _ in range(1500):
        loop.settle(2)
        origin.read()
        for _ in range(origin.received.count(END)):
            origin.push(answer)
            served += 1
        origin.received = b""
        if proxy.surroundings.connections:
            worst = max(worst, *(one.stream.backlog for one in proxy.surroundings.connections))
    assert 0 < worst <= 2 * READ_SIZE
    assert not loop.busy
    while served < 1000:
        assert client.read() or not client.end
        client.received = b""
        loop.settle(3)
        origin.read()
        for _ in range(origin.received.count(END)):
            origin.send(answer)
            served += 1
        origin.received = b""
    assert client.end == ""


def test_pipelined_refusals_are_bounded_too(proxy: Proxy, loop: Loop) -> None:
    proxy.refuse(403)
    client = proxy.client(narrow_pair)
    while client.push(GET * 100):
        loop.settle(2)
    (connection,) = proxy.surroundings.connections
    assert 0 < connection.stream.backlog <= READ_SIZE
    client.until(b"HTTP/1.1 403")


def test_a_half_closed_client_gets_all_its_answers(proxy: Proxy) -> None:
    client = proxy.client()
    client.push(GET * 3)
    client.finish()
    origin = proxy.origin()
    for _ in range(3):
        origin.until(END)
        origin.send(OK)
    assert client.all().count(b"\r\n\r\nok") == 3
    assert client.end == "fin"
    assert [exchange.flags for exchange in proxy.done] == ["-"] * 3


def test_also_on_a_unix_socket(proxy: Proxy) -> None:
    client = proxy.client(unix_pair)
    client.push(GET * 2)
    client.finish()
    origin = proxy.origin()
    for _ in range(2):
        origin.until(END)
        origin.send(OK)
    assert client.all().count(b"\r\n\r\nok") == 2


def test_half_closed_within_a_request_is_no_request(proxy: Proxy) -> None:
    client = proxy.client()
    client.push(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    origin = proxy.origin()
    origin.until(b"abc")
    client.finish()
    client.all()
    assert client.end == "reset"
    origin.all()
    assert origin.end == "reset"
    (exchange,) = proxy.done
    assert (exchange.status, exchange.flags) == (0, "DC")


def test_half_closed_behind_a_whole_request_and_half_of_another(proxy: Proxy) -> None:
    client = proxy.client()
    client.push(GET + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    client.finish()
    origin = proxy.origin()
    origin.until(END)
    origin.send(OK)
    client.all()
    assert [exchange.flags for exchange in proxy.done] == ["-", "DC"]


def test_half_closed_within_a_head(proxy: Proxy) -> None:
    client = proxy.client()
    client.push(b"GET / HT")
    client.finish()
    assert client.all() == b""
    assert proxy.done == []


def test_an_idle_client_that_closes(proxy: Proxy) -> None:
    client = proxy.client()
    proxy.exchange(client)
    client.close()
    assert not proxy.surroundings.connections


@pytest.mark.parametrize("leave", ["reset", "close"])
def test_a_client_that_goes_while_its_request_is_under_way(proxy: Proxy, leave: str) -> None:
    client = proxy.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    origin = proxy.origin()
    origin.until(b"abc")
    getattr(client, leave)()
    origin.all()
    assert origin.end == "reset"
    assert [exchange.flags for exchange in proxy.done] == ["DC"]


def test_a_client_that_resets_while_it_waits(proxy: Proxy) -> None:
    client = proxy.client()
    client.send(GET + GET)  # the second makes it paused
    client.send(GET)
    origin = proxy.origin()
    client.reset()
    origin.all()
    assert origin.end == "reset"
    assert [exchange.flags for exchange in proxy.done] == ["DC"]


def test_connection_close_is_kept(proxy: Proxy) -> None:
    client = proxy.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    origin = proxy.origin()
    assert b"close" not in origin.until(END)
    origin.send(OK)
    answer = client.all()
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"ok")
    assert client.end == "fin"


def test_what_follows_a_close_is_dropped_without_harm_to_the_answer(proxy: Proxy) -> None:
    client = proxy.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET)
    origin = proxy.origin()
    origin.until(END)
    client.send(GET)
    origin.send(OK)
    assert client.all().endswith(b"ok")
    assert client.end == "fin"
    assert len(proxy.done) == 1


def test_http_1_0_closes_unless_asked(proxy: Proxy) -> None:
    client = proxy.client()
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    origin = proxy.origin()
    origin.until(END)
    origin.send(OK)
    assert client.all().endswith(b"ok")

    client = proxy.client()
    client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    origin.until(END)
    origin.send(OK)
    assert b"\r\nConnection: keep-alive\r\n" in client.until(b"ok")
    assert client.nothing()


def test_a_head_that_takes_too_long(make: Make) -> None:
    proxy = make(head_time=10.0)
    client = proxy.client()
    client.send(b"GET / HTTP/1.1\r\n")
    proxy.later(9.0)
    assert client.nothing()
    client.send(b"Host: a\r\n")  # a byte now and then buys no time
    proxy.later(2.0)
    assert client.all().startswith(b"HTTP/1.1 408 ")
    assert proxy.refused == ["slow-head"]


def test_a_connection_without_a_request_gets_the_time_of_a_head(make: Make) -> None:
    proxy = make(head_time=10.0, idle=60.0)
    client = proxy.client()
    proxy.later(11.0)
    assert client.all() == b""


def test_an_idle_connection_is_closed(make: Make) -> None:
    proxy = make(idle=60.0)
    client = proxy.client()
    proxy.exchange(client)
    proxy.later(59.0)
    assert client.nothing()
    proxy.later(2.0)
    assert client.all() == b""
    assert client.end == "fin"


def test_a_head_after_an_idle_time_gets_its_own_time(make: Make) -> None:
    proxy = make(idle=60.0, head_time=10.0)
    client = proxy.client()
    proxy.exchange(client)
    client.send(b"GET /")
    proxy.later(11.0)
    assert client.all().startswith(b"HTTP/1.1 408 ")


def test_a_call_that_takes_longer_than_its_timeout(proxy: Proxy) -> None:
    proxy.timeout = 2.0
    client = proxy.client()
    client.send(GET)
    origin = proxy.origin()
    origin.until(END)
    proxy.later(3.0)
    assert client.until(END).startswith(b"HTTP/1.1 504 ")
    origin.all()
    assert origin.end == "reset"
    (exchange,) = proxy.done
    assert (exchange.status, exchange.flags) == (504, "UT")


def test_a_call_whose_response_does_not_end_in_time_is_cut(proxy: Proxy) -> None:
    proxy.timeout = 2.0
    client = proxy.client()
    client.send(GET)
    origin = proxy.origin()
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    client.until(b"half")
    proxy.later(3.0)
    client.all()
    assert client.end == "reset"
    assert [exchange.flags for exchange in proxy.done] == ["UT"]


def test_a_timeout_of_one_call_is_not_that_of_the_next(proxy: Proxy) -> None:
    proxy.timeout = 2.0
    client = proxy.client()
    origin = proxy.exchange(client)
    proxy.later(1.5)
    proxy.timeout = 0.0
    client.send(GET)
    origin.until(END)
    proxy.later(30.0)
    origin.send(OK)
    client.until(b"ok")


def test_a_request_in_which_nothing_moves(make: Make) -> None:
    proxy = make(stream_idle=300.0)
    client = proxy.client()
    client.send(GET)
    proxy.origin().until(END)
    proxy.later(299.0)
    assert client.nothing()
    proxy.later(2.0)
    assert client.until(END).startswith(b"HTTP/1.1 504 ")
    assert [exchange.flags for exchange in proxy.done] == ["SI"]


def test_an_upload_that_stops(make: Make) -> None:
    proxy = make(stream_idle=300.0)
    client = proxy.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    origin = proxy.origin()
    origin.until(b"abc")
    proxy.later(301.0)
    assert client.all().startswith(b"HTTP/1.1 408 ")
    origin.all()
    assert origin.end == "reset"


def test_a_malformed_request_is_refused_and_nothing_after_it_is_read(proxy: Proxy) -> None:
    client = proxy.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n" + GET)
    answer = client.all()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in answer
    assert proxy.refused == ["duplicate-length"]
    assert proxy.origins[0].pending() is None


@pytest.mark.parametrize("first", [b"", b"3\r\nabc\r\n"])
def test_a_bad_chunk_is_refused_and_the_endpoint_s_connection_lost(proxy: Proxy, first: bytes) -> None:
    client = proxy.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + first)
    origin = proxy.origin()
    origin.until(END)
    client.send(b"zz\r\n")
    assert client.all().startswith(b"HTTP/1.1 400 ")
    origin.all()
    assert origin.end == "reset"
    assert [exchange.flags for exchange in proxy.done] == ["DPE"]


def test_a_bad_chunk_right_behind_the_head_reaches_no_endpoint(proxy: Proxy) -> None:
    client = proxy.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert client.all().startswith(b"HTTP/1.1 400 ")
    assert proxy.origins[0].pending() is None


def test_a_bad_chunk_behind_the_response_s_head_cuts_it(proxy: Proxy) -> None:
    client = proxy.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    origin = proxy.origin()
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    client.until(b"half")
    client.send(b"zz\r\n")
    client.all()
    assert client.end == "reset"


def test_a_refusal_keeps_the_connection_when_the_request_is_whole(proxy: Proxy) -> None:
    proxy.refuse(403)
    client = proxy.client()
    for _ in range(2):
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        head = client.until(END)
        assert head.startswith(b"HTTP/1.1 403 ")
        assert b"Connection: close" not in head
        client.until(b"\n")


def test_a_refusal_closes_while_the_request_s_body_is_coming(proxy: Proxy) -> None:
    proxy.refuse(403)
    client = proxy.client()
    client.push(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + bytes(1000))
    client.send(bytes(100_000))
    answer = client.all()
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert client.end == "fin"


def test_a_refused_connect_closes_and_what_is_behind_it_is_no_request(proxy: Proxy) -> None:
    """A client that did not wait has sent bytes that were meant for the tunnel."""
    proxy.refuse(403)
    client = proxy.client()
    client.send(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n" + GET)
    answer = client.all()
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in answer
    assert len(proxy.done) == 1


def test_refusals_of_head_have_no_body(proxy: Proxy) -> None:
    proxy.refuse(404)
    client = proxy.client()
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.until(END).startswith(b"HTTP/1.1 404 ")
    assert client.nothing()


def test_a_fault_in_the_path_costs_that_connection(proxy: Proxy) -> None:
    def fault(exchange: object) -> bool:
        raise RuntimeError("a fault of ours")

    proxy.on_begin = fault  # type: ignore[assignment]
    client, other = proxy.client(), proxy.client()
    client.send(GET)
    client.all()
    assert client.end == "reset"
    proxy.on_begin = lambda exchange: False
    proxy.exchange(other)


def test_draining_answers_and_closes(proxy: Proxy) -> None:
    client, idle, half = proxy.client(), proxy.client(), proxy.client()
    client.send(GET)
    origin = proxy.origin()
    origin.until(END)
    half.send(b"GET / HTTP/1.1\r\n")
    proxy.surroundings.draining = True
    for connection in list(proxy.surroundings.connections):
        connection.drain()
    assert idle.all() == b""
    origin.send(OK)
    answer = client.all()
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"ok")
    half.send(b"Host: a\r\n\r\n")
    origin.until(END)
    origin.send(OK)
    assert half.all().endswith(b"ok")
    assert not proxy.surroundings.connections


def test_who_was_told_that_the_connection_stays_may_send_another_request_while_draining(proxy: Proxy) -> None:
    clients = [proxy.client(), proxy.client()]
    origins = []
    for client in clients:
        client.send(GET)
        origins.append(proxy.origin())
        origins[-1].until(END)
        origins[-1].send(OK[:-1])
        assert b"Connection: close" not in client.until(END)
        client.until(1)
    proxy.surroundings.draining = True
    for client, origin in zip(clients, origins, strict=True):
        origin.send(OK[-1:])
        assert client.until(1) == b"k"
        assert client.nothing()
    clients[0].send(GET)
    origins[1].until(END)  # the connection that was used last
    origins[1].send(OK)
    assert b"\r\nConnection: close\r\n" in clients[0].all()
    proxy.later(1.0)
    assert clients[1].all() == b""
    assert clients[1].end == "fin"


def test_expelling_cuts_visibly(proxy: Proxy) -> None:
    client = proxy.client()
    client.send(GET)
    origin = proxy.origin()
    origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    client.until(b"abc")
    for connection in list(proxy.surroundings.connections):
        connection.expel()
    client.all()
    assert client.end == "reset"
    assert [exchange.flags for exchange in proxy.done] == ["LR"]


def test_a_client_that_reads_its_last_answer_slowly_gets_all_of_it(proxy: Proxy, loop: Loop) -> None:
    client = proxy.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    origin = proxy.origin()
    body = bytes(range(256)) * 40_000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    data = head + body
    sent = 0
    for _ in range(300):
        sent += origin.push(data[sent : sent + 100_000])
        loop.settle(2)
    assert sent < len(data)  # it is held back
    assert not loop.busy

    def move() -> bool:
        nonlocal sent
        sent += origin.push(data[sent : sent + 100_000])
        client.read()
        return bool(client.end)

    loop.until(move)
    assert client.received.endswith(body)
    assert client.end == "fin"


def test_a_last_answer_in_one_piece_is_waited_for_too(proxy: Proxy, loop: Loop) -> None:
    """A drain must not end the process while half of it is still here."""
    client = proxy.client(narrow_pair)
    body = bytes(range(256)) * 240
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    origin = proxy.origin()
    origin.until(END)
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    (connection,) = proxy.surroundings.connections
    assert connection.stream.backlog > 0
    assert client.all().endswith(body)
    assert client.end == "fin"
    loop.until(lambda: not proxy.surroundings.connections)


def test_memory_is_bounded_when_the_client_does_not_read(proxy: Proxy, loop: Loop) -> None:
    client = proxy.client()
    client.send(GET)
    origin = proxy.origin()
    origin.push(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    for _ in range(300):
        origin.push(bytes(200_000))
        loop.settle(2)
        for connection in proxy.surroundings.connections:
            assert connection.stream.backlog <= READ_SIZE + 200
    assert origin.push(b"x") == 0


def test_memory_is_bounded_when_the_origin_does_not_read(proxy: Proxy, loop: Loop) -> None:
    client = proxy.client()
    client.push(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
    proxy.origin()
    for _ in range(300):
        client.push(bytes(200_000))
        loop.settle(2)
    (connection,) = proxy.surroundings.connections
    assert connection.exchange is not None
    assert connection.exchange.client is not None
    assert connection.exchange.client.stream.backlog <= READ_SIZE  # type: ignore[attr-defined]
    assert client.push(b"x") == 0
    assert not loop.busy
