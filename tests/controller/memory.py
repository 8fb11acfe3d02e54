"""A store in memory, which keeps the promises of the real ones."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed

from controller.store import Conflict, Entry, Unavailable, check_key, check_prefix, check_value


class MemoryStore:
    """``broken`` makes it unavailable; ``before_put`` is called with the key before each change."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.broken = False
        self.before_put = lambda key: None
        self._version = 0

    def get(self, key: str) -> Deferred[Entry | None]:
        check_key(key)
        return fail(Unavailable("broken")) if self.broken else succeed(self.entries.get(key))

    def put(self, key: str, value: bytes, expect: int | None) -> Deferred[int]:
        check_value(check_key(key), value)
        if self.broken:
            return fail(Unavailable("broken"))
        self.before_put(key)
        known = self.entries.get(key)
        if expect is not None and (known.version if known else 0) != expect:
            return fail(Conflict(key))
        self._version += 1
        self.entries[key] = Entry(value, self._version)
        return succeed(self._version)

    def delete(self, key: str, expect: int | None = None) -> Deferred[None]:
        if self.broken:
            return fail(Unavailable("broken"))
        known = self.entries.get(key)
        if known is not None and expect is not None and known.version != expect:
            return fail(Conflict(key))
        self.entries.pop(key, None)
        return succeed(None)

    def list(self, prefix: str) -> Deferred[dict[str, Entry]]:
        check_prefix(prefix)
        if self.broken:
            return fail(Unavailable("broken"))
        return succeed({key: entry for key, entry in sorted(self.entries.items()) if key.startswith(prefix)})

    def close(self) -> Deferred[None]:
        return succeed(None)
