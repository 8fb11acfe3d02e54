from __future__ import annotations

import ssl
from functools import cache

import pytest

from hostproxy.identity.contexts import client_context, server_context
from hostproxy.net.stream import READ_SIZE
from hostproxy.net.tls import RECORD, TlsStream
from tests.identity.crafting import CART, PAYMENTS, authority, good
from tests.support import Loop, Peer, Recorder, tcp_pair

DATA = bytes(range(256)) * 4096  # 1 MiB
NAME = "payments.dc1.mesh.test"


@cache
def contexts(*trusted: int) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's; with another number the server trusts another authority."""
    return (
        server_context(good(PAYMENTS), authority(*trusted).pem, ("hostproxy-tcp",)),
        client_context(good(CART), authority().pem, ("hostproxy-tcp",)),
    )


class Ends:
    """Both ends of a TLS connection."""

    def __init__(self, loop: Loop, *trusted: int) -> None:
        left, right = tcp_pair()
        server, client = contexts(*trusted)
        self.loop = loop
        self.server_owner, self.client_owner = Recorder(), Recorder()
        self.server = TlsStream(loop.reactor, right, self.server_owner, server)
        self.client = TlsStream(loop.reactor, left, self.client_owner, client, NAME)

    def shake(self) -> Ends:
        self.loop.until(lambda: self.server_owner.events and self.client_owner.events)
        assert self.server_owner.events == self.client_owner.events == ["secured"]
        return self

    def close(self) -> None:
        self.server.close()
        self.client.close()


class RawClient:
    """A peer with OpenSSL but without a sense of order: it sends what the test makes of its records."""

    def __init__(self, loop: Loop) -> None:
        left, right = tcp_pair()
        server, client = contexts()
        self.loop = loop
        self.owner = Recorder()
        self.server = TlsStream(loop.reactor, right, self.owner, server)
        self.peer = Peer(loop, left)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = client.wrap_bio(self.incoming, self.outgoing, False, NAME)

    def shake(self, behind: bytes = b"", goodbye: bool = False) -> bytes:
        """Shake hands, and send ``behind`` in one piece with the last flight."""
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.peer.send(self.outgoing.read())
                self.loop.until(lambda: self.peer.read())
                self.incoming.write(self.peer.received)
                self.peer.received = b""
        if behind:
            self.tls.write(behind)
        if goodbye:
            with pytest.raises(ssl.SSLWantReadError):
                self.tls.unwrap()
        return self.outgoing.read()

    def records(self, *contents: bytes) -> bytes:
        for content in contents:
            self.tls.write(content)
        return self.outgoing.read()


def test_hands_are_shaken_and_bytes_go_both_ways(loop: Loop) -> None:
    ends = Ends(loop).shake()
    ends.client.write(b"question")
    ends.server.write(b"answer")
    loop.settle()
    assert ends.server_owner.data == b"question"
    assert ends.client_owner.data == b"answer"
    assert ends.server.tls.version() == "TLSv1.3"
    ends.close()


def test_large_writes_come_whole_and_in_order(loop: Loop) -> None:
    ends = Ends(loop).shake()
    writes = 0
    while not ends.client.backlog:
        ends.client.write(DATA)
        writes += 1
    ends.client.write(b"end")
    loop.until(lambda: ends.server_owner.data.endswith(b"end"))
    assert ends.server_owner.data == DATA * writes + b"end"
    assert "drained" in ends.client_owner.events
    assert not loop.busy
    ends.close()


@pytest.mark.parametrize(
    "size", [1, RECORD - 1, RECORD, RECORD + 1, 2 * RECORD, READ_SIZE, 3 * READ_SIZE + 7]
)
def test_sizes_around_records(loop: Loop, size: int) -> None:
    ends = Ends(loop).shake()
    ends.client.write(DATA[:size])
    loop.until(lambda: len(ends.server_owner.data) >= size)
    assert ends.server_owner.data == DATA[:size]
    ends.close()


def test_a_record_byte_by_byte(loop: Loop) -> None:
    raw = RawClient(loop)
    for byte in raw.shake() + raw.records(b"hello", b"again"):
        raw.peer.push(bytes((byte,)))
        loop.step()
    loop.settle()
    assert raw.owner.data == b"helloagain"
    assert raw.owner.events == ["secured"]
    raw.server.close()


def test_what_comes_with_the_last_flight_of_the_handshake_is_heard(loop: Loop) -> None:
    raw = RawClient(loop)
    raw.peer.send(raw.shake(b"at once"))
    assert raw.owner.events == ["secured"]
    assert raw.owner.data == b"at once"
    raw.server.close()


def test_even_when_the_peer_has_finished_with_it(loop: Loop) -> None:
    raw = RawClient(loop)
    raw.peer.send(raw.shake(b"all there is", goodbye=True))
    assert raw.owner.data == b"all there is"
    assert raw.owner.events == ["secured", "ended"]
    assert raw.server.at_end
    raw.server.close()


def test_nothing_waits_inside_after_a_pause(loop: Loop) -> None:
    """Whatever the socket gave has been handed on: resuming needs no new bytes to find it."""
    ends = Ends(loop).shake()
    ends.server_owner.on_received = lambda data: ends.server.pause()
    ends.client.write(DATA[: 3 * RECORD])
    loop.settle()
    first = len(ends.server_owner.data)
    assert first > 0
    assert not loop.busy
    ends.server_owner.on_received = lambda data: None
    ends.server.resume()
    loop.settle()
    assert ends.server_owner.data == DATA[: 3 * RECORD]
    ends.close()


def test_a_paused_stream_bounds_the_sender(loop: Loop) -> None:
    ends = Ends(loop).shake()
    ends.server.pause()
    for _ in range(40):
        if not ends.client.backlog:
            ends.client.write(DATA[:READ_SIZE])
        loop.settle(2)
    loop.settle()
    while not ends.client.backlog:
        ends.client.write(DATA)
    assert ends.server_owner.data == b""
    assert not loop.busy
    ends.client.abort()
    ends.server.abort()


def test_pausing_holds_for_an_event_of_the_same_batch(loop: Loop) -> None:
    one, two = Ends(loop).shake(), Ends(loop).shake()
    one.server_owner.on_received = lambda data: two.server.pause()
    two.server_owner.on_received = lambda data: one.server.pause()
    one.client.write(b"x")
    two.client.write(b"x")
    loop.settle()
    assert len(one.server_owner.data) + len(two.server_owner.data) == 1
    one.close()
    two.close()


def test_a_half_close_leaves_the_other_direction_open(loop: Loop) -> None:
    ends = Ends(loop).shake()
    ends.client.write(b"question")
    ends.client.finish()
    loop.settle()
    assert ends.server_owner.data == b"question"
    assert ends.server_owner.events == ["secured", "ended"]
    assert not loop.busy
    ends.server.write(DATA)
    loop.until(lambda: len(ends.client_owner.data) == len(DATA))
    assert ends.client_owner.data == DATA
    ends.server.finish()
    loop.settle()
    assert ends.client_owner.events == ["secured", "ended"]
    assert not loop.busy
    ends.close()


def test_close_notify_comes_after_the_backlog_however_full_the_kernel_is(loop: Loop) -> None:
    ends = Ends(loop).shake()
    ends.server.pause()
    written = 0
    while not ends.client.backlog:
        ends.client.write(DATA[:5000])
        written += 5000
        loop.settle(1)
    ends.client.finish()
    ends.server.resume()
    loop.until(lambda: ends.server_owner.events[-1] != "secured")
    assert ends.server_owner.events == ["secured", "ended"]
    assert len(ends.server_owner.data) == written
    ends.close()


def test_close_notify_survives_a_kernel_that_takes_no_byte_more(loop: Loop) -> None:
    """Everything is out, but the buffer is full to the brim when the stream finishes."""
    ends = Ends(loop).shake()
    real = ends.client._send
    blocked = True

    def send(data: bytes) -> int:
        if blocked:
            raise BlockingIOError
        return real(data)

    ends.client._send = send  # type: ignore[assignment]
    ends.client.finish()
    loop.settle(3)
    assert ends.server_owner.events == ["secured"]
    blocked = False
    loop.until(lambda: ends.server_owner.events[-1] != "secured")
    assert ends.server_owner.events == ["secured", "ended"]
    ends.close()


def test_close_says_goodbye(loop: Loop) -> None:
    ends = Ends(loop).shake()
    ends.client.write(DATA)
    ends.client.close()
    loop.until(lambda: ends.server_owner.events[-1] != "secured")
    assert len(ends.server_owner.data) == len(DATA)
    assert ends.server_owner.events == ["secured", "ended"]
    ends.close()


def test_an_end_without_close_notify_is_a_loss(loop: Loop) -> None:
    raw = RawClient(loop)
    raw.peer.send(raw.shake(b"half of it"))
    raw.peer.finish()
    assert raw.owner.data == b"half of it"
    assert raw.owner.events == ["secured", "lost reset"]


def test_a_reset_is_a_loss(loop: Loop) -> None:
    raw = RawClient(loop)
    raw.peer.send(raw.shake(b"x"))
    raw.peer.reset()
    assert raw.owner.events == ["secured", "lost reset"]


def test_a_forged_record_ends_the_connection_after_what_came_before_it(loop: Loop) -> None:
    raw = RawClient(loop)
    raw.peer.send(raw.shake())
    good_one, bad_one = raw.records(b"good"), bytearray(raw.records(b"forged"))
    bad_one[-1] ^= 1
    raw.peer.send(good_one + bytes(bad_one))
    assert raw.owner.data == b"good"
    assert raw.owner.events == ["secured", "lost tls"]
    assert raw.server.failure


def test_clear_text_behind_a_goodbye_is_not_heard(loop: Loop) -> None:
    raw = RawClient(loop)
    raw.peer.send(raw.shake(b"said", goodbye=True) + b"and this was not said by the peer")
    assert raw.owner.data == b"said"
    assert raw.owner.events[:2] == ["secured", "ended"]
    raw.server.close()


@pytest.mark.parametrize(
    "nonsense", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff" * 20]
)
def test_bytes_before_the_handshake_fail_it(loop: Loop, nonsense: bytes) -> None:
    raw = RawClient(loop)
    raw.peer.send(nonsense)
    assert raw.owner.events in (["failed"], [])
    raw.peer.close()
    assert raw.owner.events == ["failed"]
    assert raw.server.fd == -1
    assert raw.owner.data == b""


def test_a_server_that_speaks_before_tls_is_refused_by_the_client(loop: Loop) -> None:
    left, right = tcp_pair()
    server = Peer(loop, right)
    server.push(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    owner = Recorder()
    stream = TlsStream(loop.reactor, left, owner, contexts()[1], NAME)
    loop.until(lambda: owner.events)
    assert owner.events == ["failed"]
    assert isinstance(owner.error, ssl.SSLError)
    assert stream.fd == -1


@pytest.mark.parametrize("ending", ["close", "reset", "finish"])
def test_a_peer_that_leaves_during_the_handshake(loop: Loop, ending: str) -> None:
    raw = RawClient(loop)
    try:
        raw.tls.do_handshake()
    except ssl.SSLWantReadError:
        raw.peer.send(raw.outgoing.read())
    getattr(raw.peer, ending)()
    assert raw.owner.events == ["failed"]
    assert isinstance(raw.owner.error, ConnectionResetError)
    assert raw.server.fd == -1


def test_a_client_that_the_server_does_not_trust_learns_of_it(loop: Loop) -> None:
    """In TLS 1.3 the client's handshake is complete by then: the alert comes with its first read."""
    ends = Ends(loop, 1)
    loop.until(lambda: ends.server_owner.events and len(ends.client_owner.events) > 1)
    assert ends.server_owner.events == ["failed"]
    assert isinstance(ends.server_owner.error, ssl.SSLCertVerificationError)
    assert ends.client_owner.events == ["secured", "lost tls"]
    assert "UNKNOWN_CA" in ends.client.failure
    assert ends.client.fd == -1


def test_the_owner_may_abort_once_it_knows_who_it_is(loop: Loop) -> None:
    raw = RawClient(loop)

    def refuse() -> None:
        raw.owner.events.append("refused")
        raw.server.abort()

    raw.owner.secured = refuse  # type: ignore[method-assign]
    raw.peer.send(raw.shake(b"a request that nobody may hear"))
    assert raw.owner.events == ["refused"]
    assert raw.owner.data == b""
    raw.peer.all()
    assert raw.peer.end == "reset"


def test_linger_tells_a_secure_peer_why(loop: Loop) -> None:
    ends = Ends(loop).shake()
    ends.server.write(b"refused")
    ends.server.linger()
    ends.client.write(b"more that nobody wants")
    loop.settle()
    assert ends.client_owner.data == b"refused"
    assert ends.client_owner.events == ["secured", "ended"]
    ends.client.close()
    loop.until(lambda: ends.server.fd < 0)
    assert loop.reactor.getDelayedCalls() == []


def test_calls_on_a_dead_stream_are_harmless(loop: Loop) -> None:
    ends = Ends(loop).shake()
    ends.client.abort()
    loop.settle()
    assert ends.server_owner.events == ["secured", "lost reset"]
    for stream in (ends.client, ends.server):
        stream.finish()
        stream.write(b"x")
        stream.pause()
        stream.resume()
        stream.linger()
        stream.close()
        stream.abort()


def test_a_fault_of_the_owner_resets_the_connection(loop: Loop) -> None:
    ends = Ends(loop).shake()

    def fault(data: bytes) -> None:
        raise RuntimeError("a fault of ours")

    ends.server_owner.on_received = fault
    ends.client.write(b"x")
    loop.settle()
    assert ends.server_owner.events == ["secured", "lost error"]
    assert ends.client_owner.events == ["secured", "lost reset"]


def test_what_is_posted_comes_in_order_and_before_the_goodbye(loop: Loop) -> None:
    ends = Ends(loop).shake()
    ends.client.post(b"one ")
    ends.client.write(b"two ")
    ends.client.post(b"three ")
    loop.settle()
    assert ends.server_owner.data == b"one two three "
    ends.client.post(b"four")
    ends.client.close()
    loop.settle()
    assert ends.server_owner.data == b"one two three four"
    assert ends.server_owner.events == ["secured", "ended"]
    ends.close()
