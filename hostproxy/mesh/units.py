"""Durations and sizes as operators write them: text with a unit, never a bare number to guess about."""

from __future__ import annotations

import re

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

# ASCII digits only, and few of them: int() and float() would also take "+5", "0_5" and Arabic digits.
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)")
_SIZE_MISSPELT = re.compile(r"([0-9]{1,15}) ?([kKmMgG])(?:[iI]?[bB])?")


class Wrong(ValueError):
    """A text isn't what it should be: ``message`` continues "X ...", ``hint`` says what to write instead."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint


def parse_duration(text: str) -> float:
    """Return the seconds of "250ms", "1.5s", "2m" or "1h". Raises :class:`Wrong`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise Wrong("is not a duration", 'write a number and one unit of ms, s, m, h, like "250ms" or "1.5s"')
    if match[2] == "ms":
        return float(match[1]) / 1000  # exact where a product with 0.001 isn't
    return float(match[1]) * SECONDS[match[2]]


def format_duration(seconds: float) -> str:
    """Return seconds in the largest unit that needs no fraction, else in seconds or milliseconds."""
    for unit in ("h", "m", "s"):
        if seconds and seconds % SECONDS[unit] == 0:
            return f"{seconds / SECONDS[unit]:.0f}{unit}"
    if seconds >= 1 or not seconds:
        return f"{seconds:g}s"
    return f"{seconds * 1000:g}ms"


def parse_size(text: str) -> int:
    """Return the bytes of "512B", "64KiB" or "1MiB". Raises :class:`Wrong`."""
    match = _SIZE.fullmatch(text)
    if match is None:
        hint = 'write a whole number and one unit of B, KiB, MiB, GiB, like "64KiB"'
        misspelt = _SIZE_MISSPELT.fullmatch(text)
        if misspelt:
            hint = f'did you mean "{misspelt[1]}{misspelt[2].upper()}iB"?'
        raise Wrong("is not a size", hint)
    return int(match[1]) * BYTES[match[2]]


def format_size(size: int) -> str:
    """Return bytes in the largest unit that divides them."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % BYTES[unit] == 0:
            return f"{size // BYTES[unit]}{unit}"
    return f"{size}B"
