"""Leading without anybody else: a store that one controller alone can open."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from controller.store import TERM, Conflict, Store, Unavailable

ATTEMPTS = 8

Changed = Callable[[bool], object]


async def raise_term(store: Store) -> int:
    """Count one more leader, and return its number. Fails as ``store.put`` does."""
    for _ in range(ATTEMPTS):
        entry = await store.get(TERM)
        term = int(entry.value) + 1 if entry is not None else 1
        try:
            await store.put(TERM, b"%d" % term, entry.version if entry is not None else 0)
        except Conflict:
            continue
        return term
    raise Unavailable(f"{TERM} is changed by others all the time")


class Alone:
    """A :class:`controller.store.Leadership` where nobody else can lead."""

    log = Logger()

    def __init__(self, store: Store, name: str, changed: Changed) -> None:
        """``changed`` is called with True once this controller leads, and with False when it stops."""
        self.leading = False
        self.term = 0
        self.store = store
        self._name = name
        self._changed = changed
        self._starting: Deferred[None] | None = None

    @property
    def leader(self) -> str:
        """The name of this controller, once it leads."""
        return self._name if self.leading else ""

    def start(self) -> None:
        """Lead as soon as the term is on the disk."""
        self._starting = Deferred.fromCoroutine(raise_term(self.store)).addCallbacks(self._lead, self._failed)

    def stop(self) -> Deferred[None]:
        """Lead no more."""
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        if self.leading:
            self.leading = False
            self._changed(False)
        return succeed(None)

    def _lead(self, term: int) -> None:
        self.term = term
        self.leading = True
        self._changed(True)

    def _failed(self, failure: Failure) -> None:
        if self._starting is not None:
            self.log.error("This controller cannot lead: {error}", error=failure.value)
