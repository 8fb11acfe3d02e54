"""A TOML file, read so that neither a bad nor a hostile one hurts, and able to say where each key stands."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from bisect import bisect_right
from typing import Any

import msgspec

from hostproxy.mesh import scan
from hostproxy.mesh.scan import Path
from hostproxy.mesh.units import format_size

MIB = 1024 * 1024

CONFIG_SIZE = 1 * MIB  # bytes; a conf.toml with a thousand upstreams has about 100 KiB
POLICY_SIZE = 4 * MIB  # bytes, each file; a rule has about 100 bytes, so some 40,000 rules
CATALOG_SIZE = 16 * MIB  # bytes; an instance has about 160 bytes, so some 100,000 instances

_TOMLLIB_MESSAGE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong in a file. Line and column count from 1; 0 is the file as a whole."""

    file: str
    line: int
    column: int
    key: str  # "outbound.upstream[0].listen"; empty: no key to blame
    message: str
    hint: str = ""  # what to do: 'did you mean "timeout"?'

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.what()}"

    def what(self) -> str:
        """Return the text without the place: ``key: message; hint``."""
        text = f"{self.key}: {self.message}" if self.key else self.message
        return f"{text}; {self.hint}" if self.hint else text


class Invalid(Exception):
    """What an operator wrote can't be taken; ``problems`` says everything that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Document:
    """A TOML document that was accepted: its ``data``, and the place of every key in it."""

    __slots__ = ("_newlines", "_offsets", "data", "file", "text")

    def __init__(self, file: str, text: str, data: dict[str, Any]) -> None:
        self.file = file
        self.text = text
        self.data = data
        self._offsets: dict[Path, int] | None = None
        self._newlines: list[int] = []

    def place(self, path: Path) -> tuple[int, int]:
        """Return line and column of a key, or of the nearest table around one that isn't there."""
        offsets = self._located()
        while path and path not in offsets:
            path = path[:-1]
        return _line_and_column(self._newlines, offsets[path] if path else 0)

    def has(self, path: Path) -> bool:
        """Say whether the document has this key."""
        return path in self._located()

    def _located(self) -> dict[Path, int]:
        if self._offsets is None:
            self._offsets = scan.offsets(self.text)
            self._newlines = [match.start() for match in re.finditer("\n", self.text)]
        return self._offsets

    def problem(self, path: Path, message: str, hint: str = "") -> Problem:
        """Return the problem with the key at ``path``."""
        line, column = self.place(path)
        return Problem(self.file, line, column, key_text(path), message, hint)


def key_text(path: Path) -> str:
    """Return a key path as an operator reads it: ``outbound.upstream[0].listen``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + scan.key_source(part)
    return text


def read(file: str, size_limit: int) -> Document:
    """Read and parse a file. Raises :class:`Invalid`, also for a file that isn't there or too large."""
    try:
        # Not blocking: opening a FIFO would wait for its writer.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Invalid([Problem(file, 0, 0, "", "is not a regular file")])
            with open(descriptor, "rb", closefd=False) as source:
                content = source.read(size_limit + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Invalid([Problem(file, 0, 0, "", f"cannot be read: {error.strerror}")]) from None
    return parse(content, file, size_limit)


def parse(content: bytes, file: str, size_limit: int) -> Document:
    """Parse the bytes of a TOML document; ``file`` is its name in problems. Raises :class:`Invalid`."""
    if len(content) > size_limit:
        message = f"is larger than {format_size(size_limit)}, the most that is read"
        raise Invalid([Problem(file, 0, 0, "", message)])
    if content.startswith(b"\xef\xbb\xbf"):
        raise Invalid([Problem(file, 1, 1, "", "starts with a byte order mark", "save it as plain UTF-8")])
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = len(content[content.rfind(b"\n", 0, error.start) + 1 : error.start].decode()) + 1
        message = f"byte 0x{content[error.start]:02x} is not UTF-8"
        raise Invalid([Problem(file, line, column, "", message)]) from None
    if not text.strip():
        # Often a file caught between being truncated and being written, and then no policy would deny all.
        raise Invalid([Problem(file, 0, 0, "", "is empty", "if that is meant, say so in a comment")])
    text = text.replace("\r\n", "\n")  # as tomllib does, so that offsets agree
    try:
        scan.refuse_harmful(text)
        return Document(file, text, tomllib.loads(text))
    except scan.Harmful as harmful:
        newlines = [match.start() for match in re.finditer("\n", text)]
        line, column = _line_and_column(newlines, harmful.offset)
        raise Invalid([Problem(file, line, column, "", harmful.message)]) from None
    except tomllib.TOMLDecodeError as error:
        raise Invalid([_syntax_problem(file, text, str(error))]) from None


def _syntax_problem(file: str, text: str, message: str) -> Problem:
    match = _TOMLLIB_MESSAGE.fullmatch(message)
    if match is None:
        return Problem(file, 0, 0, "", message)
    if match[2]:
        return Problem(file, int(match[2]), int(match[3]), "", match[1])
    lines = text.split("\n")
    return Problem(file, len(lines), len(lines[-1]) + 1, "", f"{match[1]} at the end of the file")


def _line_and_column(newlines: list[int], offset: int) -> tuple[int, int]:
    line = bisect_right(newlines, offset - 1)
    start = newlines[line - 1] + 1 if line else 0
    return line + 1, offset - start + 1
