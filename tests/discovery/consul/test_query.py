"""One blocking query: its decisions on a Clock, and then itself against a stub over real connections."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from hostproxy.discovery.consul.counters import Counters
from hostproxy.discovery.consul.query import BlockingQuery
from hostproxy.discovery.consul.transport import AgentError, Reply
from tests.discovery.consul.conftest import World
from tests.fakes.consul_stub import ConsulStub

PATH = "/v1/health/service/web"


class Asked(NamedTuple):
    """One request."""

    at: float
    params: dict[str, str]
    timeout: float
    answer: Deferred[Reply]


class ScriptedAgent:
    """Keeps what was asked; the test answers it. With ``always``, everything is answered so at once."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[Asked] = []
        self.always: Reply | AgentError | None = None
        self.cancelled = 0

    def request(
        self, method: str, path: str, params: Mapping[str, str], *, timeout: float, persistent: bool, what: str
    ) -> Deferred[Reply]:
        assert (method, path, persistent, what) == ("GET", PATH, False, "health_service")
        assert not self.under_way, "two requests at a time"
        self.asked.append(Asked(self.clock.seconds(), dict(params), timeout, Deferred(self._cancel)))
        if self.always is not None:
            self.say(self.always)
        return self.asked[-1].answer

    def _cancel(self, deferred: Deferred[Reply]) -> None:
        self.cancelled += 1

    @property
    def under_way(self) -> list[Asked]:
        return [one for one in self.asked if not one.answer.called]

    def say(self, answer: Reply | AgentError) -> None:
        """Answer the request under way."""
        (one,) = self.under_way
        if isinstance(answer, Reply):
            one.answer.callback(answer)
        else:
            one.answer.errback(answer)


class Setting:
    """A query on a Clock."""

    def __init__(self, wait: float = 300.0) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.agent = ScriptedAgent(self.clock)
        self.counters = Counters()
        self.bodies: list[bytes] = []
        self.replies: list[Reply] = []
        self.failures: list[str] = []
        self.verdict = ""  # of what takes the answers
        self.random = 1.0
        self.query = BlockingQuery(
            self.clock,
            self.agent,  # type: ignore[arg-type]
            PATH,
            {"dc": "dc1"},
            "health_service",
            wait=wait,
            stale_limit=10.0,
            random=lambda: self.random,
            counters=self.counters,
            take=self.take,
            failed=self.failures.append,
        )

    def take(self, reply: Reply) -> str:
        self.replies.append(reply)
        self.bodies.append(reply.body)
        return self.verdict

    def say(self, body: bytes = b"[]", index: int | None = 10, status: int = 200, **more: Any) -> None:
        """Answer, and let what is due at once happen."""
        self.agent.say(Reply(status=status, body=body, index=index, **more))
        self.clock.advance(0)

    def fail(self, kind: str = "timeout") -> None:
        self.agent.say(AgentError(kind, f"it is {kind}"))
        self.clock.advance(0)

    def run(self, seconds: float, step: float = 0.01) -> None:
        for _ in range(round(seconds / step)):
            self.clock.advance(step)

    def until_asked(self) -> float:
        """Seconds until the next request."""
        start, before = self.clock.seconds(), len(self.agent.asked)
        while len(self.agent.asked) == before:
            assert self.clock.seconds() - start < 100, "nothing is asked any more"
            self.clock.advance(0.01)
        return self.clock.seconds() - start

    @property
    def params(self) -> dict[str, str]:
        """Of the last request, without what is always the same."""
        params = dict(self.agent.asked[-1].params)
        assert params.pop("dc") == "dc1"
        return params


@pytest.fixture
def setting() -> Iterator[Setting]:
    setting = Setting()
    setting.query.start()
    setting.clock.advance(0)
    yield setting
    setting.query.stop()
    assert setting.clock.getDelayedCalls() == []
    assert not setting.agent.under_way


STALE = {"stale": ""}


def blocking(index: int, wait: str = "300s") -> dict[str, str]:
    return {"stale": "", "index": str(index), "wait": wait}


# The ordinary round


def test_the_first_question_is_without_index_and_the_next_one_waits_for_news(setting: Setting) -> None:
    assert setting.params == STALE
    assert setting.agent.asked[0].timeout == 12
    setting.say(b"[1]", index=10)
    assert setting.bodies == [b"[1]"]
    assert setting.params == blocking(10)
    setting.say(b"[2]", index=17)
    assert setting.bodies == [b"[1]", b"[2]"]
    assert setting.query.index == 17


def test_the_start_can_be_put_off() -> None:
    setting = Setting()
    setting.query.start(delay=2.5)
    setting.query.start()  # it runs already
    setting.query.refresh()
    setting.clock.advance(2.4)
    assert setting.agent.asked == []
    setting.clock.advance(0.1)
    assert len(setting.agent.asked) == 1
    setting.query.stop()


@pytest.mark.parametrize(("wait", "sent", "deadline"), [(300.0, "300s", 323.75), (1.5, "1.5s", 6.59375)])
def test_the_deadline_is_a_sixteenth_and_five_seconds_after_the_wait(wait: float, sent: str, deadline: float) -> None:
    setting = Setting(wait)
    setting.query.start()
    setting.clock.advance(0)
    setting.say()
    assert setting.params["wait"] == sent
    assert setting.agent.asked[-1].timeout == deadline
    setting.query.stop()


def test_the_same_answer_again_is_not_taken_again(setting: Setting) -> None:
    """Of fault fi-c07: the index moves, what is answered is the same."""
    setting.say(b"[1]", index=10)
    setting.clock.advance(300)
    setting.say(b"[1]", index=20)
    assert setting.bodies == [b"[1]"]
    assert setting.query.succeeded == setting.clock.seconds()
    assert setting.params == blocking(20)


def test_another_answer_with_the_same_index_is_taken(setting: Setting) -> None:
    """Of fault fi-c07: the index stays, what is answered changes."""
    setting.say(b"[1]", index=10)
    setting.clock.advance(300)
    setting.say(b"[2]", index=10)
    assert setting.bodies == [b"[1]", b"[2]"]
    assert setting.counters.index_resets == 0


def test_the_same_answer_without_what_acls_hid_is_another_one(setting: Setting) -> None:
    setting.say(b"[1]", filtered=True)
    setting.say(b"[1]")
    assert [reply.filtered for reply in setting.replies] == [True, False]


def test_stop_ends_what_is_under_way(setting: Setting) -> None:
    setting.query.stop()
    assert setting.agent.cancelled == 1
    setting.clock.advance(1000)
    assert len(setting.agent.asked) == 1
    assert setting.failures == []
    assert setting.counters.errors == {}


def test_stop_while_an_answer_is_taken(setting: Setting) -> None:
    setting.query._take = lambda reply: setting.query.stop() or ""
    setting.say(b"[1]")
    setting.clock.advance(1000)
    assert len(setting.agent.asked) == 1


def test_it_can_be_started_again(setting: Setting) -> None:
    setting.say(b"[1]", index=10)
    setting.query.stop()
    setting.query.start()
    setting.clock.advance(0)
    assert setting.params == STALE


# Indexes


def test_an_index_that_goes_backwards_is_forgotten(setting: Setting) -> None:
    """Fault fi-c05: a snapshot is restored."""
    setting.say(b"[1]", index=100)
    setting.clock.advance(60)
    setting.say(b"[2]", index=50)
    assert setting.bodies[-1] == b"[2]"
    assert setting.params == STALE
    assert setting.counters.index_resets == 1
    setting.clock.advance(60)
    setting.say(b"[2]", index=50)
    assert setting.params == blocking(50)
    assert setting.counters.index_resets == 1


@pytest.mark.parametrize("index", [0, None])
def test_an_unusable_index_is_one_and_no_busy_loop(setting: Setting, index: int | None) -> None:
    """Fault fi-c06."""
    setting.agent.always = Reply(status=200, body=b"[1]", index=index)
    setting.agent.say(setting.agent.always)
    setting.run(20)
    times = [one.at - 1000 for one in setting.agent.asked]
    assert all(later - earlier >= 0.999 for earlier, later in pairwise(times))
    assert len(times) >= 20
    assert setting.params == blocking(1)
    assert setting.bodies == [b"[1]"]


def test_a_lost_index_after_a_good_one_means_to_begin_anew(setting: Setting) -> None:
    setting.say(b"[1]", index=100)
    setting.say(b"[1]", index=None)
    setting.clock.advance(1)
    assert setting.params == STALE
    assert setting.counters.index_resets == 1


def test_a_good_index_at_which_everything_is_new_is_no_busy_loop_either(setting: Setting) -> None:
    """A server that answers at once whatever the index."""
    setting.agent.always = Reply(status=200, body=b"[1]", index=7)
    setting.agent.say(setting.agent.always)
    setting.run(10)
    assert len(setting.agent.asked) <= 12


def test_the_index_of_an_error_is_nothing(setting: Setting) -> None:
    setting.say(b"[1]", index=100)
    setting.say(b"No cluster leader", index=1, status=500)
    assert setting.query.index == 100
    setting.until_asked()
    setting.say(b"[1]", index=100)
    setting.until_asked()
    assert setting.params == blocking(100)
    assert setting.counters.index_resets == 0


# Failures


@pytest.mark.parametrize("random", [0.0, 0.5, 1.0])
def test_thirty_seconds_without_a_leader(setting: Setting, random: float) -> None:
    """Fault fi-c04."""
    setting.random = random
    setting.say(b"[1]", index=10)
    setting.clock.advance(100)
    before = len(setting.agent.asked)
    setting.agent.always = Reply(status=500, body=b"No cluster leader", index=1)
    setting.agent.say(setting.agent.always)
    setting.run(30)
    asked = len(setting.agent.asked) - before
    assert 5 <= asked <= 20
    assert setting.bodies == [b"[1]"]
    assert setting.query.error == "Consul answers 500 'No cluster leader'"
    assert set(setting.failures) == {setting.query.error}
    assert setting.counters.errors == {"status_500": asked + 1}


def test_a_long_outage_is_asked_about_every_fifteen_seconds_at_most(setting: Setting) -> None:
    setting.agent.always = AgentError("refused", "no connection")
    setting.agent.say(setting.agent.always)
    setting.run(300, 0.1)
    times = [one.at for one in setting.agent.asked]
    assert times[-1] - times[-2] == pytest.approx(15, abs=0.2)
    assert setting.counters.errors == {"refused": len(times)}


def test_after_a_failure_the_answer_is_asked_for_at_once_and_taken_in_any_case(setting: Setting) -> None:
    setting.say(b"[1]", index=10)
    setting.fail("reset")
    assert setting.query.error == "it is reset"
    setting.until_asked()
    assert setting.params == STALE
    setting.say(b"[1]", index=10)
    assert setting.bodies == [b"[1]", b"[1]"]
    assert setting.query.error == ""
    setting.until_asked()
    assert setting.params == blocking(10)


def test_failures_after_a_success_begin_with_a_short_pause_again(setting: Setting) -> None:
    for _ in range(8):
        setting.fail()
        setting.until_asked()
    setting.say(b"[1]")
    setting.clock.advance(100)
    setting.fail()
    assert setting.until_asked() == pytest.approx(0.25, abs=0.011)


def test_an_answer_that_is_not_used_after_a_long_outage_begins_with_a_short_pause(setting: Setting) -> None:
    setting.verdict = "emptied"
    for _ in range(8):
        setting.fail()
        setting.until_asked()
    setting.say(b"[]")
    assert setting.until_asked() < 1.1  # no more often than answers may come at most
    pauses = []
    for _ in range(10):
        setting.say(b"[]")
        pauses.append(setting.until_asked())
    assert max(pauses) > 7  # but not without end


def test_an_answer_that_is_not_used_counts_as_a_failure(setting: Setting) -> None:
    setting.say(b"[1]", index=10)
    setting.clock.advance(60)
    setting.verdict = "malformed"
    setting.say(b"[1", index=11)
    assert setting.query.error == "malformed"
    assert setting.query.index == 10
    assert setting.failures == ["malformed"]
    assert setting.counters.errors == {"malformed": 1}
    setting.until_asked()
    assert setting.params == STALE
    setting.say(b"[1", index=11)
    assert setting.bodies == [b"[1]", b"[1", b"[1"]  # looked at again: it may be another verdict now
    setting.verdict = ""
    setting.until_asked()
    setting.say(b"[1]", index=12)
    assert setting.query.error == ""
    assert setting.query.index == 12


@pytest.mark.parametrize(("status", "asked_for", "pause"), [(429, 20, 20), (503, 7, 7), (429, 1e18, 60), (500, 20, 0)])
def test_a_server_says_when_to_come_again(setting: Setting, status: int, asked_for: float, pause: float) -> None:
    setting.say(b"slow down", status=status, retry_after=asked_for)
    assert setting.until_asked() == pytest.approx(pause + 0.25, abs=0.011)


def test_a_refresh_does_not_come_before_the_time_that_a_server_named(setting: Setting) -> None:
    setting.say(b"slow down", status=429, retry_after=20.0)
    setting.query.refresh()
    assert setting.until_asked() == pytest.approx(20, abs=0.011)


def test_a_mistake_in_taking_does_not_end_the_watch(setting: Setting) -> None:
    logged: list[Any] = []
    globalLogPublisher.addObserver(logged.append)
    setting.query._take = lambda reply: str(1 // 0)
    setting.say(b"[1]")
    globalLogPublisher.removeObserver(logged.append)
    assert any("log_failure" in event for event in logged)
    assert "mistake" in setting.query.error
    setting.query._take = setting.take
    setting.until_asked()
    setting.say(b"[1]")
    assert setting.bodies == [b"[1]"]


# How far behind an answer may be


def test_an_answer_too_far_behind_is_used_and_the_leader_is_asked_next(setting: Setting) -> None:
    """Fault fi-c13."""
    setting.say(b"[1]", index=10, last_contact=60.0)
    assert setting.bodies == [b"[1]"]
    assert setting.query.last_contact == 60
    assert setting.params == {"index": "10", "wait": "300s"}
    setting.say(b"[2]", index=12)
    assert setting.query.last_contact == 0
    setting.until_asked()
    assert setting.params == blocking(12)


def test_without_a_leader_nobody_asks_it(setting: Setting) -> None:
    """Fault fi-c13."""
    setting.say(b"[1]", index=10, last_contact=60.0, known_leader=False)
    assert setting.bodies == [b"[1]"]
    assert not setting.query.known_leader
    assert setting.params == blocking(10)


def test_a_little_behind_is_good_enough(setting: Setting) -> None:
    setting.say(b"[1]", index=10, last_contact=10.0)
    assert setting.params == blocking(10)


def test_a_leader_that_does_not_answer_is_not_asked_again(setting: Setting) -> None:
    setting.say(b"[1]", index=10, last_contact=60.0)
    setting.say(b"No cluster leader", index=1, status=500)
    setting.until_asked()
    assert setting.params == STALE


# Churn


def test_changes_that_come_fast_are_put_off_but_not_lost(setting: Setting) -> None:
    """Fault fi-c14: ten changes a second for a minute."""
    changes = 0
    for _ in range(6000):
        setting.clock.advance(0.01)
        changes = int((setting.clock.seconds() - 1000) * 10)
        if setting.agent.under_way and changes > setting.query.index - 10:
            setting.say(b"[%d]" % changes, index=10 + changes)
    assert 35 <= len(setting.bodies) <= 45
    gaps = [later.at - earlier.at for earlier, later in pairwise(setting.agent.asked)]
    assert all(gap >= 0.99 for gap in gaps[3:])
    assert setting.counters.deferred_updates >= 30
    setting.until_asked()
    setting.say(b"the last", index=10_000)
    assert setting.bodies[-1] == b"the last"


def test_after_quiet_time_two_changes_are_known_at_once(setting: Setting) -> None:
    setting.say(b"[1]", index=10)
    setting.clock.advance(60)
    for number in (2, 3):
        setting.say(b"[%d]" % number, index=10 + number)
    assert setting.bodies == [b"[1]", b"[2]", b"[3]"]
    assert setting.counters.deferred_updates == 1
    assert not setting.agent.under_way
    setting.clock.advance(1)
    assert setting.params == blocking(13)


# Refresh


def test_a_refresh_asks_at_once_what_it_is_now(setting: Setting) -> None:
    setting.say(b"[1]", index=10)
    setting.clock.advance(60)
    setting.query.refresh()
    setting.clock.advance(0)
    assert setting.agent.cancelled == 1
    assert setting.params == STALE
    assert setting.failures == []
    setting.say(b"[1]", index=10)
    assert setting.counters.index_resets == 0
    setting.clock.advance(1)
    assert setting.params == blocking(10)


def test_refreshing_all_the_time_is_no_busy_loop_and_still_gets_answers(setting: Setting) -> None:
    setting.say(b"[1]", index=10)
    setting.clock.advance(60)
    before = len(setting.agent.asked)
    for number in range(2000):
        setting.clock.advance(0.01)
        if setting.agent.under_way and "index" not in setting.params and number % 50 == 0:
            setting.say(b"[%d]" % number, index=10)
        setting.query.refresh()
    assert len(setting.agent.asked) - before <= 2 + 2 * 20
    assert len(setting.bodies) >= 8


def test_a_refresh_ends_the_pause_after_failures(setting: Setting) -> None:
    for _ in range(8):
        setting.fail()
        setting.until_asked()
    setting.fail()
    setting.query.refresh()
    assert setting.until_asked() == pytest.approx(0, abs=0.011)


def test_refreshing_all_the_time_without_answers_is_no_busy_loop(setting: Setting) -> None:
    setting.agent.always = AgentError("refused", "no connection")
    setting.agent.say(setting.agent.always)
    for _ in range(2000):
        setting.clock.advance(0.01)
        setting.query.refresh()
    assert 10 <= len(setting.agent.asked) <= 22


def test_a_refresh_from_where_an_answer_is_taken(setting: Setting) -> None:
    setting.query._take = lambda reply: setting.query.refresh() or ""
    setting.say(b"[1]", index=10)
    assert setting.params == STALE


def test_a_refresh_before_the_start_and_after_the_end_does_nothing() -> None:
    setting = Setting()
    setting.query.refresh()
    setting.clock.advance(100)
    setting.query.start()
    setting.query.stop()
    setting.query.refresh()
    setting.clock.advance(100)
    assert setting.agent.asked == []


# Over real connections


class Real:
    """A query against a stub of Consul, on the reactor of a test."""

    def __init__(self, world: World, stub: ConsulStub, service: str = "web", wait: float = 300.0) -> None:
        self.world, self.stub = world, stub
        self.agent = world.agent(stub.address, lambda: "a-token")
        self.bodies: list[bytes] = []
        self.failures: list[str] = []
        self.query = BlockingQuery(
            world.reactor,
            self.agent,
            f"/v1/health/service/{service}",
            {},
            "health_service",
            wait=wait,
            stale_limit=10.0,
            random=lambda: 0.5,
            counters=self.agent.counters,
            take=self.take,
            failed=self.failures.append,
        )
        self.query.start()

    def take(self, reply: Reply) -> str:
        try:
            json.loads(reply.body)
        except ValueError:
            return "malformed"
        self.bodies.append(reply.body)
        return ""

    @property
    def statuses(self) -> list[str]:
        """Of the checks of the last answer's instances."""
        return [check["Status"] for entry in json.loads(self.bodies[-1]) for check in entry["Checks"][1:]]

    def until_blocked(self) -> None:
        """Until a blocking query waits for news, which means that all is well."""
        self.world.until(lambda: self.query.succeeded is not None and not self.query.error)
        self.world.until(lambda: self.stub.state()["blocked"] == 1)


@pytest.fixture
def stub() -> Iterator[ConsulStub]:
    with ConsulStub() as stub:
        stub.set("web", {"address": "10.0.0.1", "port": 80, "status": "passing"})
        yield stub


@pytest.fixture
def real(world: World, stub: ConsulStub) -> Iterator[Real]:
    real = Real(world, stub)
    real.until_blocked()
    yield real
    real.query.stop()


def test_a_change_is_known_at_once_and_over_the_same_connection(real: Real) -> None:
    start = time.monotonic()
    real.stub.change("web", "web-80", status="critical")
    real.world.until(lambda: len(real.bodies) == 2)
    assert time.monotonic() - start < 0.5
    assert real.statuses == ["critical"]
    real.until_blocked()
    requests = real.stub.requests()
    assert [one.params for one in requests] == [
        {"stale": ""},
        {"stale": "", "index": "11", "wait": "300s"},
        {"stale": "", "index": "12", "wait": "300s"},
    ]
    assert {(one.token, one.connection) for one in requests} == {("a-token", requests[0].connection)}


def test_a_wait_without_news_is_not_taken_and_asked_again(world: World, stub: ConsulStub) -> None:
    real = Real(world, stub, wait=1.0)
    world.until(lambda: len(stub.requests()) == 3)
    assert len(real.bodies) == 1
    assert real.failures == []
    real.query.stop()


def test_a_restored_snapshot_is_known_at_once(real: Real) -> None:
    real.stub.restore(5)
    real.until_blocked()
    assert real.agent.counters.index_resets == 1
    assert [one.params.get("index") for one in real.stub.requests()] == [None, "11", None, "5"]
    real.stub.change("web", "web-80", status="warning")
    real.world.until(lambda: real.bodies and real.statuses == ["warning"])


def test_scripted_indexes_go_backwards(real: Real) -> None:
    real.stub.fault("/v1/health/*", index=["100", "50"])
    real.world.until(lambda: real.agent.counters.index_resets == 1)
    real.world.until(lambda: len(real.stub.requests()) >= 4)
    assert [one.params.get("index") for one in real.stub.requests()][:4] == [None, "11", "100", None]


@pytest.mark.parametrize("index", ["0", "", "many"])
def test_a_broken_index_is_no_busy_loop(real: Real, index: str) -> None:
    real.stub.fault("/v1/health/*", index=[index] * 100)
    real.world.loop.run_for(2.2)
    times = [one.time for one in real.stub.requests()][2:]
    assert len(times) >= 2
    assert all(later - earlier > 0.95 for earlier, later in pairwise(times))


def test_an_instance_that_flaps_ten_times_a_second(real: Real) -> None:
    real.stub.flap("web", "web-80", 10)
    real.world.loop.run_for(3)
    assert 3 <= len(real.bodies) <= 6
    assert real.agent.counters.deferred_updates >= 2
    real.stub.flap("web", "web-80", 0)
    real.stub.change("web", "web-80", status="warning")
    real.world.until(lambda: real.statuses == ["warning"])
    assert len({one.connection for one in real.stub.requests()}) == 1


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no leader": ({"status": 500, "body": b"No cluster leader"}, "status_500"),
    "too many requests": ({"status": 429, "body": b"slow down"}, "status_429"),
    "overloaded": ({"status": 503, "headers": {"Retry-After": "1"}}, "status_503"),
    "not modified": ({"status": 304, "body": b""}, "status_304"),
    "no rights": ({"status": 403, "body": b"Permission denied"}, "status_403"),
    "html": ({"body": b"<html>down for maintenance</html>"}, "malformed"),
    "nothing": ({"body": b""}, "malformed"),
    "half of the json": ({"body": b'[{"Node": {"Node": "n'}, "malformed"),
    "not utf-8": ({"body": b'["\xff\xfe"]'}, "malformed"),
    "a cut connection": ({"truncate": 100}, "reset"),
    "a reset connection": ({"drop": True, "times": 2}, "reset"),  # after the first one it is tried over another
    "a huge body": ({"huge": 100 * 1024 * 1024}, "too_large"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_answer_changes_nothing_and_is_counted(real: Real, name: str) -> None:
    """Fault fi-c10."""
    fault, reason = BAD[name]
    real.stub.fault("/v1/health/*", **{"times": 1, **fault})
    real.world.until(lambda: real.failures)
    assert real.agent.counters.errors == {reason: 1}
    assert len(real.bodies) == 1
    assert real.query.error
    real.world.skip(2)
    real.until_blocked()
    assert real.query.error == ""
    assert real.agent.counters.errors == {reason: 1}
    if "huge" in fault:
        assert real.stub.state()["poured"] < 40 * 1024 * 1024


def test_an_overloaded_server_is_left_alone_for_as_long_as_it_says(real: Real) -> None:
    real.stub.fault("/v1/health/*", status=429, headers={"Retry-After": "40"})
    real.world.until(lambda: real.failures)
    asked = len(real.stub.requests())
    real.world.skip(39)
    real.world.loop.run_for(0.2)
    assert len(real.stub.requests()) == asked
    real.world.skip(1.5)
    real.world.until(lambda: len(real.stub.requests()) == asked + 1)


def test_a_query_that_hangs_is_given_up_after_its_deadline(real: Real) -> None:
    """Fault fi-c08."""
    real.stub.fault("/v1/health/*", times=1, hang=True)
    real.world.skip(300 * 17 / 16 + 4)
    real.world.loop.run_for(0.2)
    assert real.failures == []
    real.world.skip(1.1)
    real.world.until(lambda: real.failures)
    assert real.agent.counters.errors == {"timeout": 1}
    real.stub.change("web", "web-80", status="critical")
    real.world.until(lambda: real.statuses == ["critical"])
    real.world.until(lambda: real.stub.state()["connections"] == 1)


def test_a_connection_on_which_nothing_comes_any_more(real: Real) -> None:
    """Fault fi-c09, as seen from here: the other side neither answers nor ends the connection."""
    real.stub.pause(True)
    real.world.skip(300 * 17 / 16 + 5.1)
    real.world.until(lambda: real.failures)
    real.stub.pause(False)
    real.stub.change("web", "web-80", status="critical")
    real.world.until(lambda: real.statuses == ["critical"], 10)
    real.world.until(lambda: real.stub.state()["connections"] == 1)


def test_an_agent_that_goes_away_and_comes_back(real: Real) -> None:
    real.stub.stop()
    real.world.until(lambda: len(real.failures) >= 3)
    assert set(real.agent.counters.errors) <= {"reset", "refused"}
    assert len(real.bodies) == 1
    real.stub.start()
    real.stub.set("web", {"address": "10.0.0.2", "port": 80, "status": "warning"})
    real.query.refresh()
    real.world.until(lambda: real.statuses == ["warning"], 10)


def test_answers_behind_the_leader_are_used_and_the_leader_is_asked(real: Real) -> None:
    """Fault fi-c13."""
    real.stub.fault("/v1/health/*", params={"stale": ""}, times=1, last_contact=60.0)
    real.world.until(lambda: len(real.stub.requests()) == 3)
    assert "stale" not in real.stub.requests()[-1].params
    assert real.query.last_contact == 60
    real.stub.change("web", "web-80", status="critical")
    real.world.until(lambda: real.statuses == ["critical"])
    real.until_blocked()
    assert "stale" in real.stub.requests()[-1].params
    assert real.query.last_contact == 0


def test_stop_closes_the_connection(real: Real) -> None:
    real.query.stop()
    real.world.until(lambda: real.stub.state()["connections"] == 0)
    assert real.failures == []


def test_ten_thousand_instances_hold_up_nothing_here(real: Real) -> None:
    """Of fault fi-c16, the part that comparing answers has."""
    real.stub.fill(1, 10_000, "big")
    big = Real(real.world, real.stub, "big-0")
    big.take = lambda reply: big.bodies.append(reply.body) or ""  # type: ignore[method-assign]
    big.query._take = big.take
    real.world.until(lambda: big.bodies)
    assert len(big.bodies[0]) > 10_000_000
    reply = Reply(status=200, body=big.bodies[0], index=20)
    start = time.perf_counter()
    big.query._abandon()
    big.query._answered(reply)
    assert time.perf_counter() - start < 0.05
    assert len(big.bodies) == 1
    big.query.stop()
