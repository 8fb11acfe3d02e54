from __future__ import annotations

from pathlib import Path

import pytest

from hostproxy.upstream.endpoint import REST_FIRST, REST_LONGEST, Endpoint
from tests.support import Listening, Loop, Peer, black_hole, closed_port
from tests.upstream.fixtures import Waiting, dialling, endpoint, later


def opened(loop: Loop, one: Endpoint) -> Waiting:
    waiting = Waiting()
    one.connect(waiting)
    loop.until(lambda: waiting.stream or waiting.reason)
    return waiting


def test_a_stream_is_opened_and_counted(loop: Loop) -> None:
    server = Listening(loop)
    one = endpoint(dialling(loop), server.address)
    waiting = opened(loop, one)
    assert waiting.stream is not None
    assert one.open == 1
    assert len(one.dialling.deadlines) == 0
    waiting.stream.close()
    server.accept()


def test_a_failure_is_told_once_and_uncounted(loop: Loop) -> None:
    one = endpoint(dialling(loop), closed_port())
    assert opened(loop, one).reason == "refused"
    later(one.dialling, 10.0)
    assert one.open == 0
    assert len(one.dialling.deadlines) == 0


def test_a_failure_at_once_is_told_from_the_loop(loop: Loop, tmp_path: Path) -> None:
    """The waiter holds its opening before it is called back."""
    one = endpoint(dialling(loop), f"unix:{tmp_path}/none")
    waiting = Waiting()
    one.connect(waiting)
    assert waiting.reason == ""
    loop.until(lambda: waiting.reason)
    assert waiting.reason == "refused"
    assert one.open == 0


def test_one_that_is_forgotten_hears_nothing(loop: Loop, tmp_path: Path) -> None:
    server = Listening(loop)
    for address in (server.address, closed_port(), f"unix:{tmp_path}/none", black_hole(loop)):
        one = endpoint(dialling(loop), address)
        waiting = Waiting()
        opening = one.connect(waiting)
        opening.forget()
        opening.forget()
        loop.settle()
        later(one.dialling, 10.0)
        assert waiting.stream is None
        assert waiting.reason == ""
        assert one.open == 0
        assert len(one.dialling.deadlines) == 0


def test_the_connect_time_is_limited(loop: Loop) -> None:
    one = endpoint(dialling(loop, connect=1.0), black_hole(loop))
    waiting = Waiting()
    one.connect(waiting)
    loop.settle()
    later(one.dialling, 0.5)
    assert waiting.reason == ""
    later(one.dialling, 1.6)
    assert waiting.reason == "timeout"
    assert one.open == 0


def test_it_rests_longer_with_every_failure_in_a_row(loop: Loop) -> None:
    one = endpoint(dialling(loop), closed_port())
    rests = []
    for _ in range(8):
        one.resting_until = min(one.resting_until, loop.reactor.now)  # the rest is over
        opened(loop, one)
        rests.append(round(one.resting_until - loop.reactor.now, 1))
    assert rests[:4] == [REST_FIRST, 2 * REST_FIRST, 4 * REST_FIRST, 8 * REST_FIRST]
    assert rests[-1] == REST_LONGEST


def test_failures_together_are_one(loop: Loop) -> None:
    """A restart under load must not look like an endpoint that has been down for a minute."""
    one = endpoint(dialling(loop), closed_port())
    waiting = [Waiting() for _ in range(20)]
    for each in waiting:
        one.connect(each)
    loop.until(lambda: all(each.reason for each in waiting))
    assert one.resting_until - loop.reactor.now <= REST_FIRST


def test_one_probe_at_a_time(loop: Loop) -> None:
    one = endpoint(dialling(loop), closed_port())
    opened(loop, one)
    one.resting_until = loop.reactor.now
    one.address = endpoint(one.dialling, black_hole(loop)).address
    opening = one.connect(Waiting())
    assert one.resting_until > loop.reactor.now  # for all others it goes on resting
    opening.forget()


def test_success_ends_the_rest(loop: Loop) -> None:
    server = Listening(loop)
    one = endpoint(dialling(loop), closed_port())
    opened(loop, one)
    assert one.resting_until > loop.reactor.now
    one.address = endpoint(one.dialling, server.address).address
    waiting = opened(loop, one)
    assert one.resting_until == 0.0
    assert waiting.stream is not None
    waiting.stream.close()


def test_our_own_trouble_is_not_the_endpoint_s(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import socket

    def exhausted(*arguments: object) -> socket.socket:
        raise OSError(errno.EMFILE, "too many")

    one = endpoint(dialling(loop), closed_port())
    monkeypatch.setattr(socket, "socket", exhausted)
    waiting = Waiting()
    one.connect(waiting)
    loop.settle()
    assert waiting.reason == "no-descriptors"
    assert one.resting_until == 0.0


def pooled(loop: Loop, one: Endpoint, server: Listening) -> Peer:
    """An unused connection; returns its far end."""
    waiting = opened(loop, one)
    assert waiting.stream is not None
    one.give_back(one.adopt(waiting.stream))
    return server.accept()


def test_the_connection_used_last_is_taken_first(loop: Loop) -> None:
    server = Listening(loop)
    one = endpoint(dialling(loop), server.address)
    old, new = pooled(loop, one, server), pooled(loop, one, server)
    taken = one.take()
    assert taken is not None
    taken.stream.write(b"x")
    assert new.until(b"x")
    assert old.nothing()
    one.give_back(taken)
    one.retire()
    assert (one.open, one.idle) == (0, 0)


def test_retiring_closes_what_is_unused_and_keeps_nothing_more(loop: Loop) -> None:
    server = Listening(loop)
    one = endpoint(dialling(loop), server.address)
    unused = pooled(loop, one, server)
    in_use_peer = pooled(loop, one, server)
    in_use = one.take()
    one.retire()
    assert unused.all() == b""
    assert in_use_peer.nothing()
    assert in_use is not None
    one.give_back(in_use)
    assert in_use_peer.all() == b""
    assert (one.open, one.idle) == (0, 0)
    assert len(one.dialling.deadlines) == 0


def test_full_counts_connections_that_are_being_opened(loop: Loop) -> None:
    one = endpoint(dialling(loop, upstream_connections=2), black_hole(loop))
    openings = [one.connect(Waiting()) for _ in range(2)]
    assert one.full
    openings[0].forget()
    assert not one.full
    openings[1].forget()
