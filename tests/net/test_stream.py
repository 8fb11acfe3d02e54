from __future__ import annotations

import gc
import socket
import weakref

import pytest

from hostproxy.net import stream as stream_module
from hostproxy.net.stream import LINGER_BYTES, READ_SIZE, Stream
from tests.support import Loop, Peer, Recorder, tcp_pair, unix_pair

BIG = bytes(range(256)) * 4096  # 1 MiB


def opened(loop: Loop, pair: object = tcp_pair) -> tuple[Stream, Recorder, Peer]:
    here, there = pair()  # type: ignore[operator]
    owner = Recorder()
    return Stream(loop.reactor, here, owner), owner, Peer(loop, there)


def filled(loop: Loop, stream: Stream) -> bytes:
    """Write until there is a backlog; returns all that was written."""
    written = b""
    while not stream.backlog:
        stream.write(BIG)
        written += BIG
    return written


@pytest.fixture(params=[tcp_pair, unix_pair], ids=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> object:
    return request.param


def test_bytes_go_both_ways(loop: Loop, pair: object) -> None:
    stream, owner, peer = opened(loop, pair)
    peer.send(b"question")
    assert owner.data == b"question"
    stream.write(b"answer")
    assert stream.backlog == 0
    assert peer.until(b"answer") == b"answer"
    stream.close()
    assert peer.all() == b""
    assert peer.end == "fin"
    assert owner.events == []


def test_what_the_kernel_does_not_take_is_kept_in_order_and_reported_when_out(
    loop: Loop, pair: object
) -> None:
    stream, owner, peer = opened(loop, pair)
    written = filled(loop, stream)
    stream.write(b"last")
    written += b"last"
    assert stream.backlog > 0
    assert owner.events == []
    assert peer.until(len(written)) == written
    loop.until(lambda: owner.events)
    assert owner.events == ["drained"]
    assert stream.backlog == 0
    assert not loop.busy
    stream.close()


def test_a_paused_stream_reads_nothing_until_resumed(loop: Loop) -> None:
    stream, owner, peer = opened(loop)
    stream.pause()
    peer.send(b"data")
    assert owner.data == b""
    assert not loop.busy
    stream.resume()
    loop.settle()
    assert owner.data == b"data"
    stream.close()


def test_a_paused_stream_bounds_what_the_peer_can_send(loop: Loop) -> None:
    stream, owner, peer = opened(loop)
    owner.on_received = lambda data: stream.pause()
    sent = 0
    for _ in range(200):
        sent += peer.push(BIG)
        loop.settle(2)
    assert 0 < len(owner.data) <= READ_SIZE
    stream.close()


def test_pausing_holds_for_an_event_of_the_same_batch(loop: Loop) -> None:
    """Two streams have bytes in one batch, and the first to be read pauses the other."""
    one, one_owner, one_peer = opened(loop)
    two, two_owner, two_peer = opened(loop)
    one_owner.on_received = lambda data: two.pause()
    two_owner.on_received = lambda data: one.pause()
    one_peer.push(b"x")
    two_peer.push(b"x")
    loop.step()
    loop.settle()
    assert len(one_owner.data) + len(two_owner.data) == 1
    one.close()
    two.close()


def test_a_half_close_leaves_the_other_direction_open(loop: Loop, pair: object) -> None:
    stream, owner, peer = opened(loop, pair)
    peer.finish()
    assert owner.events == ["ended"]
    assert stream.at_end
    assert not loop.busy
    stream.write(b"still here")
    assert peer.until(b"here") == b"still here"
    stream.finish()
    assert peer.all() == b""
    assert peer.end == "fin"
    assert not loop.busy
    stream.close()
    assert owner.events == ["ended"]


def test_finish_comes_after_the_backlog(loop: Loop, pair: object) -> None:
    stream, owner, peer = opened(loop, pair)
    written = filled(loop, stream)
    stream.finish()
    assert peer.all() == written
    assert peer.end == "fin"
    peer.send(b"answer")
    assert owner.data == b"answer"
    stream.close()


def test_resuming_after_the_end_does_not_end_it_twice(loop: Loop) -> None:
    stream, owner, peer = opened(loop)
    peer.finish()
    stream.resume()
    loop.settle()
    assert owner.events == ["ended"]
    stream.close()


def test_a_reset_is_reported_after_what_came_before_it(loop: Loop) -> None:
    stream, owner, peer = opened(loop)
    stream.pause()
    peer.push(b"last words")
    stream.resume()
    peer.reset()
    assert owner.data == b"last words"
    assert owner.events == ["lost reset"]
    assert stream.fd == -1


def test_a_reset_is_noticed_while_paused(loop: Loop) -> None:
    stream, owner, peer = opened(loop)
    stream.pause()
    peer.reset()
    assert owner.events == ["lost reset"]


def test_a_reset_noticed_by_writing_is_no_end(loop: Loop) -> None:
    """The failed write takes the error from the kernel; the read after it sees a mere end of file."""
    stream, owner, peer = opened(loop)
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.sock.close()
    stream.write(b"one")
    stream.write(b"two")
    loop.settle()
    assert owner.events == ["lost reset"]


def test_a_reset_with_a_backlog_is_reported_as_lost(loop: Loop) -> None:
    stream, owner, peer = opened(loop)
    filled(loop, stream)
    peer.reset()
    assert owner.events[-1] == "lost reset"
    assert not loop.busy


def test_a_peer_on_a_unix_socket_that_closed_is_noticed_by_writing(loop: Loop) -> None:
    """There the hang-up comes with the end, and is reported to nobody: the peer might have half-closed."""
    stream, owner, peer = opened(loop, unix_pair)
    peer.close()
    assert owner.events == ["ended"]
    assert not loop.busy
    stream.write(b"to nobody")
    loop.settle()
    assert owner.events == ["ended", "lost reset"]


def test_a_hang_up_of_a_paused_stream_neither_spins_nor_loses_bytes(loop: Loop, pair: object) -> None:
    stream, owner, peer = opened(loop, pair)
    stream.pause()
    peer.push(b"before the end")
    stream.finish()
    peer.close()
    assert not loop.busy
    stream.resume()
    loop.settle()
    assert owner.data == b"before the end"
    assert owner.events == ["ended"]
    assert not loop.busy
    stream.close()


def test_close_writes_out_the_backlog_and_tells_the_owner_nothing(loop: Loop, pair: object) -> None:
    stream, owner, peer = opened(loop, pair)
    written = filled(loop, stream)
    stream.close()
    stream.close()
    assert peer.all() == written
    assert peer.end == "fin"
    loop.until(lambda: stream.fd < 0)
    assert owner.events == []


def test_a_close_that_nobody_reads_ends_in_a_reset_after_a_while(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a response must not look like a whole one."""
    monkeypatch.setattr(stream_module, "LEAVE_TIME", 0.05)
    stream, _, peer = opened(loop)
    filled(loop, stream)
    stream.close()
    loop.until(lambda: stream.fd < 0)
    peer.all()
    assert peer.end == "reset"


def test_abort_is_a_reset_and_drops_the_backlog(loop: Loop) -> None:
    stream, owner, peer = opened(loop)
    filled(loop, stream)
    stream.abort()
    stream.abort()
    peer.all()
    assert peer.end == "reset"
    assert owner.events == []


def test_linger_delivers_the_reply_to_a_peer_that_goes_on_sending(loop: Loop) -> None:
    stream, owner, peer = opened(loop)
    peer.push(b"x" * 1000)
    stream.write(b"too much")
    stream.linger()
    peer.send(b"x" * 1000)
    assert peer.all() == b"too much"
    assert peer.end == "fin"
    peer.send(b"x" * 1000)
    peer.close()
    assert stream.fd == -1
    assert owner.events == []


def test_linger_swallows_a_bounded_number_of_bytes(loop: Loop) -> None:
    stream, _, peer = opened(loop)
    stream.linger()
    sent = 0
    while stream.fd >= 0:
        sent += peer.push(bytes(READ_SIZE))
        loop.settle(2)
    assert LINGER_BYTES < sent < LINGER_BYTES + 4 * READ_SIZE + (4 << 20)


def test_linger_ends_after_a_while(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "LINGER_TIME", 0.05)
    stream, _, peer = opened(loop)
    stream.write(b"no")
    stream.linger()
    assert peer.all() == b"no"
    loop.until(lambda: stream.fd < 0)


def test_linger_after_the_peer_s_end_closes_at_once(loop: Loop) -> None:
    stream, _, peer = opened(loop)
    peer.finish()
    stream.write(b"no")
    stream.linger()
    assert stream.fd == -1
    assert peer.all() == b"no"


def test_linger_writes_out_a_backlog_first(loop: Loop) -> None:
    stream, _, peer = opened(loop)
    written = filled(loop, stream)
    stream.linger()
    assert peer.all() == written
    assert peer.end == "fin"
    peer.close()
    assert stream.fd == -1


def test_a_closed_stream_leaves_no_timer_and_no_reference(loop: Loop) -> None:
    stream, _, peer = opened(loop)
    stream.write(b"no")
    stream.linger()
    peer.all()
    peer.close()
    assert loop.reactor.getDelayedCalls() == []
    reference = weakref.ref(stream.sock)
    del stream
    gc.collect()
    assert reference() is None


def test_calls_on_a_dead_stream_are_harmless(loop: Loop) -> None:
    stream, owner, peer = opened(loop)
    peer.reset()
    stream.write(b"x")
    stream.pause()
    stream.resume()
    stream.finish()
    stream.linger()
    stream.close()
    stream.abort()
    loop.settle()
    assert owner.events == ["lost reset"]


def test_an_owner_s_fault_resets_the_connection(loop: Loop) -> None:
    """The peer must not take what it got so far for all of it."""

    def fault(data: bytes) -> None:
        raise RuntimeError("a fault of ours")

    stream, owner, peer = opened(loop)
    owner.on_received = fault
    stream.write(b"half")
    peer.send(b"x")
    assert owner.events == ["lost error"]
    peer.all()
    assert peer.end == "reset"


def test_a_stream_closed_by_another_s_event_gets_none_of_the_same_batch(loop: Loop) -> None:
    one, one_owner, one_peer = opened(loop)
    two, two_owner, two_peer = opened(loop)
    one_owner.on_received = lambda data: two.close()
    two_owner.on_received = lambda data: one.close()
    one_peer.push(b"x")
    two_peer.push(b"x")
    loop.step()
    loop.settle()
    assert len(one_owner.data) + len(two_owner.data) == 1
    one.close()
    two.close()


def test_release_hands_the_socket_over(loop: Loop) -> None:
    stream, owner, peer = opened(loop)
    sock = stream.release()
    assert sock.fileno() >= 0
    peer.send(b"for the next one")
    assert owner.data == b""
    assert sock.recv(100) == b"for the next one"
    sock.close()
    assert owner.events == []


def test_what_is_posted_goes_out_after_the_batch(loop: Loop) -> None:
    stream, owner, peer = opened(loop)

    def answer(data: bytes) -> None:
        stream.post(b"one ")
        stream.post(b"two ")
        with pytest.raises(BlockingIOError):
            peer.sock.recv(100)

    owner.on_received = answer
    peer.push(b"question")
    loop.step()
    assert peer.sock.recv(100) == b"one two "
    stream.close()


def test_what_is_posted_outside_of_a_batch_goes_out_before_the_next(loop: Loop) -> None:
    stream, _, peer = opened(loop)
    loop.reactor.callLater(0, stream.post, b"from a timer")
    loop.settle()
    assert peer.until(b"timer") == b"from a timer"
    stream.close()


def test_nothing_overtakes_what_is_posted(loop: Loop) -> None:
    stream, _, peer = opened(loop)
    stream.post(b"one ")
    stream.write(b"two ")
    stream.post(b"three ")
    stream.finish()
    assert peer.all() == b"one two three "
    stream.close()


def test_what_is_posted_waits_behind_a_backlog(loop: Loop) -> None:
    stream, _, peer = opened(loop)
    written = filled(loop, stream)
    stream.post(b"end")
    stream.close()
    assert peer.all() == written + b"end"


@pytest.mark.parametrize("ending", ["close", "linger"])
def test_leaving_sends_what_is_posted(loop: Loop, ending: str) -> None:
    stream, _, peer = opened(loop)
    stream.post(b"last")
    getattr(stream, ending)()
    assert peer.all() == b"last"
    assert peer.end == "fin"


def test_an_abort_does_not(loop: Loop) -> None:
    stream, _, peer = opened(loop)
    stream.post(b"never")
    stream.abort()
    loop.settle()
    assert peer.all() == b""
    assert peer.end == "reset"


def test_posting_to_a_peer_that_has_gone_is_told_as_a_loss(loop: Loop) -> None:
    stream, owner, peer = opened(loop)
    stream.post(b"x")
    peer.reset()
    loop.settle()
    assert owner.events == ["lost reset"]
