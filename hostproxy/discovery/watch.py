"""A value that changes, and those who want to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.logger import Logger

T = TypeVar("T")


class Watch(Generic[T]):
    """The current ``value``, and callbacks for those to come. A subscriber reads the current one itself."""

    __slots__ = ("_subscribers", "value")

    log = Logger()

    def __init__(self, value: T) -> None:
        self.value = value
        self._subscribers: dict[object, Callable[[T], object]] = {}

    def subscribe(self, callback: Callable[[T], object]) -> Callable[[], None]:
        """Call ``callback`` with every later value, until the returned function is called."""
        token = object()
        self._subscribers[token] = callback

        def cancel() -> None:
            self._subscribers.pop(token, None)

        return cancel

    def publish(self, value: T) -> None:
        """Take a new value and tell all subscribers. One that raises is logged, and the others are told."""
        self.value = value
        for token, callback in list(self._subscribers.items()):
            if token not in self._subscribers:
                continue  # cancelled by one before it
            try:
                callback(value)
            except Exception:
                self.log.failure("A subscriber failed on a new value.")
            if self.value is not value:
                return  # a subscriber published a newer one, and everybody knows that already
