from __future__ import annotations

import errno
import hashlib
import os
import time

import pytest

from hostproxy.net import splice
from hostproxy.net.deadlines import Deadlines
from hostproxy.net.splice import SPARE_PIPES, Pipes, SpliceRelay
from hostproxy.net.stream import Stream
from tests.net.test_relay import TEN_MEGABYTES, transfer
from tests.support import Loop, Peer, Recorder, descriptors, tcp_pair, unix_pair


class Bench:
    """A splice relay between two peers."""

    def __init__(
        self, loop: Loop, pair: object = tcp_pair, idle: float = 60.0, pipes: Pipes | None = None
    ) -> None:
        self.loop = loop
        left, here = pair()  # type: ignore[operator]
        there, right = pair()  # type: ignore[operator]
        self.left, self.right = Peer(loop, left), Peer(loop, right)
        self.pipes = pipes or Pipes()
        self.deadlines = Deadlines(loop.reactor.seconds())
        self.over: list[tuple[str, int, int]] = []
        self.relay = SpliceRelay(
            Stream(loop.reactor, here, Recorder()),
            Stream(loop.reactor, there, Recorder()),
            self.pipes,
            self.deadlines,
            idle,
            lambda *what: self.over.append(what),
        )

    def later(self, seconds: float) -> None:
        now = self.loop.reactor.seconds() + seconds
        self.deadlines.tick(now)
        self.deadlines.tick(now)

    def close(self) -> None:
        self.relay.stop("test")
        empty(self.pipes)


def empty(pipes: Pipes) -> None:
    while pipes._spare:
        pipes.close(pipes._spare.pop())


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
    empty(bench.pipes)


def test_both_directions_at_once(loop: Loop) -> None:
    bench = Bench(loop)
    data = TEN_MEGABYTES[: 4 << 20]
    sent = [0, 0]
    came = [b"", b""]
    ends = [(bench.left, bench.right), (bench.right, bench.left)]

    def move() -> bool:
        for way, (source, target) in enumerate(ends):
            sent[way] += source.push(data[sent[way] : sent[way] + 100_000])
            came[way] += target.read()
        return all(len(one) == len(data) for one in came)

    loop.until(move)
    assert came == [data, data]
    assert not loop.busy
    bench.close()


def test_small_messages_are_not_held_back(loop: Loop) -> None:
    """The kernel's corking of what a splice announces as more to come costs 200 ms a message."""
    bench = Bench(loop)
    began = time.monotonic()
    for _ in range(5):
        bench.left.send(b"ping")
        bench.right.until(b"ping")
        bench.right.send(b"pong")
        bench.left.until(b"pong")
    assert time.monotonic() - began < 0.5
    bench.close()


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
def test_a_half_close_is_passed_on_as_one(loop: Loop, pair: object) -> None:
    bench = Bench(loop, pair)
    bench.left.send(b"question")
    bench.left.finish()
    assert bench.right.all() == b"question"
    assert bench.right.end == "fin"
    assert not loop.busy
    assert transfer(loop, bench.right, bench.left, TEN_MEGABYTES) == hashlib.sha256(TEN_MEGABYTES).hexdigest()
    assert bench.over == []
    bench.right.finish()
    bench.left.all()
    assert bench.left.end == "fin"
    assert bench.over == [("ended", 8, len(TEN_MEGABYTES))]
    empty(bench.pipes)


def test_a_half_close_comes_after_what_is_held(loop: Loop) -> None:
    bench = Bench(loop)
    sent = 0
    for _ in range(60):
        sent += bench.left.push(TEN_MEGABYTES[:200_000])
        loop.settle(2)
    bench.left.finish()
    bench.right.finish()
    assert bench.over == []
    assert not loop.busy
    assert len(bench.right.all()) == sent
    assert bench.right.end == "fin"
    loop.until(lambda: bench.over)
    assert bench.over == [("ended", sent, 0)]
    empty(bench.pipes)


@pytest.mark.parametrize("first", [True, False])
def test_a_reset_is_passed_on_as_one(loop: Loop, first: bool) -> None:
    bench = Bench(loop)
    source, target = (bench.left, bench.right) if first else (bench.right, bench.left)
    source.reset()
    target.all()
    assert target.end == "reset"
    assert bench.over == [("reset", 0, 0)]
    empty(bench.pipes)


@pytest.mark.parametrize("first", [True, False])
def test_a_reset_while_bytes_are_held_ends_both_and_the_pipe(loop: Loop, first: bool) -> None:
    bench = Bench(loop)
    for _ in range(60):
        bench.left.push(TEN_MEGABYTES[:200_000])
        loop.settle(2)
    source, target = (bench.left, bench.right) if first else (bench.right, bench.left)
    source.reset()
    loop.until(lambda: bench.over)
    target.all()
    assert target.end == "reset"
    pipe = bench.pipes.take()
    with pytest.raises(BlockingIOError):  # it is empty
        os.read(pipe[0], 1)
    bench.pipes.close(pipe)
    empty(bench.pipes)


def test_who_does_not_read_stops_the_other(loop: Loop) -> None:
    bench = Bench(loop)
    for _ in range(100):
        bench.left.push(TEN_MEGABYTES[:200_000])
        loop.settle(2)
    assert bench.left.push(b"x" * 200_000) == 0
    assert not loop.busy
    bench.close()


def test_idle_relays_hold_no_pipes(loop: Loop) -> None:
    pipes = Pipes()
    benches = [Bench(loop, pipes=pipes) for _ in range(8)]
    before = len(descriptors())
    for bench in benches:
        bench.left.send(b"x")
        bench.right.until(b"x")
    assert len(descriptors()) == before  # the one spare pipe has served them all
    for bench in benches:
        bench.relay.stop("test")
    empty(pipes)


def test_only_so_many_spare_pipes_are_kept(loop: Loop) -> None:
    pipes = Pipes()
    taken = [pipes.take() for _ in range(SPARE_PIPES + 5)]
    for pipe in taken:
        pipes.give(pipe)
    open_now = len([name for name in descriptors() if "pipe" in name])
    assert len(pipes._spare) == SPARE_PIPES
    empty(pipes)
    assert open_now - len([name for name in descriptors() if "pipe" in name]) == 2 * SPARE_PIPES


def test_without_descriptors_connections_go_on_in_turns(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "PAUSE", 0.02)
    pipes = Pipes()
    one, two = Bench(loop, pipes=pipes), Bench(loop, pipes=pipes)

    def none_left(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(os, "pipe2", none_left)
    held = 0
    for _ in range(60):  # the first takes the only pipe, and its reader does not read
        held += one.left.push(TEN_MEGABYTES[:200_000])
        loop.settle(2)
    two.left.send(b"waits")
    assert two.right.nothing()
    assert not loop.busy
    one.right.until(held)
    assert two.right.until(b"waits")
    one.relay.stop("test")
    two.relay.stop("test")
    empty(pipes)


def test_idle_expiry(loop: Loop) -> None:
    bench = Bench(loop, idle=30.0)
    bench.left.send(b"x")
    bench.later(29.0)
    assert bench.over == []
    bench.later(31.0)
    assert bench.over == [("idle", 1, 0)]
    bench.right.all()
    assert bench.right.end == "reset"
    empty(bench.pipes)


def test_it_is_over_once(loop: Loop) -> None:
    bench = Bench(loop)
    bench.relay.stop("drain")
    bench.relay.stop("again")
    loop.settle()
    assert bench.over == [("drain", 0, 0)]
    empty(bench.pipes)
