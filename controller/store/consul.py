"""The store of several controllers: Consul's KV, every change by its compare-and-set.

Below ``PREFIX/`` are ``data/KEY`` (values as they are, so that ``consul kv get`` shows them), ``pieces/`` (parts of
values that are too large for one key) and ``leader`` (the lock of :mod:`.election`). Changes go through ``/v1/txn``:
that is the way to get the version of what was written, and to write only while a lock is held. Reads ask the leader of
Consul's servers, which asks the others whether it still is (``?consistent``): what is read here decides who gets in.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from controller.store import (
    LISTED_SIZE,
    MOST_LISTED,
    Conflict,
    Entry,
    NotLeading,
    TooLarge,
    Unavailable,
    check_key,
    check_prefix,
    check_value,
)
from controller.store.client import Client, Reply, TooLong, decoded, refused
from controller.store.pieces import Pieces

# Consul takes 512 KiB for the whole body of a transaction, in which a value is base64.
INLINE = 320 * 1024  # bytes
IN_PIECES = 1  # as flags of a key: its value says which pieces to put together
LIST_TIMEOUT = 30.0  # seconds
PUT_TIMEOUT = 60.0  # seconds for a value in pieces; far less than the age at which pieces nobody names are deleted
ATTEMPTS = 3

Guard = Callable[[], list[dict[str, Any]]]
Gone = Callable[[str], object]


class Item(msgspec.Struct, frozen=True, rename="pascal"):
    """A key as Consul shows it."""

    key: str
    modify_index: int
    flags: int = 0
    value: bytes | None = None
    session: str = ""


class _Written(msgspec.Struct, frozen=True):
    KV: Item


class _Results(msgspec.Struct, frozen=True):
    Results: list[_Written] | None = None


class _Error(msgspec.Struct, frozen=True, rename="pascal"):
    op_index: int
    what: str


class _Errors(msgspec.Struct, frozen=True):
    Errors: list[_Error]


def unguarded() -> list[dict[str, Any]]:
    """No condition on who writes."""
    return []


class ConsulStore:
    """A :class:`controller.store.Store` over Consul."""

    def __init__(
        self,
        reactor: Any,
        client: Client,
        prefix: str,
        now: Callable[[], float],
        guard: Guard = unguarded,
        gone: Gone = lambda why: None,
    ) -> None:
        """``now`` is the time of day, Unix seconds. ``guard`` gives operations that each transaction begins with, or
        raises :class:`NotLeading`; when Consul refuses one of them, ``gone`` is told."""
        self._reactor = reactor
        self._client = client
        self._prefix = check_key(prefix)
        self._data = f"{prefix}/data/"
        self._now = now
        self._guard = guard
        self._gone = gone
        self._pieces = Pieces(client, f"{prefix}/pieces/", now, self._manifest)

    def guarded(self, guard: Guard, gone: Gone) -> ConsulStore:
        """The same store, changed only under a condition."""
        return ConsulStore(self._reactor, self._client, self._prefix, self._now, guard, gone)

    def get(self, key: str) -> Deferred[Entry | None]:
        """See :class:`controller.store.Store`."""
        return Deferred.fromCoroutine(self._get(check_key(key)))

    def put(self, key: str, value: bytes, expect: int | None) -> Deferred[int]:
        """See :class:`controller.store.Store`."""
        return Deferred.fromCoroutine(self._put(check_key(key), value, expect))

    def delete(self, key: str, expect: int | None = None) -> Deferred[None]:
        """See :class:`controller.store.Store`."""
        return Deferred.fromCoroutine(self._delete(check_key(key), expect))

    def list(self, prefix: str) -> Deferred[dict[str, Entry]]:
        """See :class:`controller.store.Store`."""
        return Deferred.fromCoroutine(self._list(check_prefix(prefix)))

    def close(self) -> Deferred[None]:
        """Fail what is under way, and end the connections."""
        return self._client.close()

    async def _get(self, key: str) -> Entry | None:
        for _ in range(ATTEMPTS):
            item = await self._item(key)
            if item is None:
                return None
            value = await self._value(item)
            if value is not None:
                return Entry(value, item.modify_index)
            # Replaced between the two reads, most likely: then the next attempt finds the new one.
        raise Unavailable(f"{key}: pieces of it are missing in Consul")

    async def _put(self, key: str, value: bytes, expect: int | None) -> int:
        check_value(key, value)
        operation: dict[str, Any] = {"Verb": "set", "Key": self._data + key}
        if expect is not None:
            operation |= {"Verb": "cas", "Index": expect}
        if len(value) > INLINE:
            self._guard()  # before megabytes are sent for nothing
            writing = Deferred.fromCoroutine(self._pieces.write(key, value))
            value = await writing.addTimeout(PUT_TIMEOUT, self._reactor, _too_slow)
            operation["Flags"] = IN_PIECES
        operation["Value"] = base64.b64encode(value).decode("ascii")
        return await self._transaction(operation)

    async def _delete(self, key: str, expect: int | None) -> None:
        operation: dict[str, Any] = {"Verb": "delete", "Key": self._data + key}
        if expect is not None:
            operation |= {"Verb": "delete-cas", "Index": expect}
        await self._transaction(operation)

    async def _list(self, prefix: str) -> dict[str, Entry]:
        # base64 makes four bytes of three, and each entry has some 200 bytes around its value.
        limit = LISTED_SIZE // 3 * 4 + MOST_LISTED * 1024
        params = {"recurse": "", "consistent": ""}
        path = f"/v1/kv/{self._data}{prefix}"
        try:
            reply = await self._client.request("GET", path, params, timeout=LIST_TIMEOUT, limit=limit)
        except TooLong as error:
            raise TooLarge(f"{prefix}: {error}") from None
        items = sorted(_items(reply), key=lambda item: item.key)
        if len(items) > MOST_LISTED:
            raise TooLarge(f"{prefix}: there are {len(items)} entries below it")
        found = {}
        size = 0
        for item in items:
            key = item.key.removeprefix(self._data)
            value = await self._value(item) if item.flags == IN_PIECES else item.value or b""
            entry = Entry(value, item.modify_index) if value is not None else await self._get(key)
            if entry is None:
                continue
            found[key] = entry
            size += len(entry.value)
            if size > LISTED_SIZE:
                raise TooLarge(f"{prefix}: the entries below it have more than {LISTED_SIZE >> 20} MiB")
        return found

    async def _item(self, key: str) -> Item | None:
        reply = await self._client.request("GET", f"/v1/kv/{self._data}{key}", {"consistent": ""})
        return next(_items(reply), None)

    async def _manifest(self, key: str) -> bytes | None:
        item = await self._item(key)
        return item.value if item is not None and item.flags == IN_PIECES else None

    async def _value(self, item: Item) -> bytes | None:
        if item.flags == IN_PIECES:
            return await self._pieces.read(item.value or b"")
        return item.value or b""

    async def _transaction(self, operation: dict[str, Any]) -> int:
        """Do it, and return the version of what was written; 0 when it was deleted."""
        conditions = self._guard()
        body = msgspec.json.encode([{"KV": each} for each in (*conditions, operation)])
        reply = await self._client.request("PUT", "/v1/txn", body=body)
        if reply.status == 409:
            for error in decoded(reply, _Errors).Errors:
                if error.op_index < len(conditions) and "session" in error.what:
                    self._gone(error.what)
                    raise NotLeading(error.what)
                if error.what.endswith("index is stale"):
                    raise Conflict(error.what)
        if reply.status != 200:
            raise refused(reply)
        written = decoded(reply, _Results).Results or []
        return written[-1].KV.modify_index if len(written) > len(conditions) else 0


def _items(reply: Reply) -> Iterator[Item]:
    if reply.status == 404:
        return iter(())
    if reply.status != 200:
        raise refused(reply)
    return iter(decoded(reply, list[Item]))


def _too_slow(result: Any, timeout: float) -> Any:
    raise Unavailable(f"a large value took more than {timeout:g} s to be written")
