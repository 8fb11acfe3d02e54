"""The process of the controller: its reactor, its log, and what nobody else gets to see of its memory."""

# Twisted's reactors have hardly any annotations.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.logger import eventAsText, globalLogBeginner

from hostproxy.mesh import journal

LEVELS = ("debug", "info", "warn", "error", "critical")

_PR_SET_DUMPABLE = 4  # prctl(2)
# Twisted tells of every port that opens and closes: that is news for those who look into it only.
_CHATTY = ("twisted.", "log_legacy")
# Control characters become visible, so that what somebody sent can neither drive a terminal nor start a line.
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), 127) if code not in (9, 10)}


class ControllerReactor(EPollReactor):
    """Twisted's reactor on a clock that nobody sets: a step would fire or freeze every timer."""

    seconds = staticmethod(time.monotonic)


def install() -> ControllerReactor:
    """Make this the process's reactor. Once, before anything imports Twisted's global one."""
    reactor = ControllerReactor()
    installReactor(reactor)
    return reactor


def keep_memory_private() -> None:
    """No core dump, and no debugger of another process of the same user: keys are in there."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


class Lines:
    """Log events as lines on stderr: time, level, room, message."""

    def __init__(self, level: str, for_journal: bool = False) -> None:
        """``for_journal``: each line says how bad it is, to systemd."""
        self._least = LEVELS.index(level)
        self._for_journal = for_journal

    def __call__(self, event: dict[str, Any]) -> None:
        """Write one; never raises."""
        level = event["log_level"].name if "log_level" in event else "info"
        room = str(event.get("log_namespace", "-"))
        if level == "info" and room.startswith(_CHATTY):
            level = "debug"
        if LEVELS.index(level) < self._least:
            return
        text = eventAsText(event, includeTraceback=True, includeTimestamp=False, includeSystem=False)
        # Continuation lines are indented: a message cannot forge the beginning of another one.
        text = text.rstrip("\n").translate(_VISIBLE).replace("\n", "\n    ")
        now = event.get("log_time", time.time())
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        line = f"{moment}.{int(now * 1000) % 1000:03d}Z hostproxy-controller[{os.getpid()}] {level} {room}: {text}\n"
        if self._for_journal:
            line = journal.marked(line, level)
        try:
            sys.stderr.write(line.encode("ascii", "backslashreplace").decode())
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # nobody reads it


def begin_logging(level: str) -> None:
    """Write what Twisted's loggers are given to stderr. Once per process."""
    lines = Lines(level, journal.reads(2))
    globalLogBeginner.beginLoggingTo([lines], redirectStandardIO=False)  # type: ignore[list-item]
