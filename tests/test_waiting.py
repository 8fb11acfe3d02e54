"""Requests on the HTTP proxy port for services that the supervisor has to look up first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hostproxy import waiting as waiting_module
from hostproxy.mesh.retries import Retry
from tests.datapath import Host, make_host, place, service, snapshot
from tests.support import Listening, Loop, Peer, loop

__all__ = ["loop", "make_host"]

Make = Callable[..., Host]

END = b"\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n"
SECONDS = 2.0


class Scene:
    """A host that knows no service, and the origin of one that it may hear of."""

    def __init__(self, make: Make, loop: Loop, **more: Any) -> None:
        self.loop = loop
        self.origin = Listening(loop)
        self.host = make(snapshot(**{"first_use": SECONDS, **more}))
        self.address = self.host.listen("proxy")

    def ask(self, request: bytes = GET) -> Peer:
        client = self.host.client(self.address)
        client.send(request)
        return client

    def come(self, name: str = "payments", **policy: Any) -> None:
        """The supervisor has found it."""
        self.host.change(services={name: service(name, place(self.origin.address, secure=False), **policy)})

    def serve(self, wanted: bytes = END) -> bytes:
        """The origin answers one request, and says what it was."""
        there = self.origin.accept()
        request = there.until(wanted)
        there.send(OK)
        return request

    @property
    def waiting(self) -> object:
        return self.host.traffic.describe()["waiting"]


@pytest.fixture
def scene(make_host: Make, loop: Loop) -> Scene:
    return Scene(make_host, loop)


def status(client: Peer) -> int:
    return int(client.until(END).split(b" ")[1])


@pytest.mark.parametrize("name", [b"payments", b"PAYMENTS.mesh:80"])
def test_a_request_waits_for_its_service_and_then_goes_there(scene: Scene, name: bytes) -> None:
    client = scene.ask(b"GET /x HTTP/1.1\r\nHost: %b\r\n\r\n" % name)
    assert client.nothing()
    assert scene.host.asked == ["payments"]
    assert scene.waiting == 1
    scene.come()
    assert scene.serve().startswith(b"GET /x HTTP/1.1\r\n")
    client.until(END + b"ok")
    assert scene.waiting == 0
    (record,) = scene.host.records.lines
    assert (record.status, record.flags, record.dest) == (200, "-", "payments")


def test_the_time_of_a_try_does_not_count_meanwhile(scene: Scene) -> None:
    client = scene.ask()
    (connection,) = scene.host.traffic._surroundings.connections
    assert connection.exchange is not None
    connection.exchange.started -= 1.5
    scene.come(retry=Retry(try_timeout=1.0))
    there = scene.origin.accept()
    there.until(END)
    scene.host.later(0.5)
    assert there.nothing()  # nor is it given up
    there.send(OK)
    client.until(END + b"ok")
    assert scene.host.records.lines[0].attempts == 1


def test_a_whole_snapshot_may_bring_it_too(scene: Scene) -> None:
    client = scene.ask()
    scene.host.apply(services={"payments": service("payments", place(scene.origin.address, secure=False))})
    scene.serve()
    client.until(END + b"ok")


def test_the_supervisor_is_asked_once_for_all_who_wait(scene: Scene) -> None:
    clients = [scene.ask(b"GET /%d HTTP/1.1\r\nHost: payments\r\n\r\n" % number) for number in range(5)]
    scene.ask(b"GET / HTTP/1.1\r\nHost: stock\r\n\r\n")
    assert scene.host.asked == ["payments", "stock"]
    scene.come()
    for number in range(5):
        assert scene.serve().startswith(b"GET /%d " % number)
    for client in clients:
        client.until(END + b"ok")
    assert scene.waiting == 1


def test_a_body_waits_in_the_client(scene: Scene) -> None:
    body = b"x" * 10_000_000
    client = scene.ask(b"POST / HTTP/1.1\r\nHost: payments\r\nContent-Length: %d\r\n\r\n" % len(body))
    sent = 0
    for _ in range(50):
        sent += client.push(body[sent:])
        scene.loop.settle()
    (connection,) = scene.host.traffic._surroundings.connections
    assert connection.exchange is not None
    assert len(connection.exchange.body) < 1_000_000
    assert sent < len(body)
    scene.come()
    there = scene.origin.accept()
    there.until(END)

    def through() -> bool:
        nonlocal sent
        sent += client.push(body[sent:])
        there.read()
        return len(there.received) == len(body)

    scene.loop.until(through)
    assert there.until(len(body)) == body
    there.send(OK)
    client.until(END + b"ok")


def test_a_service_that_nobody_knows(scene: Scene) -> None:
    client = scene.ask()
    scene.host.traffic.absent("payments", "")
    assert status(client) == 404
    assert scene.host.flags() == ["NR"]
    assert scene.waiting == 0


def test_a_service_that_could_not_be_looked_up(scene: Scene) -> None:
    client = scene.ask()
    scene.host.traffic.absent("payments", "Consul is away")
    reply = client.until(b"(NC)\n")
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert b"Consul is away" in reply
    assert scene.host.flags() == ["NC"]


def test_what_nobody_knows_is_not_asked_for_again_at_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.ask()
    scene.host.traffic.absent("payments", "")
    assert status(scene.ask()) == 404
    assert scene.host.asked == ["payments"]
    monkeypatch.setattr(waiting_module, "ABSENT_FOR", 0.0)
    scene.host.traffic._waiting._absent["payments"] = (0.0, "")  # that time is over
    client = scene.ask()
    assert client.nothing()
    assert scene.host.asked == ["payments"] * 2
    scene.host.traffic.absent("payments", "")
    scene.come()
    assert status(client) == 404
    scene.ask()
    scene.serve()


def test_names_that_nobody_knows_are_not_remembered_without_bound(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_module, "MAX_ABSENT", 10)
    for number in range(25):
        scene.ask(b"GET / HTTP/1.1\r\nHost: s%d\r\nConnection: close\r\n\r\n" % number)
        scene.host.traffic.absent(f"s{number}", "")
    assert len(scene.host.traffic._waiting._absent) <= 10
    assert scene.host.flags() == ["NR"] * 25


def test_no_answer_in_time(scene: Scene) -> None:
    client = scene.ask()
    scene.host.later(SECONDS - 0.3)
    assert client.nothing()
    scene.host.later(1.0)
    reply = client.until(b"(NC)\n")
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert b"first_use" in reply
    assert scene.waiting == 0
    assert scene.host.flags() == ["NC"]
    scene.host.traffic.absent("payments", "")  # too late
    scene.ask()
    assert scene.host.asked == ["payments"] * 2


def test_each_waits_as_long_as_the_others(scene: Scene) -> None:
    first = scene.ask()
    (connection,) = scene.host.traffic._surroundings.connections
    assert connection.exchange is not None
    connection.exchange.started -= 1.0  # it came a second before the other
    second = scene.ask()
    scene.host.traffic._deadlines.set(scene.host.traffic._waiting._lookups["payments"], 0.0)
    scene.host.later(SECONDS - 0.6)
    assert status(first) == 503
    assert second.nothing()
    scene.host.later(1.0)
    assert status(second) == 503
    assert scene.host.asked == ["payments"]


def test_what_a_client_sends_ahead_waits_for_its_turn(scene: Scene) -> None:
    client = scene.ask(GET + GET)
    assert scene.waiting == 1
    scene.come()
    there = scene.origin.accept()
    for _ in range(2):
        there.until(END)
        there.send(OK)
        client.until(END + b"ok")


def test_what_a_client_sends_ahead_waits_for_the_next_answer(scene: Scene) -> None:
    """Refusing one request brings the next of its connection while the others are still being refused."""
    client, other = scene.ask(GET + GET), scene.ask()
    scene.host.later(SECONDS + 1.0)
    assert status(client) == 503
    assert status(other) == 503
    scene.host.later(SECONDS + 1.0)
    client.until(b"(NC)\n")
    assert status(client) == 503
    assert scene.waiting == 0


def test_a_client_that_leaves_leaves_nothing(scene: Scene) -> None:
    first, second = scene.ask(), scene.ask()
    first.reset()
    assert scene.waiting == 1
    assert scene.host.flags() == ["DC"]
    second.reset()
    assert scene.waiting == 0
    assert scene.host.traffic._waiting._lookups == {}
    scene.come()
    assert scene.origin.pending() is None
    scene.host.traffic.absent("payments", "")
    assert scene.host.flags() == ["DC", "DC"]


def test_a_client_that_half_closes_gets_its_answer(scene: Scene) -> None:
    client = scene.ask()
    client.finish()
    scene.come()
    scene.serve()
    assert client.all().endswith(b"ok")


def test_the_wait_is_part_of_the_call(scene: Scene) -> None:
    client = scene.ask()
    (connection,) = scene.host.traffic._surroundings.connections
    exchange = connection.exchange
    assert exchange is not None
    scene.come(timeout=1.5)
    assert exchange.deadline == exchange.started + 1.5
    scene.origin.accept().until(END)
    scene.host.later(2.0)
    assert status(client) == 504


def test_connect_waits_too(make_host: Make, loop: Loop) -> None:
    scene = Scene(make_host, loop, connect_ports=(5432,))
    client = scene.ask(b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\nahead")
    assert client.nothing()
    assert scene.host.asked == ["db"]
    scene.come("db", protocol="tcp")
    there = scene.origin.accept()
    there.until(b"ahead")
    assert status(client) == 200


def test_a_service_without_endpoints_has_come_all_the_same(scene: Scene) -> None:
    client = scene.ask()
    scene.host.change(services={"payments": service("payments", obstacle="all are in maintenance")})
    reply = client.until(b"(UH)\n")
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert b"all are in maintenance" in reply


@pytest.mark.parametrize("name", [b"127.0.0.1", b"payments.elsewhere", b"v2.payments", b"pay_ments", b"host"])
def test_what_can_t_name_a_service_is_refused_at_once(scene: Scene, name: bytes) -> None:
    assert status(scene.ask(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % name)) == 404
    assert scene.host.asked == []


def test_where_nothing_is_looked_up_unknown_names_are_refused_at_once(make_host: Make, loop: Loop) -> None:
    scene = Scene(make_host, loop, first_use=0.0)
    assert status(scene.ask()) == 404
    assert scene.host.asked == []
    scene.host.apply(first_use=SECONDS)
    assert scene.ask().nothing()
    scene.host.apply(first_use=0.0)
    scene.host.later(SECONDS + 1.0)
    assert scene.waiting == 0


def test_without_a_supervisor_nothing_waits(scene: Scene) -> None:
    client = scene.ask()
    scene.host.supervised = False
    scene.host.traffic.supervisor_lost()
    assert status(client) == 503
    assert status(scene.ask()) == 503
    assert scene.host.flags() == ["NC", "NC"]
    scene.host.supervised = True
    assert scene.ask().nothing()


def test_the_number_of_requests_that_wait_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "MAX_REQUESTS", 3)
    clients = [scene.ask() for _ in range(3)]
    reply = scene.ask().until(b"(OM)\n")
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert scene.host.flags() == ["OM"]
    series = scene.host.metrics.requests("outbound", "cart", "unknown", "", False)
    assert series.codes == {(b"GET", 503, "OM"): 1}
    clients[0].reset()
    assert scene.ask().nothing()


def test_the_number_of_names_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "MAX_NAMES", 2)
    for name in (b"a", b"b"):
        scene.ask(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % name)
    assert status(scene.ask()) == 503
    assert scene.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").nothing()
    assert scene.host.asked == ["a", "b"]
    assert scene.host.flags() == ["OM"]


def test_a_drain_ends_the_waiting(scene: Scene) -> None:
    client, late = scene.ask(), scene.host.client(scene.address)
    done: list[object] = []
    scene.host.traffic.drain(30.0).addCallback(done.append)
    late.send(GET)
    for each in (client, late):
        reply = each.all()
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nConnection: close\r\n" in reply
    assert scene.host.asked == ["payments"]
    scene.loop.until(lambda: done)


def test_a_subset_below_a_domain_waits_for_its_service(scene: Scene) -> None:
    client = scene.ask(b"GET / HTTP/1.1\r\nHost: v2.payments.mesh\r\n\r\n")
    assert client.nothing()
    assert scene.host.asked == ["payments"]
    scene.host.change(
        services={
            "payments": service("payments"),
            "v2.payments": service("payments", place(scene.origin.address, secure=False), subset="v2"),
        }
    )
    scene.serve()
    assert status(client) == 200


def test_a_subset_that_its_service_has_not_is_nobody(scene: Scene) -> None:
    client = scene.ask(b"GET / HTTP/1.1\r\nHost: v9.payments.mesh\r\n\r\n")
    assert client.nothing()
    scene.come()
    assert status(client) == 404
    assert status(scene.ask(b"GET / HTTP/1.1\r\nHost: v9.payments.mesh\r\n\r\n")) == 404
    assert scene.host.asked == ["payments"]
