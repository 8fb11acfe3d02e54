"""Places and those who fill them, with programs that do no more than the test needs."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from hostproxy.control import crew as crew_module
from hostproxy.control.crew import Crew
from hostproxy.control.handle import Target
from hostproxy.snapshot import Listener
from tests.control.conftest import TurnedReactor
from tests.control.test_handle import snapshot

# Reads frames and answers Apply with Applied and Ready, Drain with an exit, as the messages are framed.
OBEDIENT = """
import socket, struct, sys, msgspec
from hostproxy.control import messages
from hostproxy.control.channel import encode
sock = socket.socket(fileno=int(sys.argv[1]))
decoder = msgspec.msgpack.Decoder(messages.Down)
data = b""
while True:
    received = sock.recv(65536)
    if not received:
        sys.exit(7)
    data += received
    while len(data) >= 4 and len(data) >= 4 + struct.unpack(">I", data[:4])[0]:
        size = 4 + struct.unpack(">I", data[:4])[0]
        message, data = decoder.decode(data[4:size]), data[size:]
        if isinstance(message, messages.Apply):
            version = message.snapshot.version
            sock.sendall(encode(messages.Applied(version)) + encode(messages.Ready(version)))
        if isinstance(message, messages.Drain):
            sock.sendall(encode(messages.Drained()))
            sys.exit(0)
"""


class Owner:
    """Writes down what the crew reports."""

    def __init__(self) -> None:
        self.ready = 0
        self.gone: list[int] = []
        self.wanted: list[Any] = []
        self.used: list[tuple[str, ...]] = []

    def crew_changed(self) -> None:
        pass

    def crew_ready(self) -> None:
        self.ready += 1

    def worker_counted(self, worker: int, export: bytes) -> None:
        raise AssertionError

    def service_wanted(self, handle: Any, service: str) -> None:
        self.wanted.append((handle, service))

    def services_used(self, services: tuple[str, ...]) -> None:
        self.used.append(services)

    def worker_gone(self, worker: int) -> None:
        self.gone.append(worker)

    def socket_received(self, listener: Listener, sock: socket.socket) -> None:
        raise AssertionError

    def worker_handed_over(self, handle: Any) -> None:
        raise AssertionError


def make(reactor: TurnedReactor, directory: Path, code: str) -> tuple[Crew, Owner]:
    owner = Owner()
    return (
        Crew(
            reactor,
            lambda place, channel: [sys.executable, "-c", code, str(channel)],
            str(directory),
            owner,
        ),
        owner,
    )


def target(version: int = 1) -> Target:
    return Target(snapshot(version, listeners=()), {})


def phases(crew: Crew) -> list[str]:
    return [state.phase for state in crew.states]


def test_every_place_is_filled_and_the_crew_drains(reactor: TurnedReactor, tmp_path: Path) -> None:
    crew, owner = make(reactor, tmp_path, OBEDIENT)
    crew.start(target(), 2)
    reactor.until(lambda: owner.ready)
    assert phases(crew) == ["serving", "serving"]
    assert len(crew.pids) == 2
    results: list[bool] = []
    crew.drain(5.0).addCallback(results.append)
    reactor.until(lambda: results)
    assert results == [True]
    assert crew.states == ()
    assert sorted(owner.gone) == [1, 2]
    assert not [call for call in reactor.getDelayedCalls() if call.active()]


# Serves like the other, and asks for a service until it gets an answer.
CURIOUS = OBEDIENT.replace(
    "encode(messages.Ready(version)))",
    "encode(messages.Ready(version)) + encode(messages.Wanted('payments')) + encode(messages.Used(('cart',))))",
).replace(
    "if isinstance(message, messages.Drain)",
    "if isinstance(message, messages.Absent): sock.sendall(encode(messages.Wanted('again')))\n"
    "        if isinstance(message, messages.Drain)",
)


def test_what_workers_want_and_use_is_passed_on_and_answered(reactor: TurnedReactor, tmp_path: Path) -> None:
    crew, owner = make(reactor, tmp_path, CURIOUS)
    crew.start(target(), 1)
    reactor.until(lambda: owner.wanted and owner.used)
    assert owner.used == [("cart",)]
    ((handle, service),) = owner.wanted
    assert service == "payments"
    handle.absent("payments")
    reactor.until(lambda: len(owner.wanted) == 2)
    assert owner.wanted[1][1] == "again"
    results: list[bool] = []
    crew.drain(5.0).addCallback(results.append)
    reactor.until(lambda: results)


def test_more_and_fewer_places(reactor: TurnedReactor, tmp_path: Path) -> None:
    crew, owner = make(reactor, tmp_path, OBEDIENT)
    crew.start(target(), 1)
    reactor.until(lambda: owner.ready)
    (first,) = crew.pids
    crew.resize(2)
    reactor.until(lambda: owner.ready == 2)
    assert first in crew.pids
    crew.resize(1)
    assert phases(crew) == ["serving", "draining"]
    reactor.until(lambda: len(crew.states) == 1)
    assert crew.pids == {first}
    results: list[bool] = []
    crew.drain(5.0).addCallback(results.append)
    reactor.until(lambda: results)


def test_those_who_die_young_are_replaced_after_a_growing_wait(reactor: TurnedReactor, tmp_path: Path) -> None:
    crew, owner = make(reactor, tmp_path, "raise SystemExit(3)")
    began = reactor.seconds()
    crew.start(target(), 1)
    reactor.until(lambda: crew.states[0].restarts == 3)
    assert reactor.seconds() - began >= 0.1 + 0.2
    assert phases(crew) == ["waiting"]
    assert owner.gone == [1, 2, 3]
    results: list[bool] = []
    crew.drain(1.0).addCallback(results.append)
    assert results == [True], "nobody was left to wait for"


def test_one_who_lived_long_is_replaced_at_once(
    reactor: TurnedReactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "YOUNG", 0.0)
    crew, owner = make(reactor, tmp_path, OBEDIENT)
    crew.start(target(), 1)
    reactor.until(lambda: owner.ready)
    (old,) = crew.pids
    crew._places[0].handle.process.signal(signal.SIGKILL)  # type: ignore[union-attr]
    reactor.until(lambda: owner.gone)
    assert phases(crew) == ["starting"]
    assert old not in crew.pids
    reactor.until(lambda: owner.ready == 2)
    crew.kill()
    results: list[bool] = []
    crew.drain(1.0).addCallback(results.append)
    reactor.until(lambda: results)
    assert results == [False], "a killed crew did not end cleanly"


def test_a_program_that_cannot_be_started_is_tried_again(reactor: TurnedReactor, tmp_path: Path) -> None:
    owner = Owner()
    crew = Crew(reactor, lambda place, channel: ["/nowhere/at/all"], str(tmp_path), owner)
    crew.start(target(), 1)
    assert phases(crew) == ["waiting"]
    reactor.until(lambda: crew.states[0].restarts == 2)
    crew.drain(0.0)


def test_a_crew_that_is_let_go_is_not_followed_any_more(reactor: TurnedReactor, tmp_path: Path) -> None:
    crew, owner = make(reactor, tmp_path, OBEDIENT)
    crew.start(target(), 1)
    reactor.until(lambda: owner.ready)
    (pid,) = crew.pids
    crew.forget()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7, "it was to see the end of its channel, and nothing else"
    reactor.turns()
    assert owner.gone == []
    assert not [call for call in reactor.getDelayedCalls() if call.active()]
