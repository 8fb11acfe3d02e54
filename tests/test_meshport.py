from __future__ import annotations

import ssl

import pytest

from hostproxy.exchange.caller import Caller
from hostproxy.identity.contexts import client_context
from hostproxy.meshport import MeshPort
from hostproxy.net.deadlines import Deadlines
from hostproxy.net.tls import TlsStream
from hostproxy.reporting import Reporter
from hostproxy.snapshot import Local
from hostproxy.tables import Tables
from hostproxy.telemetry.metrics import WorkerMetrics
from hostproxy.upstream.dial import Dialling
from tests.datapath import identities, snapshot
from tests.identity import crafting
from tests.identity.crafting import CART, TRUST_DOMAIN, authority, good
from tests.support import Loop, Peer, Recorder, loop, tcp_pair

__all__ = ["loop"]

NAME = f"payments.dc1.{TRUST_DOMAIN}"


class Port:
    """A mesh port with an HTTP and a TCP service."""

    def __init__(self, loop: Loop, **bounds: float) -> None:
        first = snapshot(
            (),
            (Local("payments", "http", ("127.0.0.1:1",)), Local("db", "tcp", ("127.0.0.1:2",))),
            identities=identities("host", "payments", "db"),
            bounds=bounds,
        )
        self.loop = loop
        self.metrics = WorkerMetrics()
        self.deadlines = Deadlines(loop.reactor.seconds())
        dialling = Dialling(loop.reactor, self.deadlines, first.limits, self.metrics)
        tables = Tables(first, dialling, self.metrics, lambda: 0.0)
        self.greetings: list[tuple[TlsStream, Caller, str]] = []
        self.owner = Recorder()
        self.port = MeshPort(loop.reactor, tables, Reporter(self.metrics, None, 1), self.greeted)

    def greeted(self, stream: TlsStream, caller: Caller, protocol: str) -> None:
        stream.owner = self.owner
        self.greetings.append((stream, caller, protocol))

    def peer(self) -> Peer:
        here, there = tcp_pair()
        self.port.accepted(here, ("10.0.0.7", 1234))
        return Peer(self.loop, there)

    def client(self, context: ssl.SSLContext, name: str = NAME) -> tuple[TlsStream, Recorder]:
        here, there = tcp_pair()
        self.port.accepted(here, ("10.0.0.7", 1234))
        owner = Recorder()
        stream = TlsStream(self.loop.reactor, there, owner, context, name)
        self.loop.settle()
        return stream, owner

    def later(self, seconds: float) -> None:
        now = self.loop.reactor.seconds() + seconds
        self.deadlines.tick(now)
        self.deadlines.tick(now)
        self.loop.settle()

    @property
    def counted(self) -> dict[tuple[str, ...], int]:
        return self.metrics._events["tls_handshakes_total"]

    def nothing_left(self) -> None:
        assert not self.port.under_way
        assert len(self.deadlines) == 0


def good_client(uri: str = CART, *protocols: str) -> ssl.SSLContext:
    return client_context(good(uri), authority().pem, protocols or ("http/1.1",))


def test_a_peer_that_proves_who_it_is(loop: Loop) -> None:
    port = Port(loop)
    stream, owner = port.client(good_client())
    assert owner.events == ["secured"]
    ((there, caller, protocol),) = port.greetings
    assert protocol == "http/1.1"
    assert (caller.name, caller.uri, caller.service) == ("cart", CART, "payments")
    assert (caller.address, caller.protocol, caller.secure) == (b"10.0.0.7", b"https", True)
    assert caller.identity_line.strip() == (
        f"X-Forwarded-Client-Cert: By=spiffe://{TRUST_DOMAIN}/service/payments;URI={CART}".encode()
    )
    assert port.counted == {("server", "ok", ""): 1}
    port.nothing_left()
    stream.close()
    there.close()


def test_the_server_name_chooses_the_service_and_its_protocol(loop: Loop) -> None:
    port = Port(loop)
    stream, _ = port.client(good_client(CART, "hostproxy-tcp"), f"db.dc1.{TRUST_DOMAIN}")
    ((there, caller, protocol),) = port.greetings
    assert (caller.service, protocol) == ("db", "hostproxy-tcp")
    stream.close()
    there.close()


def test_a_host_may_call_in_its_own_name(loop: Loop) -> None:
    port = Port(loop)
    stream, _ = port.client(good_client(f"spiffe://{TRUST_DOMAIN}/host/h9"))
    ((there, caller, _),) = port.greetings
    assert caller.name == "host/h9"
    stream.close()
    there.close()


CLIENTS = {
    "no certificate": (lambda: crafting.lenient_client(None), NAME, "no-certificate"),
    "unknown authority": (
        lambda: crafting.lenient_client(crafting.craft(CART, by=authority(7))),
        NAME,
        "unknown-authority",
    ),
    "another mesh": (
        lambda: crafting.lenient_client(crafting.craft("spiffe://x.test/service/cart")),
        NAME,
        "wrong-trust-domain",
    ),
    "no identity": (lambda: crafting.lenient_client(crafting.craft(dns=("cart",))), NAME, "no-uri-san"),
    "no caller": (
        lambda: crafting.lenient_client(crafting.craft(CART, purposes=(crafting.SERVER,))),
        NAME,
        "wrong-purpose",
    ),
    "unknown service": (good_client, f"stock.dc1.{TRUST_DOMAIN}", "wrong-server-name"),
    "another datacenter": (good_client, f"payments.dc2.{TRUST_DOMAIN}", "wrong-server-name"),
    "the other protocol": (lambda: good_client(CART, "hostproxy-tcp"), NAME, "wrong-protocol"),
    "no protocol": (lambda: crafting.lenient_client(good(CART), ("h3",)), NAME, "wrong-protocol"),
}


@pytest.mark.parametrize("case", CLIENTS)
def test_peers_that_are_refused(loop: Loop, case: str) -> None:
    make, name, word = CLIENTS[case]
    port = Port(loop)
    stream, _ = port.client(make(), name)  # type: ignore[operator]
    loop.until(lambda: stream.fd < 0)
    assert port.greetings == []
    assert [labels[2] for labels in port.counted] == [word]
    port.nothing_left()


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_peer_that_leaves(loop: Loop, ending: str) -> None:
    port = Port(loop)
    getattr(port.peer(), ending)()
    assert port.counted == {("server", "failed", "peer-closed"): 1}
    port.nothing_left()


def test_plain_text_is_named(loop: Loop) -> None:
    port = Port(loop)
    port.peer().send(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    assert port.counted == {("server", "failed", "not-tls"): 1}
    port.nothing_left()


def test_handshakes_are_limited_in_time_however_slowly_they_come(loop: Loop) -> None:
    port = Port(loop, handshake=5.0)
    peer = port.peer()
    peer.send(b"\x16\x03\x01\x02\x00\x01")
    port.later(4.0)
    peer.send(b"\x00")
    assert len(port.port.under_way) == 1
    port.later(5.6)
    peer.all()
    assert peer.end == "reset"
    assert port.counted == {("server", "failed", "timeout"): 1}
    port.nothing_left()


def test_the_oldest_gives_way_to_the_newest(loop: Loop) -> None:
    port = Port(loop, handshakes=2)
    silent = [port.peer() for _ in range(5)]
    assert len(port.port.under_way) == 2
    stream, owner = port.client(good_client())  # who means it needs a moment only, and gets it
    assert owner.events == ["secured"]
    assert port.counted["server", "ok", ""] == 1
    assert port.counted["server", "failed", "crowded-out"] == 4
    ((there, _, _),) = port.greetings
    stream.close()
    there.close()
    for peer in silent:
        peer.reset()


def test_a_fault_of_ours_leaves_nothing_under_way(loop: Loop) -> None:
    port = Port(loop)

    def fault(*arguments: object) -> None:
        raise RuntimeError("a fault of ours")

    port.port.greeted = fault  # type: ignore[assignment]
    stream, _ = port.client(good_client())
    loop.until(lambda: stream.fd < 0)
    port.nothing_left()
