"""One walk over the structure of a TOML text, for what tomllib can't do: bound it, and say where keys stand.

tomllib needs Python stack for every level of nesting (500 arrays raise RecursionError), quadratic time for
a dotted key (16 KB take half a second) and raises a bare ValueError for a 5,000-digit integer. So
:func:`refuse_harmful` walks the text before tomllib sees it. It judges no syntax: where the text isn't TOML
it stops, because tomllib, reading from the left as well, will stop there too. Afterwards :func:`offsets`
takes the same walk over an accepted text and notes every key. Both need linear time: no pattern backtracks.
"""

from __future__ import annotations

import json
import re
import tomllib

Path = tuple[str | int, ...]  # ("outbound", "upstream", 0, "listen")

NESTING = 32  # arrays and inline tables within each other; our deepest file has 4
KEY_SIZE = 256  # bytes of a whole dotted key; names end at 63
KEY_PARTS = 16  # our deepest key has 4
DIGITS = 40  # of a number; 20 hold any 64-bit integer, a date with nanoseconds has 27

_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]++|\\.)*"|'[^'\n]*+')"""
_KEY = re.compile(rf"{_PART}(?:[ \t]*+\.[ \t]*+{_PART})*")
_KEY_PART = re.compile(_PART)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLANKS = re.compile(r"[ \t]*+")
_TRIVIA = re.compile(r"(?:[ \t\n]++|#[^\n]*+)*")
_STRING = re.compile(
    r'"""(?:[^"\\]++|\\[\s\S]|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']++|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]++|\\.)*"'
    r"|'[^'\n]*+'"
)
# A number, a boolean or a date, in which one space may stand between day and time.
_BARE_VALUE = re.compile(r"(?:\d{4}-\d\d-\d\d (?=\d))?[^ \t\n,\]}#]++")
# Lines of the common plain shapes, which hold nothing to refuse and are left behind many at a time.
_PLAIN_STRING = r'"[^"\\\n]*+"'
_PLAIN_LINES = re.compile(
    r"(?:(?:[ \t]*+"
    rf"(?:[A-Za-z0-9_-]{{1,64}}+[ \t]*+=[ \t]*+(?:{_PLAIN_STRING}|\d{{1,18}}+|true|false"
    rf"|\[(?:{_PLAIN_STRING}(?:,[ \t]*+{_PLAIN_STRING})*)?\])"
    r"|\[\[?+[A-Za-z0-9_-]{1,64}+\]\]?+)?"
    r"[ \t]*+(?:#[^\n]*+)?)\n)*"
)


class Harmful(Exception):
    """The text would cost tomllib too much time or stack; ``offset`` says where."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset
        self.message = message


class _NotToml(Exception):
    """The walk can't go on here, and neither will tomllib."""


def refuse_harmful(text: str) -> None:
    """Raise :class:`Harmful` for a text with line ends ``\\n`` that tomllib should not be given."""
    try:
        _Walk(text, None).run()
    except _NotToml:
        pass


def offsets(text: str) -> dict[Path, int]:
    """Return the offset of every table, key and array element of a text that tomllib accepted."""
    found: dict[Path, int] = {}
    _Walk(text, found).run()
    return found


def key_source(part: str) -> str:
    """Return one part of a key as TOML writes it: bare when it can be, quoted and ASCII otherwise."""
    return part if _BARE_KEY.fullmatch(part) else json.dumps(part)


class _Walk:
    """A walk from the first statement to the last; ``found`` takes the offsets, None keeps none."""

    __slots__ = ("found", "lengths", "text")

    def __init__(self, text: str, found: dict[Path, int] | None) -> None:
        self.text = text
        self.found = found
        self.lengths: dict[Path, int] = {}  # arrays of tables so far

    def run(self) -> None:
        text, position = self.text, 0
        table: Path = ()
        while True:
            if self.found is None:
                position = _end(_PLAIN_LINES, text, position)
            position = _end(_TRIVIA, text, position)
            if position == len(text):
                return
            if text[position] == "[":
                position, table = self.header(position)
            else:
                position = self.pair(position, table, 0)

    def header(self, position: int) -> tuple[int, Path]:
        """Walk ``[a.b]`` or ``[[a.b]]``; return its end and the path of its table."""
        text, start = self.text, position
        is_array = text.startswith("[[", position)
        position = _end(_BLANKS, text, position + 1 + is_array)
        position, parts = self.key(position)
        position = _end(_BLANKS, text, position)
        closing = "]]" if is_array else "]"
        if not text.startswith(closing, position):
            raise _NotToml
        position += len(closing)
        if self.found is None:
            return position, ()
        table: Path = ()
        for offset, part in parts[:-1]:
            table += (part,)
            self.found.setdefault(table, offset)
            if table in self.lengths:
                table += (self.lengths[table] - 1,)
        table += (parts[-1][1],)
        if is_array:
            self.found.setdefault(table, start)
            index = self.lengths.get(table, 0)
            self.lengths[table] = index + 1
            table += (index,)
        self.found[table] = start
        return position, table

    def pair(self, position: int, table: Path, depth: int) -> int:
        """Walk ``key = value``; return its end."""
        position, parts = self.key(position)
        position = _end(_BLANKS, self.text, position)
        if not self.text.startswith("=", position):
            raise _NotToml
        if self.found is not None:
            for offset, part in parts:
                table += (part,)
                self.found.setdefault(table, offset)
        return self.value(_end(_BLANKS, self.text, position + 1), table, depth)

    def key(self, position: int) -> tuple[int, list[tuple[int, str]]]:
        """Walk a dotted key; return its end, and its parts with their offsets when offsets are kept."""
        match = _KEY.match(self.text, position)
        if match is None:
            raise _NotToml
        source = match[0]
        if len(source) > KEY_SIZE // 4 and len(source.encode()) > KEY_SIZE:
            raise Harmful(position, f"a key of more than {KEY_SIZE} bytes")
        if _BARE_KEY.fullmatch(source):
            return match.end(), [(position, source)]
        parts = list(_KEY_PART.finditer(source))
        if len(parts) > KEY_PARTS:
            raise Harmful(position, f"a key of more than {KEY_PARTS} dotted parts")
        if self.found is None:
            return match.end(), []
        return match.end(), [(position + part.start(), _key_part(part[0])) for part in parts]

    def value(self, position: int, path: Path, depth: int) -> int:
        """Walk a value; return its end."""
        opening = self.text[position : position + 1]
        if opening in ("[", "{") and depth == NESTING:
            raise Harmful(position, f"more than {NESTING} arrays and inline tables within each other")
        if opening == "[":
            return self.array(position + 1, path, depth + 1)
        if opening == "{":
            return self.inline_table(position + 1, path, depth + 1)
        if opening in ('"', "'"):
            return _end(_STRING, self.text, position)
        end = _end(_BARE_VALUE, self.text, position)
        if end - position > DIGITS and sum(map(str.isalnum, self.text[position:end])) > DIGITS:
            raise Harmful(position, f"a number of more than {DIGITS} digits")
        return end

    def array(self, position: int, path: Path, depth: int) -> int:
        """Walk an array from behind its opening bracket; return its end."""
        text, index = self.text, 0
        while True:
            position = _end(_TRIVIA, text, position)
            if text.startswith("]", position):
                return position + 1
            element: Path = ()
            if self.found is not None:
                element = (*path, index)
                self.found[element] = position
            position = _end(_TRIVIA, text, self.value(position, element, depth))
            index += 1
            if text.startswith(",", position):
                position += 1
            elif not text.startswith("]", position):
                raise _NotToml

    def inline_table(self, position: int, path: Path, depth: int) -> int:
        """Walk an inline table from behind its opening brace; return its end."""
        text = self.text
        while True:
            position = _end(_BLANKS, text, position)
            if text.startswith("}", position):
                return position + 1
            position = _end(_BLANKS, text, self.pair(position, path, depth))
            if text.startswith(",", position):
                position += 1
            elif not text.startswith("}", position):
                raise _NotToml


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    if match is None:
        raise _NotToml
    return match.end()


def _key_part(source: str) -> str:
    if source[0] == "'":
        return source[1:-1]
    if source[0] == '"':
        value: str = tomllib.loads(f"part = {source}")["part"]
        return value
    return source
