"""What is remembered of field lines, and that it never shows."""

from __future__ import annotations

import gc

import pytest

from hostproxy.codec.http1 import RequestError
from hostproxy.codec.http1.fields import (
    PLAIN_FIELD,
    REMEMBERED_LENGTH,
    REMEMBERED_LINES,
    REQUEST_KINDS,
    FieldLines,
)


@pytest.fixture
def lines() -> FieldLines:
    return FieldLines(REQUEST_KINDS, RequestError, b"x-hostproxy-")


def held(lines: FieldLines) -> set[bytes]:
    """Every bytes object that can be reached from the memory."""
    found: set[bytes] = set()
    todo: list[object] = [lines.recent, lines._older, lines._names]
    seen: set[int] = set()
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, type):
            continue
        seen.add(id(item))
        if isinstance(item, bytes):
            found.add(item)
        elif isinstance(item, (dict, tuple, list, set, frozenset)) or "lru_cache" in repr(type(item)):
            todo.extend(gc.get_referents(item))
    return found


def test_an_ordinary_line_is_remembered(lines: FieldLines) -> None:
    assert lines.meaning(b"Accept: text/plain") is PLAIN_FIELD
    assert lines.recent == {b"Accept: text/plain": PLAIN_FIELD}


@pytest.mark.parametrize(
    "name",
    [
        b"Authorization",
        b"Proxy-Authorization",
        b"Cookie",
        b"X-Api-Key",
        b"X-Auth-User",
        b"X-Csrf-Token",
        b"X-Session",
        b"X-Client-Secret",
        b"Signature",
        b"AUTHORIZATION",
        b"Referer",
        b"Idempotency-Key",
        b"X-Request-Id",
        b"Traceparent",
    ],
)
def test_secrets_and_what_never_repeats_are_not_kept(lines: FieldLines, name: bytes) -> None:
    lines.meaning(name + b": hidden")
    assert not [value for value in held(lines) if b"hidden" in value]


def test_long_lines_are_not_kept(lines: FieldLines) -> None:
    lines.meaning(b"A: " + b"x" * (REMEMBERED_LENGTH - 3))
    assert len(lines.recent) == 1
    lines.meaning(b"A: " + b"y" * (REMEMBERED_LENGTH - 2))
    lines.meaning(b"y" * REMEMBERED_LENGTH + b": z")
    assert lines.is_end_to_end(b"y" * (REMEMBERED_LENGTH + 1))
    assert len(lines.recent) == 1
    assert max(map(len, held(lines))) <= REMEMBERED_LENGTH


def test_illegal_lines_are_refused_every_time(lines: FieldLines) -> None:
    for _ in range(2):
        with pytest.raises(RequestError):
            lines.meaning(b"Content-Length: +5")
    assert not lines.recent


def test_a_flood_of_new_lines_is_bounded_and_pushes_out_only_what_nobody_repeats(lines: FieldLines) -> None:
    lines.meaning(b"Accept: a")
    lines.meaning(b"Accept: once")
    for number in range(5 * REMEMBERED_LINES):
        lines.meaning(b"X-Flood-%d: y" % number)
        if number % 500 == 0 and b"Accept: a" not in lines.recent:
            lines.meaning(b"Accept: a")
    assert len(lines.recent) + len(lines._older) <= 2 * REMEMBERED_LINES
    assert b"Accept: a" in lines.recent or b"Accept: a" in lines._older
    assert b"Accept: once" not in held(lines)
