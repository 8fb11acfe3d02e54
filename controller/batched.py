"""Reads of the store that many ask for at a time: one answers all who asked before it began."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class Batched(Generic[T]):
    """Shares one read after the other.

    Whoever asks while one is under way gets the next: a read that began before somebody asked may not know what they
    have just written. Thousands may wait: they are answered from a loop, not one from within the other.
    """

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._waiting: list[Deferred[T]] = []
        self._reading = False

    def __call__(self) -> Deferred[T]:
        """What a read gives that begins now or later; fails as it does."""
        waiter: Deferred[T] = Deferred()
        self._waiting.append(waiter)
        if not self._reading:
            self._begin()
        return waiter

    def _begin(self) -> None:
        self._reading = True
        batch, self._waiting = self._waiting, []
        Deferred.fromCoroutine(self._ask()).addBoth(self._answer, batch)

    async def _ask(self) -> T:
        return await self._read()

    def _answer(self, result: Any, batch: list[Deferred[T]]) -> None:
        self._reading = False
        if self._waiting:
            self._begin()
        for waiter in batch:
            if not waiter.called:  # else it was cancelled
                waiter.callback(result)  # a Failure too: it goes the way of errors
