"""What the documents are made from, and how its structs become JSON."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from hostproxy.control.state import SupervisorState
from hostproxy.telemetry.totals import Totals, View

HIDDEN = "(hidden)"
_SECRET = re.compile(r".*_key|(?:.*_)?(?:token|password|passphrase|secret)")


class Moment(msgspec.Struct, frozen=True):
    """All there is to show, at one moment; safe to read on any thread."""

    state: SupervisorState
    view: View
    now: float  # Unix seconds


def take(state: SupervisorState, totals: Totals, now: float) -> Moment:
    """Take the moment, on the reactor's thread: what is counted there is copied, the rest is only ever replaced."""
    state = copy.copy(state)
    state.consul = copy.deepcopy(state.consul)
    state.health_counts = dict(state.health_counts)
    return Moment(state, totals.view(), now)


def plain(value: object) -> Any:
    """Make JSON of structs by field names. Secrets never come through, nor bytes, which may be a key."""
    if isinstance(value, msgspec.Struct):
        return _fields({name: getattr(value, name) for name in value.__struct_fields__})
    if isinstance(value, Mapping):
        return _fields({str(key): item for key, item in value.items()})
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def _fields(fields: Mapping[str, object]) -> dict[str, Any]:
    return {
        name: HIDDEN if item and isinstance(item, str) and _SECRET.fullmatch(name) else plain(item)
        for name, item in fields.items()
    }


def since(begin: float, now: float) -> float:
    """Seconds, never negative although clocks are set."""
    return round(max(0.0, now - begin), 1)


def utc(when: float) -> str:
    """A time for people, who read logs beside it."""
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
