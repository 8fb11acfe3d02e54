"""Bytes from one stream to another and back, until both have ended.

Half-close is passed on as half-close, a reset as a reset. What one side can't take stops the other, so at most one
read waits in each direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hostproxy.net.deadlines import NEVER, Deadlines

if TYPE_CHECKING:
    from hostproxy.net.stream import Stream


class _Side:
    """Owns one stream of a relay."""

    __slots__ = ("count", "ended_", "other", "relay", "stream")

    other: _Side

    def __init__(self, relay: Relay, stream: Stream) -> None:
        self.relay = relay
        self.stream = stream
        self.count = 0  # bytes that came from here
        self.ended_ = False

    def received(self, data: bytes) -> None:
        self.count += len(data)
        self.relay.moved = self.stream.reactor.now
        target = self.other.stream
        target.write(data)
        if target.backlog:
            self.stream.pause()

    def ended(self) -> None:
        self.ended_ = True
        self.other.stream.finish()
        self.relay.one_ended()

    def drained(self) -> None:
        self.relay.moved = self.stream.reactor.now
        if self.other.ended_:
            self.relay.one_ended()
        else:
            self.other.stream.resume()

    def lost(self, reason: str) -> None:
        self.relay.broken(self, reason)


class Relay:
    """Joins two streams. ``finished(reason, from_first, from_second)`` is called once, with the bytes of each."""

    __slots__ = ("_deadlines", "_finished", "_first", "_idle", "_second", "deadline", "moved", "slot")

    def __init__(
        self,
        first: Stream,
        second: Stream,
        deadlines: Deadlines,
        idle: float,
        finished: Callable[[str, int, int], None],
    ) -> None:
        """``idle``: seconds without a byte in either direction after which both are closed."""
        self._deadlines = deadlines
        self._idle = idle
        self._finished = finished
        self._first = _Side(self, first)
        self._second = _Side(self, second)
        self._first.other = self._second
        self._second.other = self._first
        first.owner = self._first
        second.owner = self._second
        self.moved = first.reactor.now
        self.deadline = NEVER
        self.slot = 0
        deadlines.set(self, self.moved + idle)

    def begin(self, from_first: bytes = b"", from_second: bytes = b"") -> None:
        """Pass on what had been read before, then everything."""
        for side, data in ((self._first, from_first), (self._second, from_second)):
            side.stream.resume()
            if data:
                side.received(data)
            if side.stream.at_end:
                side.ended()

    def one_ended(self) -> None:
        """One direction has ended; with both ended and written out it is over."""
        first, second = self._first, self._second
        if first.ended_ and second.ended_ and not first.stream.backlog and not second.stream.backlog:
            first.stream.close()
            second.stream.close()
            self._over("ended")

    def broken(self, side: _Side, reason: str) -> None:
        """The connection of ``side`` has gone: the other one goes the same way."""
        side.other.stream.abort()
        self._over(reason)

    def expired(self, now: float) -> None:
        """The deadline has passed, perhaps."""
        if now >= self.moved + self._idle:
            self.stop("idle")
        else:
            self._deadlines.set(self, self.moved + self._idle)

    def stop(self, reason: str) -> None:
        """End it from outside."""
        self._first.stream.abort()
        self._second.stream.abort()
        self._over(reason)

    def _over(self, reason: str) -> None:
        self._deadlines.forget(self)
        finished, self._finished = self._finished, _done
        finished(reason, self._first.count, self._second.count)


def _done(reason: str, from_first: int, from_second: int) -> None:
    pass
