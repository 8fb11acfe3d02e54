"""A reactor that tests turn by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from hostproxy.net.reactor import MeshReactor


class TurnedReactor(MeshReactor):
    """Not the process's reactor: it turns only within :meth:`until`."""

    def until(self, done: Callable[[], object], seconds: float = 5.0) -> None:
        """Turn until ``done()`` is true; fail after ``seconds``."""
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, "it did not happen in time"
            self.iterate(0.01)

    def turns(self, count: int = 5) -> None:
        """Turn ``count`` times, to see that nothing happens."""
        for _ in range(count):
            self.iterate(0)


@pytest.fixture
def reactor() -> Iterator[TurnedReactor]:
    reactor = TurnedReactor()
    yield reactor
    reactor._poller.close()
