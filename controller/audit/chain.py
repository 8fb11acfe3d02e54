"""Lines of an audit log: how each holds on to the one before, and what is found when somebody changed one."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

FIELD = 1000  # characters of one field; the rest is cut off
LINE = 128 * 1024  # bytes; eight fields whose characters are all escaped, with twelve bytes each, have 94 KiB
MOST_SHOWN = 1000  # lines
BEGINNING = "0" * 64  # the hash before the first line

_END = re.compile(rb',"hash":"([0-9a-f]{64})"\}\n')
_END_SIZE = len(b',"hash":""}\n') + 64
_HEAD = re.compile(rb"([0-9]{20}) ([0-9]{20}) ([0-9a-f]{64})\n")
_HEAD_SIZE = 107  # bytes


class Broken(NamedTuple):
    """The first line that is not as it was written."""

    line: int  # counted from 1
    why: str


class Head(NamedTuple):
    """The last line of a log at some moment."""

    number: int  # 0: there is none
    hash: str


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One act."""

    number: int
    time: str  # RFC 3339, UTC
    actor: str  # identity, or address, of who wanted it
    act: str
    object: str
    before: str  # hash of what the object was, where that matters
    after: str
    result: str  # "ok", or "refused"
    detail: str
    previous: str
    hash: str


class Noted(NamedTuple):
    """What ``PATH.head`` says."""

    head: Head
    start: int  # where that line begins in the log, bytes


def head_path(path: str) -> str:
    """Where number and hash of the last line of a log are."""
    return f"{path}.head"


def note(head: Head, start: int) -> bytes:
    """The content of the file of the head: always as long, so that it is replaced in place."""
    return f"{head.number:020} {start:020} {head.hash}\n".encode()


def noted(path: str) -> Noted | None:
    """Read the head beside a log; None when there is none, or it can't be read."""
    try:
        with open(head_path(path), "rb") as file:
            match = _HEAD.fullmatch(file.read(_HEAD_SIZE + 1))
    except FileNotFoundError:
        return None
    return Noted(Head(int(match[1]), match[3].decode()), int(match[2])) if match else None


def line_after(previous: Head, fields: Mapping[str, str]) -> tuple[bytes, Head]:
    """The line for an act, and the head with it.

    ASCII only: no control character, escape sequence or other script gets into a log, a terminal or a mail raw.
    """
    number = previous.number + 1
    shown = {name: _shown(value) for name, value in fields.items()}
    content = json.dumps({"number": number, **shown, "previous": previous.hash}, separators=(",", ":"))
    hashed = content[:-1].encode("ascii")
    head = Head(number, hashlib.sha256(hashed).hexdigest())
    return b'%b,"hash":"%b"}\n' % (hashed, head.hash.encode()), head


def _shown(value: str) -> str:
    if len(value) > FIELD:
        value = f"{value[:FIELD]} (cut: it has {len(value)} characters)"
    return value.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is no character


def read(content: bytes) -> Line:
    """A line that is as it was written. Raises ValueError."""
    end = _END.fullmatch(content[-_END_SIZE:])
    if end is None:
        raise ValueError("is not a whole line of an audit log")
    if hashlib.sha256(content[:-_END_SIZE]).hexdigest() != end[1].decode():
        raise ValueError("was changed: its hash is another line's")
    return msgspec.json.decode(content, type=Line)  # msgspec's errors are ValueErrors


def follow(previous: Head, content: bytes) -> Head:
    """The head after this line. Raises ValueError when it does not follow."""
    line = read(content)
    if line.number != previous.number + 1:
        raise ValueError(f"has number {line.number}, where {previous.number + 1} should be")
    if line.previous != previous.hash:
        raise ValueError("does not follow the line before: one of both was replaced")
    return Head(line.number, line.hash)


def verify(path: str, kept: Iterable[Head] = ()) -> Broken | None:
    """The first line that was changed, removed, added or moved; None when all are as they were written.

    ``kept`` are heads noted elsewhere. The controller is not to be writing at the same time: while it runs, ask it.
    Raises OSError when the log cannot be read.
    """
    size = os.stat(path).st_size
    beside = noted(path)
    found = check(path, size, (*kept, beside.head) if beside is not None else kept)
    if found is None and beside is None:
        count = sum(1 for _ in lines(path, 0, size))
        return Broken(count + 1, f"{head_path(path)} is missing or was changed: it says how many lines there are")
    return found


def check(path: str, size: int, heads: Iterable[Head]) -> Broken | None:
    """The first line within ``size`` bytes that is not as it was written, going by ``heads`` as well."""
    hashes: dict[int, set[str]] = {}
    for head in heads:
        if head.number:
            hashes.setdefault(head.number, set()).add(head.hash)
    previous = Head(0, BEGINNING)
    for content in lines(path, 0, size):
        line = previous.number + 1
        try:
            previous = follow(previous, content)
        except ValueError as error:
            return Broken(line, str(error))
        if hashes.pop(line, {previous.hash}) != {previous.hash}:
            return Broken(line, "has another hash than was noted when it was written")
    if hashes:
        return Broken(previous.number + 1, f"the log ends here, but there was a line {max(hashes)}")
    return None


def tail(path: str, size: int, count: int) -> list[str]:
    """The last ``count`` lines within ``size`` bytes, at most a thousand."""
    count = max(1, min(count, MOST_SHOWN))
    start = size
    found: list[bytes] = []
    # One more than wanted, because the first may begin in the middle of a line.
    while start > 0 and len(found) <= count:
        start = max(0, start - LINE)
        found = list(lines(path, start, size))
    return [line.decode("ascii", "backslashreplace").rstrip("\n") for line in found[-count:]]


def lines(path: str, start: int, size: int) -> Iterator[bytes]:
    """The lines from ``start`` to ``size``, each with its end, and none longer than a line can be."""
    with open(path, "rb") as file:
        file.seek(start)
        while start < size:
            line = file.readline(min(LINE, size - start))
            if not line:
                return
            start += len(line)
            yield line
