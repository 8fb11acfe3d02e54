"""The store of a single controller: one SQLite file, written by one thread.

A change is on the disk before it is answered (WAL, ``synchronous=FULL``): after a power cut the file holds every change
that was answered, and of one that was not, all or nothing. For a backup while the controller runs, use
``sqlite3 FILE ".backup COPY"``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import sqlite3
import stat
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from controller.store import (
    LISTED_SIZE,
    MOST_LISTED,
    Conflict,
    Entry,
    TooLarge,
    Unavailable,
    Unusable,
    check_key,
    check_prefix,
    check_value,
)

APPLICATION = 0x68706374  # "hpct", in the header of the file: it is ours
SCHEMA = 1
BUSY = 5.0  # seconds to wait for somebody who reads the file with another program
MOST_WAITING = 4096  # calls for the thread

_TABLES = """
CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE counter (version INTEGER NOT NULL);
INSERT INTO counter VALUES (0);
"""

T = TypeVar("T")


class SqliteStore:
    """A :class:`controller.store.Store` in one file. One process at a time has it open."""

    def __init__(self, reactor: Any, path: str) -> None:
        """Open the file, or make it. Waits for the disk. Raises :class:`Unusable`."""
        self._reactor = reactor
        self._lock = _lock(path)
        try:
            self._connection = _open(path)
        except BaseException:
            os.close(self._lock)
            raise
        self._waiting = 0
        self._closed: Deferred[None] | None = None
        # One thread: statements run in the order in which they were asked for, and never two at a time.
        self._pool = ThreadPool(1, 1, "store")
        self._pool.start()

    def get(self, key: str) -> Deferred[Entry | None]:
        """See :class:`controller.store.Store`."""
        return self._run(self._get, check_key(key))

    def put(self, key: str, value: bytes, expect: int | None) -> Deferred[int]:
        """See :class:`controller.store.Store`."""
        try:
            check_value(key, value)
        except TooLarge as error:
            return fail(error)
        return self._run(self._put, check_key(key), value, expect)

    def delete(self, key: str, expect: int | None = None) -> Deferred[None]:
        """See :class:`controller.store.Store`."""
        return self._run(self._delete, check_key(key), expect)

    def list(self, prefix: str) -> Deferred[dict[str, Entry]]:
        """See :class:`controller.store.Store`."""
        return self._run(self._list, check_prefix(prefix))

    def close(self) -> Deferred[None]:
        """Finish what was asked for, and close the file."""
        if self._closed is None:
            self._closed = deferToThreadPool(self._reactor, self._pool, self._connection.close)
            self._closed.addBoth(self._stopped)
        waiter: Deferred[None] = Deferred()
        self._closed.addBoth(lambda _: waiter.callback(None))
        return waiter

    def _stopped(self, _: object) -> None:
        self._pool.stop()
        os.close(self._lock)

    def _run(self, statement: Callable[..., T], *arguments: object) -> Deferred[T]:
        if self._closed is not None:
            return fail(Unavailable("the store is closed"))
        if self._waiting >= MOST_WAITING:
            return fail(Unavailable(f"{MOST_WAITING} calls wait for the disk already"))
        self._waiting += 1
        running: Deferred[T] = deferToThreadPool(self._reactor, self._pool, self._translated, statement, *arguments)
        return running.addBoth(self._ran)

    def _ran(self, result: T) -> T:
        self._waiting -= 1
        return result

    # On the thread

    def _translated(self, statement: Callable[..., T], *arguments: object) -> T:
        try:
            return statement(*arguments)
        except sqlite3.Error as error:
            raise Unavailable(f"the database says: {error}") from None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        execute = self._connection.execute
        # Immediate: it waits for others here, where nothing has been decided yet.
        execute("BEGIN IMMEDIATE")
        try:
            yield
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise

    def _get(self, key: str) -> Entry | None:
        row = self._connection.execute("SELECT value, version FROM entries WHERE key = ?", (key,)).fetchone()
        return None if row is None else Entry(*row)

    def _put(self, key: str, value: bytes, expect: int | None) -> int:
        execute = self._connection.execute
        with self._transaction():
            self._check(key, expect)
            execute("UPDATE counter SET version = version + 1")
            version: int = execute("SELECT version FROM counter").fetchone()[0]
            execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (key, value, version))
        return version

    def _delete(self, key: str, expect: int | None) -> None:
        with self._transaction():
            if self._version(key):
                self._check(key, expect)
                self._connection.execute("DELETE FROM entries WHERE key = ?", (key,))

    def _list(self, prefix: str) -> dict[str, Entry]:
        # "0" is the character after the slash that the prefix ends with.
        span = (prefix, prefix[:-1] + "0")
        execute = self._connection.execute
        sums = "SELECT count(*), total(length(value)) FROM entries WHERE key >= ? AND key < ?"
        count, size = execute(sums, span).fetchone()
        if count > MOST_LISTED or size > LISTED_SIZE:
            raise TooLarge(f"{prefix}: there are {count} entries of {int(size)} bytes below it")
        rows = execute("SELECT key, value, version FROM entries WHERE key >= ? AND key < ? ORDER BY key", span)
        return {key: Entry(value, version) for key, value, version in rows}

    def _version(self, key: str) -> int:
        row = self._connection.execute("SELECT version FROM entries WHERE key = ?", (key,)).fetchone()
        return 0 if row is None else int(row[0])

    def _check(self, key: str, expect: int | None) -> None:
        if expect is not None and (version := self._version(key)) != expect:
            raise Conflict(f"{key}: has version {version}, not {expect}")


def _lock(path: str) -> int:
    # On a file of its own: SQLite's locks on the database are gone as soon as anybody in this process closes it.
    name = f"{path}.lock"
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Unusable(f"{name}: cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Unusable(f"{path}: another controller has it open; several controllers need Consul as store") from None
    return descriptor


def _open(path: str) -> sqlite3.Connection:
    _prepare(path)
    connection: sqlite3.Connection | None = None
    try:
        # Statements come from the store's thread alone, once this is done.
        connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        _settle(path, connection)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.DatabaseError):
            hint = "restore it from a backup, or move it away to begin without hosts and policy"
            raise Unusable(f"{path}: is no database that can be used ({error}); {hint}") from None
        raise
    return connection


def _prepare(path: str) -> None:
    """Make the file with its mode from the first moment on, or check the one that is there."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise Unusable(f"{path}: cannot be opened: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Unusable(f"{path}: is not a regular file")
    if status.st_uid != os.geteuid():
        raise Unusable(f"{path}: belongs to another user than the one that the controller runs as")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise Unusable(f"{path}: is open to other users (mode {mode:04o}); chmod 600 {shlex.quote(path)}")
    if not status.st_size:
        directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _settle(path: str, connection: sqlite3.Connection) -> None:
    def ask(pragma: str) -> Any:
        return connection.execute(f"PRAGMA {pragma}").fetchone()[0]

    application, schema = ask("application_id"), ask("user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != APPLICATION and (application or schema or tables):
        raise Unusable(f"{path}: is the database of another program")
    if schema > SCHEMA:
        raise Unusable(f"{path}: was written by a newer hostproxy-controller (schema {schema}, known is {SCHEMA})")
    if (damage := ask("quick_check(1)")) != "ok":
        raise sqlite3.DatabaseError(damage)
    connection.execute("PRAGMA trusted_schema = OFF")
    if (mode := ask("journal_mode = WAL")) != "wal":
        raise Unusable(f"{path}: its file system allows no write-ahead log (journal_mode stays {mode})")
    connection.execute("PRAGMA synchronous = FULL")
    if not schema:
        header = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA};"
        connection.executescript(f"BEGIN IMMEDIATE; {header} {_TABLES} COMMIT;")
