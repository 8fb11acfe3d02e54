from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from hostproxy.config_services import Check, LocalService
from hostproxy.health import LocalHealth, Result
from hostproxy.health.checks import AT_ONCE, COMPLAINT, FIRST, SLOW
from hostproxy.health.probe import Outcome, Question
from hostproxy.net.connect import Address
from tests.support import Listening, Loop, closed_port

OK = Outcome("ok")
BAD = Outcome("status", "GET /healthz: 503")
NOW = 1_700_000_000.0


class Probed:
    """A probe that ends when the test says so."""

    def __init__(self, address: str, question: Question, done: Callable[[Outcome], object]) -> None:
        self.address = address
        self.question = question
        self.done = done
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Checked:
    """A LocalHealth by the clock, whose probes the test answers."""

    def __init__(self, *services: LocalService, random: Callable[[], float] = lambda: 0.5) -> None:
        self.clock = Clock()
        self.probes: list[Probed] = []  # under way
        self.asked: list[tuple[float, str]] = []  # when and whom, all
        self.published: list[dict[tuple[str, str], Result]] = []
        self.health = LocalHealth(
            cast(Any, self.clock), services, lambda: NOW + self.clock.seconds(), random, self._ask
        )
        self.health.results.subscribe(lambda value: self.published.append(dict(value)))

    def _ask(self, reactor: object, address: Address, question: Question, done: Callable[[Outcome], object]) -> Probed:
        probe = Probed(address.text, question, done)
        self.probes.append(probe)
        self.asked.append((self.clock.seconds(), address.text))
        return probe

    def answer(self, outcome: Outcome = OK, address: str = "") -> None:
        """End a probe: the only one, or that of an address."""
        (probe,) = [each for each in self.probes if address in ("", each.address)]
        self.probes.remove(probe)
        probe.done(outcome)

    def rounds(self, *outcomes: Outcome) -> None:
        """Let one instance be asked so often, and answer this."""
        for outcome in outcomes:
            while not self.probes:
                self.clock.advance(0.1)
            self.answer(outcome)

    @property
    def state(self) -> dict[tuple[str, str], bool]:
        return {key: result.healthy for key, result in self.health.results.value.items()}


def service(name: str = "payments", *instances: str, **check: Any) -> LocalService:
    asked = Check(**{"http": "/healthz"} | check)
    return LocalService(name=name, instances=instances or ("127.0.0.1:9001",), check=asked)


KEY = ("payments", "127.0.0.1:9001")


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged from info on, with its level."""
    found: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.info and event["log_namespace"].startswith("hostproxy.health"):
            found.append(f"{event['log_level'].name}: {formatEvent(event)}")

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


def test_the_first_answer_decides_and_then_it_takes_some_in_a_row(lines: list[str]) -> None:
    checked = Checked(service(healthy=2, unhealthy=3))
    checked.health.start()
    assert checked.state == {}
    checked.rounds(OK)
    assert checked.state == {KEY: True}
    checked.rounds(BAD, BAD)
    assert checked.state == {KEY: True}
    checked.rounds(Outcome("refused", "GET /healthz: connection refused"))
    assert checked.state == {KEY: False}
    checked.rounds(OK, BAD, OK)
    assert checked.state == {KEY: False}
    checked.rounds(OK)
    assert checked.state == {KEY: True}
    assert [each[KEY].healthy for each in checked.published] == [True, False, True]
    assert [each[KEY].reason for each in checked.published] == ["", "GET /healthz: connection refused", ""]
    assert lines == [
        "warn: payments 127.0.0.1:9001 is unhealthy: GET /healthz: connection refused",
        "info: payments 127.0.0.1:9001 is healthy again",
    ]


def test_one_that_is_unhealthy_from_the_start_is_told_at_once(lines: list[str]) -> None:
    checked = Checked(service())
    checked.health.start()
    checked.rounds(BAD)
    assert checked.health.results.value[KEY] == Result(
        healthy=False, reason="GET /healthz: 503", since=NOW + checked.clock.seconds()
    )
    assert lines == ["warn: payments 127.0.0.1:9001 is unhealthy: GET /healthz: 503"]


def test_the_interval_lies_between_the_end_of_one_probe_and_the_start_of_the_next() -> None:
    checked = Checked(service(interval=2.0, timeout=60.0), random=lambda: 0.25)
    checked.health.start()
    checked.clock.advance(0.499)
    assert checked.probes == []
    checked.clock.advance(0.001)
    checked.clock.advance(30.0)
    assert checked.asked == [(0.5, "127.0.0.1:9001")]  # once at a time, however long it takes
    checked.answer()
    checked.clock.advance(1.999)
    assert len(checked.asked) == 1
    checked.clock.advance(0.001)
    assert checked.asked[1] == (pytest.approx(32.5), "127.0.0.1:9001")


@pytest.mark.parametrize(("interval", "latest"), [(0.5, 0.5), (3600.0, FIRST)])
def test_the_first_probes_are_spread(interval: float, latest: float) -> None:
    numbers = iter([0.0, 0.1, 0.5, 0.999])
    addresses = [f"127.0.0.1:{port}" for port in range(1, 5)]
    checked = Checked(service("a", *addresses, interval=interval), random=lambda: next(numbers))
    checked.health.start()
    for _ in range(1000):
        checked.clock.advance(latest / 1000)
    times = [at for at, _ in checked.asked]
    assert times == pytest.approx([0.0, latest * 0.1, latest * 0.5, latest], abs=latest / 500)


def test_only_so_many_at_a_time() -> None:
    addresses = [f"127.0.0.1:{port}" for port in range(1, 101)]
    checked = Checked(*(service(f"s{number}", address) for number, address in enumerate(addresses)))
    checked.health.start()
    checked.clock.advance(FIRST / 2)
    assert [address for _, address in checked.asked] == addresses[:AT_ONCE]
    checked.answer(OK, addresses[7])
    assert len(checked.asked) == AT_ONCE + 1
    for address in [*addresses[:7], *addresses[8:]]:
        checked.answer(OK, address)
    assert [address for _, address in checked.asked] == addresses  # in the order in which they were due
    assert checked.probes == []
    assert len(checked.state) == 100


def test_those_that_hang_keep_nobody_waiting_for_long() -> None:
    hanging = [f"127.0.0.1:{port}" for port in range(1, AT_ONCE + 1)]
    checked = Checked(service("bad", *hanging, timeout=60.0), service("good", "127.0.0.1:9001"))
    checked.health.start()
    checked.clock.advance(1.0)
    assert len(checked.probes) == AT_ONCE
    checked.clock.advance(SLOW)
    assert checked.asked[-1] == (1.0 + SLOW, "127.0.0.1:9001")
    checked.answer(OK, "127.0.0.1:9001")
    for address in hanging:  # their places were given back once, not twice
        checked.answer(BAD, address)
    checked.clock.advance(10.0)
    assert len(checked.probes) == AT_ONCE


def test_what_is_asked() -> None:
    checked = Checked(
        service("payments", "unix:/run/p.sock", http="/ready", timeout=0.5),
        service("ledger", "[::1]:9002", http="", tcp=True),
    )
    checked.health.start()
    checked.clock.advance(1.0)
    http, tcp = checked.probes
    assert http.address == "unix:/run/p.sock"
    assert http.question.request.startswith(b"GET /ready HTTP/1.1\r\nHost: payments\r\nUser-Agent: hostproxy/")
    assert http.question.timeout == 0.5
    assert tcp.address == "[::1]:9002"
    assert tcp.question == Question("connect", b"", 1.0)


def test_what_is_not_asked() -> None:
    checked = Checked(
        LocalService(name="unchecked", instances=("127.0.0.1:1",)),
        LocalService(name="caller", check=Check(tcp=True)),
        service("by-consul", "127.0.0.1:2", run_by="consul"),
    )
    checked.health.start()
    checked.clock.advance(10.0)
    assert checked.asked == []
    assert checked.clock.getDelayedCalls() == []


def test_probes_are_counted_by_their_result() -> None:
    checked = Checked(service())
    checked.health.start()
    checked.rounds(OK, BAD, OK, Outcome("timeout", "x"), OK)
    assert checked.health.counts == {("payments", "ok"): 3, ("payments", "status"): 1, ("payments", "timeout"): 1}


def test_a_probe_that_could_not_be_made_decides_nothing(lines: list[str]) -> None:
    skipped = Outcome("skipped", "GET /healthz: the limit of open files is reached")
    checked = Checked(service(unhealthy=2, interval=1.0))
    checked.health.start()
    checked.rounds(skipped)
    assert checked.state == {}
    checked.rounds(OK, *[skipped] * 10)
    assert checked.state == {KEY: True}
    checked.rounds(BAD, skipped)
    assert checked.state == {KEY: True}
    checked.rounds(BAD)
    assert checked.state == {KEY: False}
    complaint = "warn: payments 127.0.0.1:9001 could not be asked: GET /healthz: the limit of open files is reached"
    assert lines.count(complaint) == 1
    checked.clock.advance(COMPLAINT)
    checked.rounds(skipped)
    assert lines.count(complaint) == 2
    assert checked.health.counts["payments", "skipped"] == 13


# Reloads.


def test_unchanged_checks_go_on() -> None:
    checked = Checked(service(unhealthy=2))
    checked.health.start()
    checked.rounds(OK, BAD)
    due = [call.getTime() for call in checked.clock.getDelayedCalls()]
    checked.health.change([service(unhealthy=2), service("other", "127.0.0.1:9002")])
    assert due[0] in [call.getTime() for call in checked.clock.getDelayedCalls()]
    assert len(checked.published) == 1
    checked.clock.advance(2.0)
    checked.answer(BAD, "127.0.0.1:9001")
    assert checked.state[KEY] is False  # the bad answer before the reload counts
    checked.answer(OK, "127.0.0.1:9002")
    assert checked.state["other", "127.0.0.1:9002"] is True


def test_what_is_not_checked_any_more_vanishes() -> None:
    checked = Checked(service("a", "127.0.0.1:1", "127.0.0.1:2"), service("b", "127.0.0.1:3"))
    checked.health.start()
    checked.clock.advance(1.0)
    for port in (1, 2, 3):
        checked.answer(BAD, f"127.0.0.1:{port}")
    checked.health.change([service("a", "127.0.0.1:2")])
    assert checked.state == {("a", "127.0.0.1:2"): False}
    assert set(checked.published[-1]) == {("a", "127.0.0.1:2")}
    assert checked.health.counts == {("a", "status"): 2}
    checked.clock.advance(10.0)
    assert [probe.address for probe in checked.probes] == ["127.0.0.1:2"]


def test_a_probe_of_what_is_gone_is_cancelled_and_its_place_taken() -> None:
    addresses = [f"127.0.0.1:{port}" for port in range(1, AT_ONCE + 2)]
    checked = Checked(*(service(f"s{number}", address) for number, address in enumerate(addresses)))
    checked.health.start()
    checked.clock.advance(1.0)
    assert len(checked.asked) == AT_ONCE
    checked.health.change([service(f"s{number}", address) for number, address in enumerate(addresses) if number])
    assert [probe.address for probe in checked.probes if probe.cancelled] == [addresses[0]]
    assert checked.asked[-1][1] == addresses[-1]


def test_what_is_gone_while_it_waits_is_not_asked() -> None:
    addresses = [f"127.0.0.1:{port}" for port in range(1, AT_ONCE + 2)]
    checked = Checked(*(service(f"s{number}", address) for number, address in enumerate(addresses)))
    checked.health.start()
    checked.clock.advance(1.0)
    checked.health.change([service(f"s{number}", address) for number, address in enumerate(addresses[:-1])])
    for address in addresses[:-1]:
        checked.answer(OK, address)
    assert [address for _, address in checked.asked] == addresses[:-1]


def test_a_changed_check_begins_anew_with_the_health_that_is_known() -> None:
    checked = Checked(service(interval=2.0, healthy=2, unhealthy=3))
    checked.health.start()
    checked.rounds(BAD, OK)
    checked.health.change([service(interval=10.0, healthy=2, unhealthy=3)])
    assert checked.state == {KEY: False}
    checked.rounds(OK)
    assert checked.state == {KEY: False}
    before = checked.clock.seconds()
    checked.rounds(OK)
    assert checked.state == {KEY: True}
    assert checked.clock.seconds() - before == pytest.approx(10.0, abs=0.2)
    assert len(checked.published) == 2


def test_a_check_that_consul_takes_over_is_not_run_here_any_more() -> None:
    checked = Checked(service())
    checked.health.start()
    checked.rounds(BAD)
    checked.health.change([service(run_by="consul")])
    assert checked.state == {}
    assert checked.clock.getDelayedCalls() == []


def test_nothing_happens_after_stopping() -> None:
    addresses = [f"127.0.0.1:{port}" for port in range(1, AT_ONCE + 20)]
    checked = Checked(service("a", *addresses, timeout=10.0))
    checked.health.start()
    checked.clock.advance(1.0)
    checked.answer(BAD, "127.0.0.1:1")
    checked.health.stop()
    assert all(probe.cancelled for probe in checked.probes)
    assert checked.clock.getDelayedCalls() == []
    assert len(checked.asked) == AT_ONCE + 1
    assert checked.state == {("a", "127.0.0.1:1"): False}
    checked.health.change([service("b", "127.0.0.1:9")])
    assert checked.clock.getDelayedCalls() == []


def test_real_instances(loop: Loop) -> None:
    server = Listening(loop)
    down = closed_port()
    health = LocalHealth(
        loop.reactor,
        [service("up", server.address, interval=0.1, unhealthy=1), service("down", down, http="", tcp=True)],
        time.time,
        lambda: 0.0,
    )
    health.start()
    server.accept().send(b"HTTP/1.1 200 OK\r\n\r\n")
    loop.until(lambda: len(health.results.value) == 2)
    assert health.results.value["up", server.address].healthy
    assert health.results.value["down", down].reason == "connect: connection refused"
    server.accept().send(b"HTTP/1.1 500 Oh\r\n\r\n")
    loop.until(lambda: not health.results.value["up", server.address].healthy)
    assert health.results.value["up", server.address].reason == "GET /healthz: 500"
    health.stop()
