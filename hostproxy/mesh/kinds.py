"""Kinds of values in an operator's file: each turns what TOML gave into what the program wants, or says why
it can't.
"""

from __future__ import annotations

import datetime
import difflib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from hostproxy.mesh.findings import Findings
from hostproxy.mesh.scan import Path
from hostproxy.mesh.units import Wrong, format_duration, format_size, parse_duration, parse_size

PROBLEMS_SHOWN = (
    100  # more of them in one file have a common cause, and each costs a search for what was meant
)
Number = TypeVar("Number", int, float)

SHOWN_TEXT = 60  # characters of an operator's value repeated in a message


class Kind(ABC):
    """What a key takes. ``blank`` stands for a value that was refused, so that later checks find its type."""

    blank: Any = None

    @abstractmethod
    def read(self, value: Any, path: Path, findings: Findings) -> Any:
        """Return the value that ``value`` means, or note what is wrong and return ``blank``."""


class Scalar(Kind):
    """A kind without parts, which needs no path to judge a value."""

    @abstractmethod
    def convert(self, value: Any) -> Any:
        """Return the value that ``value`` means. Raises :class:`Wrong`."""

    def read(self, value: Any, path: Path, findings: Findings) -> Any:
        try:
            return self.convert(value)
        except Wrong as wrong:
            findings.add(path, wrong.message, wrong.hint)
            return self.blank


class Text(Scalar):
    """A string: one of ``choices``, or what ``parse`` takes (else :class:`Wrong`), or any printable one."""

    blank = ""

    def __init__(
        self,
        parse: Callable[[str], str] | None = None,
        *,
        choices: tuple[str, ...] = (),
        empty: bool = False,
        what: str = "a string",
    ) -> None:
        self.parse = parse
        self.choices = choices
        self.empty = empty
        self.what = "one of " + ", ".join(map(json.dumps, choices)) if choices else what

    def convert(self, value: Any) -> str:
        if type(value) is not str:
            raise unexpected(self.what, value)
        if not value and self.empty:
            return value
        if self.choices:
            if value not in self.choices:
                raise Wrong(f"expected {self.what}, found {shown(value)}", did_you_mean(value, self.choices))
            return value
        if not value:
            raise Wrong("is empty")
        if self.parse is not None:
            try:
                return self.parse(value)
            except Wrong as wrong:
                raise Wrong(f"{shown(value)} {wrong.message}", wrong.hint) from None
        if not value.isprintable():
            raise Wrong(f"{shown(value)} has control characters")
        return value


class Flag(Scalar):
    """A boolean."""

    blank = False

    def convert(self, value: Any) -> bool:
        if type(value) is not bool:
            raise unexpected("true or false", value)
        return value


class Integer(Scalar):
    """A whole number within bounds."""

    blank = 0

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any) -> int:
        if type(value) is not int:
            raise unexpected("a whole number", value)
        return _within(value, self.least, self.most, str)


class Fraction(Scalar):
    """A number from ``least`` to ``most``, whole or not."""

    blank = 0.0

    def __init__(self, least: float, most: float) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any) -> float:
        if type(value) not in (int, float) or math.isnan(value):
            raise unexpected("a number", value)
        return float(_within(value, self.least, self.most, str))


class Duration(Scalar):
    """Seconds, written "250ms", within bounds."""

    blank = 0.0

    def __init__(self, least: float, most: float) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any) -> float:
        if type(value) is not str:
            bare = type(value) in (int, float) and math.isfinite(value) and value >= 0
            hint = f'write "{value:g}s" if it means seconds' if bare and value < 1e9 else ""
            raise unexpected('a duration like "250ms"', value, hint)
        try:
            seconds = parse_duration(value)
        except Wrong as wrong:
            raise Wrong(f"{shown(value)} {wrong.message}", wrong.hint) from None
        return float(_within(seconds, self.least, self.most, format_duration))


class Size(Scalar):
    """Bytes, written "64KiB", within bounds."""

    blank = 0

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any) -> int:
        if type(value) is not str:
            bare = type(value) is int and 0 <= value < 10**15
            hint = f'write "{format_size(value)}" if it means bytes' if bare else ""
            raise unexpected('a size like "64KiB"', value, hint)
        try:
            size = parse_size(value)
        except Wrong as wrong:
            raise Wrong(f"{shown(value)} {wrong.message}", wrong.hint) from None
        return _within(size, self.least, self.most, format_size)


class ListOf(Kind):
    """An array whose elements are of one scalar kind, none of them twice."""

    blank: tuple[Any, ...] = ()

    def __init__(self, item: Scalar, *, least: int = 0, most: int = 1000, if_empty: str = "") -> None:
        self.item = item
        self.least = least
        self.most = most
        self.if_empty = if_empty  # hint for an array with fewer than ``least``

    def read(self, value: Any, path: Path, findings: Findings) -> tuple[Any, ...]:
        if type(value) is not list:
            wrong = unexpected("an array", value, "put it into brackets" if type(value) is str else "")
            findings.add(path, wrong.message, wrong.hint)
            return self.blank
        if len(value) < self.least:
            findings.add(path, "is empty", self.if_empty)
        if len(value) > self.most:
            findings.add(path, f"has {len(value)} elements, the most is {self.most}")
            return self.blank
        items = []
        for index, element in enumerate(value):
            try:
                item = self.item.convert(element)
                if item in items:
                    findings.add((*path, index), f"{shown(element)} is there twice")
            except Wrong as wrong:
                findings.add((*path, index), wrong.message, wrong.hint)
                item = self.item.blank
            items.append(item)
        return tuple(items)


class MapOf(Kind):
    """A table with keys of the operator's choice, each a word, and values of one scalar kind."""

    def __init__(self, name: Callable[[str], str], item: Scalar, *, most: int) -> None:
        self.name = name
        self.item = item
        self.most = most

    @property
    def blank(self) -> dict[str, Any]:
        return {}

    def read(self, value: Any, path: Path, findings: Findings) -> dict[str, Any]:
        if type(value) is not dict:
            findings.add(path, unexpected("a table", value).message)
            return self.blank
        if len(value) > self.most:
            findings.add(path, f"has {len(value)} keys, the most is {self.most}")
            return self.blank
        items: dict[str, Any] = {}
        for key, element in value.items():
            try:
                name = self.name(key)
                if name in items:
                    findings.add((*path, key), f"says {name} twice")
                items[name] = self.item.convert(element)
            except Wrong as wrong:
                findings.add((*path, key), wrong.message, wrong.hint)
        return items


class AnyTable(Kind):
    """A table of any content."""

    @property
    def blank(self) -> dict[str, Any]:
        return {}

    def read(self, value: Any, path: Path, findings: Findings) -> dict[str, Any]:
        if type(value) is not dict:
            findings.add(path, unexpected("a table", value).message)
            return self.blank
        return value


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return the hint with the nearest known word, or an empty one when none is near."""
    near = difflib.get_close_matches(wrong[:SHOWN_TEXT], list(known), n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else ""


def unexpected(expected: str, value: Any, hint: str = "") -> Wrong:
    """Return the error for a value of the wrong type."""
    return Wrong(f"expected {expected}, found {shown(value)}", hint)


def shown(value: Any) -> str:
    """Return a value as a message may show it: short, ASCII, without control characters."""
    match value:
        case str():
            return json.dumps(value if len(value) <= SHOWN_TEXT else value[:SHOWN_TEXT] + "...")
        case bool():
            return f"the boolean {json.dumps(value)}"
        case int():
            return f"the integer {value}"
        case float():
            return f"the number {value}"
        case list():
            return "an array"
        case dict():
            return "a table"
        case datetime.date() | datetime.time():
            return f"the date or time {value}"
    return f"a {type(value).__name__}"


def _within(value: Number, least: Number, most: Number, write: Callable[[Number], str]) -> Number:
    if value < least:
        raise Wrong(f"{write(value)} is too low", f"the least is {write(least)}")
    if value > most:
        raise Wrong(f"{write(value)} is too high", f"the most is {write(most)}")
    return value
