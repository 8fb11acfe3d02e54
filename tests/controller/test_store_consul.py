"""The store of several controllers, and who of them leads, on a real Consul."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import Factory, Protocol

from controller.registry.records import Refused
from controller.registry.tokens import Token, Tokens
from controller.store import VALUE_SIZE, Conflict, Entry, NotLeading, TooLarge, Unavailable, Unusable, consul, pieces
from controller.store.client import Address, Client
from controller.store.consul import INLINE, ConsulStore
from controller.store.election import Election
from tests.consul import Consul, running
from tests.controller.stores import failure, outcomes, result
from tests.discovery.conftest import Loop, loop

__all__ = ("loop",)

LARGE = random.Random(1).randbytes(VALUE_SIZE)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    with running(tmp_path_factory.mktemp("consul"), memory=True, session_ttl_min="1s") as agent:
        yield agent


class Now:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def prefix(agent: Consul, request: pytest.FixtureRequest) -> str:
    return "mesh-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12]


@pytest.fixture
def client(loop: Loop, agent: Consul) -> Iterator[Client]:
    client = Client(loop.reactor, Address(address=agent.address), lambda: "")
    yield client
    result(loop, client.close())


@pytest.fixture
def store(loop: Loop, client: Client, prefix: str, now: Now) -> ConsulStore:
    return ConsulStore(loop.reactor, client, prefix, now)


def keys(agent: Consul, prefix: str) -> list[str]:
    try:
        return list(agent.get(f"/v1/kv/{prefix}/?keys"))
    except Exception:
        return []


def test_what_is_put_is_got_listed_and_deleted(loop: Loop, store: ConsulStore, agent: Consul, prefix: str) -> None:
    assert result(loop, store.get("hosts/web-1")) is None
    assert result(loop, store.list("hosts/")) == {}
    first = result(loop, store.put("hosts/web-1", b"\x00one", 0))
    assert first > 0
    assert result(loop, store.get("hosts/web-1")) == Entry(b"\x00one", first)
    second = result(loop, store.put("hosts/web-1", b"two", first))
    assert second > first
    third = result(loop, store.put("hosts/db.example", b"", None))
    result(loop, store.put("hosts-of-others/x", b"not listed", 0))
    listed = result(loop, store.list("hosts/"))
    assert listed == {"hosts/db.example": Entry(b"", third), "hosts/web-1": Entry(b"two", second)}
    assert list(listed) == sorted(listed)
    result(loop, store.delete("hosts/web-1", second))
    assert result(loop, store.get("hosts/web-1")) is None
    assert agent.get(f"/v1/kv/{prefix}/data/hosts/db.example")[0]["Flags"] == 0


def test_a_change_of_another_version_is_a_conflict_and_changes_nothing(loop: Loop, store: ConsulStore) -> None:
    version = result(loop, store.put("state/head", b"1", 0))
    for asked in (
        store.put("state/head", b"2", 0),
        store.put("state/head", b"2", version + 1),
        store.put("state/other", b"2", version),
        store.delete("state/head", version + 1),
    ):
        assert isinstance(failure(loop, asked), Conflict)
    assert result(loop, store.get("state/head")) == Entry(b"1", version)
    result(loop, store.delete("state/head"))
    result(loop, store.delete("state/head", version))
    assert result(loop, store.put("state/head", b"2", 0)) > version
    assert isinstance(failure(loop, store.put("state/head", b"3", version)), Conflict)


@pytest.mark.parametrize("size", [0, 1, INLINE, INLINE + 1, pieces.PIECE, 2 * pieces.PIECE + 1, VALUE_SIZE])
def test_a_value_of_any_size_comes_back(loop: Loop, store: ConsulStore, size: int) -> None:
    version = result(loop, store.put("generations/1-1", LARGE[:size], 0))
    assert result(loop, store.get("generations/1-1")) == Entry(LARGE[:size], version)
    assert result(loop, store.list("generations/")) == {"generations/1-1": Entry(LARGE[:size], version)}
    assert isinstance(failure(loop, store.put("generations/1-1", LARGE[:size] + b"x", 0)), Conflict | TooLarge)
    assert result(loop, store.get("generations/1-1")) == Entry(LARGE[:size], version)


def test_limits(loop: Loop, store: ConsulStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(failure(loop, store.put("a/a", LARGE + b"x", 0)), TooLarge)
    for number in range(3):
        result(loop, store.put(f"a/{number}", LARGE[:INLINE], 0))
    monkeypatch.setattr(consul, "MOST_LISTED", 2)
    assert isinstance(failure(loop, store.list("a/")), TooLarge)
    monkeypatch.setattr(consul, "MOST_LISTED", 3)
    monkeypatch.setattr(consul, "LISTED_SIZE", 2 * INLINE)
    assert isinstance(failure(loop, store.list("a/")), TooLarge)
    with pytest.raises(ValueError):
        store.get("a//b")


def test_pieces_nobody_names_are_deleted_later_and_named_ones_never(
    loop: Loop, store: ConsulStore, agent: Consul, prefix: str, now: Now
) -> None:
    def sets() -> set[str]:
        return {key.rpartition("/")[0] for key in keys(agent, prefix) if key.startswith(f"{prefix}/pieces/")}

    large = LARGE[: INLINE + 1]
    result(loop, store.put("generations/1-1", large, 0))
    result(loop, store.put("generations/1-2", large, 0))
    kept = sets()
    result(loop, store.put("generations/1-2", b"small now", None))
    assert isinstance(failure(loop, store.put("generations/1-1", large, 0)), Conflict)
    result(loop, store.put("generations/1-3", large, 0))
    assert len(sets()) == 4
    now.ahead = pieces.LEFT + 5
    result(loop, store.put("generations/1-4", large, 0))
    left = sets()
    assert len(left) == 3  # of 1-1, 1-3 and 1-4
    assert len(left & kept) == 1
    for number in (1, 3, 4):
        entry = result(loop, store.get(f"generations/1-{number}"))
        assert entry is not None
        assert entry.value == large


def test_a_value_whose_pieces_are_damaged_is_not_believed(
    loop: Loop, store: ConsulStore, agent: Consul, prefix: str
) -> None:
    result(loop, store.put("generations/1-1", LARGE[: INLINE + 1], 0))
    piece = next(key for key in keys(agent, prefix) if "/pieces/" in key)
    agent.put(f"/v1/kv/{piece}", LARGE[1 : INLINE + 2])
    assert "changed by somebody else" in str(failure(loop, store.get("generations/1-1")))
    agent.request("DELETE", f"/v1/kv/{piece}")
    assert "missing" in str(failure(loop, store.get("generations/1-1")))
    manifest = agent.get(f"/v1/kv/{prefix}/data/generations/1-1?raw")
    for wrong in (b"", b"{}", json.dumps({**manifest, "pieces": "somewhere/else/"}).encode()):
        agent.put(f"/v1/kv/{prefix}/data/generations/1-1?flags=1", wrong)
        assert isinstance(failure(loop, store.get("generations/1-1")), Unavailable)


def test_of_many_who_use_a_token_one_does(loop: Loop, store: ConsulStore, now: Now) -> None:
    tokens = Tokens(store, now, os.urandom)
    for _ in range(10):
        secret, _ = result(loop, tokens.create("web-1", by="ann"))
        found = outcomes(loop, *(tokens.use(secret, "web-1", f"{number:064x}") for number in range(20)))
        assert [type(each) for each in found].count(Token) == 1
        assert {each.code for each in found if isinstance(each, Refused)} == {"used"}


def test_without_consul_nothing_is_believed(loop: Loop, tmp_path: Path, prefix: str, now: Now) -> None:
    with running(tmp_path, memory=True) as agent:
        client = Client(loop.reactor, Address(address=agent.address), lambda: "")
        store = ConsulStore(loop.reactor, client, prefix, now)
        result(loop, store.put("a", b"1", 0))
        agent.pause(True)
        waiting = client.request("GET", "/v1/kv/a", timeout=0.3)
        assert "no answer within 0.3 s" in str(failure(loop, waiting))
        closing = store.get("a")
        agent.pause(False)
    for asked in (closing, store.get("a"), store.put("a", b"2", None), store.delete("a"), store.list("a/")):
        try:
            result(loop, asked)
        except Unavailable:
            pass
        else:
            assert asked is closing
    assert "nobody listens there" in str(failure(loop, store.get("a")))
    hanging = client.request("GET", "/v1/kv/a")
    result(loop, store.close())
    assert isinstance(failure(loop, hanging), Unavailable)
    assert "closed" in str(failure(loop, store.get("a")))


def test_a_token_that_may_not_is_said(loop: Loop, tmp_path: Path, now: Now) -> None:
    with running(tmp_path, acl=True, memory=True) as agent:
        agent.until(lambda: agent.put("/v1/kv/ready", b"1") is True, "no ACLs")
        rules = 'key_prefix "mesh/" { policy = "write" } session_prefix "" { policy = "write" }'
        enough = agent.policy("controller", rules)
        tokens = ["", enough]
        client = Client(loop.reactor, Address(address=agent.address), lambda: tokens[0])
        store = ConsulStore(loop.reactor, client, "mesh", now)
        for ask in (lambda: store.get("a"), lambda: store.put("a", b"1", 0), lambda: store.put("a", LARGE, 0)):
            error = failure(loop, ask())  # type: ignore[no-untyped-call]
            assert isinstance(error, Unavailable)
            assert "ermission denied" in str(error)
            assert "key write" in str(error)
        del tokens[0]
        result(loop, store.put("a", LARGE, 0))
        election = Election(
            loop.reactor, client, store, "mesh", "ctl-1", lambda leading: None, time.monotonic, random.random
        )
        election.start()
        loop.until(lambda: election.leading, 20)
        result(loop, election.stop())
        result(loop, store.close())


@pytest.mark.parametrize(
    "address", ["", "http://", "ftp://127.0.0.1:1", "127.0.0.1:8500", "http://127.0.0.1", "https://x:y"]
)
def test_an_address_that_is_none_is_said(loop: Loop, address: str) -> None:
    with pytest.raises(Unusable):
        Client(loop.reactor, Address(address=address), lambda: "")


# Who leads


class Candidate:
    """A controller that wants to lead, in this process."""

    def __init__(self, loop: Loop, agent: Consul, prefix: str, name: str, **options: Any) -> None:
        self.ahead = 0.0
        self.changes: list[bool] = []
        self.client = Client(loop.reactor, Address(address=agent.address), lambda: "")
        store = ConsulStore(loop.reactor, self.client, prefix, time.time)
        self.election = Election(
            loop.reactor,
            self.client,
            store,
            prefix,
            name,
            self.changes.append,
            lambda: time.monotonic() + self.ahead,
            random.random,
            **{"life": 2.0, "lock_delay": 0.5, **options},
        )

    def end(self, loop: Loop) -> None:
        result(loop, self.election.stop())
        result(loop, self.client.close())


def test_one_of_three_leads_and_another_once_it_stops(loop: Loop, agent: Consul, prefix: str) -> None:
    candidates = [Candidate(loop, agent, prefix, f"ctl-{number}", lock_delay=8.0) for number in range(3)]
    terms = []
    for each in candidates:
        each.election.start()

    def agreed() -> bool:
        names = {each.election.leader for each in candidates}
        return len(names) == 1 and any(each.election.leading for each in candidates)

    while candidates:
        loop.until(agreed, 10)
        leader = next(each for each in candidates if each.election.leading)
        candidates.remove(leader)
        assert not any(each.election.leading for each in candidates)
        terms.append(leader.election.term)
        result(loop, leader.election.store.put("state/rollout", leader.election.leader.encode(), None))
        for each in candidates:
            assert isinstance(failure(loop, each.election.store.put("state/rollout", b"mine", None)), NotLeading)
            assert isinstance(failure(loop, each.election.store.delete("state/rollout")), NotLeading)
        leader.end(loop)
        assert leader.changes == [True, False]
        if candidates:
            # The lock was given back: nobody waits for a session to end.
            loop.until(lambda: any(each.election.leading for each in candidates), 5)
    assert terms == [1, 2, 3]


def test_a_leader_whose_session_is_ended_stops_and_cannot_write(loop: Loop, agent: Consul, prefix: str) -> None:
    one = Candidate(loop, agent, prefix, "ctl-1", life=20.0)
    one.election.start()
    loop.until(lambda: one.election.leading, 10)
    session = agent.get(f"/v1/kv/{prefix}/leader")[0]["Session"]
    agent.put(f"/v1/session/destroy/{session}")
    assert one.election.leading, "it has not heard of it"
    assert isinstance(failure(loop, one.election.store.put("state/rollout", b"late", None)), NotLeading)
    assert not one.election.leading
    assert one.changes == [True, False]
    loop.until(lambda: one.election.leading, 15)
    assert one.election.term == 2
    one.end(loop)


def test_a_leader_that_somebody_pushed_out_finds_out(loop: Loop, agent: Consul, prefix: str) -> None:
    one = Candidate(loop, agent, prefix, "ctl-1")
    one.election.start()
    loop.until(lambda: one.election.leading, 10)
    agent.request("DELETE", f"/v1/kv/{prefix}/leader")
    loop.until(lambda: one.changes == [True, False, True], 10)
    assert one.election.term == 2, "a term comes once, also after the lock was deleted"
    one.end(loop)


def test_a_leader_without_consul_stops_before_its_session_ends(loop: Loop, agent: Consul, prefix: str) -> None:
    one = Candidate(loop, agent, prefix, "ctl-1")
    one.election.start()
    loop.until(lambda: one.election.leading, 10)
    agent.pause(True)
    try:
        paused = time.monotonic()
        loop.until(lambda: one.changes == [True, False], 10)
        assert time.monotonic() - paused < 2.0 + 0.2
        assert isinstance(failure(loop, one.election.store.put("state/rollout", b"late", None)), NotLeading)
        assert one.election.problem
    finally:
        agent.pause(False)
    loop.until(lambda: one.election.leading, 15)
    assert one.election.term == 2
    assert not one.election.problem
    one.end(loop)


def test_a_leader_that_slept_does_not_lead_when_it_wakes(loop: Loop, agent: Consul, prefix: str) -> None:
    one = Candidate(loop, agent, prefix, "ctl-1", life=20.0)
    one.election.start()
    loop.until(lambda: one.election.leading, 10)
    one.ahead = 20.0
    assert not one.election.leading, "before any timer has run"
    assert isinstance(failure(loop, one.election.store.put("state/rollout", b"late", None)), NotLeading)
    one.end(loop)


def test_stopping_without_consul_is_bounded(loop: Loop, agent: Consul, prefix: str) -> None:
    one = Candidate(loop, agent, prefix, "ctl-1")
    one.election.start()
    loop.until(lambda: one.election.leading, 10)
    agent.pause(True)
    try:
        begun = time.monotonic()
        result(loop, one.election.stop())
        assert time.monotonic() - begun < 4.0
    finally:
        agent.pause(False)
    result(loop, one.client.close())


CONTROLLER = """
import random, sys, time
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from controller.store import NotLeading, Unavailable
from controller.store.client import Address, Client
from controller.store.consul import ConsulStore
from controller.store.election import Election

address, prefix, name = sys.argv[1:]
client = Client(reactor, Address(address=address), lambda: "")
store = ConsulStore(reactor, client, prefix, time.time)

def changed(leading):
    print("leads" if leading else "stops", election.term, flush=True)
    if leading:
        Deferred.fromCoroutine(work())

async def work():
    while True:
        try:
            # All that a leader does: as fast as it can, without asking first whether it still leads.
            await election.store.put("state/rollout", f"{election.term} {name}".encode(), None)
        except (NotLeading, Unavailable) as error:
            print("refused", type(error).__name__, flush=True)
            return

election = Election(
    reactor, client, store, prefix, name, changed, time.monotonic, random.random, life=2.0, lock_delay=0.5
)
reactor.callWhenRunning(election.start)
reactor.run()
"""


class Process:
    """A controller that wants to lead, in a process of its own."""

    def __init__(self, agent: Consul, prefix: str, name: str) -> None:
        command = [sys.executable, "-c", CONTROLLER, agent.address, prefix, name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def line(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_when_the_leader_is_killed_or_frozen_the_other_leads_and_nothing_old_is_written(
    agent: Consul, prefix: str, number: signal.Signals
) -> None:
    def rollout() -> str:
        try:
            return str(agent.get(f"/v1/kv/{prefix}-{number}/data/state/rollout?raw"))
        except json.JSONDecodeError as error:
            return error.doc

    one = Process(agent, f"{prefix}-{number}", "ctl-1")
    other: Process | None = None
    try:
        assert one.line() == ["leads", "1"]
        other = Process(agent, f"{prefix}-{number}", "ctl-2")
        begun = time.monotonic()
        time.sleep(1.0)
        one.process.send_signal(number)
        assert other.line() == ["leads", "2"]
        assert time.monotonic() - begun < 15.0
        if number == signal.SIGSTOP:
            one.process.send_signal(signal.SIGCONT)
        agent.until(lambda: rollout() == "2 ctl-2", f"it is {rollout()}")
        for _ in range(20):
            assert rollout() == "2 ctl-2"
            time.sleep(0.05)
        if number == signal.SIGSTOP:
            assert sorted((one.line()[0], one.line()[0])) == ["refused", "stops"]
    finally:
        for each in (one, other):
            if each is not None:
                each.end()


def test_answers_that_are_no_answers(loop: Loop) -> None:
    """What something else than Consul may say on that port."""
    answers: list[bytes] = []

    class Server(Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(answers[0])  # type: ignore[union-attr]
            self.transport.loseConnection()  # type: ignore[union-attr]

    port = loop.reactor.listenTCP(0, Factory.forProtocol(Server), interface="127.0.0.1")
    client = Client(loop.reactor, Address(address=f"http://127.0.0.1:{port.getHost().port}"), lambda: "")
    store = ConsulStore(loop.reactor, client, "mesh", time.time)
    for answer in (
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nnonsense",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"[" * 2_000_000,
        b"HTTP/1.1 500 Oh\r\nContent-Length: 8\r\n\r\n\x1b[2Jno\xff\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    ):
        answers[:] = [answer]
        for asked in (store.get("a"), store.put("a", b"1", 0)):
            error = failure(loop, asked)
            assert isinstance(error, Unavailable), (answer[:60], error)
            assert str(error).isascii()
            assert "\x1b" not in str(error)
    result(loop, client.close())
    stopped = port.stopListening()
    loop.until(lambda: stopped is None or stopped.called)
