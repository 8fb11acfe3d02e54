"""/log-level: shows the level of the log, and sets it for a while: ``POST /log-level?level=debug&for=10m``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from hostproxy.admin.encode import encode
from hostproxy.admin.http import JSON, Answer, Question
from hostproxy.control.log_level import LONGEST, LogLevel
from hostproxy.mesh.units import Wrong, format_duration, parse_duration

LEVELS = ("debug", "info", "warn", "error")
DEFAULT = 900.0  # seconds


class LogLevelPage:
    """Answers for one log."""

    summary = "the level of the log; POST ?level=LEVEL&for=TIME sets it for a while"
    methods = (b"GET", b"HEAD", b"POST")

    def __init__(self, log_level: LogLevel) -> None:
        self._log_level = log_level

    def respond(self, question: Question) -> Answer:
        """See :class:`hostproxy.admin.pages.Live`."""
        if question.method == b"POST":
            objection = question.objection()
            if objection:
                return _answer(403, {"error": objection})
            try:
                level, seconds = _wanted(question.query)
            except ValueError as problem:
                return _answer(400, {"error": str(problem)})
            self._log_level.set(level, seconds)
        return _answer(200, self._document())

    def _document(self) -> dict[str, Any]:
        current = self._log_level
        left = current.left
        return {
            "level": current.level,
            "configured": current.configured,  # in conf.toml
            "left_seconds": round(left, 1) if left is not None else None,  # until that is back; null: not by itself
        }


def _wanted(query: bytes) -> tuple[str, float]:
    """Level and seconds. Raises ValueError."""
    parameters = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=4))
    unknown = set(parameters) - {"level", "for"}
    if unknown:
        raise ValueError("no such parameter: there are level, for")
    level = parameters.get("level", "")
    if level not in LEVELS:
        raise ValueError(f"level is none of {', '.join(LEVELS)}")
    text = parameters.get("for", format_duration(DEFAULT))
    try:
        seconds = 0.0 if text == "0" else parse_duration(text)
    except Wrong as wrong:
        raise ValueError(f"for {wrong}, or 0 for no end") from None
    if seconds > LONGEST:
        raise ValueError(f"for is longer than {format_duration(LONGEST)}; 0 is for no end")
    return level, seconds


def _answer(status: int, document: Mapping[str, Any]) -> Answer:
    return Answer(status, JSON, encode(document))
