from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from twisted.internet.epollreactor import EPollReactor


class Loop:
    """A reactor of one test's own, run until something has happened."""

    def __init__(self) -> None:
        self.reactor = EPollReactor()
        self.reactor.startRunning(installSignalHandlers=False)

    def until(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        """Run until ``condition()`` holds; fail when it doesn't within ``seconds``."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it didn't happen in time"
            self.reactor.iterate(0.01)

    def run_for(self, seconds: float) -> None:
        """Run for that long, whatever happens."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.reactor.iterate(0.01)

    def close(self) -> None:
        """End what the test left, threads included."""
        self.reactor.stop()
        self.reactor.iterate(0)
        self.reactor.iterate(0)
        for descriptor in self.reactor.removeAll():
            descriptor.connectionLost(None)
        # Only the interpreter's end would close these, or the collector, whenever it comes.
        self.reactor._poller.close()
        waker = self.reactor.waker
        if waker is not None:
            waker.connectionLost(None)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()
