from __future__ import annotations

import hashlib

import pytest

from hostproxy.net.deadlines import Deadlines
from hostproxy.net.relay import Relay
from hostproxy.net.stream import READ_SIZE, Stream
from tests.support import Loop, Peer, Recorder, tcp_pair, unix_pair

TEN_MEGABYTES = bytes(range(256)) * 40_000


class Bench:
    """A relay between two peers."""

    def __init__(
        self, loop: Loop, pair: object = tcp_pair, idle: float = 60.0, ahead: bytes = b"", behind: bytes = b""
    ) -> None:
        self.loop = loop
        left, here = pair()  # type: ignore[operator]
        there, right = pair()  # type: ignore[operator]
        self.left, self.right = Peer(loop, left), Peer(loop, right)
        self.streams = Stream(loop.reactor, here, Recorder()), Stream(loop.reactor, there, Recorder())
        for stream in self.streams:
            stream.pause()
        self.deadlines = Deadlines(loop.reactor.seconds())
        self.over: list[tuple[str, int, int]] = []
        self.relay = Relay(*self.streams, self.deadlines, idle, lambda *what: self.over.append(what))
        self.relay.begin(ahead, behind)

    def later(self, seconds: float) -> None:
        """As if ``seconds`` had passed without an event."""
        now = self.loop.reactor.seconds() + seconds
        self.deadlines.tick(now)  # the first one after standing still
        self.deadlines.tick(now)


def transfer(loop: Loop, source: Peer, target: Peer, data: bytes) -> str:
    """Send ``data``, reading at the other end as it comes; returns the hash of what came."""
    digest = hashlib.sha256()
    sent = came = 0

    def move() -> bool:
        nonlocal sent, came
        if sent < len(data):
            sent += source.push(data[sent : sent + (1 << 18)])
        got = target.read()
        target.received = b""
        digest.update(got)
        came += len(got)
        return came >= len(data)

    loop.until(move)
    return digest.hexdigest()


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
def test_bytes_go_both_ways_whole(loop: Loop, pair: object) -> None:
    bench = Bench(loop, pair)
    expected = hashlib.sha256(TEN_MEGABYTES).hexdigest()
    assert transfer(loop, bench.left, bench.right, TEN_MEGABYTES) == expected
    assert transfer(loop, bench.right, bench.left, TEN_MEGABYTES) == expected
    bench.left.finish()
    bench.right.finish()
    assert bench.over == [("ended", len(TEN_MEGABYTES), len(TEN_MEGABYTES))]
    assert len(bench.deadlines) == 0


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
def test_a_half_close_is_passed_on_as_one(loop: Loop, pair: object) -> None:
    bench = Bench(loop, pair)
    bench.left.send(b"question")
    bench.left.finish()
    assert bench.right.all() == b"question"
    assert bench.right.end == "fin"
    assert not loop.busy
    bench.right.send(b"a long answer")
    assert bench.over == []
    bench.right.finish()
    assert bench.left.all() == b"a long answer"
    assert bench.left.end == "fin"
    assert bench.over == [("ended", 8, 13)]


def test_a_half_close_comes_after_the_backlog(loop: Loop) -> None:
    bench = Bench(loop)
    sent = 0
    for _ in range(100):
        sent += bench.left.push(TEN_MEGABYTES[:READ_SIZE])
        loop.settle(2)
    bench.left.finish()
    bench.right.finish()
    assert bench.over == []
    assert len(bench.right.all()) == sent
    assert bench.right.end == "fin"
    loop.until(lambda: bench.over)
    assert bench.over == [("ended", sent, 0)]


@pytest.mark.parametrize("first", [True, False])
def test_a_reset_is_passed_on_as_one(loop: Loop, first: bool) -> None:
    bench = Bench(loop)
    source, target = (bench.left, bench.right) if first else (bench.right, bench.left)
    source.reset()
    target.all()
    assert target.end == "reset"
    assert bench.over == [("reset", 0, 0)]
    assert len(bench.deadlines) == 0


def test_a_reset_while_the_other_side_has_a_backlog_ends_both(loop: Loop) -> None:
    bench = Bench(loop)
    while not bench.streams[1].backlog:
        bench.left.push(TEN_MEGABYTES)
        loop.settle(2)
    bench.left.reset()
    loop.until(lambda: bench.over)
    bench.right.all()
    assert bench.right.end == "reset"
    assert len(bench.over) == 1


def test_a_reset_of_the_side_with_the_backlog_ends_both(loop: Loop) -> None:
    bench = Bench(loop)
    while not bench.streams[1].backlog:
        bench.left.push(TEN_MEGABYTES)
        loop.settle(2)
    bench.right.reset()
    loop.until(lambda: bench.over)
    bench.left.all()
    assert bench.left.end == "reset"


def test_who_does_not_read_stops_the_other_and_holds_one_read(loop: Loop) -> None:
    bench = Bench(loop)
    for _ in range(300):
        bench.left.push(TEN_MEGABYTES[: 4 * READ_SIZE])
        loop.settle(2)
        assert bench.streams[1].backlog <= READ_SIZE
    before = bench.left.push(b"x" * READ_SIZE)
    assert before == 0  # the kernel's buffers are full, and ours takes no more
    assert not loop.busy
    bench.relay.stop("test")


def test_what_was_read_before_goes_first(loop: Loop) -> None:
    bench = Bench(loop, ahead=b"from left ", behind=b"from right ")
    bench.left.send(b"more")
    bench.right.send(b"more")
    assert bench.right.until(b"more") == b"from left more"
    assert bench.left.until(b"more") == b"from right more"
    bench.relay.stop("test")
    assert bench.over == [("test", 14, 15)]


def test_an_end_that_was_noticed_before_is_passed_on(loop: Loop) -> None:
    left, here = tcp_pair()
    there, right = tcp_pair()
    peers = Peer(loop, left), Peer(loop, right)
    streams = Stream(loop.reactor, here, Recorder()), Stream(loop.reactor, there, Recorder())
    peers[0].finish()
    assert streams[0].at_end
    over: list[object] = []
    relay = Relay(*streams, Deadlines(loop.reactor.seconds()), 60.0, lambda *what: over.append(what))
    relay.begin(b"all there was")
    assert peers[1].all() == b"all there was"
    assert peers[1].end == "fin"
    peers[1].finish()
    assert over == [("ended", 13, 0)]


def test_idle_relays_are_cut(loop: Loop) -> None:
    bench = Bench(loop, idle=30.0)
    bench.left.send(b"x")
    bench.later(20.0)
    assert bench.over == []
    bench.later(31.0)
    assert bench.over == [("idle", 1, 0)]
    bench.left.all()
    bench.right.all()
    assert bench.left.end == bench.right.end == "reset"


def test_bytes_keep_it_alive(loop: Loop) -> None:
    bench = Bench(loop, idle=30.0)
    bench.later(20.0)
    bench.relay.moved += 20.0  # a byte moved then
    bench.later(40.0)
    assert bench.over == []
    bench.later(51.0)
    assert len(bench.over) == 1


def test_it_is_over_once(loop: Loop) -> None:
    bench = Bench(loop)
    bench.relay.stop("drain")
    bench.relay.stop("again")
    bench.later(1000.0)
    loop.settle()
    assert bench.over == [("drain", 0, 0)]


def test_a_fault_ends_both(loop: Loop) -> None:
    bench = Bench(loop)
    bench.streams[0].fault(RuntimeError("a fault of ours"))
    bench.right.all()
    assert bench.right.end == "reset"
    assert bench.over == [("error", 0, 0)]


def test_a_client_on_a_unix_socket_that_closed_does_not_keep_the_server_sending_for_ever(loop: Loop) -> None:
    left, here = unix_pair()
    there, right = tcp_pair()
    client, server = Peer(loop, left), Peer(loop, right)
    over: list[object] = []
    relay = Relay(
        Stream(loop.reactor, here, Recorder()),
        Stream(loop.reactor, there, Recorder()),
        Deadlines(loop.reactor.seconds()),
        60.0,
        lambda *what: over.append(what),
    )
    relay.begin()
    client.close()
    assert server.all() == b""
    assert server.end == "fin"
    server.send(b"an event for nobody")
    loop.until(lambda: over)
    with pytest.raises(ConnectionError):
        for _ in range(10):
            server.sock.send(b"another")
            loop.settle(2)
