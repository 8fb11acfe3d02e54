from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hostproxy.discovery.reload import RETRIES, Reload
from hostproxy.discovery.watch import Watch
from hostproxy.mesh.document import Invalid, Problem
from tests.discovery.conftest import Loop


class Number:
    """A file with a number in it, and everything that happened to it."""

    def __init__(self, loop: Loop, file: Path) -> None:
        self.file = file
        self.reads = 0
        self.reading = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[int] = set()
        self.values: list[int] = []
        self.watch = Watch(0)
        self.reload = Reload(loop.reactor, [str(file)], self.read, self.watch)
        self.watch.subscribe(self.values.append)

    def read(self) -> int:
        self.reads += 1
        self.threads.add(threading.get_ident())
        text = self.file.read_text()
        self.reading.set()
        assert self.gate.wait(5)
        if not text.isdigit():
            raise Invalid([Problem(str(self.file), 1, 1, "", f"{text!r} is no number")])
        return int(text)


@pytest.fixture
def number(loop: Loop, tmp_path: Path) -> Number:
    file = tmp_path / "number"
    file.write_text("1")
    return Number(loop, file)


def test_the_first_read_is_done_when_start_returns(number: Number) -> None:
    number.reload.start()
    assert number.watch.value == 1
    number.reload.stop()


def test_a_first_read_that_fails_is_the_callers_and_leaves_nothing(loop: Loop, number: Number) -> None:
    number.file.write_text("one")
    with pytest.raises(Invalid, match="'one' is no number"):
        number.reload.start()
    assert loop.reactor.getDelayedCalls() == []


def test_a_change_is_read_on_another_thread_and_published_on_this(loop: Loop, number: Number) -> None:
    number.reload.start()
    number.threads.clear()
    published_on: list[int] = []
    number.watch.subscribe(lambda value: published_on.append(threading.get_ident()))
    number.file.write_text("2")
    loop.until(lambda: number.watch.value == 2)
    assert threading.get_ident() not in number.threads
    assert published_on == [threading.get_ident()]
    number.reload.stop()


def test_the_same_value_again_is_not_published(loop: Loop, number: Number) -> None:
    number.reload.start()
    number.file.write_text("1")
    loop.until(lambda: number.reads == 2)
    loop.run_for(0.1)
    assert number.values == [1]
    number.reload.stop()


def test_bad_content_keeps_the_last_good_value_and_is_an_error_only_after_retries(
    loop: Loop, number: Number
) -> None:
    number.reload.start()
    number.file.write_text("two")
    loop.until(lambda: number.reads == 2)
    assert number.reload.error is None
    loop.until(lambda: number.reload.error)
    assert number.reads == 2 + len(RETRIES)
    assert "'two' is no number" in str(number.reload.error)
    assert number.watch.value == 1
    number.file.write_text("2")
    loop.until(lambda: number.watch.value == 2)
    assert number.reload.error is None
    number.reload.stop()


def test_an_error_ends_when_the_old_content_is_back(loop: Loop, number: Number) -> None:
    number.reload.start()
    number.file.unlink()
    number.file.write_text("two")
    loop.until(lambda: number.reload.error)
    number.file.write_text("1")
    loop.until(lambda: number.reload.error is None)
    assert number.values == [1]
    number.reload.stop()


def test_a_change_during_a_read_is_read_as_well_and_only_the_newer_is_published(
    loop: Loop, number: Number
) -> None:
    number.reload.start()
    number.gate.clear()
    number.reading.clear()
    number.file.write_text("2")
    loop.until(number.reading.is_set)
    number.file.write_text("3")
    loop.run_for(0.3)
    assert number.reads == 2  # not two at once
    number.gate.set()
    loop.until(lambda: number.watch.value == 3)
    assert number.values == [1, 3]
    number.reload.stop()


def test_nothing_is_published_after_stop(loop: Loop, number: Number) -> None:
    number.reload.start()
    number.gate.clear()
    number.reading.clear()
    number.file.write_text("2")
    loop.until(number.reading.is_set)
    number.reload.stop()
    number.gate.set()
    loop.run_for(0.1)
    assert number.values == [1]
