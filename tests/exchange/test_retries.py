"""Retries by policy: which they are, and what the client and the origins see of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hostproxy.mesh.retries import CONDITIONS
from tests.exchange.proxy import END, GET, OK, Proxy
from tests.exchange.retrying import BUSY, POST, PUT, asked, nothing_more, retrying
from tests.support import Peer

Make = Callable[..., Proxy]

MESSAGES = {"GET": GET, "PUT": PUT, "POST": POST, "HEAD": GET.replace(b"GET", b"HEAD")}


# Statuses

@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_response_that_is_to_be_retried_is_thrown_away(proxy: Proxy, status: int, method: str) -> None:
    client, origin, first = asked(retrying(proxy), MESSAGES[method])
    origin.send(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
    assert origin.until(len(first)) == first  # on the same connection: the response was whole
    origin.send(OK if method != "HEAD" else OK[:-2])
    answer = client.until(END + (b"ok" if method != "HEAD" else b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert client.nothing()
    nothing_more(proxy, origin)
    (exchange,) = proxy.done
    assert (exchange.status, exchange.flags, exchange.attempts, exchange.reasons) == (200, "-", 2, ("status",))
    assert (exchange.received, exchange.sent) == (3 if method == "PUT" else 0, 2 if method != "HEAD" else 0)


@pytest.mark.parametrize("status", [200, 404, 409, 429, 500, 501])
def test_other_statuses_pass(proxy: Proxy, status: int) -> None:
    client, origin, _ = asked(retrying(proxy))
    origin.send(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
    assert client.until(END).startswith(b"HTTP/1.1 %d X\r\n" % status)
    nothing_more(proxy, origin)
    assert (proxy.done[0].flags, proxy.done[0].reasons) == ("-", ())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 X\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 503 X\r\n\r\nuntil the connection ends",
    ],
    ids=["length", "chunked", "close"],
)
def test_one_that_is_not_whole_costs_its_connection(proxy: Proxy, answer: bytes) -> None:
    client, origin, first = asked(retrying(proxy))
    origin.send(answer)
    assert origin.all() == b""
    assert origin.end == "reset"
    second = proxy.origin()
    assert second.until(len(first)) == first
    second.send(OK)
    assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")
    assert client.nothing()
    assert proxy.endpoints[0].idle == 1


def test_one_in_chunks_that_is_whole_gives_its_connection_back(proxy: Proxy) -> None:
    client, origin, first = asked(retrying(proxy))
    origin.send(b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert origin.until(len(first)) == first
    origin.send(OK)
    client.until(END + b"ok")


def test_one_with_connection_close_costs_it(proxy: Proxy) -> None:
    client, origin, first = asked(retrying(proxy))
    origin.send(BUSY.replace(b"Content", b"Connection: close\r\nContent"))
    second = proxy.origin()
    assert second.until(len(first)) == first
    second.send(OK)
    client.until(END + b"ok")


def test_the_last_response_passes_as_it_is_and_says_that_retries_are_used_up(proxy: Proxy) -> None:
    client, origin, first = asked(retrying(proxy, attempts=2), PUT)
    for number in range(3):
        if number:
            assert origin.until(len(first)) == first
        origin.send(BUSY.replace(b"busy", b"no %d" % number))
    answer = client.until(b"no 2")
    assert answer.startswith(b"HTTP/1.1 503 Busy\r\n")
    assert b"no 0" not in answer
    assert b"Proxy-Status" not in answer  # it is the upstream's own
    assert client.nothing()  # the connection stays
    nothing_more(proxy, origin)
    (exchange,) = proxy.done
    assert (exchange.status, exchange.flags, exchange.attempts) == (503, "URX", 3)
    assert exchange.details == "retries are used up: the last of 3 tries was answered 503"
    assert exchange.answer is not None
    assert exchange.reasons == ("status", "status")


def test_ten_retries_are_ten(proxy: Proxy) -> None:
    """More than there may be attempts to connect."""
    client, origin, first = asked(retrying(proxy, attempts=10))
    for number in range(11):
        if number:
            assert origin.until(len(first)) == first
        origin.send(BUSY)
    client.until(b"busy")
    nothing_more(proxy, origin)
    assert proxy.done[0].attempts == 11


@pytest.mark.parametrize(("method", "retried"), [("POST", False), ("GET", True)])
def test_only_methods_that_may_be_repeated_are(proxy: Proxy, method: str, retried: bool) -> None:
    client, origin, first = asked(retrying(proxy, on=CONDITIONS), MESSAGES[method])
    origin.send(BUSY)
    if retried:
        assert origin.until(len(first)) == first
        origin.send(OK)
        assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")
    else:
        assert client.until(END + b"busy").startswith(b"HTTP/1.1 503 ")
        nothing_more(proxy, origin)
        assert (proxy.done[0].flags, proxy.done[0].attempts) == ("-", 1)


def test_those_that_policy_names_are_repeated_with_their_body(proxy: Proxy) -> None:
    client, origin, first = asked(retrying(proxy, methods=("POST",), statuses=(429,), on=()), POST)
    assert first.endswith(b"abc")
    origin.send(BUSY.replace(b"503", b"429"))
    assert origin.until(len(first)) == first
    origin.send(OK)
    client.until(END + b"ok")
    origin = proxy.exchange(client, origin, OK)  # and GET, which it does not name, is not
    client.send(GET)
    origin.until(END)
    origin.send(BUSY.replace(b"503", b"429"))
    assert client.until(END + b"busy").startswith(b"HTTP/1.1 429 ")
    nothing_more(proxy, origin)


def test_an_upgrade_is_not_asked_for_twice(proxy: Proxy) -> None:
    request = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: chat\r\n\r\n"
    client, origin, _ = asked(retrying(proxy, on=CONDITIONS), request)
    origin.send(BUSY)
    assert client.until(END + b"busy").startswith(b"HTTP/1.1 503 ")
    nothing_more(proxy, origin)


def test_an_upgrade_under_a_policy_becomes_a_tunnel(proxy: Proxy) -> None:
    request = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: chat\r\n\r\n"
    client, origin, _ = asked(retrying(proxy, try_timeout=1.0), request)
    origin.send(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
    client.until(END)
    proxy.later(5.0)
    assert len(proxy.tunnels) == 1
    assert not client.end
    assert proxy.policy is not None
    assert proxy.policy.under_way == 1


def test_without_a_policy_no_status_is_retried(proxy: Proxy) -> None:
    client, origin, _ = asked(proxy)
    origin.send(BUSY)
    assert client.until(END + b"busy").startswith(b"HTTP/1.1 503 ")
    nothing_more(proxy, origin)
    assert proxy.done[0].flags == "-"


# To which endpoint

def test_endpoints_that_have_not_had_the_request_come_first_and_then_any(make: Make) -> None:
    proxy = retrying(make(origins=3), attempts=5)
    client = proxy.client()
    client.send(GET)
    seen = []
    connections: dict[int, Peer] = {}
    for _ in range(6):
        ((number, origin),) = proxy.loop.until(
            lambda: [
                (number, peer)
                for number, listening in enumerate(proxy.origins)
                if (peer := listening.pending()) is not None
            ]
            or [(number, peer) for number, peer in connections.items() if peer.read()]
        )
        connections[number] = origin
        seen.append(number)
        origin.until(END)
        origin.send(BUSY)
    assert sorted(seen[:3]) == [0, 1, 2]
    assert set(seen[3:]) <= {0, 1, 2}
    client.until(b"busy")
    assert proxy.done[0].attempts == 6


def test_the_other_one_of_two_gets_every_retry(make: Make) -> None:
    proxy = retrying(make(origins=2, balance="random"))
    for _ in range(8):
        client = proxy.client()
        client.send(GET)
        found = [origin.pending() for origin in proxy.origins]
        number = found.index(None)  # the one that has not been asked
        first = next(origin for origin in found if origin is not None)
        first.until(END)
        first.send(BUSY.replace(b"Content", b"Connection: close\r\nContent"))
        second = proxy.origin(number)
        second.until(END)
        second.send(OK.replace(b"Content", b"Connection: close\r\nContent"))
        client.until(END + b"ok")


def test_one_that_rests_does_not_come_before_one_that_had_the_request(make: Make) -> None:
    proxy = retrying(make(origins=2))
    proxy.endpoints[1].resting_until = proxy.loop.reactor.seconds() + 100
    client, origin, first = asked(proxy)
    origin.send(BUSY)
    assert origin.until(len(first)) == first
    origin.send(OK)
    client.until(END + b"ok")


def test_a_retry_that_can_t_connect_goes_on_to_the_next_as_any_request(make: Make) -> None:
    """Connecting is no retry: neither takes from the other."""
    proxy = retrying(make(origins=1, refusing=3), attempts=1)
    client = proxy.client()
    client.send(GET)
    origin = proxy.origin()
    first = origin.until(END)
    assert proxy.endpoints[3].in_flight == 1
    before = len([one for one in proxy.endpoints if one.resting_until])
    for endpoint in proxy.endpoints:
        endpoint.resting_until = 0.0
    origin.send(BUSY)
    assert origin.until(len(first)) == first
    origin.send(BUSY)
    assert client.until(END + b"busy").startswith(b"HTTP/1.1 503 Busy")
    (exchange,) = proxy.done
    assert exchange.flags == "URX"
    assert exchange.reasons.count("status") == 1
    assert exchange.reasons.count("connect-failure") == exchange.attempts - 2 >= before


def test_when_no_endpoint_can_be_reached_again_it_says_so(proxy: Proxy) -> None:
    client, origin, _ = asked(retrying(proxy))
    proxy.origins[0].close()
    origin.send(b"HTTP/1.1 503 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert client.until(END).startswith(b"HTTP/1.1 503 ")
    assert b"no endpoint of service could be reached" in client.until(b"\n")
    assert (proxy.done[0].flags, proxy.done[0].reasons) == ("UF", ("status", "connect-failure"))


# Connections that are lost

@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_request_whose_fresh_connection_was_lost_is_sent_again(proxy: Proxy, method: str, ending: str) -> None:
    client, origin, first = asked(retrying(proxy), MESSAGES[method])
    getattr(origin, ending)()
    second = proxy.origin()
    assert second.until(len(first)) == first
    second.send(OK)
    client.until(END + b"ok")
    assert (proxy.done[0].flags, proxy.done[0].reasons) == ("-", ("reset",))


def test_again_and_again_as_often_as_policy_says(proxy: Proxy) -> None:
    client, origin, _ = asked(retrying(proxy, attempts=2))
    for _ in range(2):
        origin.close()
        origin = proxy.origin()
        origin.until(END)
    origin.close()
    assert client.until(END).startswith(b"HTTP/1.1 502 ")
    nothing_more(proxy)
    assert (proxy.done[0].flags, proxy.done[0].attempts) == ("UC", 3)


@pytest.mark.parametrize(
    ("request_", "retry"),
    [(POST, {}), (GET, {"on": ("gateway-error",)}), (GET, {"methods": ("POST",)})],
    ids=["POST", "not on reset", "other methods"],
)
def test_what_policy_does_not_permit_is_not(proxy: Proxy, request_: bytes, retry: dict[str, object]) -> None:
    client, origin, _ = asked(retrying(proxy, **retry), request_)
    origin.close()
    assert client.until(END).startswith(b"HTTP/1.1 502 ")
    nothing_more(proxy)
    assert proxy.done[0].attempts == 1


@pytest.mark.parametrize("before", [b"H", b"HTTP/1.1 503 X\r\nContent-Le", b"HTTP/1.1 103 Early\r\n\r\n"])
def test_nothing_is_sent_again_after_a_byte_of_a_response(proxy: Proxy, before: bytes) -> None:
    client, origin, _ = asked(retrying(proxy, on=CONDITIONS))
    origin.push(before)
    origin.close()
    client.until(b"HTTP/1.1 502 ")
    nothing_more(proxy)


def test_nor_after_the_first_byte_went_to_the_client(proxy: Proxy) -> None:
    client, origin, _ = asked(retrying(proxy, on=CONDITIONS))
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    origin.reset()
    assert client.all().endswith(b"half")
    assert client.end == "reset"
    nothing_more(proxy)


def test_a_malformed_response_is_no_reason(proxy: Proxy) -> None:
    client, origin, _ = asked(retrying(proxy, on=CONDITIONS))
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")
    assert client.until(END).startswith(b"HTTP/1.1 502 ")
    nothing_more(proxy)


def test_the_race_with_keep_alive_takes_no_retry(proxy: Proxy) -> None:
    """What is safe without a policy stays so with one, besides what it allows."""
    retrying(proxy, attempts=1)
    client = proxy.client()
    origin = proxy.exchange(client)
    client.send(GET)
    origin.until(END)
    origin.close()
    second = proxy.origin()
    second.until(END)
    second.close()
    third = proxy.origin()
    third.until(END)
    third.close()
    assert client.until(END).startswith(b"HTTP/1.1 502 ")
    assert (proxy.done[-1].attempts, proxy.done[-1].reasons) == (3, ("reset", "reset"))


def test_nor_do_retries_take_from_it(proxy: Proxy) -> None:
    retrying(proxy, attempts=10, on=("gateway-error",))
    client, origin, _ = asked(proxy)
    for _ in range(6):
        origin.send(BUSY)
        origin.until(END)
    origin.close()
    fresh = proxy.origin()
    fresh.until(END)
    fresh.send(OK)
    client.until(END + b"ok")
    assert proxy.done[0].reasons == ("status",) * 6 + ("reset",)


def test_a_retry_after_a_lost_connection_takes_no_old_one_of_that_endpoint(proxy: Proxy) -> None:
    """A server that has gone has left all of them behind."""
    retrying(proxy, methods=("POST",))
    clients = [proxy.client(), proxy.client()]
    for client in clients:
        client.send(GET)
    origins = [proxy.origin(), proxy.origin()]
    for origin in origins:
        origin.until(END)
        origin.send(OK)
    assert proxy.endpoints[0].idle == 2
    clients[0].until(END + b"ok")
    clients[0].send(POST)
    used = next(origin for origin in origins if not origin.nothing())
    used.until(END + b"abc")
    used.close()
    fresh = proxy.origin()
    fresh.until(END + b"abc")
    fresh.send(OK)
    clients[0].until(END + b"ok")
