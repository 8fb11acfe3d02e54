"""A Consul that misbehaves in ways that a real one can't be made to, seen from a running daemon: faults fi-c04 to c16.

What decisions and timing alone show is in tests/discovery/consul: a broken index (fi-c06), back-off over a long time,
each bad answer in detail.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.integration.consul_hosts import answer, answers, knowledge, within
from tests.integration.scripted import HEALTH, HOLD, WAIT, Scene
from tests.integration.scripted import scene as running

# Each is told once, to a service of its own: what goes wrong, and the reason under which it is counted.
BAD: list[tuple[dict[str, Any], str]] = [
    ({"status": 500, "body": b"No cluster leader"}, "status_500"),
    ({"status": 500, "body": b"rpc error making call: EOF", "headers": {"X-Consul-Index": "99999999"}}, "status_500"),
    ({"status": 429, "body": b"slow down"}, "status_429"),
    ({"status": 429, "headers": {"Retry-After": "1"}, "body": b""}, "status_429"),
    ({"status": 503, "body": b"<html>overloaded</html>"}, "status_503"),
    ({"status": 502, "body": b"<html>bad gateway</html>", "headers": {"Content-Type": "text/html"}}, "status_502"),
    ({"status": 504, "body": b""}, "status_504"),
    ({"status": 400, "body": b"Invalid index"}, "status_400"),
    ({"status": 403, "body": b"Permission denied"}, "status_403"),
    ({"status": 404, "body": b"404 page not found"}, "status_404"),
    ({"status": 301, "headers": {"Location": "http://10.0.0.1/"}, "body": b""}, "status_301"),
    ({"status": 304, "body": b""}, "status_304"),
    ({"body": b"<html>down for maintenance</html>", "headers": {"Content-Type": "text/html"}}, "malformed"),
    ({"body": b""}, "malformed"),
    ({"body": b"null"}, "malformed"),
    ({"body": b"{}"}, "malformed"),
    ({"body": b'"a"'}, "malformed"),
    ({"body": b"[" * 100_000}, "malformed"),
    ({"body": b'[{"Node": {"Node": "n", "Addr'}, "malformed"),
    ({"body": b"[1, 2, 3]"}, "malformed"),
    ({"body": b'[{"Node": "n", "Service": 1, "Checks": {}}]'}, "malformed"),
    ({"body": b'[{"Node": {"Node": 7, "Address": []}, "Service": {"Port": "80"}, "Checks": []}]'}, "malformed"),
    ({"body": b'[{"Node": {"Node": "n"}, "Service": {"Address": "10.0.0.1", "Port": 70000}}]'}, "malformed"),
    ({"body": b'[{"Service": {"Address": "10.0.0.1", "Port": 80}}]'}, "malformed"),
    ({"body": b'["\xff\xfe"]'}, "malformed"),
    ({"body": b"\x1f\x8b\x08\x00" + bytes(100), "headers": {"Content-Encoding": "gzip"}}, "malformed"),
    ({"truncate": 100}, "reset"),
    ({"huge": 100 * 1024 * 1024}, "too_large"),
    ({"body": b"[]", "filtered": True}, "filtered"),  # fi-c11
    ({"filtered": True}, "filtered"),
]
STRANGE = b'[{"Node": {"Node": "n", "Colour": {"a": [1]}}, "Service": {"Address": "127.0.0.1", "Port": %d, "X": null}}]'

NAMES = ("leader", "index", "churn", "hang", "empty", "stale", "strange", "rights")
NAMES += tuple(f"bad-{number}" for number in range(len(BAD)))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running(tmp_path_factory.mktemp("faults"), NAMES) as scene:
        yield scene


@pytest.fixture(autouse=True)
def well_again(scene: Scene) -> Iterator[None]:
    yield
    scene.consul.heal()


def test_eight_seconds_without_a_leader(scene: Scene) -> None:
    """Fault fi-c04: nothing changes, and no watch asks more than once a second."""
    scene.watch("leader", "a")
    scene.consul.forget()
    scene.consul.fault("/v1/*", status=500, body=b"No cluster leader")
    end = time.monotonic() + 8
    while time.monotonic() < end:
        assert answer(scene.host, "leader") == b"a"
        time.sleep(0.05)
    asked = Counter(one.path for one in scene.consul.requests(HEALTH + "*"))
    assert set(asked) == {HEALTH + name for name in NAMES}
    assert max(asked.values()) <= 9
    assert "No cluster leader" in scene.host.ask_json("/discovery")["problem"]
    scene.consul.heal()
    scene.consul.set("leader", scene.instance("b"))
    within(16, lambda: answer(scene.host, "leader") == b"b", "it has not healed")
    within(16, lambda: not scene.host.ask_json("/discovery")["problem"])


def test_an_index_that_goes_backwards(scene: Scene) -> None:
    """Fault fi-c05: a snapshot of Consul's was restored, in which the service was elsewhere."""
    scene.watch("index", "a")
    resets = scene.host.metric("consul_index_resets_total")
    scene.consul.fault(HEALTH + "index", index=["1000000"])
    within(2, lambda: scene.asked("index")[-1].params.get("index") == "1000000")
    scene.consul.set("index", scene.instance("b"))
    within(2, lambda: answer(scene.host, "index") == b"b")
    assert answers(scene.host, "index") == {b"b"}
    after = next(at for at, one in enumerate(scene.asked("index")) if one.params.get("index") == "1000000") + 1
    within(2, lambda: len(scene.asked("index")) > after)
    assert "index" not in scene.asked("index")[after].params
    within(2, lambda: scene.host.metric("consul_index_resets_total") == resets + 1)


def test_an_index_that_moves_alone_and_one_that_stands_still(scene: Scene) -> None:
    """Fault fi-c07."""
    scene.watch("churn", "a")
    time.sleep(2.5)  # /workers is as old as a second; and until changes are quick again
    version, accepted = scene.version(), scene.origins["a"].accepted
    for _ in range(3):
        scene.consul.set("churn", scene.instance("a"))
        assert answer(scene.host, "churn") == b"a"
    within(5, lambda: int(knowledge(scene.host, "churn")["index"]) == scene.consul.state()["index"])
    assert (scene.version(), scene.origins["a"].accepted) == (version, accepted)
    moved = STRANGE % scene.origins["b"].port
    # Not told to who waits already: the wait has to end by itself.
    scene.consul.fault(HEALTH + "churn", body=moved, wake=False)
    within(WAIT * 17 / 16 + 1, lambda: answer(scene.host, "churn") == b"b")


def test_an_answer_that_never_comes(scene: Scene) -> None:
    """Fault fi-c08: a sixteenth and five seconds after the wait is over, it is asked again; never two at a time."""
    scene.watch("hang", "a")
    last = len(scene.asked("hang")) - 1
    scene.consul.fault(HEALTH + "hang", hang=True, wake=False, times=1)
    deadline = WAIT * 17 / 16 + 5

    def late() -> list[tuple[Any, Any]]:
        return [pair for pair in pairwise(scene.asked("hang")[last:]) if pair[1].time - pair[0].time > deadline - 0.1]

    [(hung, again)] = within(WAIT + 1 + deadline + 1, late)
    assert again.time - hung.time < deadline + 2
    assert again.connection != hung.connection
    assert scene.host.metric("consul_watch_errors_total", 'reason="timeout"') == 1
    assert answer(scene.host, "hang") == b"a"
    scene.consul.set("hang", scene.instance("b"))
    within(2, lambda: answer(scene.host, "hang") == b"b")


def test_thirty_bad_answers(scene: Scene) -> None:
    """Faults fi-c10 and fi-c11: the last good one stays in force, each is counted under its reason, and all heal."""
    errors = lambda: {reason: scene.host.metric("consul_watch_errors_total", f'"{reason}"') for reason in reasons}  # noqa: E731
    reasons = Counter(reason for _, reason in BAD)
    for number in range(len(BAD)):
        scene.consul.set(f"bad-{number}", scene.instance("a"))
    for number in range(len(BAD)):
        within(5, lambda number=number: answer(scene.host, f"bad-{number}") == b"a")
    time.sleep(2.5)  # until questions are asked without a pause again
    before = errors()
    for number, (fault, _) in enumerate(BAD):
        scene.consul.fault(f"{HEALTH}bad-{number}", times=1, **fault)
    within(5, lambda: errors() == {reason: before[reason] + count for reason, count in reasons.items()}, f"{before}")
    for number in range(len(BAD)):
        assert answer(scene.host, f"bad-{number}") == b"a"
        scene.consul.set(f"bad-{number}", scene.instance("b"))
    for number in range(len(BAD)):
        within(10, lambda number=number: answer(scene.host, f"bad-{number}") == b"b")


def test_fields_that_nobody_knows(scene: Scene) -> None:
    """Of fault fi-c10: a newer Consul says more, and leaves out what it need not say."""
    scene.consul.fault(HEALTH + "strange", body=STRANGE % scene.origins["c"].port)
    within(3, lambda: answer(scene.host, "strange") == b"c")


def test_an_answer_emptied_by_lost_rights_alarms(scene: Scene) -> None:
    """Fault fi-c11."""
    scene.watch("rights", "a")
    scene.consul.fault(HEALTH + "rights", body=b"[]", filtered=True)
    within(3, lambda: "ACL token" in knowledge(scene.host, "rights")["problem"])
    within(3, lambda: any("rights" in line for line in scene.host.ask_json("/ready")["degraded"]))
    assert answers(scene.host, "rights") == {b"a"}


def test_a_service_that_lost_all_instances_is_held(scene: Scene) -> None:
    """Fault fi-c12."""
    scene.watch("empty", "a")
    begin = time.monotonic()
    scene.consul.set("empty")
    within(HOLD - 0.5, lambda: knowledge(scene.host, "empty")["held"])
    while (answered := answer(scene.host, "empty")) == b"a" and time.monotonic() < begin + HOLD:
        pass
    assert time.monotonic() >= begin + HOLD, answered
    within(3, lambda: answer(scene.host, "empty") == 503)
    output = scene.host.output()
    assert "empty in dc1 has no instance any more; its last 1 are kept for 3 s" in output
    assert "empty in dc1 still has no instance" in output


def test_answers_that_are_old(scene: Scene) -> None:
    """Fault fi-c13: used and flagged; the leader is asked when there is one."""
    scene.watch("stale", "a")
    scene.consul.fault(HEALTH + "stale", known_leader=False, last_contact=60.0)
    scene.consul.set("stale", scene.instance("b"))
    within(3, lambda: answer(scene.host, "stale") == b"b")
    within(3, lambda: "no leader" in knowledge(scene.host, "stale")["problem"])
    assert knowledge(scene.host, "stale")["behind_seconds"] == 60
    assert "stale" in scene.asked("stale")[-1].params
    scene.consul.heal()
    scene.consul.fault(HEALTH + "stale", params={"stale": ""}, last_contact=60.0)
    scene.consul.set("stale", scene.instance("c"))
    within(4, lambda: answer(scene.host, "stale") == b"c")
    within(4, lambda: "stale" not in scene.asked("stale")[-1].params)
