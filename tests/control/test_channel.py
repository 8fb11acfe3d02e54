"""The channel between supervisor and worker, over real socket pairs."""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import Any

import pytest

from hostproxy.control import channel as channel_module
from hostproxy.control import messages
from hostproxy.control.channel import Channel, encode, pair
from hostproxy.snapshot import Delta, Listener, Place, Service
from tests.control.conftest import TurnedReactor

LISTENER = Listener("mesh", "mesh", "127.0.0.1:15443")


class Recorder:
    """Owns a channel and writes down what comes."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.descriptors: list[int] = []
        self.lost: list[str] = []

    def message_received(self, message: Any, descriptor: int | None) -> None:
        self.messages.append(message)
        if descriptor is not None:
            self.descriptors.append(descriptor)

    def channel_lost(self, reason: str) -> None:
        self.lost.append(reason)


def both(reactor: TurnedReactor) -> tuple[Channel[Any], Recorder, Channel[Any], Recorder]:
    upper, lower = pair()
    above, below = Recorder(), Recorder()
    return (
        Channel(reactor, upper, messages.Up, above),
        above,
        Channel(reactor, lower, messages.Down, below),
        below,
    )


def raw(reactor: TurnedReactor) -> tuple[socket.socket, Channel[Any], Recorder]:
    """A worker's end whose other end the test writes by hand."""
    hand, lower = pair()
    recorder = Recorder()
    return hand, Channel(reactor, lower, messages.Down, recorder), recorder


def big_delta(version: int, count: int) -> messages.Change:
    places = tuple(Place(f"host-{n}.example.test:{n + 1}", True, "dc1", 1) for n in range(count))
    return messages.Change(Delta(version=version, services={"s": Service("s", places=places)}))


def test_messages_of_both_directions_arrive_in_order(reactor: TurnedReactor) -> None:
    upper, above, lower, below = both(reactor)
    upper.send(big_delta(2, 3))
    upper.send(messages.Close("proxy"))
    lower.send(messages.Applied(2))
    lower.send(messages.Ready(2))
    reactor.until(lambda: len(below.messages) == 2 and len(above.messages) == 2)
    assert below.messages == [big_delta(2, 3), messages.Close("proxy")]
    assert above.messages == [messages.Applied(2), messages.Ready(2)]
    upper.close()
    lower.close()


def test_byte_by_byte(reactor: TurnedReactor) -> None:
    hand, lower, below = raw(reactor)
    wanted = [messages.Ping(7), big_delta(3, 2), messages.ReopenLogs()]
    stream = b"".join(encode(message) for message in wanted)
    for position in range(len(stream)):
        hand.send(stream[position : position + 1])
        reactor.iterate(0)
    assert below.messages == wanted
    hand.close()
    lower.close()


def test_a_message_larger_than_the_socket_buffer_arrives_and_never_blocks(reactor: TurnedReactor) -> None:
    upper, _, lower, below = both(reactor)
    message = big_delta(2, 60_000)
    upper.send(message)
    assert upper.queued > 0, "the message was meant to be larger than the buffer"
    reactor.until(lambda: below.messages)
    assert below.messages == [message]
    assert upper.queued == 0
    upper.close()
    lower.close()


def test_a_descriptor_travels_beside_its_message(reactor: TurnedReactor) -> None:
    upper, _, lower, below = both(reactor)
    read_end, write_end = os.pipe()
    upper.send(messages.Ping(1))
    upper.send(messages.Listen(LISTENER), write_end)
    os.close(write_end)  # the channel does not need it any more
    upper.send(messages.Ping(2))
    reactor.until(lambda: len(below.messages) == 3)
    assert below.messages == [messages.Ping(1), messages.Listen(LISTENER), messages.Ping(2)]
    os.write(below.descriptors[0], b"through")
    assert os.read(read_end, 100) == b"through"
    assert not os.get_inheritable(below.descriptors[0])
    os.close(below.descriptors[0])
    os.close(read_end)
    upper.close()
    lower.close()


def test_descriptors_behind_a_queue_stay_with_their_messages(reactor: TurnedReactor) -> None:
    upper, _, lower, below = both(reactor)
    upper.send(big_delta(2, 60_000))
    pipes = [os.pipe() for _ in range(40)]
    for number, (_, write_end) in enumerate(pipes):
        upper.send(messages.Listen(Listener(str(number), "mesh", "a")), write_end)
        os.close(write_end)
    reactor.until(lambda: len(below.messages) == 41)
    for number, (read_end, _) in enumerate(pipes):
        assert below.messages[number + 1].listener.id == str(number)
        os.write(below.descriptors[number], str(number).encode())
        assert os.read(read_end, 10) == str(number).encode()
        os.close(read_end)
        os.close(below.descriptors[number])
    upper.close()
    lower.close()


def test_only_the_newest_telemetry_waits(reactor: TurnedReactor) -> None:
    upper, above, lower, _ = both(reactor)
    filler = messages.Telemetry(b"x" * 2_000_000, {})
    lower.send(filler)  # half of it is on its way and stays whole
    for number in range(50):
        lower.send(messages.Telemetry(b"%d" % number, {}))
        lower.send(messages.Applied(number))
    assert lower.queued < 2_001_000
    reactor.until(lambda: len(above.messages) >= 3)
    assert above.messages == [filler, messages.Telemetry(b"49", {}), messages.Applied(49)]
    upper.close()
    lower.close()


def test_a_side_that_does_not_read_is_given_up(reactor: TurnedReactor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "QUEUE_BYTES", 100_000)
    upper, above, lower, _ = both(reactor)
    for version in range(1, 100):
        upper.send(big_delta(version, 500))
    assert len(above.lost) == 1
    assert "does not read" in above.lost[0]
    assert not upper.open
    lower.close()


def test_the_end_of_the_other_side_is_noticed_after_its_last_words(reactor: TurnedReactor) -> None:
    upper, above, lower, _ = both(reactor)
    lower.send(messages.Drained())
    lower.close()
    reactor.until(lambda: above.lost)
    assert above.messages == [messages.Drained()]
    assert above.lost == ["closed by the other side"]
    upper.send(messages.Ping(1))  # nothing happens


def test_last_words_are_heard_even_after_a_failed_send(reactor: TurnedReactor) -> None:
    upper, above, lower, _ = both(reactor)
    lower.send(messages.Drained())
    lower.close()
    upper.send(messages.Ping(1))
    reactor.until(lambda: above.lost)
    assert above.messages == [messages.Drained()]


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (struct.pack(">I", 64 * 1024 * 1024 + 1), "over the"),
        (struct.pack(">I", 3) + b"\xc1\xc1\xc1", "not understood"),
        (struct.pack(">I", 7) + b"\x91\xa5Ready", "not understood"),  # of the other direction
        (encode(messages.Listen(LISTENER)), "without its descriptor"),
        (struct.pack(">I", 100) + b"half", "closed within a message"),
    ],
)
def test_broken_rules_end_the_channel(reactor: TurnedReactor, stream: bytes, reason: str) -> None:
    hand, lower, below = raw(reactor)
    hand.send(stream)
    hand.close()
    reactor.until(lambda: below.lost)
    assert reason in below.lost[0]
    assert below.messages == []
    assert not lower.open


def test_descriptors_nobody_took_are_closed(reactor: TurnedReactor) -> None:
    hand, lower, _ = raw(reactor)
    read_end, write_end = os.pipe()
    hand.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write_end]))])
    os.close(write_end)
    reactor.turns()
    lower.close()
    assert os.read(read_end, 1) == b"", "the pipe's other end is still open"
    os.close(read_end)
    hand.close()


def test_an_error_of_the_owner_costs_one_message(reactor: TurnedReactor) -> None:
    hand, lower, below = raw(reactor)
    taken = below.message_received

    def fail_once(message: Any, descriptor: int | None) -> None:
        below.message_received = taken  # type: ignore[method-assign]
        raise RuntimeError("bug")

    below.message_received = fail_once  # type: ignore[method-assign]
    hand.send(encode(messages.Ping(1)) + encode(messages.Ping(2)))
    reactor.until(lambda: below.messages)
    assert below.messages == [messages.Ping(2)]
    hand.close()
    lower.close()
