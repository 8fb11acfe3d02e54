"""What is open when a root is trusted no longer. Denials and policy: tests/test_traffic.py."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest

from hostproxy import ending
from hostproxy.identity.contexts import client_context
from hostproxy.snapshot import Identity
from tests.datapath import Host, identities, make_host
from tests.identity.crafting import TRUST_DOMAIN, authority, good
from tests.support import Loop, Peer, loop
from tests.test_traffic import END, OK, Mesh, talking, upgraded

__all__ = ["loop", "make_host"]

Make = Callable[..., Host]

OLD, NEW = authority(), authority(1)
BOTH = OLD.pem + NEW.pem
UPGRADE = b"GET / HTTP/1.1\r\nHost: payments\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def renewed(*names: str) -> dict[str, Identity]:
    """Certificates under the new root."""
    kinds = {name: "host/h1" if name == "host" else f"service/{name}" for name in names}
    return {name: good(f"spiffe://{TRUST_DOMAIN}/{kind}", NEW) for name, kind in kinds.items()}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "UNUSED", 0.05)
    monkeypatch.setattr(ending, "LAST_RESPONSE", 0.3)


def trusting(make: Make, loop: Loop, protocol: str = "http") -> Mesh:
    """Two hosts that trust both roots, with certificates under the old one."""
    mesh = Mesh(make, loop, protocol)
    for host in (mesh.near, mesh.far):
        host.change(authorities=BOTH)
    return mesh


def begun(mesh: Mesh) -> tuple[Peer, Peer]:
    """A request that has reached the origin."""
    client = mesh.proxied()
    origin = mesh.origin.accept()
    origin.until(END)
    return client, origin


def cut(host: Host) -> dict[tuple[str, ...], int]:
    return host.counts("connections_cut_total")


@pytest.mark.parametrize("side", ["near", "far"])
def test_tunnels_are_cut_on_either_side(make_host: Make, loop: Loop, side: str) -> None:
    mesh = trusting(make_host, loop, "tcp")
    client, origin = talking(mesh)
    host = getattr(mesh, side)
    host.change(authorities=NEW.pem)
    origin.all()
    client.all()
    assert [line.details for line in host.records.lines] == ["untrusted"]
    assert cut(host) == {("untrusted",): 1}


@pytest.mark.parametrize("side", ["near", "far"])
def test_and_those_that_an_upgrade_has_made(make_host: Make, loop: Loop, side: str) -> None:
    mesh = trusting(make_host, loop)
    client, origin = upgraded(mesh)
    host = getattr(mesh, side)
    host.change(authorities=NEW.pem)
    origin.all()
    client.all()
    (line,) = host.records.lines
    assert (line.status, line.flags, line.details) == (101, "UAEX", "untrusted")


@pytest.mark.parametrize("side", ["near", "far"])
def test_a_response_under_way_is_the_last_one(make_host: Make, loop: Loop, side: str) -> None:
    mesh = trusting(make_host, loop)
    client, origin = begun(mesh)
    host = getattr(mesh, side)
    host.change(authorities=NEW.pem)
    origin.send(OK)
    assert client.until(END + b"ok").startswith(b"HTTP/1.1 200 ")
    assert cut(host) == {("untrusted",): 1}
    loop.until(lambda: mesh.near.traffic._tables.connections()[0] == 0)
    client.send(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    client.until(b"HTTP/1.1 50")
    assert mesh.origin.pending() is None


def test_but_not_for_ever(make_host: Make, loop: Loop) -> None:
    mesh = trusting(make_host, loop)
    client, origin = begun(mesh)
    mesh.far.change(authorities=NEW.pem)
    origin.all()
    assert client.until(END).startswith(b"HTTP/1.1 502 ")
    (line,) = mesh.far.records.lines
    assert (line.flags, line.details) == (
        "UAEX",
        f"spiffe://{TRUST_DOMAIN}/service/cart, or its host, is untrusted",
    )
    assert cut(mesh.far) == {("untrusted",): 1}


def test_nor_towards_an_endpoint(make_host: Make, loop: Loop) -> None:
    mesh = trusting(make_host, loop)
    client, origin = begun(mesh)
    mesh.near.change(authorities=NEW.pem)
    origin.all()
    assert client.until(END).startswith(b"HTTP/1.1 503 ")
    assert mesh.near.flags() == ["UAEX"]
    other, origin = begun_streaming(trusting(make_host, loop))
    other.host.change(authorities=NEW.pem)
    origin.all()
    other.client.all()
    assert other.client.end == "reset"


class Streaming:
    """A response that has begun and does not end."""

    def __init__(self, host: Host, client: Peer) -> None:
        self.host = host
        self.client = client


def begun_streaming(mesh: Mesh) -> tuple[Streaming, Peer]:
    client, origin = begun(mesh)
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")
    client.until(END + b"ok")
    return Streaming(mesh.near, client), origin


def test_an_endpoint_that_is_denied_answers_no_more(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(make_host, loop)
    streaming, origin = begun_streaming(mesh)
    waiting, other = begun(mesh)
    mesh.near.change(denied=(f"spiffe://{TRUST_DOMAIN}/service/payments",))
    origin.all()
    other.all()
    streaming.client.all()
    assert waiting.until(END).startswith(b"HTTP/1.1 503 ")
    assert cut(mesh.near) == {("denied",): 2}


def test_who_may_ask_no_more_is_told_with_the_response(make_host: Make, loop: Loop) -> None:
    mesh = trusting(make_host, loop)
    peer = mesh.raw()
    peer.sendall(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    origin = mesh.origin.accept()
    origin.until(END)
    mesh.far.change(authorities=NEW.pem)
    origin.send(OK)
    came = b""

    def whole() -> bool:
        nonlocal came
        try:
            came += peer.recv(4096)
        except ssl.SSLWantReadError:
            pass
        return came.endswith(b"ok")

    loop.until(whole)
    assert b"\r\nConnection: close\r\n" in came
    peer.close()


def test_an_unused_connection_of_a_peer_is_closed(
    make_host: Make, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "LAST_RESPONSE", 3600.0)
    mesh = trusting(make_host, loop)
    idle = mesh.raw()
    mesh.far.change(authorities=NEW.pem)

    def closed() -> bool:
        try:
            return idle.recv(1) == b""
        except ssl.SSLWantReadError:
            return False

    loop.until(closed)
    idle.close()


def test_an_upgrade_that_is_only_being_made_comes_too_late(make_host: Make, loop: Loop) -> None:
    mesh = trusting(make_host, loop)
    client = mesh.proxied(UPGRADE)
    origin = mesh.origin.accept()
    origin.until(END)
    mesh.far.change(authorities=NEW.pem)
    origin.send(SWITCHING)
    origin.all()
    client.all()
    assert [line.details for line in mesh.far.records.lines] == ["untrusted"]


def test_a_handshake_that_began_under_the_old_root_is_refused(make_host: Make, loop: Loop) -> None:
    mesh = trusting(make_host, loop)
    context = client_context(good(f"spiffe://{TRUST_DOMAIN}/service/cart"), BOTH, ("http/1.1",))
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(down, up, server_hostname=f"payments.dc1.{TRUST_DOMAIN}")
    peer = mesh.far.client(mesh.mesh_address)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    peer.send(up.read())
    loop.until(peer.read)
    mesh.far.change(authorities=NEW.pem)
    down.write(peer.received)
    tls.do_handshake()
    peer.send(up.read())
    peer.all()
    assert mesh.far.counts("tls_handshakes_total") == {("server", "refused", "unknown-authority"): 1}


def test_nothing_ends_that_is_under_a_root_that_stays(make_host: Make, loop: Loop) -> None:
    mesh = trusting(make_host, loop)
    for host, name in ((mesh.near, "cart"), (mesh.far, "payments")):
        host.change(identities=renewed("host", name))
    tunnel, far_end = upgraded(mesh)
    streaming, origin = begun_streaming(mesh)
    for host in (mesh.near, mesh.far):
        host.change(authorities=NEW.pem)
    done: list[bool] = []
    loop.reactor.callLater(0.5, done.append, True)
    loop.until(lambda: done)
    tunnel.send(b"still")
    far_end.until(b"still")
    origin.send(b"x" * 98)
    streaming.client.until(b"x" * 98)
    assert cut(mesh.near) == cut(mesh.far) == {}


def test_a_root_more_ends_nothing_and_one_that_comes_back_in_time_saves_the_response(
    make_host: Make, loop: Loop
) -> None:
    mesh = trusting(make_host, loop)
    mesh.far.change(authorities=OLD.pem)
    client, origin = begun(mesh)
    mesh.far.change(authorities=BOTH)
    assert cut(mesh.far) == {}
    mesh.far.change(authorities=NEW.pem)
    mesh.far.change(authorities=BOTH)
    done: list[bool] = []
    loop.reactor.callLater(0.5, done.append, True)
    loop.until(lambda: done)
    origin.send(OK)
    client.until(END + b"ok")


def test_a_whole_snapshot_is_looked_at_as_well(make_host: Make, loop: Loop) -> None:
    mesh = trusting(make_host, loop, "tcp")
    client, origin = talking(mesh)
    mesh.far.apply(authorities=NEW.pem, identities={**identities("host"), **renewed("payments")})
    origin.all()
    client.all()
