"""Timeouts of many connections, for one attribute write each.

A connection's timeout moves with every request, and nearly none ever fires. So an entry sits in one bucket of
``TICK`` seconds, and moving its deadline later only writes the attribute: when the bucket comes up, an entry
whose deadline has moved is put into a later bucket. Only a deadline that comes *earlier* moves the entry at once.
A timeout fires up to ``TICK`` seconds late and never early.
"""

from __future__ import annotations

import math
from typing import Protocol

from twisted.logger import Logger

TICK = 0.25  # seconds; the smallest timeout that operators set on connections is about a second
NEVER = math.inf

# A tick this late means that the process stood still (seconds). What has come in the meantime waits unread in the
# sockets: nothing expires before the loop has gone round once, so that a pause fails no healthy request.
STALLED = 1.0


class Expiring(Protocol):
    """Something with a deadline. ``deadline`` is monotonic seconds or ``NEVER``; ``slot`` belongs to this module."""

    deadline: float
    slot: int

    def expired(self, now: float) -> None:
        """The deadline has passed. To go on, set another; without one there is no further call."""


class Deadlines:
    """All deadlines of one process. Someone calls :meth:`tick` every ``TICK`` seconds."""

    __slots__ = ("_buckets", "_next", "_ticked")

    log = Logger()

    def __init__(self, now: float) -> None:
        self._buckets: dict[int, set[Expiring]] = {}
        self._next = int(now / TICK)
        self._ticked = now

    def set(self, entry: Expiring, deadline: float) -> None:
        """Let ``entry`` expire at ``deadline`` (monotonic seconds) instead of whenever it would have."""
        entry.deadline = deadline
        slot = entry.slot
        if slot and deadline >= (slot - 1) * TICK:
            return  # its bucket comes up before that, and it moves on then, or it is in the right one
        self._place(entry)

    def forget(self, entry: Expiring) -> None:
        """``entry`` is gone: hold no reference to it any more."""
        if entry.slot:
            bucket = self._buckets.get(entry.slot)
            if bucket is not None:
                bucket.discard(entry)
            entry.slot = 0

    def _place(self, entry: Expiring) -> None:
        buckets = self._buckets
        if entry.slot:
            bucket = buckets.get(entry.slot)
            if bucket is not None:
                bucket.discard(entry)
        if entry.deadline == NEVER:
            entry.slot = 0
            return
        slot = max(int(entry.deadline / TICK) + 1, self._next)
        entry.slot = slot
        found = buckets.get(slot)
        if found is None:
            buckets[slot] = {entry}
        else:
            found.add(entry)

    def tick(self, now: float) -> None:
        """Expire what is due at ``now`` (monotonic seconds)."""
        late = now - self._ticked
        self._ticked = now
        if late > STALLED:
            return
        last = int(now / TICK)
        if last - self._next > len(self._buckets):
            due = sorted(slot for slot in self._buckets if slot <= last)
        else:
            due = list(range(self._next, last + 1))
        self._next = max(self._next, last + 1)
        for slot in due:
            for entry in self._buckets.pop(slot, ()):
                if entry.slot != slot:
                    continue  # forgotten or moved by the expiry of another one in this bucket
                entry.slot = 0
                if entry.deadline <= now:
                    try:
                        entry.expired(now)
                    except Exception:  # one entry's fault must not stop the clock of all others
                        self.log.failure("the deadline of {entry!r}", entry=entry)
                else:
                    self._place(entry)

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))
