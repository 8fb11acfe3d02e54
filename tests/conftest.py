"""For all tests."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator, Iterator

import pytest

# A shell without job control has SIGINT ignored in what it starts in the background. Programs that tests start would
# inherit that, and no Ctrl-C would end them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = 300.0  # seconds that a test may take, or its fixtures; the longest take one minute
AGAIN = 10.0  # seconds until the next try, where something went on all the same


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """A test that waits for what never comes fails, and the others go on."""

    def fail(number: int, frame: object) -> None:
        pytest.fail(f"it has not ended after {LONGEST:g} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, LONGEST, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    with _bounded():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    with _bounded():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    with _bounded():
        return (yield)
