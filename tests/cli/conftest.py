"""A daemon's admin address for the commands that ask it."""

from __future__ import annotations

import pytest

from hostproxy.admin.server import listen
from hostproxy.config import Admin
from tests.admin.conftest import ReactorThread
from tests.admin.states import NOW, make_state


@pytest.fixture(scope="package")
def loop():
    running = ReactorThread()
    yield running
    running.stop()


@pytest.fixture
def daemon(loop):
    """Open admin addresses over states; returns the address as text."""
    ports = []

    def serve(state=None, address="127.0.0.1:0"):
        state = state or make_state()
        ports.append(loop.run(listen, loop.reactor, Admin(listen=address), state, state.totals, lambda: NOW))
        return ports[-1].address

    yield serve
    for port in ports:
        loop.run(port.stopListening)
