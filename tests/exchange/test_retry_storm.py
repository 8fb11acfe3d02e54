"""Retries among everything else that happens to requests."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest

from hostproxy.exchange.exchange import Exchange
from hostproxy.mesh.retries import CONDITIONS, IDEMPOTENT
from tests.exchange.proxy import END, OK, Proxy
from tests.exchange.retrying import BUSY, asked, retrying
from tests.support import Loop, Peer

Make = Callable[..., Proxy]


@pytest.mark.parametrize("seed", range(6))
def test_every_client_gets_its_own_answer_and_every_count_comes_back_to_zero(
    make: Make, loop: Loop, seed: int
) -> None:
    """Hundreds of requests against origins that answer, fail, break off, hang and vanish, from clients that do too."""
    random = Random(seed)
    proxy = make(origins=2, refusing=1)
    retrying(proxy, attempts=3, on=CONDITIONS, try_timeout=1.0, backoff=0.001, backoff_limit=0.002, budget=40)
    proxy.destination.random = random.random
    policy = proxy.policy
    assert policy is not None
    clients: dict[Peer, bytes] = {}  # and the answer that each waits for
    origins: list[Peer] = []
    tries: dict[bytes, int] = {}
    answered = number = 0
    answers = {
        "ok": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b",
        "busy": BUSY,
        "half busy": BUSY[:-2],
        "half": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    }

    def serve(origin: Peer) -> None:
        origin.read()
        while origin.received:
            head, separator, rest = origin.received.partition(END)
            if not separator or (b"Content-Length: 4000" in head and len(rest) < 4000):
                return
            name = head.split(b" ", 2)[1]
            if b"Content-Length: 4000" in head:
                assert rest[:4000] == name[-1:] * 4000
                rest = rest[4000:]
            origin.received = rest
            tries[name] = tries.get(name, 0) + 1
            kinds = ("ok", "busy", "half busy", "close", "reset", "hang", "half")
            kind = random.choices(kinds, (5, 3, 1, 1, 1, 1, 1))[0]
            with suppress(ConnectionError):  # who asked may have gone
                origin.push(answers.get(kind, b"") % ((len(name), name) if kind == "ok" else ()))
            if kind in ("half", "close", "reset"):
                origins.remove(origin)
                origin.close() if kind == "close" else origin.reset()
                return

    for _ in range(300):
        what = random.random()
        if what < 0.4 and len(clients) < 20:
            client = proxy.client()
            number += 1
            name = b"/%d" % number
            method = random.choice((b"GET", b"PUT", b"POST"))
            if method == b"GET":
                client.push(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % name)
            else:
                head = b"%b %b HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n" % (method, name)
                client.push(head + name[-1:] * random.choice((4000, 1000)))
                if random.random() < 0.8:
                    loop.step()
                    with suppress(ConnectionError):
                        client.push(name[-1:] * 3000)  # behind a whole request, that is one which is no request
            clients[client] = name
        elif what < 0.45 and clients:
            client = random.choice(list(clients))
            del clients[client]
            client.reset()
        elif what < 0.5:
            proxy.later(1.5)
            proxy.passed = 0.0
        elif what < 0.52 and proxy.surroundings.connections:
            random.choice(list(proxy.surroundings.connections)).expel()
        loop.settle(2)
        for listening in proxy.origins:
            if (origin := listening.pending()) is not None:
                origins.append(origin)
        for origin in list(origins):
            serve(origin)
        for client, name in list(clients.items()):
            client.read()
            if client.end or END in client.received:
                head, _, body = client.received.partition(END)
                if head.startswith(b"HTTP/1.1 200 ") and not client.end:
                    assert name.startswith(body) or b"half" in body
                    answered += body == name
                del clients[client]
                client.close()
        under_way = [one.exchange for one in proxy.surroundings.connections if one.exchange is not None]
        assert policy.under_way == len(under_way)
        assert 0 <= policy.retries <= policy.under_way
    assert answered > 20
    assert any("status" in exchange.reasons for exchange in proxy.done)
    for exchange in proxy.done:
        assert sum(reason != "connect-failure" for reason in exchange.reasons) <= 3 + 3
        name = exchange.head.target
        if exchange.head.method.decode() not in IDEMPOTENT:
            assert tries.get(name, 0) <= 1, "sent again without permission"
        assert tries.get(name, 0) <= exchange.attempts


def test_requests_leave_nothing_to_the_garbage_collector(proxy: Proxy) -> None:
    retrying(proxy, on=CONDITIONS, try_timeout=1.0, attempts=1)
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(one, Exchange) for one in gc.get_objects())
        for answers in ((OK,), (BUSY, OK), (BUSY, BUSY), (b"", OK), (b"", b"")):
            client, origin, _ = asked(proxy)
            for number, answer in enumerate(answers):
                if number:
                    origin = origin if answers[0] else proxy.origin()
                    origin.until(END)
                origin.send(answer) if answer else origin.close()
            client.until(END)
            origin.close()
        assert len(proxy.done) == 5
        proxy.done.clear()
        assert sum(isinstance(one, Exchange) for one in gc.get_objects()) == before
    finally:
        gc.enable()
