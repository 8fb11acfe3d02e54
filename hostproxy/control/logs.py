"""Log lines to stderr, which nobody ever waits for.

A pipe whose reader has stopped, or a terminal that was paused, would block a plain write and with it all traffic
of the process. So a line that does not fit is dropped and counted, and the count is the next line that gets out.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections.abc import Callable
from typing import Any

from twisted.logger import eventAsText, globalLogBeginner

from hostproxy.mesh import journal

# The kernel writes this many bytes to a pipe whole or not at all (pipe(7)), so lines of processes never mix.
PIECE = select.PIPE_BUF

LEVELS = ("debug", "info", "warn", "error", "critical")

# Twisted tells of every port that opens and closes: that is news for those who look into it only.
CHATTY = ("twisted.", "log_legacy")

# Control characters become visible, so that what a peer sent can neither drive a terminal nor start a line.
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), 127) if code not in (9, 10)}


def nonblocking_writer(descriptor: int) -> Callable[[bytes], object]:
    """A function that writes to ``descriptor`` and raises BlockingIOError instead of waiting.

    O_NONBLOCK on the descriptor itself would also change it for the shell and everybody else who shares it.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        sock = socket.socket(fileno=os.dup(descriptor))
        return lambda data: sock.send(data, socket.MSG_DONTWAIT)
    if not stat.S_ISREG(mode):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        try:
            own = os.open(f"/proc/self/fd/{descriptor}", flags)
        except OSError:
            pass  # another user's pipe or terminal: the next best
        else:
            return lambda data: os.write(own, data)

    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)

    def write(data: bytes) -> int:
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(descriptor, data)

    return write


class Lines:
    """Twisted's log events as lines: time, process, level, room, message."""

    def __init__(
        self,
        process: str,
        level: str,
        write: Callable[[bytes], object],
        now: Callable[[], float] = time.time,
        for_journal: bool = False,
    ) -> None:
        """``for_journal``: each line says how bad it is, to systemd."""
        self.dropped = 0  # lines that did not fit since the last that did
        self.lost = 0  # that did not fit since the start
        self._for_journal = for_journal
        self._process = process
        self._least = LEVELS.index(level)
        self._write = write
        self._now = now

    def set_level(self, level: str) -> None:
        """Log from ``level`` up: debug, info, warn, error."""
        self._least = LEVELS.index(level)

    def __call__(self, event: dict[str, Any]) -> None:
        """Write one event; never raises, never waits."""
        level = event["log_level"].name if "log_level" in event else "info"
        if level == "info" and str(event.get("log_namespace")).startswith(CHATTY):
            level = "debug"
        if LEVELS.index(level) < self._least:
            return
        text = eventAsText(event, includeTraceback=True, includeTimestamp=False, includeSystem=False)
        # Continuation lines are indented: a message cannot forge the beginning of another one.
        text = text.rstrip("\n").translate(_VISIBLE).replace("\n", "\n    ")
        room = str(event.get("log_namespace", "-"))
        now = event.get("log_time", self._now())
        if self.dropped and self._put(now, "warn", __name__, f"{self.dropped} log lines dropped: stderr was full"):
            self.dropped = 0
        if not self._put(now, level, room, text):
            self.dropped += 1
            self.lost += 1

    def _put(self, now: float, level: str, room: str, text: str) -> bool:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        line = f"{moment}.{int(now * 1000) % 1000:03d}Z {self._process} {level} {room}: {text}\n"
        if self._for_journal:
            line = journal.marked(line, level)
        data = line.encode("utf-8", "backslashreplace")
        try:
            for start in range(0, len(data), PIECE):
                self._write(data[start : start + PIECE])
        except OSError:  # full, or closed by a reader that has gone
            return False
        return True


def begin(process: str, level: str) -> Lines:
    """Write what Twisted's loggers are given to stderr, as ``process`` ("worker-0"). Once per process."""
    lines = Lines(f"{process}[{os.getpid()}]", level, nonblocking_writer(2), for_journal=journal.reads(2))
    globalLogBeginner.beginLoggingTo([lines], redirectStandardIO=False)  # type: ignore[list-item]
    return lines
