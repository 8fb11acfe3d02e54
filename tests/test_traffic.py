from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hostproxy.identity.contexts import client_context
from hostproxy.mesh.rules import Rule
from hostproxy.mesh.spiffe import host_dns_name
from hostproxy.net import listen
from hostproxy.snapshot import Identity, Local
from hostproxy.traffic import connections_for
from tests.datapath import Host, identities, identity, make_host, place, service, snapshot
from tests.identity.crafting import TRUST_DOMAIN, authority, craft
from tests.support import Listening, Loop, Peer, black_hole, loop

__all__ = ["loop", "make_host"]

Make = Callable[..., Host]

END = b"\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def named(service: str, host: str) -> Identity:
    """A certificate of a service that tells its host, unless that is empty."""
    if not host:
        return identity(service)
    return craft(f"spiffe://{TRUST_DOMAIN}/service/{service}", dns=(host_dns_name(TRUST_DOMAIN, host),))


class Mesh:
    """Two hosts: ``near`` has the cart, ``far`` the payments with an origin of the test's."""

    def __init__(
        self,
        make: Make,
        loop: Loop,
        protocol: str = "http",
        allow: tuple[Rule, ...] = (),
        caller_of: str = "",
        callee_of: str = "",
    ) -> None:
        """``caller_of`` and ``callee_of`` are hosts that the certificates of cart and payments name."""
        self.loop = loop
        self.origin = Listening(loop)
        self.far = make(
            snapshot(
                locals_=(
                    Local("payments", protocol, (self.origin.address,), allow, not allow, "policy.toml:1"),
                ),
                identities={**identities("host"), "payments": named("payments", callee_of)},
            )
        )
        address = self.far.listen("mesh")
        there = place(f"127.0.0.1:{address[1]}")
        self.near = make(
            snapshot(
                (service("payments", there, protocol=protocol),),
                connect_ports=(9000,),
                identities={**identities("host"), "cart": named("cart", caller_of)},
            )
        )
        self.mesh_address = address
        self.proxy_address: tuple[str, int] | None = None

    def proxied(self, request: bytes = b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n") -> Peer:
        if self.proxy_address is None:
            self.proxy_address = self.near.listen("proxy")
        client = self.near.client(self.proxy_address)
        client.send(request)
        return client

    def raw(
        self, caller: str = "cart", protocol: str = "http/1.1", name: str = "payments", caller_of: str = ""
    ) -> ssl.SSLSocket:
        """A peer of its own making at the mesh port."""
        context = client_context(named(caller, caller_of), authority().pem, (protocol,))
        sock = socket.create_connection(self.mesh_address)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = context.wrap_socket(
            sock, server_hostname=f"{name}.dc1.{TRUST_DOMAIN}", do_handshake_on_connect=False
        )

        def shaken() -> bool:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            return True

        self.loop.until(shaken)
        self.loop.settle()
        return tls


def test_a_request_through_two_hosts_over_mutual_tls(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    client = mesh.proxied(
        b"GET /x HTTP/1.1\r\nHost: payments.mesh\r\nX-Forwarded-Client-Cert: forged\r\n\r\n"
    )
    origin = mesh.origin.accept()
    head = origin.until(END)
    assert head.startswith(b"GET /x HTTP/1.1\r\n")
    assert head.count(b"Via: 1.1 hostproxy") == 1
    line = f"\r\nX-Forwarded-Client-Cert: By=spiffe://{TRUST_DOMAIN}/service/payments;URI=spiffe://{TRUST_DOMAIN}/service/cart\r\n"
    assert line.encode() in head
    assert b"forged" not in head
    origin.send(OK)
    assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")
    (out,), (into,) = mesh.near.records.lines, mesh.far.records.lines
    assert (out.dir, out.source, out.dest, out.status, out.flags) == (
        "outbound",
        "cart",
        "payments",
        200,
        "-",
    )
    assert (into.dir, into.source, into.dest, into.tls) == ("inbound", "cart", "payments", "TLSv1.3")
    assert out.request_id == into.request_id != ""
    assert mesh.near.counts("tls_handshakes_total") == {("client", "ok", ""): 1}
    assert mesh.far.counts("tls_handshakes_total") == {("server", "ok", ""): 1}


def test_connections_between_hosts_are_kept(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    client = mesh.proxied()
    origin = mesh.origin.accept()
    for _ in range(3):
        origin.until(END)
        origin.send(OK)
        client.until(END + b"ok")
        client.send(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    assert mesh.near.counts("tls_handshakes_total") == {("client", "ok", ""): 1}


def test_large_bodies_through_two_hosts(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    body = bytes(range(256)) * 8000
    client = mesh.proxied(b"POST / HTTP/1.1\r\nHost: payments\r\nContent-Length: %d\r\n\r\n" % len(body))
    origin = mesh.origin.accept()
    client.send(body)
    origin.until(END)
    assert origin.until(len(body)) == body
    origin.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
    origin.close()
    client.until(END)
    got = client.until(b"0\r\n\r\n")
    assert len(got) > len(body)


def test_a_truncated_answer_stays_truncated_through_two_hosts(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    client = mesh.proxied(b"GET / HTTP/1.0\r\nHost: payments\r\n\r\n")
    origin = mesh.origin.accept()
    origin.until(END)
    origin.push(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    origin.close()
    client.all()
    assert client.end == "reset"


def test_bytes_through_two_hosts_with_both_half_closes(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop, "tcp")
    address = mesh.near.listen("upstream", "payments")
    data = bytes(range(256)) * 4000
    for _ in range(3):
        client = Peer.to(loop, address)
        client.push(b"question")
        client.finish()
        origin = mesh.origin.accept()
        assert origin.all() == b"question"
        assert origin.end == "fin"
        origin.send(data)
        origin.finish()
        assert client.all() == data
        assert client.end == "fin"
    assert [record.details for record in mesh.near.records.lines] == ["ended"] * 3
    assert mesh.near.records.lines[0].bytes_out == len(data)
    assert mesh.far.records.lines[0].bytes_in == len(b"question")


@pytest.mark.parametrize("from_client", [True, False])
def test_a_reset_through_two_hosts(make_host: Make, loop: Loop, from_client: bool) -> None:
    mesh = Mesh(make_host, loop, "tcp")
    client = mesh.near.client(mesh.near.listen("upstream", "payments"))
    client.send(b"x")
    origin = mesh.origin.accept()
    origin.until(b"x")
    source, target = (client, origin) if from_client else (origin, client)
    source.reset()
    target.all()
    assert target.end == "reset"


def test_an_upgrade_through_two_hosts(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    client = mesh.proxied(
        b"GET / HTTP/1.1\r\nHost: payments\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nahead"
    )
    origin = mesh.origin.accept()
    origin.until(END)
    origin.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
    assert client.until(b"first").startswith(b"HTTP/1.1 101 ")
    assert origin.until(b"ahead")
    client.send(b"ping")
    assert origin.until(b"ping")
    origin.send(b"pong")
    assert client.until(b"pong")
    assert mesh.near.records.lines == []
    client.finish()
    origin.all()
    origin.finish()
    client.all()
    (record,) = mesh.near.records.lines
    assert (record.status, record.flags, record.bytes_in, record.bytes_out) == (101, "-", 9, 9)


def test_connect_reaches_tcp_services_on_allowed_ports(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop, "tcp")
    client = mesh.proxied(b"CONNECT payments:9000 HTTP/1.1\r\nHost: payments:9000\r\n\r\nahead")
    origin = mesh.origin.accept()
    assert origin.until(b"ahead")
    assert client.until(END).startswith(b"HTTP/1.1 200 ")
    origin.send(b"hello")
    assert client.until(b"hello")
    assert [record.kind for record in mesh.near.records.lines] == ["http"]
    client.close()
    origin.all()
    origin.close()
    assert [record.kind for record in mesh.near.records.lines] == ["http", "tcp"]


@pytest.mark.parametrize(
    ("protocol", "target"), [("tcp", b"payments:22"), ("tcp", b"payments:443"), ("http", b"payments:9000")]
)
def test_and_nothing_else(make_host: Make, loop: Loop, protocol: str, target: bytes) -> None:
    mesh = Mesh(make_host, loop, protocol)
    client = mesh.proxied(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, target))
    assert client.until(END).startswith(b"HTTP/1.1 403 ")
    assert mesh.origin.pending() is None


def test_a_client_that_leaves_during_connect_ends_its_request(make_host: Make, loop: Loop) -> None:
    host = make_host(
        snapshot(
            (service("db", place(black_hole(loop)), protocol="tcp"),),
            connect_ports=(5432,),
        )
    )
    client = host.client(host.listen("proxy"))
    client.send(b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n")
    assert host.records.lines == []
    client.reset()
    assert [(record.kind, record.status, record.flags) for record in host.records.lines] == [
        ("http", 0, "DC"),
        ("tcp", 0, "DC"),
    ]


def test_a_denied_request(make_host: Make, loop: Loop) -> None:
    rule = Rule(("cart",), ("POST",), ("/pay",), "policy.toml:7")
    mesh = Mesh(make_host, loop, allow=(rule,))
    client = mesh.proxied()
    reply = client.until(END)
    assert reply.startswith(b"HTTP/1.1 403 ")
    assert b"policy.toml:1" in reply
    assert mesh.origin.pending() is None
    assert mesh.far.counts("authz_decisions_total") == {("deny", "policy.toml:1", "payments"): 1}
    client.until(b"\n")
    client.send(b"POST /pay HTTP/1.1\r\nHost: payments\r\nContent-Length: 0\r\n\r\n")
    origin = mesh.origin.accept()
    origin.send(OK)
    client.until(END + b"ok")


def test_a_denied_connection(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop, "tcp", (Rule(("shop",), (), (), "policy.toml:7"),))
    client = mesh.near.client(mesh.near.listen("upstream", "payments"))
    client.all()
    assert client.end == "reset"
    assert mesh.origin.pending() is None
    assert mesh.far.flags() == ["UAEX"]


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_a_service_whose_checks_fail_and_pass_again(make_host: Make, loop: Loop, protocol: str) -> None:
    mesh = Mesh(make_host, loop, protocol)
    address = mesh.near.listen("upstream", "payments")
    healthy = mesh.far.snapshot.locals["payments"]
    mesh.far.change(locals={"payments": msgspec.structs.replace(healthy, failing="GET /healthz: 500")})
    client = mesh.near.client(address)
    if protocol == "http":
        client.send(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
        reply = client.until(b"(LH)\n")
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"GET /healthz: 500" in reply
    else:
        client.all()
        assert client.end == "reset"
        assert mesh.far.metrics.tcp("inbound", "cart", "payments", True).closed == {"LH": 1}
    assert mesh.far.flags() == ["LH"]
    assert mesh.origin.pending() is None
    mesh.far.change(locals={"payments": healthy})
    client = mesh.near.client(address)
    client.send(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    origin = mesh.origin.accept()
    origin.until(END)
    origin.send(OK)
    assert client.until(END + b"ok")
    client.close()
    origin.close()


def test_a_change_of_weights_alone_opens_and_closes_no_connection(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    client = mesh.proxied()
    origin = mesh.origin.accept()
    (there,) = mesh.near.snapshot.services["payments"].places
    for weight in (1, 7):  # the first is no change at all
        mesh.near.change(services={"payments": service("payments", msgspec.structs.replace(there, weight=weight))})
        origin.until(END)
        origin.send(OK)
        client.until(END + b"ok")
        client.send(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    assert mesh.near.counts("tls_handshakes_total") == {("client", "ok", ""): 1}


def test_a_peer_cannot_connect_through_the_mesh_port(make_host: Make, loop: Loop) -> None:
    """An instance that agreed to CONNECT would have its answer mixed up with those of others."""
    mesh = Mesh(make_host, loop)
    tls = mesh.raw()
    tls.send(b"CONNECT payments:80 HTTP/1.1\r\nHost: payments:80\r\n\r\n")
    loop.settle()
    assert tls.recv(1000).startswith(b"HTTP/1.1 403 ")
    assert mesh.origin.pending() is None
    tls.close()


def test_listeners_on_unix_sockets(make_host: Make, loop: Loop, tmp_path: Path) -> None:
    mesh = Mesh(make_host, loop)
    client = mesh.near.client(mesh.near.listen("upstream", "payments", path=str(tmp_path / "s")))
    client.send(b"GET / HTTP/1.1\r\nHost: anything\r\n\r\n")
    origin = mesh.origin.accept()
    head = origin.until(END)
    assert b"Host: anything\r\n" in head
    origin.send(OK)
    client.until(END + b"ok")


def test_unknown_names_and_unreachable_hosts(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    client = mesh.proxied(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")
    assert client.until(END).startswith(b"HTTP/1.1 404 ")
    mesh.far.traffic.close("mesh:")
    client = mesh.proxied()
    assert client.until(END).startswith(b"HTTP/1.1 503 ")
    assert mesh.near.flags() == ["NR", "UF"]


def test_the_number_of_connections_is_limited(
    make_host: Make, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "PAUSE", 0.02)
    host = make_host(snapshot(bounds={"connections": 2}))
    address = host.listen("proxy")
    clients = [host.client(address) for _ in range(3)]
    assert host.traffic.describe()["connections"] == 2
    assert not loop.busy
    clients[0].close()
    loop.until(
        lambda: (
            host.traffic.describe()["connections"] == 2 and len(host.traffic._surroundings.connections) == 2
        )
    )
    clients[2].send(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")
    loop.until(lambda: clients[2].read())
    assert ("connections",) in host.counts("connections_refused_total")


def test_the_number_of_handshakes_is_limited_and_the_oldest_give_way(make_host: Make, loop: Loop) -> None:
    host = make_host(snapshot(bounds={"handshakes": 3, "handshake": 5.0}))
    address = host.listen("mesh")
    peers = [host.client(address) for _ in range(8)]
    loop.until(lambda: host.counts("tls_handshakes_total") == {("server", "failed", "crowded-out"): 5})
    assert host.traffic.describe()["handshakes"] == 3
    host.later(6.0)
    assert host.counts("tls_handshakes_total")["server", "failed", "timeout"] == 3
    for peer in peers:
        peer.reset()


@pytest.mark.parametrize(("descriptors", "expected"), [(20_000, 9968), (256, 96), (64, 24), (4, 1)])
def test_connections_leave_descriptors_for_their_endpoints(descriptors: int, expected: int) -> None:
    assert connections_for(descriptors) == expected


def test_deltas_take_effect_without_failing_what_is_under_way(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    address = mesh.near.listen("proxy")
    client, other = mesh.near.client(address), mesh.near.client(address)
    client.send(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    origin = mesh.origin.accept()
    origin.until(END)
    mesh.near.change(services={"payments": service("payments")})
    other.send(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    assert other.until(END).startswith(b"HTTP/1.1 503 ")
    mesh.near.change(services={"payments": None})
    other.until(b"\n")
    other.send(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    assert other.until(END).startswith(b"HTTP/1.1 404 ")
    origin.send(OK)
    assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")
    assert mesh.near.flags() == ["UH", "NR", "-"]


def test_new_certificates_are_shown_on_new_connections(make_host: Make, loop: Loop) -> None:
    from tests.identity.crafting import CART, good

    mesh = Mesh(make_host, loop)
    client = mesh.proxied()
    origin = mesh.origin.accept()
    origin.until(END)
    mesh.near.change(identities={"cart": good(CART)})
    origin.send(OK)
    client.until(END + b"ok")
    client.send(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    origin.until(END)
    origin.send(OK)
    client.until(END + b"ok")
    assert mesh.near.counts("tls_handshakes_total") == {("client", "ok", ""): 2}


def test_a_drain_with_nothing_open_is_over_at_once(make_host: Make, loop: Loop) -> None:
    host = make_host(snapshot())
    host.listen("proxy")
    done: list[object] = []
    host.traffic.drain(30.0).addCallback(done.append)
    loop.until(lambda: done, limit=1.0)


def test_a_drain_before_the_first_snapshot(loop: Loop) -> None:
    from twisted.logger import Logger

    from hostproxy.telemetry.metrics import WorkerMetrics
    from hostproxy.traffic import Traffic

    traffic = Traffic(loop.reactor, WorkerMetrics(), None, Logger())
    done: list[object] = []
    traffic.drain(30.0).addCallback(done.append)
    traffic.drain(30.0).addCallback(done.append)
    assert len(done) == 2


def test_a_drain_lets_requests_finish_and_closes_the_unused(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    address = mesh.near.listen("proxy")
    idle, busy = mesh.near.client(address), mesh.near.client(address)
    busy.send(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    origin = mesh.origin.accept()
    origin.until(END)
    done: list[object] = []
    mesh.near.traffic.drain(30.0).addCallback(done.append)
    assert idle.all() == b""
    assert not done
    with pytest.raises(ConnectionRefusedError):
        Peer.to(loop, address)
    origin.send(OK)
    answer = busy.all()
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"ok")
    loop.until(lambda: done)


def test_a_drain_cuts_what_does_not_finish(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    client = mesh.proxied()
    origin = mesh.origin.accept()
    origin.until(END)
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    client.until(b"half")
    done: list[object] = []
    mesh.near.traffic.drain(0.1).addCallback(done.append)
    loop.until(lambda: done)
    client.all()
    assert client.end == "reset"
    assert mesh.near.flags() == ["LR"]


def test_a_drain_waits_for_tunnels_and_cuts_them_at_its_end(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop, "tcp")
    client = mesh.near.client(mesh.near.listen("upstream", "payments"))
    client.send(b"x")
    mesh.origin.accept().until(b"x")
    done: list[object] = []
    mesh.near.traffic.drain(0.3).addCallback(done.append)
    loop.settle()
    assert not done
    loop.until(lambda: done)
    client.all()
    assert client.end == "reset"


def test_a_listener_of_the_same_id_goes_on_with_its_own_socket(make_host: Make, loop: Loop) -> None:
    host = make_host(snapshot())
    address = host.listen("proxy")
    second = host.listen("proxy")
    host.client(address).send(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")
    assert host.flags() == ["NR"]
    with pytest.raises(ConnectionRefusedError):
        Peer.to(loop, second)
    host.traffic.close("proxy:")
    host.traffic.close("proxy:")
    with pytest.raises(ConnectionRefusedError):
        Peer.to(loop, address)


def test_what_is_open_is_told(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    mesh.proxied()
    origin = mesh.origin.accept()
    origin.until(END)
    told = mesh.near.traffic.describe()
    assert (told["connections"], told["requests"], told["tunnels"]) == (1, 1, 0)
    (row,) = told["endpoints"]["outbound"]  # type: ignore[index]
    assert (row["service"], row["caller"], row["in_flight"], row["mtls"]) == ("payments", "cart", 1, True)
    assert mesh.near.metrics.export()
    assert mesh.near.metrics._levels["upstream_connections"][("active",)] == 1
    assert mesh.near.metrics._levels["downstream_connections"][()] == 1


def talking(mesh: Mesh) -> tuple[Peer, Peer]:
    """A tunnel through both hosts, with a byte gone each way."""
    client = mesh.near.client(mesh.near.listen("upstream", "payments"))
    client.send(b"a")
    origin = mesh.origin.accept()
    origin.until(b"a")
    origin.send(b"b")
    client.until(b"b")
    return client, origin


def upgraded(mesh: Mesh) -> tuple[Peer, Peer]:
    """The same, after an upgrade of an HTTP request."""
    client = mesh.proxied(
        b"GET /chat HTTP/1.1\r\nHost: payments\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Room: 1\r\n\r\n"
    )
    origin = mesh.origin.accept()
    origin.until(END)
    origin.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    client.until(END)
    return client, origin


def test_a_changed_policy_ends_the_tunnels_that_it_denies(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop, "tcp")
    client, origin = talking(mesh)
    local = mesh.far.snapshot.locals["payments"]
    others = msgspec.structs.replace(local, deny=(Rule(("shop",), source="policy.toml:4"),))
    mesh.far.change(locals={"payments": others})
    client.send(b"c")
    origin.until(b"c")
    barred = (Rule(("cart",), source="policy.toml:5"),)
    mesh.far.change(locals={"payments": msgspec.structs.replace(local, deny=barred)})
    origin.all()
    client.all()
    (line,) = mesh.far.records.lines
    assert (line.details, line.denied_by) == ("policy", "policy.toml:5")
    assert mesh.far.metrics.tcp("inbound", "cart", "payments", True).closed == {"policy": 1}


def test_and_those_that_an_upgrade_has_made(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    client, origin = upgraded(mesh)
    local = mesh.far.snapshot.locals["payments"]
    elsewhere = Rule(("cart",), paths=("/other",), source="policy.toml:4")
    mesh.far.change(locals={"payments": msgspec.structs.replace(local, deny=(elsewhere,))})
    client.send(b"c")
    origin.until(b"c")
    room = Rule(("cart",), paths=("/chat",), headers=(("x-room", "1"),), source="policy.toml:5")
    mesh.far.change(locals={"payments": msgspec.structs.replace(local, deny=(room,))})
    origin.all()
    client.all()
    (line,) = mesh.far.records.lines
    assert (line.status, line.flags, line.details, line.denied_by) == (101, "UAEX", "policy", "policy.toml:5")


def test_and_one_that_is_only_being_made(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    client = mesh.proxied(
        b"GET /chat HTTP/1.1\r\nHost: payments\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    origin = mesh.origin.accept()
    origin.until(END)
    local = mesh.far.snapshot.locals["payments"]
    mesh.far.change(locals={"payments": msgspec.structs.replace(local, deny=(Rule(("*",)),))})
    origin.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    origin.all()
    client.all()
    assert [line.details for line in mesh.far.records.lines] == ["policy"]


def test_a_whole_snapshot_ends_them_as_well(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop, "tcp")
    client, _ = talking(mesh)
    local = mesh.far.snapshot.locals["payments"]
    mesh.far.apply(locals={"payments": msgspec.structs.replace(local, deny=(Rule(("*",)),))})
    client.all()


@pytest.mark.parametrize("denied", ["service/cart", "host/h1"])
def test_who_is_denied_loses_open_connections_and_gets_no_new_ones(make_host: Make, loop: Loop, denied: str) -> None:
    mesh = Mesh(make_host, loop, caller_of="h1")
    waiting = mesh.proxied()  # a request under way
    mesh.origin.accept().until(END)
    idle = mesh.raw(caller_of="h1")
    tunnel, far_end = upgraded(mesh)
    mesh.far.change(denied=(f"spiffe://{TRUST_DOMAIN}/service/other", f"spiffe://{TRUST_DOMAIN}/host/other"))
    tunnel.send(b"still")
    far_end.until(b"still")
    mesh.far.change(denied=(f"spiffe://{TRUST_DOMAIN}/{denied}",))
    far_end.all()
    tunnel.all()
    assert waiting.until(b"\n").startswith(b"HTTP/1.1 502 ")
    loop.until(lambda: closed(idle))
    idle.close()
    mesh.proxied().until(b"HTTP/1.1 502 ")
    assert mesh.far.counts("tls_handshakes_total")["server", "refused", "denied-identity"] == 1
    mesh.far.change(denied=())
    mesh.near.later(60.0)
    client = mesh.proxied()
    origin = mesh.origin.accept()
    origin.until(END)
    origin.send(OK)
    client.until(END + b"ok")


@pytest.mark.parametrize("denied", ["service/payments", "host/h2"])
def test_nothing_is_sent_to_who_is_denied(make_host: Make, loop: Loop, denied: str) -> None:
    mesh = Mesh(make_host, loop, callee_of="h2")
    tunnel, far_end = upgraded(mesh)
    client = mesh.proxied()
    origin = mesh.origin.accept()
    origin.until(END)
    origin.send(OK)
    client.until(END + b"ok")
    mesh.near.change(denied=(f"spiffe://{TRUST_DOMAIN}/{denied}",))
    tunnel.all()
    far_end.all()
    client.send(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    assert b"tls-denied-identity" in client.until(b"(UF)\n")
    assert mesh.origin.pending() is None


def closed(tls: ssl.SSLSocket) -> bool:
    try:
        return tls.recv(1) == b""
    except ssl.SSLWantReadError:
        return False
    except (ssl.SSLError, ConnectionResetError):
        return True


def test_an_instance_can_forge_no_reason_of_hostproxy(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    client = mesh.proxied()
    origin = mesh.origin.accept()
    origin.until(END)
    origin.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nX-Hostproxy-Reason: denied by x:1\r\nX-Own: 1\r\n\r\n")
    head = client.until(END)
    assert b"X-Own: 1" in head
    assert b"X-Hostproxy" not in head


def test_the_reason_of_the_callees_host_reaches_the_app(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop, allow=(Rule(("shop",), source="policy.toml:7"),))
    head = mesh.proxied().until(END)
    assert re.search(rb"\r\nX-Hostproxy-Reason: [^\r]*no rule allows it \(policy\.toml:1\)\r\n", head)
