"""Public keys that have been certified. Each is, once: a renewal comes with a fresh one, and no two hosts share one."""

from __future__ import annotations

import re
from collections.abc import Callable

from controller.registry.records import Record, Refused, change, read_all
from controller.store import Store

# Longer than the longest certificate, so that a key whose certificate could be in use is always known.
KEPT = 48 * 3600.0  # seconds
BUCKETS = 256  # by the first two digits: one is swept at a time, and may have as many keys as a list has entries
_WHERE = "keys/used/"
_FINGERPRINT = re.compile("[0-9a-f]{64}")


class Used(Record, frozen=True):
    """Who came with a key."""

    host: str
    at: float  # Unix seconds


class UsedKeys:
    """Keys by their fingerprints: SHA-256, hexadecimal."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._bucket = 0

    async def claim(self, fingerprint: str, host: str) -> None:
        """Take a key for a host. Raises :class:`Refused` when anybody has come with it before.

        So has a host that asks again because it got no answer: each attempt has a key of its own.
        """
        used = Used(host=host, at=self._now())

        def first(known: Used | None) -> Used:
            if known is None:
                return used
            if known.host == host:
                raise Refused("key", "the key has been used before: make a new one for each request")
            raise Refused("key", f"the key has been used on {known.host}: make one on each host")

        await change(self._store, _key(fingerprint), Used, first)

    async def sweep(self) -> int:
        """Forget old keys in one bucket, the next one each time; returns how many. Once a minute is often enough."""
        bucket = f"{_WHERE}{self._bucket:02x}/"
        self._bucket = (self._bucket + 1) % BUCKETS
        until = self._now() - KEPT
        old = [name for name, used in (await read_all(self._store, bucket, Used)).items() if used.at < until]
        for name in old:
            await self._store.delete(bucket + name)
        return len(old)


def _key(fingerprint: str) -> str:
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise ValueError("not a fingerprint of a key")
    return f"{_WHERE}{fingerprint[:2]}/{fingerprint[2:]}"
