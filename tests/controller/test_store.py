"""The store in a file: what it promises to several writers, to a power cut, and to who opens it."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.store import VALUE_SIZE, Conflict, Entry, TooLarge, Unavailable, Unusable, check_key, sqlite
from controller.store.leadership import Alone
from controller.store.sqlite import SqliteStore
from tests.controller.stores import failure, outcomes, result
from tests.discovery.conftest import Loop, loop

__all__ = ("loop",)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(loop: Loop, path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(loop.reactor, str(path))
    yield store
    result(loop, store.close())


def test_what_is_put_is_got_listed_and_deleted(loop: Loop, store: SqliteStore) -> None:
    assert result(loop, store.get("hosts/web-1")) is None
    first = result(loop, store.put("hosts/web-1", b"\x00one", 0))
    assert first > 0
    assert result(loop, store.get("hosts/web-1")) == Entry(b"\x00one", first)
    second = result(loop, store.put("hosts/web-1", b"two", first))
    assert second > first
    third = result(loop, store.put("hosts/db.example", b"", None))
    result(loop, store.put("hosts-of-others/x", b"not listed", 0))
    result(loop, store.put("hosts.x", b"nor this", 0))
    listed = result(loop, store.list("hosts/"))
    assert listed == {"hosts/db.example": Entry(b"", third), "hosts/web-1": Entry(b"two", second)}
    assert list(listed) == sorted(listed)
    result(loop, store.delete("hosts/web-1", second))
    assert result(loop, store.get("hosts/web-1")) is None
    assert result(loop, store.list("nothing/")) == {}


def test_a_change_of_another_version_is_a_conflict_and_changes_nothing(loop: Loop, store: SqliteStore) -> None:
    version = result(loop, store.put("state/head", b"1", 0))
    for asked in (
        store.put("state/head", b"2", 0),
        store.put("state/head", b"2", version + 1),
        store.put("state/other", b"2", version),
        store.delete("state/head", version + 1),
    ):
        assert isinstance(failure(loop, asked), Conflict)
    assert result(loop, store.get("state/head")) == Entry(b"1", version)
    assert result(loop, store.get("state/other")) is None


def test_a_version_never_comes_back(loop: Loop, store: SqliteStore) -> None:
    version = result(loop, store.put("state/head", b"1", 0))
    result(loop, store.delete("state/head"))
    result(loop, store.delete("state/head", version))  # which is gone already
    assert result(loop, store.put("state/head", b"2", 0)) > version
    assert isinstance(failure(loop, store.put("state/head", b"3", version)), Conflict)


def test_of_many_who_count_up_nobody_is_lost(loop: Loop, store: SqliteStore) -> None:
    async def add() -> int:
        tries = 0
        while True:
            tries += 1
            entry = await store.get("state/count")
            try:
                await store.put(
                    "state/count", b"%d" % (int(entry.value) + 1 if entry else 1), entry.version if entry else 0
                )
            except Conflict:
                continue
            return tries

    tries = outcomes(loop, *(add() for _ in range(30)))
    entry = result(loop, store.get("state/count"))
    assert entry is not None
    assert entry.value == b"30"
    assert sum(tries) > 30, "nobody ever met another"


@pytest.mark.parametrize(
    "key",
    ["", "/", "/a", "a/", "a//b", "../a", "a/../b", "a/.", ".a", "a b", "a\n", "a\x00", "ä", "a?b", "a%2fb", "a" * 401],
)
def test_a_key_is_plain(store: SqliteStore, key: str) -> None:
    with pytest.raises(ValueError):
        check_key(key)
    for ask in (store.get, store.delete, lambda key: store.put(key, b"", 0), lambda key: store.list(key + "/")):
        with pytest.raises(ValueError):
            ask(key)


def test_a_prefix_is_a_key_and_a_slash(store: SqliteStore) -> None:
    with pytest.raises(ValueError):
        store.list("hosts")


def test_a_value_has_a_limit_and_a_list_has(loop: Loop, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(failure(loop, store.put("a/a", b"x" * (VALUE_SIZE + 1), 0)), TooLarge)
    for number in range(3):
        result(loop, store.put(f"a/{number}", b"x" * VALUE_SIZE, 0))
    assert len(result(loop, store.list("a/"))) == 3
    monkeypatch.setattr(sqlite, "LISTED_SIZE", 2 * VALUE_SIZE)
    assert isinstance(failure(loop, store.list("a/")), TooLarge)
    monkeypatch.setattr(sqlite, "LISTED_SIZE", 4 * VALUE_SIZE)
    monkeypatch.setattr(sqlite, "MOST_LISTED", 2)
    assert isinstance(failure(loop, store.list("a/")), TooLarge)


def test_calls_that_wait_have_a_limit(loop: Loop, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "MOST_WAITING", 10)
    found = outcomes(loop, *(store.get("a") for _ in range(15)))
    assert found[:10] == [None] * 10
    assert all(isinstance(each, Unavailable) for each in found[10:])
    assert result(loop, store.get("a")) is None


def test_it_is_there_after_a_restart_and_for_its_owner_alone(loop: Loop, path: Path) -> None:
    store = SqliteStore(loop.reactor, str(path))
    version = result(loop, store.put("hosts/web-1", b"here", 0))
    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600, each
    assert {each.name for each in path.parent.iterdir()} >= {"store.db", "store.db-wal"}
    closing = store.close()
    assert isinstance(failure(loop, store.get("hosts/web-1")), Unavailable)
    result(loop, closing)
    result(loop, store.close())
    again = SqliteStore(loop.reactor, str(path))
    assert result(loop, again.get("hosts/web-1")) == Entry(b"here", version)
    result(loop, again.close())


def test_one_process_has_it_open(loop: Loop, store: SqliteStore, path: Path) -> None:
    with pytest.raises(Unusable, match="another controller has it open"):
        SqliteStore(loop.reactor, str(path))
    assert result(loop, store.put("a", b"", 0)) == 1


def _text(path: Path) -> None:
    path.write_bytes(b"this is no database\n" * 500)


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE cats (name TEXT)")
    connection.close()


def _newer(path: Path) -> None:
    _ours(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def _ours(path: Path) -> None:
    loop = Loop()
    store = SqliteStore(loop.reactor, str(path))
    for number in range(40):
        result(loop, store.put(f"hosts/web-{number}", b"x" * 10_000, 0))
    result(loop, store.close())
    loop.close()


def _overwritten(path: Path) -> None:
    _ours(path)
    with path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(4096 * 30))


def _cut(path: Path) -> None:
    _ours(path)
    os.truncate(path, path.stat().st_size // 2)


def _directory(path: Path) -> None:
    path.mkdir()


def _link(path: Path) -> None:
    _ours(path.with_name("other.db"))
    path.symlink_to(path.with_name("other.db"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_text, "is no database that can be used .*restore it"),
        (_foreign, "is the database of another program"),
        (_newer, "newer hostproxy-controller"),
        (_overwritten, "is no database that can be used"),
        (_cut, "is no database that can be used"),
        (_directory, "cannot be opened"),
        (_link, "cannot be opened"),
    ],
)
def test_a_file_that_is_not_its_own_is_refused(
    loop: Loop, path: Path, make: Callable[[Path], None], says: str
) -> None:
    make(path)
    if path.is_file():
        path.chmod(0o600)
    before = path.read_bytes() if path.is_file() else b""
    for _ in range(2):  # the second time: the first let go of everything
        with pytest.raises(Unusable, match=says) as refused:
            SqliteStore(loop.reactor, str(path))
        assert str(path) in str(refused.value)
    assert before == (path.read_bytes() if path.is_file() else b"")


def test_a_file_open_to_others_is_refused(loop: Loop, path: Path) -> None:
    _ours(path)
    path.chmod(0o640)
    with pytest.raises(Unusable, match=r"mode 0640.*chmod 600"):
        SqliteStore(loop.reactor, str(path))


def test_a_directory_that_is_not_there_is_said(loop: Loop, path: Path) -> None:
    with pytest.raises(Unusable, match="No such file"):
        SqliteStore(loop.reactor, str(path / "deeper" / "store.db"))


def test_a_full_disk_is_said_and_what_was_there_stays(loop: Loop, store: SqliteStore) -> None:
    version = result(loop, store.put("a", b"kept", 0))
    result(loop, _on_thread(store, "PRAGMA max_page_count = 1"))
    error = failure(loop, store.put("b", b"x" * 1_000_000, 0))
    assert isinstance(error, Unavailable)
    assert "full" in str(error)
    assert result(loop, store.get("a")) == Entry(b"kept", version)
    result(loop, _on_thread(store, "PRAGMA max_page_count = 100000"))
    result(loop, store.put("b", b"x" * 1_000_000, 0))


def _on_thread(store: SqliteStore, statement: str) -> Any:
    return store._run(lambda: store._connection.execute(statement).fetchone())


WRITER = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from controller.store.sqlite import SqliteStore

async def write():
    store = SqliteStore(reactor, sys.argv[1])
    entry = await store.get("state/count")
    count, version = (int(entry.value.split()[0]), entry.version) if entry else (0, 0)
    while True:
        count += 1
        await store.put(f"log/{count}", b"%d" % count, 0)
        version = await store.put("state/count", b"%d " % count + b"x" * 5000, version)
        print(count, flush=True)

reactor.callWhenRunning(lambda: Deferred.fromCoroutine(write()).addErrback(lambda f: f.printTraceback()))
reactor.run()
"""


def test_what_was_answered_survives_a_kill_at_any_moment(loop: Loop, path: Path) -> None:
    answered = 0
    for attempt in range(8):
        command = [sys.executable, "-c", WRITER, str(path)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stderr is not None
        said = [writer.stdout.readline() for _ in range(3)]
        time.sleep(0.01 + 0.013 * attempt)
        writer.send_signal(signal.SIGKILL)
        out, err = writer.communicate(timeout=20)
        assert not err.strip(), err
        # A line that was cut off was answered as well; what counts is that it is there.
        said += [line for line in out.splitlines(keepends=True) if line.endswith(b"\n")]
        counts = [int(line) for line in said]
        assert counts[0] in (answered + 1, answered + 2)
        answered = counts[-1]
        store = SqliteStore(loop.reactor, str(path))
        entry = result(loop, store.get("state/count"))
        assert entry is not None
        kept = int(entry.value.split()[0])
        assert kept >= answered
        assert len(entry.value.split()[1]) == 5000
        entries = result(loop, store.list("log/"))
        assert {int(each.value) for each in entries.values()} in (set(range(1, kept + 1)), set(range(1, kept + 2)))
        if len(entries) > kept:
            result(loop, store.delete(f"log/{kept + 1}"))
        answered = kept
        result(loop, store.close())


def test_alone_leads_with_a_higher_term_each_time(loop: Loop, path: Path) -> None:
    for term in (1, 2, 3):
        store = SqliteStore(loop.reactor, str(path))
        changes: list[bool] = []
        leadership = Alone(store, "ctl-1", changes.append)
        assert not leadership.leading
        assert leadership.leader == ""
        leadership.start()
        loop.until(lambda leadership=leadership: leadership.leading)
        assert leadership.term == term
        assert leadership.leader == "ctl-1"
        result(loop, leadership.store.put("state/rollout", b"%d" % term, None))
        result(loop, leadership.stop())
        assert changes == [True, False]
        assert not leadership.leading
        result(loop, store.close())
