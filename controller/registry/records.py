"""Records in the store: JSON, changed by compare-and-set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from controller.store import Conflict, Entry, Store, Unavailable

ATTEMPTS = 16  # each that fails means that somebody else's change was made


class Refused(Exception):
    """No. The text says why, for operators and their logs; what a stranger is told is another matter."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        # "token" (unknown), "expired", "used", "other-host", "enrolled", "unknown-host", "denied", "key", "stale",
        # "service", "name", "full": for counting, and for choosing a status.
        self.code = code


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records. Fields that a newer controller has added are left out when an older one reads."""


R = TypeVar("R", bound=Record)


def decode(key: str, entry: Entry, kind: type[R]) -> R:
    """The record of an entry. Raises :class:`Unavailable` when it is something else."""
    try:
        return msgspec.json.decode(entry.value, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unavailable(f"{key}: what is kept there can't be read: {error}") from None


async def read(store: Store, key: str, kind: type[R]) -> R | None:
    """One record; None when there is none."""
    entry = await store.get(key)
    return decode(key, entry, kind) if entry is not None else None


async def read_all(store: Store, prefix: str, kind: type[R]) -> dict[str, R]:
    """All below a prefix, by what follows it."""
    entries = await store.list(prefix)
    return {key.removeprefix(prefix): decode(key, entry, kind) for key, entry in entries.items()}


async def change(store: Store, key: str, kind: type[R], decide: Callable[[R | None], R | None]) -> R | None:
    """Replace a record by what ``decide`` makes of it, and return that; None deletes it.

    ``decide`` is asked again when somebody else was faster, and may raise :class:`Refused`. When it returns what it
    was given, nothing is written.
    """
    for _ in range(ATTEMPTS):
        entry = await store.get(key)
        known = decode(key, entry, kind) if entry is not None else None
        wanted = decide(known)
        if wanted is known:
            return known
        try:
            if wanted is not None:
                await store.put(key, msgspec.json.encode(wanted), entry.version if entry is not None else 0)
            elif entry is not None:
                await store.delete(key, entry.version)
        except Conflict:
            continue
        return wanted
    raise Unavailable(f"{key}: is changed by others all the time")
