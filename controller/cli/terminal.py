"""What commands print: data on stdout, as a table or as JSON, and all else on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

GREEN, RED, YELLOW, BOLD = "32", "31", "33", "1"
UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def write(lines: Iterable[str]) -> None:
    """Lines on stdout."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def write_json(document: Any) -> None:
    """One line of JSON on stdout."""
    write([msgspec.json.encode(document).decode()])


def say(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def shown(value: object) -> str:
    """Text without what could move the cursor or colour the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def painted(text: str, colour: str) -> str:
    """Coloured, where a person looks on."""
    in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")  # no-color.org
    return f"\x1b[{colour}m{text}\x1b[0m" if in_colour else text


def span(seconds: float) -> str:
    """A length of time in its two largest units: "3d4h", "2m5s", "12s"."""
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in UNITS:
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
    return "".join(parts[:2]) or "0s"


def moment(seconds: float) -> str:
    """A point in time in UTC, from Unix seconds."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def left(until: float | None, now: float) -> str:
    """How long something is good for."""
    if until is None:
        return "-"
    return span(until - now) if until > now else f"over since {span(now - until)}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterable[str]:
    """Columns as wide as their widest cell, numbers to the right."""
    cells = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    to_right = [any(isinstance(row[index], int | float) for row in rows) for index in range(len(head))]
    for row in (head, *cells):
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, to_right, strict=True)
        )
        yield "  ".join(padded).rstrip()


def pairs(rows: Iterable[tuple[str, object]]) -> Iterable[str]:
    """Names and what they are."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return [f"{name.ljust(width)}  {shown(value)}".rstrip() for name, value in rows]
