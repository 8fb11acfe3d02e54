from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from hostproxy.exchange.caller import Caller
from hostproxy.exchange.tunnel import Joiner, Tunnel
from hostproxy.net.connect import Address
from hostproxy.net.relay import Relay
from hostproxy.net.splice import SpliceRelay
from hostproxy.net.stream import Stream
from tests.exchange.proxy import Proxy
from tests.net.test_splice import empty
from tests.support import Loop, Peer, Recorder, black_hole, tcp_pair, unix_pair

Make = Callable[..., Proxy]
CALLER = Caller("cart", "spiffe://m/service/cart", b"")


class Gate:
    """Takes connections into tunnels, and writes down what is reported of them."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.joiner = Joiner(proxy.limits, proxy.deadlines)
        self.waiting: set[Tunnel] = set()
        self.opened: list[Tunnel] = []
        self.over: list[tuple[Tunnel, str]] = []
        self.told: list[str] = []

    def tunnel_opened(self, tunnel: Tunnel) -> None:
        self.opened.append(tunnel)

    def tunnel(self, tunnel: Tunnel, reason: str) -> None:
        assert tunnel not in [one for one, _ in self.over], "it ended twice"
        self.over.append((tunnel, reason))

    def reply(self, flags: str) -> bytes:
        self.told.append(flags)
        return b"<" + flags.encode() + b">"

    def client(
        self,
        reply: bool = False,
        ahead: bytes = b"",
        begin: bool = True,
        pair: Callable[[], tuple] = tcp_pair,
    ) -> Peer:
        here, there = pair()
        stream = Stream(self.proxy.loop.reactor, here, Recorder())
        tunnel = Tunnel(stream, CALLER, self.joiner, self.waiting, self, ahead, self.reply if reply else None)
        if begin:
            tunnel.begin(self.proxy.destination, "outbound")
        self.last = tunnel
        return Peer(self.proxy.loop, there)

    @property
    def reason(self) -> str:
        """How the only tunnel ended."""
        ((_, reason),) = self.over
        return reason


@pytest.fixture
def gate(proxy: Proxy) -> Iterator[Gate]:
    with_gate = Gate(proxy)
    yield with_gate
    close(with_gate)


def close(gate: Gate) -> None:
    for joint in list(gate.joiner.joints):
        joint.stop("test")
    for tunnel in list(gate.waiting):
        tunnel.refuse("LR")
    assert not gate.joiner.joints
    assert not gate.waiting
    empty(gate.joiner._pipes)


def test_bytes_and_both_half_closes(gate: Gate, proxy: Proxy) -> None:
    client = gate.client()
    origin = proxy.origin()
    client.send(b"question")
    client.finish()
    assert origin.all() == b"question"
    origin.send(b"answer")
    origin.finish()
    assert client.all() == b"answer"
    ((tunnel, reason),) = gate.over
    assert gate.opened == [tunnel]
    assert (reason, tunnel.refusal, tunnel.from_client, tunnel.to_client) == ("ended", "-", 8, 6)
    assert proxy.endpoints[0].open == 0
    assert proxy.endpoints[0].in_flight == 0
    assert not gate.joiner.joints


def test_plain_ends_are_spliced(gate: Gate, proxy: Proxy) -> None:
    gate.client()
    proxy.origin()
    (joint,) = gate.joiner.joints
    assert isinstance(joint, SpliceRelay)


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
def test_what_was_read_before_goes_first(gate: Gate, proxy: Proxy, pair: Callable[[], tuple]) -> None:
    client = gate.client(ahead=b"before ", pair=pair)
    origin = proxy.origin()
    (joint,) = gate.joiner.joints
    assert isinstance(joint, Relay)
    client.send(b"after")
    assert origin.until(b"after") == b"before after"


def test_the_client_waits_unread_until_an_endpoint_is_there(gate: Gate, proxy: Proxy) -> None:
    client = gate.client(begin=False)
    client.send(b"early")
    gate.last.begin(proxy.destination, "outbound")
    assert proxy.origin().until(b"early")


def test_the_client_is_told_first(gate: Gate, proxy: Proxy) -> None:
    client = gate.client(reply=True)
    origin = proxy.origin()
    origin.send(b"hello")
    assert client.until(b"hello") == b"<->hello"
    assert gate.told == ["-"]


def test_a_refused_endpoint_leads_to_the_next(make: Make) -> None:
    proxy = make(refusing=1)
    gate = Gate(proxy)
    client = gate.client()
    origin = proxy.origin()
    client.send(b"x")
    assert origin.until(b"x")
    assert gate.last.upstream == proxy.origins[0].address
    close(gate)


@pytest.mark.parametrize(("refusing", "flags"), [(0, "UH"), (2, "UF")])
def test_without_an_endpoint_the_client_is_reset(make: Make, refusing: int, flags: str) -> None:
    proxy = make(origins=0, refusing=refusing)
    gate = Gate(proxy)
    client = gate.client()
    client.all()
    assert client.end == "reset"
    assert gate.reason == flags
    assert gate.last.refusal == flags
    assert gate.opened == []
    close(gate)


def test_or_told_why_where_there_is_a_way(make: Make) -> None:
    proxy = make(origins=0, refusing=1)
    gate = Gate(proxy)
    client = gate.client(reply=True)
    assert client.all() == b"<UF>"
    assert client.end == "fin"
    close(gate)


def test_too_many_connections(make: Make) -> None:
    proxy = make(upstream_connections=1)
    gate = Gate(proxy)
    gate.client()
    proxy.origin()
    second = gate.client()
    second.all()
    assert second.end == "reset"
    assert gate.reason == "UO"
    close(gate)


def test_a_client_that_goes_before_an_endpoint_is_there(gate: Gate, proxy: Proxy, loop: Loop) -> None:
    proxy.endpoints[0].address = Address.parse(black_hole(loop))
    client = gate.client(reply=True)
    client.reset()
    assert gate.opened == []
    assert gate.reason == "client-reset"
    assert gate.last.refusal == "DC"  # it was never relayed: nobody may count its end as that of one that was
    assert gate.told == ["DC"]
    assert proxy.endpoints[0].open == 0


@pytest.mark.parametrize("first", [True, False])
def test_a_reset_is_passed_on(gate: Gate, proxy: Proxy, first: bool) -> None:
    client = gate.client()
    origin = proxy.origin()
    source, target = (client, origin) if first else (origin, client)
    source.reset()
    target.all()
    assert target.end == "reset"
    assert gate.reason == "reset"
    assert proxy.endpoints[0].open == 0


def test_an_idle_tunnel_is_cut(make: Make) -> None:
    proxy = make(tunnel_idle=60.0)
    gate = Gate(proxy)
    client = gate.client()
    origin = proxy.origin()
    client.send(b"x")
    origin.until(b"x")
    proxy.later(59.0)
    assert gate.over == []
    proxy.later(2.0)
    assert gate.reason == "idle"
    close(gate)


def test_refusing_a_tunnel_that_is_being_opened_leaves_nothing(gate: Gate, proxy: Proxy, loop: Loop) -> None:
    gate.client()
    assert len(gate.waiting) == 1
    gate.last.refuse("LR")
    loop.settle()
    assert gate.reason == "LR"
    assert gate.opened == []
    assert proxy.endpoints[0].open == 0


def test_counts_of_load(gate: Gate, proxy: Proxy) -> None:
    clients = [gate.client() for _ in range(3)]
    for _ in clients:
        proxy.origin()
    assert (proxy.endpoints[0].in_flight, proxy.endpoints[0].open) == (3, 3)
    clients[0].reset()
    assert (proxy.endpoints[0].in_flight, proxy.endpoints[0].open) == (2, 2)
