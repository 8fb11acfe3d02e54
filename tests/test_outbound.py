from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.datapath import Host, make_host, place, service, snapshot
from tests.support import Listening, Loop, Peer, closed_port, loop

__all__ = ["loop", "make_host"]

Make = Callable[..., Host]

END = b"\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def plain(loop: Loop, make: Make, **policy: object) -> tuple[Host, Listening]:
    """A host that may reach payments in plain text: the path without TLS."""
    origin = Listening(loop)
    one = service("payments", place(origin.address, secure=False), **policy)
    return make(snapshot((one,))), origin


def asked(host: Host, request: bytes) -> Peer:
    client = host.client(host.listen("proxy"))
    client.send(request)
    return client


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /x HTTP/1.1\r\nHost: payments\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: PAYMENTS.mesh:8080\r\n\r\n",
        b"GET http://payments/x HTTP/1.1\r\nHost: other\r\n\r\n",
        b"GET http://payments.mesh./x HTTP/1.0\r\n\r\n",
    ],
)
def test_names_lead_to_services(make_host: Make, loop: Loop, request_: bytes) -> None:
    host, origin = plain(loop, make_host)
    client = asked(host, request_)
    there = origin.accept()
    assert there.until(END).startswith(b"GET /x HTTP/1.1\r\n")
    there.send(OK)
    client.until(END + b"ok")


def test_the_head_that_goes_on(make_host: Make, loop: Loop) -> None:
    host, origin = plain(loop, make_host)
    asked(host, b"GET / HTTP/1.1\r\nHost: payments\r\nX-Forwarded-Client-Cert: URI=forged\r\n\r\n")
    lines = origin.accept().until(END).split(b"\r\n")
    assert b"X-Forwarded-For: 127.0.0.1" in lines
    assert b"X-Forwarded-Proto: http" in lines
    assert not any(b"forged" in line for line in lines)
    (request_id,) = (line for line in lines if line.startswith(b"X-Request-Id: "))
    assert len(request_id) == len(b"X-Request-Id: ") + 32


def test_a_request_id_is_kept(make_host: Make, loop: Loop) -> None:
    host, origin = plain(loop, make_host)
    client = asked(host, b"GET / HTTP/1.1\r\nHost: payments\r\nX-Request-Id: mine\r\n\r\n")
    there = origin.accept()
    assert b"\r\nX-Request-Id: mine\r\n" in there.until(END)
    there.send(OK)
    client.until(END + b"ok")
    assert host.records.lines[0].request_id == "mine"


def test_an_upstream_s_port_leads_to_its_service_whatever_the_host_field_says(
    make_host: Make, loop: Loop
) -> None:
    host, origin = plain(loop, make_host)
    client = host.client(host.listen("upstream", "payments"))
    client.send(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")
    assert b"\r\nHost: nobody\r\n" in origin.accept().until(END)


@pytest.mark.parametrize("name", [b"nobody", b"payments.elsewhere", b"127.0.0.1", b"", b'a"b'])
def test_names_of_nobody(make_host: Make, loop: Loop, name: bytes) -> None:
    host, _ = plain(loop, make_host)
    client = asked(host, b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % name)
    assert client.until(END).startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 "))


def test_a_service_without_endpoints(make_host: Make, loop: Loop) -> None:
    host = make_host(snapshot((service("payments"),)))
    client = asked(host, b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    reply = client.until(END)
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert b"payments" in reply
    assert host.flags() == ["UH"]


def test_why_there_is_no_endpoint_is_told(make_host: Make, loop: Loop) -> None:
    one = service("payments", obstacle="payments: policy does not permit plain text")
    host = make_host(snapshot((one,)))
    client = asked(host, b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    reply = client.until(END)
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert b"policy does not permit plain text" in reply
    assert host.flags() == ["UH"]


@pytest.mark.parametrize("name", [b"v2.payments", b"v2.payments.mesh"])
def test_a_subset_is_reached_by_its_name_and_counted_as_a_part_of_its_service(
    make_host: Make, loop: Loop, name: bytes
) -> None:
    all_, v2 = Listening(loop), Listening(loop)
    services = (
        service("payments", place(all_.address, secure=False)),
        service("payments", place(v2.address, secure=False), subset="v2"),
    )
    host = make_host(snapshot(services))
    client = asked(host, b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % name)
    there = v2.accept()
    there.until(END)
    there.send(OK)
    client.until(END + b"ok")
    assert all_.pending() is None
    assert (host.records.lines[0].dest, host.records.lines[0].subset) == ("payments", "v2")
    assert host.metrics.requests("outbound", "cart", "payments", "", False, "v2").codes == {(b"GET", 200, "-"): 1}
    assert host.metrics.requests("outbound", "cart", "payments", "", False).codes == {}


def test_a_subset_without_endpoints_is_named(make_host: Make, loop: Loop) -> None:
    host = make_host(snapshot((service("payments", subset="v2"),)))
    assert b"service v2.payments has" in asked(host, b"GET / HTTP/1.1\r\nHost: v2.payments\r\n\r\n").until(END)


def test_the_service_s_timeout(make_host: Make, loop: Loop) -> None:
    host, origin = plain(loop, make_host, timeout=2.0)
    client = asked(host, b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    origin.accept().until(END)
    host.later(3.0)
    assert client.until(END).startswith(b"HTTP/1.1 504 ")
    assert host.flags() == ["UT"]


def test_instances_that_refuse_are_passed_over(make_host: Make, loop: Loop) -> None:
    origin = Listening(loop)
    dead = [place(closed_port(), secure=False) for _ in range(2)]
    live = place(origin.address, secure=False)
    host = make_host(snapshot((service("payments", *dead, live, balance="round-robin"),)))
    address = host.listen("proxy")
    there: Peer | None = None
    for _ in range(6):
        client = host.client(address)
        client.send(b"GET / HTTP/1.1\r\nHost: payments\r\nConnection: close\r\n\r\n")
        there = there or origin.accept()  # and from then on its connection is kept
        there.until(END)
        there.send(OK)
        assert client.all().startswith(b"HTTP/1.1 200 ")
    assert host.flags() == ["-"] * 6


def test_a_tcp_service_s_connection(make_host: Make, loop: Loop) -> None:
    host, origin = plain(loop, make_host, protocol="tcp")
    client = host.client(host.listen("upstream", "payments"))
    client.send(b"hello")
    there = origin.accept()
    assert there.until(b"hello")
    there.finish()
    assert client.all() == b""
    client.finish()
    assert [(record.kind, record.dir, record.details) for record in host.records.lines] == [
        ("tcp", "outbound", "ended")
    ]


def test_a_tcp_service_that_cannot_be_reached(make_host: Make, loop: Loop) -> None:
    host = make_host(snapshot((service("db", protocol="tcp"),)))
    client = host.client(host.listen("upstream", "db"))
    client.all()
    assert client.end == "reset"
    assert host.flags() == ["UH"]
