"""When retries are made: the time of a try, the backoff, the budget."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hostproxy.mesh.retries import CONDITIONS
from hostproxy.net.connect import Address
from tests.exchange.proxy import END, GET, OK, Proxy
from tests.exchange.retrying import BUSY, POST, PUT, asked, fire, nothing_more, retrying, waiting
from tests.support import Loop, Peer, black_hole

Make = Callable[..., Proxy]


# Time

def test_a_try_without_a_response_in_its_time_is_given_up(proxy: Proxy) -> None:
    client, origin, first = asked(retrying(proxy, try_timeout=1.0))
    proxy.later(0.5)
    nothing_more(proxy, origin)
    proxy.later(1.0)
    origin.read()
    assert origin.end == "reset"
    second = proxy.origin()
    assert second.until(len(first)) == first
    second.send(OK)
    assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")
    assert (proxy.done[0].flags, proxy.done[0].reasons) == ("-", ("timeout",))


def test_what_may_not_be_sent_again_goes_on_and_may_succeed(proxy: Proxy) -> None:
    client, origin, _ = asked(retrying(proxy, try_timeout=1.5), POST)
    proxy.later(2.0)
    proxy.later(10.0)
    nothing_more(proxy, origin)
    assert client.nothing()
    origin.send(OK)
    assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")
    assert (proxy.done[0].flags, proxy.done[0].attempts) == ("-", 1)


def test_so_does_what_the_budget_does_not_allow(proxy: Proxy) -> None:
    retrying(proxy, try_timeout=1.0, backoff=100.0, backoff_limit=100.0)
    proxy.destination.random = lambda: 0.9
    clients = budget_spent(proxy, 4, 3)
    client, origin = clients[3]
    proxy.later(2.0)
    nothing_more(proxy, origin)
    origin.send(OK)
    assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")
    retries = proxy.done[0].retries
    assert retries is not None
    assert retries.over_budget == "timeout"
    for client, _ in clients:
        client.reset()


def test_every_try_has_its_time_and_the_last_one_is_504(proxy: Proxy) -> None:
    client, origin, _ = asked(retrying(proxy, try_timeout=1.0, attempts=2))
    for _ in range(2):
        proxy.later(0.5)
        nothing_more(proxy, origin)
        proxy.later(1.0)
        assert origin.all() == b""
        origin = proxy.origin()
        origin.until(END)
    proxy.later(1.5)
    assert client.until(END).startswith(b"HTTP/1.1 504 ")
    assert b"no response within the 1 s of try_timeout" in client.until(b"\n")
    nothing_more(proxy)
    assert (proxy.done[0].flags, proxy.done[0].attempts) == ("UT", 3)
    assert client.nothing()  # the connection stays
    proxy.passed = 0.0
    proxy.exchange(client)


def test_connecting_is_part_of_a_try_and_has_sent_nothing(make: Make, loop: Loop) -> None:
    """So any method goes on to the next endpoint."""
    proxy = retrying(make(refusing=1, connect=30.0), try_timeout=1.0)
    proxy.endpoints[0].address = Address.parse(black_hole(loop))
    client = proxy.client()
    client.send(POST)
    assert proxy.origins[0].pending() is None
    proxy.later(1.5)
    origin = proxy.origin()
    assert origin.until(END + b"abc")
    origin.send(OK)
    client.until(END + b"ok")
    assert proxy.done[0].reasons == ("timeout",)
    assert proxy.endpoints[0].open == 0


def test_an_endpoint_that_swallows_connections_rests_as_if_their_own_time_were_up(make: Make, loop: Loop) -> None:
    """Else every request that falls to it would lose the time of a try, for as long as it is dead."""
    proxy = retrying(make(refusing=1, connect=30.0), try_timeout=1.0)
    proxy.endpoints[0].address = Address.parse(black_hole(loop))
    client = proxy.client()
    client.send(GET)
    proxy.later(1.5)
    origin = proxy.origin()
    origin.until(END)
    origin.send(OK)
    client.until(END + b"ok")
    for _ in range(4):
        proxy.exchange(client, origin)
    assert [exchange.reasons for exchange in proxy.done] == [("timeout",), (), (), (), ()]
    assert proxy.metrics._events["upstream_connects_total"]["service", "timeout"] == 1


def test_so_does_an_upgrade_which_counts_as_a_retry_until_it_is_a_tunnel(make: Make, loop: Loop) -> None:
    proxy = retrying(make(refusing=1, connect=30.0), try_timeout=1.0)
    proxy.endpoints[0].address = Address.parse(black_hole(loop))
    client = proxy.client()
    client.send(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: chat\r\n\r\n")
    proxy.later(1.5)
    origin = proxy.origin()
    origin.until(END)
    assert proxy.policy is not None
    assert proxy.policy.retries == 1
    origin.send(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
    client.until(END)
    assert (proxy.policy.retries, proxy.policy.under_way) == (0, 1)


def test_connecting_in_vain_is_504_when_the_retries_are_used_up(make: Make, loop: Loop) -> None:
    proxy = retrying(make(origins=0, refusing=1, connect=30.0), try_timeout=1.0)
    proxy.endpoints[0].address = Address.parse(black_hole(loop))
    client = proxy.client()
    client.send(GET)
    proxy.later(1.5)
    assert client.nothing()
    proxy.later(1.5)
    assert client.until(END).startswith(b"HTTP/1.1 504 ")
    assert proxy.endpoints[0].open == 0


def test_the_time_of_a_try_does_not_count_while_the_request_is_coming(proxy: Proxy) -> None:
    client, origin, _ = asked(retrying(proxy, try_timeout=1.0), PUT.replace(b"3\r\n", b"6\r\n"))
    origin.until(b"abc")
    proxy.later(0.9)
    proxy.later(0.9)
    assert client.nothing()
    client.send(b"def")
    (connection,) = proxy.surroundings.connections
    assert connection.exchange is not None
    assert connection.exchange.retries is not None
    assert connection.exchange.retries.due == pytest.approx(proxy.loop.reactor.seconds() + 1.0, abs=0.5)
    proxy.later(0.5)
    second = proxy.origin()
    second.until(b"abcdef")
    second.send(OK)
    assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")


def test_it_does_not_count_from_the_response_s_head_on(proxy: Proxy) -> None:
    client, origin, _ = asked(retrying(proxy, on=CONDITIONS, try_timeout=1.0))
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    proxy.later(20.0)
    origin.send(b"ok")
    client.until(END + b"ok")
    assert proxy.done[0].flags == "-"


def test_so_does_one_that_took_the_whole_time_of_a_call(make: Make, loop: Loop) -> None:
    proxy = make(refusing=1, connect=30.0)
    proxy.timeout = 1.0
    proxy.endpoints[0].address = Address.parse(black_hole(loop))
    client = proxy.client()
    client.send(GET)
    proxy.later(1.5)
    assert client.until(END).startswith(b"HTTP/1.1 504 ")
    client.until(b"(UT)\n")
    proxy.timeout = 0.0
    origin = proxy.exchange(client)
    for _ in range(3):
        proxy.exchange(client, origin)
    assert proxy.endpoints[0].resting_until


def test_every_try_has_the_stream_s_idle_time_for_itself(make: Make) -> None:
    proxy = retrying(make(stream_idle=3.0), try_timeout=2.0)
    client, *_ = asked(proxy)
    proxy.later(2.5)
    again = proxy.origin()
    again.until(END)
    proxy.later(1.0)
    assert client.nothing()
    again.send(OK)
    client.until(END + b"ok")


def test_an_interim_response_does_not_end_it(proxy: Proxy) -> None:
    client, origin, _ = asked(retrying(proxy, try_timeout=1.0))
    origin.send(b"HTTP/1.1 102 Processing\r\n\r\n")
    client.until(END)
    proxy.later(1.5)
    second = proxy.origin()
    second.until(END)
    second.send(OK)
    assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")


def test_nor_does_half_a_head(proxy: Proxy) -> None:
    client, origin, first = asked(retrying(proxy, try_timeout=1.0))
    origin.send(OK[:20])
    proxy.later(1.5)
    assert origin.all() == b""
    second = proxy.origin()
    assert second.until(len(first)) == first
    second.send(OK)
    assert client.until(END + b"ok").count(b"HTTP/1.1") == 1


def test_a_try_that_was_answered_leaves_the_next_its_own_time(proxy: Proxy) -> None:
    client, origin, first = asked(retrying(proxy, on=CONDITIONS, try_timeout=1.0))
    proxy.later(0.6)
    origin.send(BUSY)
    assert origin.until(len(first)) == first
    proxy.later(0.7)  # the time of the first is over
    nothing_more(proxy, origin)
    proxy.later(0.7)
    assert client.until(END).startswith(b"HTTP/1.1 504 ")
    assert origin.all() == b""


def test_a_call_s_timeout_holds_for_all_its_tries(proxy: Proxy) -> None:
    proxy.timeout = 2.0
    client, origin, _ = asked(retrying(proxy, on=CONDITIONS, try_timeout=1.0, attempts=10))
    proxy.later(1.5)
    second = proxy.origin()
    second.until(END)
    proxy.later(1.0)
    assert client.until(END).startswith(b"HTTP/1.1 504 ")
    assert b"the call took longer than its timeout" in client.until(b"\n")
    nothing_more(proxy)
    assert second.all() == b""
    assert origin.all() == b""


# The backoff

def test_it_grows_and_is_random(proxy: Proxy) -> None:
    client, origin, first = asked(retrying(proxy, attempts=3, backoff=10.0, backoff_limit=40.0))
    for random, expected in ((0.5, 5.0), (0.1, 3.0), (0.75, 30.0)):
        proxy.destination.random = lambda random=random: random  # type: ignore[misc]
        origin.send(BUSY)
        assert waiting(proxy) == pytest.approx(expected, abs=0.5)
        assert client.nothing()
        nothing_more(proxy, origin)
        assert proxy.endpoints[0].in_flight == 0
        fire(proxy)
        assert origin.until(len(first)) == first
    origin.send(OK)
    client.until(END + b"ok")


def backing_off(proxy: Proxy, request: bytes = GET, **retry: object) -> tuple[Peer, Peer]:
    """A client whose request waits for its retry, and the origin."""
    retrying(proxy, **{"backoff": 10.0, "backoff_limit": 10.0, **retry})
    proxy.destination.random = lambda: 0.9
    client, origin, _ = asked(proxy, request)
    origin.send(BUSY)
    assert waiting(proxy) > 5.0
    assert proxy.policy is not None
    assert proxy.policy.retries == 1
    return client, origin


def test_a_client_that_goes_meanwhile(proxy: Proxy) -> None:
    client, origin = backing_off(proxy, PUT)
    client.reset()
    assert not proxy.loop.reactor.getDelayedCalls()
    nothing_more(proxy, origin)
    (exchange,) = proxy.done
    assert (exchange.status, exchange.flags, exchange.attempts) == (0, "DC", 1)
    assert proxy.policy is not None
    assert (proxy.policy.under_way, proxy.policy.retries) == (0, 0)


def test_a_client_that_half_closes_gets_its_answer(proxy: Proxy) -> None:
    client, origin = backing_off(proxy)
    client.finish()
    fire(proxy)
    origin.until(END)
    origin.send(OK)
    assert client.all().endswith(END + b"ok")
    assert client.end == "fin"


def test_a_worker_that_drains_finishes_what_waits(proxy: Proxy) -> None:
    client, origin = backing_off(proxy)
    proxy.surroundings.draining = True
    for connection in list(proxy.surroundings.connections):
        connection.drain()
    assert client.nothing()
    fire(proxy)
    origin.until(END)
    origin.send(OK)
    answer = client.all()
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"ok")


def test_one_whose_time_is_up_cuts_it(proxy: Proxy) -> None:
    client, origin = backing_off(proxy)
    for connection in list(proxy.surroundings.connections):
        connection.expel()
    client.all()
    assert client.end == "reset"
    assert not proxy.loop.reactor.getDelayedCalls()
    nothing_more(proxy, origin)
    assert proxy.done[0].flags == "LR"


def test_the_time_of_a_try_does_not_count_in_it(proxy: Proxy) -> None:
    client, origin = backing_off(proxy, on=CONDITIONS, try_timeout=1.0)
    proxy.later(5.0)
    assert client.nothing()
    fire(proxy)
    origin.until(END)
    origin.send(OK)
    client.until(END + b"ok")
    assert proxy.done[0].reasons == ("status",)


def test_the_call_s_timeout_ends_it(proxy: Proxy) -> None:
    proxy.timeout = 20.0
    client, origin = backing_off(proxy)
    proxy.later(21.0)
    assert client.until(END).startswith(b"HTTP/1.1 504 ")
    client.until(b"\n")
    assert not proxy.loop.reactor.getDelayedCalls()
    nothing_more(proxy, origin)
    assert proxy.done[0].flags == "UT"
    assert client.nothing()


def test_a_retry_whose_time_was_up_when_it_came_is_not_begun(proxy: Proxy) -> None:
    proxy.timeout = 20.0
    client, origin = backing_off(proxy)
    (connection,) = proxy.surroundings.connections
    assert connection.exchange is not None
    connection.exchange.deadline = proxy.loop.reactor.seconds()
    fire(proxy)
    assert client.until(END).startswith(b"HTTP/1.1 504 ")
    nothing_more(proxy, origin)


def test_one_that_could_not_begin_in_time_is_not_waited_for(proxy: Proxy) -> None:
    proxy.timeout = 5.0
    retrying(proxy, backoff=10.0, backoff_limit=10.0)
    proxy.destination.random = lambda: 0.9
    client, origin, _ = asked(proxy)
    origin.send(BUSY)
    assert client.until(END + b"busy").startswith(b"HTTP/1.1 503 Busy")
    nothing_more(proxy, origin)
    (exchange,) = proxy.done
    assert (exchange.flags, exchange.attempts) == ("-", 1)
    client.send(GET)
    origin.until(END)
    origin.close()  # the race with keep-alive is not waited for either way
    second = proxy.origin()
    second.until(END)
    second.close()
    assert client.until(END).startswith(b"HTTP/1.1 502 ")


def test_what_the_client_sends_ahead_waits_too(proxy: Proxy) -> None:
    client, origin = backing_off(proxy)
    client.send(GET.replace(b"/ ", b"/second ") * 2)
    nothing_more(proxy, origin)
    fire(proxy)
    assert origin.until(END).startswith(b"GET / ")
    for answer in (b"one", b"two", b"six"):
        origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + answer)
        assert client.until(END + answer).startswith(b"HTTP/1.1 200 ")
        if answer != b"six":
            assert origin.until(END).startswith(b"GET /second ")
    assert len(proxy.done) == 3


def test_http_1_0(proxy: Proxy) -> None:
    client, origin = backing_off(proxy, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    fire(proxy)
    origin.until(END)
    origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    assert client.all().endswith(END + b"ok")


# The budget

def budget_spent(proxy: Proxy, count: int, waiting: int) -> list[tuple[Peer, Peer]]:
    """``count`` requests under way, ``waiting`` of which wait for a retry: as many as may."""
    clients = [asked(proxy)[:2] for _ in range(count)]
    for _, origin in clients[:waiting]:
        origin.send(BUSY)
    assert len(proxy.loop.reactor.getDelayedCalls()) == waiting
    return clients


@pytest.mark.parametrize(("count", "budget", "allowed"), [(5, 20, 3), (10, 50, 5), (10, 0, 3), (6, 100, 6)])
def test_so_many_retries_at_once_and_no_more(proxy: Proxy, count: int, budget: int, allowed: int) -> None:
    retrying(proxy, backoff=100.0, backoff_limit=100.0, budget=budget)
    proxy.destination.random = lambda: 0.9
    clients = budget_spent(proxy, count, allowed)
    for client, origin in clients[allowed:]:
        origin.send(BUSY)
        assert client.until(END + b"busy").startswith(b"HTTP/1.1 503 Busy")
        nothing_more(proxy, origin)
    assert [exchange.flags for exchange in proxy.done] == ["-"] * (count - allowed)
    for exchange in proxy.done:
        assert exchange.retries is not None
        assert exchange.retries.over_budget == "status"
    assert len(proxy.loop.reactor.getDelayedCalls()) == allowed
    for client, _ in clients:
        client.reset()


def test_a_retry_counts_until_its_response_and_not_longer(proxy: Proxy) -> None:
    retrying(proxy, attempts=2)
    clients = [asked(proxy)[:2] for _ in range(4)]
    for _, origin in clients[:3]:
        origin.send(BUSY)
        origin.until(END)  # the retry is under way
    assert proxy.policy is not None
    assert proxy.policy.retries == 3
    clients[0][1].send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nlong")
    assert (proxy.policy.retries, proxy.policy.under_way) == (2, 4)
    clients[1][1].send(BUSY)
    clients[1][1].until(END)  # its second retry takes no second place
    assert proxy.policy.retries == 2
    clients[3][1].send(BUSY)
    clients[3][1].until(END)
    assert proxy.policy.retries == 3
    for client, _ in clients:
        client.reset()
    assert (proxy.policy.retries, proxy.policy.under_way) == (0, 0)


def test_the_budget_holds_for_resets_too(proxy: Proxy) -> None:
    retrying(proxy, backoff=100.0, backoff_limit=100.0)
    proxy.destination.random = lambda: 0.9
    clients = budget_spent(proxy, 4, 3)
    clients[3][1].close()
    assert clients[3][0].until(END).startswith(b"HTTP/1.1 502 ")
    retries = proxy.done[0].retries
    assert retries is not None
    assert retries.over_budget == "reset"
    for client, _ in clients:
        client.reset()
