"""Lines for systemd's journal: how bad each of them is, as sd-daemon(3) has it."""

from __future__ import annotations

import os
from collections.abc import Mapping

PRIORITIES = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}  # syslog(3), by level of a log


def reads(descriptor: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written to ``descriptor`` goes straight to the journal."""
    wanted = environment.get("JOURNAL_STREAM", "")
    if not wanted:
        return False
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return wanted == f"{status.st_dev}:{status.st_ino}"


def marked(text: str, level: str) -> str:
    """``text``, each line of which is one for the journal, which takes the mark away."""
    mark = f"<{PRIORITIES[level]}>"
    return "".join(mark + line for line in text.splitlines(keepends=True))


def complaint(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """An error as it is written to stderr by a program that has no log yet: complete, with the end of its line."""
    line = f"{text}\n"
    return marked(line, "error") if reads(2, environment) else line
