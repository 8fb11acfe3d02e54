from __future__ import annotations

from collections.abc import Callable

import pytest

from hostproxy.enforce.retry import MAX_ATTEMPTS
from hostproxy.exchange.exchange import Exchange
from hostproxy.net.connect import Address
from tests.exchange.proxy import END, GET, OK, Proxy
from tests.support import Loop, Peer, black_hole

Make = Callable[..., Proxy]

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
PUT = POST.replace(b"POST", b"PUT")


def raced(proxy: Proxy, request: bytes, ending: str, before: bytes = b"") -> tuple[Peer, Peer]:
    """The endpoint ends its kept connection just as ``request`` is written into it; returns client and endpoint."""
    client = proxy.client()
    origin = proxy.exchange(client)
    client.send(request)
    origin.until(END)
    origin.push(before)
    getattr(origin, ending)()
    return client, origin


# The race with the endpoint's keep-alive timeout


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("request_", [GET, PUT], ids=["GET", "PUT"])
def test_an_idempotent_request_is_repeated_on_a_fresh_connection(
    proxy: Proxy, request_: bytes, ending: str
) -> None:
    client, _ = raced(proxy, request_, ending)
    second = proxy.origin()
    assert second.until(END).startswith(request_[:4])
    if request_ is PUT:
        assert second.until(3) == b"abc"
    second.send(OK)
    assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")
    exchange = proxy.done[-1]
    assert (exchange.attempts, exchange.flags) == (2, "-")


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_post_is_never_sent_twice(proxy: Proxy, ending: str) -> None:
    client, _ = raced(proxy, POST, ending)
    assert client.until(END).startswith(b"HTTP/1.1 502 ")
    assert proxy.origins[0].pending() is None
    assert proxy.done[-1].attempts == 1


def test_a_request_whose_body_is_still_coming_is_not_repeated(proxy: Proxy) -> None:
    client, _ = raced(proxy, PUT.replace(b"3\r\n", b"10\r\n"), "reset")
    assert client.all().startswith(b"HTTP/1.1 502 ")
    assert proxy.origins[0].pending() is None


def test_nothing_is_repeated_after_the_first_byte_of_a_response(proxy: Proxy) -> None:
    client, _ = raced(proxy, GET, "close", before=b"HTTP")
    assert client.until(END).startswith(b"HTTP/1.1 502 ")
    assert proxy.origins[0].pending() is None


def test_nor_after_an_interim_response(proxy: Proxy) -> None:
    client, _ = raced(proxy, GET, "close", before=b"HTTP/1.1 103 Early Hints\r\n\r\n")
    client.until(b"HTTP/1.1 502 ")
    assert proxy.origins[0].pending() is None


def test_it_is_repeated_once_and_not_for_ever(proxy: Proxy) -> None:
    client, _ = raced(proxy, GET, "close")
    second = proxy.origin()
    second.until(END)
    second.close()
    assert client.until(END).startswith(b"HTTP/1.1 502 ")
    assert proxy.origins[0].pending() is None


def test_the_repetition_does_not_take_another_old_connection(proxy: Proxy) -> None:
    clients = [proxy.client(), proxy.client()]
    for client in clients:
        client.send(GET)
    origins = [proxy.origin(), proxy.origin()]
    for origin in origins:
        origin.until(END)
        origin.send(OK)
    assert proxy.endpoints[0].idle == 2
    clients[0].send(GET)
    used = next(origin for origin in origins if not origin.nothing())
    used.until(END)
    used.close()
    fresh = proxy.origin()
    fresh.until(END)
    fresh.send(OK)
    clients[0].until(END + b"ok")


# Endpoints that can't be reached


def test_a_refused_connection_leads_to_the_next_endpoint(make: Make) -> None:
    proxy = make(refusing=1)
    client = proxy.client()
    client.send(POST)
    origin = proxy.origin()
    assert origin.until(END + b"abc")
    origin.send(OK)
    client.until(END + b"ok")
    exchange = proxy.done[0]
    assert (exchange.status, exchange.flags, exchange.attempts) == (200, "-", 2)
    assert exchange.upstream == proxy.origins[0].address


def test_a_body_that_was_coming_meanwhile_is_whole_at_the_next_endpoint(make: Make, loop: Loop) -> None:
    proxy = make(refusing=1)
    client = proxy.client()
    body = bytes(range(256)) * 4000
    client.push(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:1000])
    client.send(body[1000:])
    origin = proxy.origin()
    origin.until(END)
    assert origin.until(len(body)) == body
    origin.send(OK)
    client.until(END + b"ok")


def test_without_any_that_can_be_reached_it_is_503_and_says_why(make: Make) -> None:
    proxy = make(origins=0, refusing=2)
    client = proxy.client()
    client.send(GET)
    reply = client.until(END)
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert b"error=connection_refused" in reply
    assert b"refused" in client.until(b"\n")
    exchange = proxy.done[0]
    assert (exchange.flags, exchange.attempts) == ("UF", 2)
    assert client.nothing()  # the connection stays: the request was whole


def test_at_most_so_many_are_tried(make: Make) -> None:
    proxy = make(origins=0, refusing=10)
    client = proxy.client()
    client.send(GET)
    client.until(b"HTTP/1.1 503 ")
    assert proxy.done[0].attempts == MAX_ATTEMPTS


def test_without_endpoints_it_is_503_at_once(make: Make) -> None:
    proxy = make(origins=0)
    client = proxy.client()
    client.send(GET)
    assert client.until(END).startswith(b"HTTP/1.1 503 ")
    assert [exchange.flags for exchange in proxy.done] == ["UH"]


def test_an_endpoint_that_refused_rests_and_is_probed(make: Make, loop: Loop) -> None:
    proxy = make(refusing=1)
    client = proxy.client()
    client.send(GET)
    origin = proxy.origin()
    origin.until(END)
    origin.send(OK)
    client.until(END + b"ok")
    for _ in range(4):
        proxy.exchange(client, origin)
    assert [exchange.attempts for exchange in proxy.done[1:]] == [1, 1, 1, 1]
    proxy.endpoints[0].resting_until = loop.reactor.now  # the rest is over
    for _ in range(4):
        proxy.exchange(client, origin)
    assert sorted(exchange.attempts for exchange in proxy.done[5:]) == [1, 1, 1, 2]


def test_a_black_hole_costs_the_connect_time_and_the_next_endpoint_answers(make: Make, loop: Loop) -> None:
    proxy = make(refusing=1, connect=1.0)
    proxy.endpoints[0].address = Address.parse(black_hole(loop))
    client = proxy.client()
    client.send(GET)
    assert proxy.origins[0].pending() is None
    proxy.later(1.5)
    origin = proxy.origin()
    origin.until(END)
    origin.send(OK)
    client.until(END + b"ok")


def test_too_many_connections_to_one_endpoint(make: Make) -> None:
    proxy = make(upstream_connections=2)
    clients = [proxy.client() for _ in range(3)]
    for client in clients:
        client.send(GET)
    assert clients[2].until(END).startswith(b"HTTP/1.1 503 ")
    assert [exchange.flags for exchange in proxy.done] == ["UO"]
    origin = proxy.origin()
    origin.until(END)
    origin.send(OK)
    clients[2].until(b"\n")
    proxy.exchange(clients[2], origin)


# The client goes, or time does, at every stage


@pytest.mark.parametrize("ending", ["reset", "timeout"])
def test_while_an_endpoint_is_being_connected_to(proxy: Proxy, ending: str) -> None:
    proxy.timeout = 2.0
    client = proxy.client()
    client.push(GET)
    proxy.loop.step()
    (connection,) = proxy.surroundings.connections
    assert connection.exchange is not None
    assert connection.exchange.waiting is not None
    if ending == "reset":
        client.reset()
        assert [exchange.flags for exchange in proxy.done] == ["DC"]
    else:
        connection.exchange.deadline = 0.0
        connection.expired(proxy.loop.reactor.now)
        assert client.until(END).startswith(b"HTTP/1.1 504 ")
    assert proxy.endpoints[0].open == 0
    assert proxy.endpoints[0].in_flight == 0


def test_load_is_counted_while_and_only_while_requests_are_under_way(make: Make) -> None:
    proxy = make(origins=2)
    clients = [proxy.client() for _ in range(4)]
    for client in clients:
        client.send(GET)
    assert sorted(endpoint.in_flight for endpoint in proxy.endpoints) == [2, 2]
    clients[0].reset()
    assert sum(endpoint.in_flight for endpoint in proxy.endpoints) == 3
    for connection in list(proxy.surroundings.connections):
        connection.expel()
    assert sum(endpoint.in_flight for endpoint in proxy.endpoints) == 0


def test_a_fault_while_the_response_is_passed_on_costs_that_exchange_only(proxy: Proxy) -> None:
    client = proxy.client()
    client.send(GET)
    origin = proxy.origin()
    origin.until(END)
    (connection,) = proxy.surroundings.connections

    def fault(*arguments: object) -> None:
        raise RuntimeError("a fault of ours")

    exchange = connection.exchange
    assert isinstance(exchange, Exchange)
    exchange.server = type(
        "Faulty", (), {"respond": fault, "refuse": connection.refuse, "cut": connection.cut}
    )()
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    client.all()
    assert client.end == "reset"
    assert proxy.endpoints[0].open == 0
    proxy.exchange(proxy.client())
