from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest

from hostproxy.identity.contexts import client_context, server_context
from hostproxy.identity.trust import Trust
from hostproxy.net.connect import Address
from hostproxy.net.stream import Stream
from hostproxy.net.tls import TlsStream
from hostproxy.snapshot import Identity
from hostproxy.upstream.dial import Dial, Dialling, Security
from tests.identity import crafting
from tests.identity.crafting import CART, PAYMENTS, TRUST_DOMAIN, authority, good
from tests.support import Listening, Loop, Peer, Recorder, black_hole, closed_port
from tests.upstream.fixtures import dialling, later

NAME = f"payments.dc1.{TRUST_DOMAIN}"
HTTP = ("http/1.1",)


class Caller:
    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.reason = ""
        self.owner = Recorder()

    def dialled(self, dial: Dial, stream: Stream) -> None:
        stream.owner = self.owner
        self.stream = stream

    def dial_failed(self, dial: Dial, reason: str) -> None:
        assert not self.reason
        self.reason = reason


def security(expected: str = PAYMENTS, protocols: tuple[str, ...] = HTTP) -> Security:
    return Security(client_context(good(CART), authority().pem, protocols), NAME, expected, TRUST_DOMAIN)


def handshakes(shared: Dialling) -> dict[tuple[str, ...], int]:
    return shared.metrics._events["tls_handshakes_total"]


class Server:
    """A mesh port that shows ``identity``."""

    def __init__(self, loop: Loop, context: ssl.SSLContext) -> None:
        self.loop = loop
        self.context = context
        self.listening = Listening(loop)
        self.owner = Recorder()
        self.address = Address.parse(self.listening.address)
        self.stream: TlsStream | None = None

    def accept(self) -> None:
        peer = self.listening.accept()
        Peer._open.remove(peer)
        self.stream = TlsStream(self.loop.reactor, peer.sock, self.owner, self.context)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()


def dialled(loop: Loop, server: Server, wanted: Security) -> tuple[Caller, Dialling]:
    shared, caller = dialling(loop), Caller()
    Dial(shared, server.address, wanted, caller)
    server.accept()
    loop.until(lambda: caller.stream or caller.reason)
    loop.settle()
    assert len(shared.deadlines) == 0
    return caller, shared


def served(identity: Identity, protocols: tuple[str, ...] = HTTP) -> ssl.SSLContext:
    return server_context(identity, authority().pem, protocols)


def test_in_plain_text(loop: Loop) -> None:
    server, shared, caller = Listening(loop), dialling(loop), Caller()
    Dial(shared, Address.parse(server.address), None, caller)
    loop.until(lambda: caller.stream)
    assert caller.stream is not None
    assert not caller.stream.secure
    caller.stream.write(b"x")
    assert server.accept().until(b"x")
    caller.stream.close()
    assert len(shared.deadlines) == 0


def test_over_mutual_tls_to_the_expected_peer(loop: Loop) -> None:
    server = Server(loop, served(good(PAYMENTS)))
    caller, shared = dialled(loop, server, security())
    assert caller.stream is not None
    assert caller.stream.secure
    caller.stream.write(b"hello")
    loop.until(lambda: server.owner.data)
    assert server.owner.data == b"hello"
    assert handshakes(shared) == {("client", "ok", ""): 1}
    caller.stream.close()
    server.close()


CASES: dict[str, tuple[Callable[[], ssl.SSLContext], str]] = {
    "another service": (lambda: served(good(CART)), "wrong-identity"),
    "another mesh": (
        lambda: crafting.lenient_server(crafting.craft("spiffe://other.test/service/payments")),
        "wrong-trust-domain",
    ),
    "no identity": (lambda: crafting.lenient_server(crafting.craft(dns=("payments",))), "no-uri-san"),
    "two identities": (lambda: crafting.lenient_server(crafting.craft(PAYMENTS, CART)), "several-uri-sans"),
    "unknown authority": (
        lambda: crafting.lenient_server(crafting.craft(PAYMENTS, by=authority(5))),
        "unknown-authority",
    ),
    "self-signed": (
        lambda: crafting.lenient_server(crafting.craft(PAYMENTS, self_signed=True)),
        "self-signed",
    ),
    "no callee": (
        lambda: crafting.lenient_server(crafting.craft(PAYMENTS, purposes=(crafting.CLIENT,))),
        "wrong-purpose",
    ),
    "no protocol in common": (lambda: served(good(PAYMENTS), ("hostproxy-tcp",)), "wrong-protocol"),
}


@pytest.mark.parametrize("case", CASES)
def test_peers_that_are_refused_before_a_byte_is_sent(loop: Loop, case: str) -> None:
    context, word = CASES[case]
    server = Server(loop, context())
    caller, shared = dialled(loop, server, security())
    assert caller.stream is None
    assert caller.reason == "tls-" + word
    assert server.owner.data == b""
    (labels,) = handshakes(shared)
    assert labels[0] == "client"
    assert labels[2] == word
    server.close()


@pytest.mark.parametrize("nonsense", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 64])
def test_a_server_that_speaks_no_tls(loop: Loop, nonsense: bytes) -> None:
    shared, caller, server = dialling(loop), Caller(), Listening(loop)
    Dial(shared, Address.parse(server.address), security(), caller)
    server.accept().send(nonsense)
    loop.until(lambda: caller.reason)
    assert caller.reason == "tls-not-tls"


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_server_that_leaves_during_the_handshake(loop: Loop, ending: str) -> None:
    shared, caller, server = dialling(loop), Caller(), Listening(loop)
    Dial(shared, Address.parse(server.address), security(), caller)
    getattr(server.accept(), ending)()
    loop.until(lambda: caller.reason)
    assert caller.reason == "tls-peer-closed"
    assert len(shared.deadlines) == 0


def test_a_root_that_was_taken_away_during_the_handshake(loop: Loop) -> None:
    server = Server(loop, server_context(good(PAYMENTS), authority().pem, HTTP))
    shared, caller = dialling(loop), Caller()
    Dial(shared, server.address, security(), caller)
    shared.trust = Trust(authority(1).pem)
    server.accept()
    loop.until(lambda: caller.stream or caller.reason)
    assert caller.reason == "tls-unknown-authority"
    assert handshakes(shared) == {("client", "refused", "unknown-authority"): 1}
    server.close()


def test_a_server_that_says_nothing(loop: Loop) -> None:
    shared, caller, server = dialling(loop, connect=1.0, handshake=5.0), Caller(), Listening(loop)
    Dial(shared, Address.parse(server.address), security(), caller)
    peer = server.accept()
    loop.settle()
    later(shared, 4.0)
    assert caller.reason == ""
    later(shared, 5.6)
    assert caller.reason == "timeout"
    assert handshakes(shared) == {("client", "failed", "timeout"): 1}
    peer.all()
    assert peer.end == "reset"
    assert len(shared.deadlines) == 0


def test_a_refusal_and_a_black_hole(loop: Loop) -> None:
    shared, refused, hole = dialling(loop), Caller(), Caller()
    Dial(shared, Address.parse(closed_port()), security(), refused)
    Dial(shared, Address.parse(black_hole(loop)), security(), hole)
    loop.until(lambda: refused.reason)
    later(shared, 2.0)
    assert (refused.reason, hole.reason) == ("refused", "timeout")


@pytest.mark.parametrize("handshaking", [True, False])
def test_cancelling_at_any_stage(loop: Loop, handshaking: bool) -> None:
    shared, caller, server = dialling(loop), Caller(), Listening(loop)
    dial = Dial(shared, Address.parse(server.address), security(), caller)
    if handshaking:
        server.accept()
        loop.settle()
    dial.cancel()
    dial.cancel()
    loop.settle()
    later(shared, 100.0)
    assert caller.stream is None
    assert caller.reason == ""
    assert len(shared.deadlines) == 0


def test_bytes_behind_the_server_s_handshake_are_not_lost(loop: Loop) -> None:
    """The peer's first words may come in one piece with the end of its handshake, once it has seen ours."""
    server = Server(loop, served(good(PAYMENTS)))
    server.owner.secured = lambda: server.stream.write(b"first words")  # type: ignore[method-assign, union-attr]
    caller, _ = dialled(loop, server, security())
    assert caller.owner.data == b"first words"
    assert caller.stream is not None
    caller.stream.close()
    server.close()
