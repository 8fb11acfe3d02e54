"""A reactor in a thread, so that tests speak real HTTP with the standard library's blocking client."""

from __future__ import annotations

import threading

import pytest
from twisted.internet.defer import maybeDeferred

from hostproxy.net.reactor import MeshReactor


class ReactorThread:
    """Runs functions on a reactor that runs in another thread."""

    def __init__(self):
        self.reactor = MeshReactor()
        self._thread = threading.Thread(target=self.reactor.run, kwargs={"installSignalHandlers": False})
        self._thread.start()

    def run(self, function, *arguments, **keywords):
        """Call ``function`` there and return its result, or a Deferred's; raise what it raised."""
        done = threading.Event()
        results = []

        def collect(result):
            results.append(result)
            done.set()

        def call():
            maybeDeferred(function, *arguments, **keywords).addBoth(collect)

        self.reactor.callFromThread(call)
        assert done.wait(10.0), "the reactor did not answer"
        if hasattr(results[0], "raiseException"):
            results[0].raiseException()
        return results[0]

    def stop(self):
        self.reactor.callFromThread(self.reactor.stop)
        self._thread.join(10.0)
        assert not self._thread.is_alive()


@pytest.fixture(scope="package")
def loop():
    """The reactor thread."""
    running = ReactorThread()
    yield running
    running.stop()
