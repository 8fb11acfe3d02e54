"""Log lines never wait for whoever reads them, and nobody else can write one."""

from __future__ import annotations

import os
import pty
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from hostproxy.control.logs import PIECE, Lines, nonblocking_writer


class Sink:
    """Takes lines while it has room."""

    def __init__(self) -> None:
        self.text = ""
        self.full = False

    def write(self, data: bytes) -> None:
        if self.full:
            raise BlockingIOError
        self.text += data.decode()


def logger(lines: Lines) -> Logger:
    return Logger(namespace="hostproxy.room", observer=lines)  # type: ignore[arg-type]


@pytest.fixture
def sink() -> Sink:
    return Sink()


def test_a_line_names_time_process_level_and_room(sink: Sink) -> None:
    lines = Lines("worker-0[7]", "info", sink.write)
    lines({"log_format": "took {n}", "n": 3, "log_level": LogLevel.warn, "log_namespace": "x.y", "log_time": 1.25})
    assert sink.text == "1970-01-01T00:00:01.250Z worker-0[7] warn x.y: took 3\n"


def test_levels(sink: Sink) -> None:
    lines = Lines("p", "warn", sink.write)
    logger(lines).info("not this")
    logger(lines).warn("this")
    lines.set_level("debug")
    logger(lines).debug("and this")
    assert [line.rpartition(": ")[2] for line in sink.text.splitlines()] == ["this", "and this"]


def test_twisteds_own_chatter_is_for_debugging(sink: Sink) -> None:
    lines = Lines("p", "info", sink.write)
    event: dict[str, Any] = {"log_format": "Site starting", "log_level": LogLevel.info, "log_time": 0.0}
    lines({**event, "log_namespace": "twisted.internet.base"})
    lines({**event, "log_namespace": "log_legacy"})
    assert sink.text == ""
    lines({**event, "log_namespace": "log_legacy", "log_level": LogLevel.critical})
    assert "Site starting" in sink.text


def test_a_message_cannot_forge_a_line_or_drive_a_terminal(sink: Sink) -> None:
    logger(Lines("p", "info", sink.write)).info("{x}", x="a\n2026-01-01T00:00:00.000Z p info y: forged\x1b[2J\r")
    _first, second = sink.text.splitlines()
    assert second.startswith("    2026")
    assert second.endswith("forged\\x1b[2J\\x0d")


def test_tracebacks_are_there_and_indented(sink: Sink) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logger(Lines("p", "info", sink.write)).failure("it failed", Failure())
    first, *rest = sink.text.splitlines()
    assert first.endswith("it failed")
    assert rest[-1].endswith("ValueError: broken")
    assert all(line.startswith("    ") for line in rest)


def test_what_does_not_fit_is_counted_and_said(sink: Sink) -> None:
    lines = Lines("p", "info", sink.write)
    sink.full = True
    for _ in range(3):
        logger(lines).info("lost")
    sink.full = False
    logger(lines).info("back")
    assert [line.rpartition(": ")[2] for line in sink.text.splitlines()] == ["stderr was full", "back"]
    assert "3 log lines dropped" in sink.text
    assert lines.dropped == 0


def test_the_journal_hears_how_bad_each_line_is(sink: Sink) -> None:
    lines = Lines("p", "debug", sink.write, for_journal=True)
    for level in LogLevel.iterconstants():
        logger(lines).emit(level, "first\nsecond")
    assert [line[:3] for line in sink.text.splitlines()] == [f"<{number}>" for number in (7, 7, 6, 6, 4, 4, 3, 3, 2, 2)]
    assert sink.text.count(">    second") == 5


def test_all_that_is_lost_is_counted(sink: Sink) -> None:
    lines = Lines("p", "info", sink.write)
    for _ in range(2):
        sink.full = True
        logger(lines).info("lost")
        sink.full = False
        logger(lines).info("back")
    assert (lines.lost, lines.dropped) == (2, 0)


@pytest.fixture(params=["pipe", "socket", "terminal", "file"])
def ends(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[tuple[int, int]]:
    """(read, write) of something that stderr can be."""
    if request.param == "pipe":
        pair = os.pipe()
    elif request.param == "socket":
        pair = tuple(one.detach() for one in socket.socketpair())  # type: ignore[assignment]
    elif request.param == "terminal":
        pair = pty.openpty()
    else:
        path = tmp_path / "log"
        write = os.open(path, os.O_WRONLY | os.O_CREAT)
        pair = (os.open(path, os.O_RDONLY), write)
    yield pair
    os.close(pair[0])
    os.close(pair[1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the writer keeps its socket
def test_writing_never_waits(ends: tuple[int, int], request: pytest.FixtureRequest) -> None:
    read, descriptor = ends
    write = nonblocking_writer(descriptor)
    write(b"first\n")
    assert os.read(read, 100).replace(b"\r\n", b"\n") == b"first\n"
    if "file" in request.node.name:
        return  # a file takes everything
    with pytest.raises(BlockingIOError):
        for _ in range(1000):
            write(b"x" * (PIECE - 1) + b"\n")
    assert os.get_blocking(descriptor), "others who share the descriptor would find it changed"


def test_a_reader_that_has_gone_costs_lines_only() -> None:
    read, write = os.pipe()
    lines = Lines("p", "info", nonblocking_writer(write))
    os.close(read)
    logger(lines).info("nobody hears")
    assert lines.dropped == 1
    os.close(write)
