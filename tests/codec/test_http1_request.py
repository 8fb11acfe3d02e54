from __future__ import annotations

from typing import Any

import pytest

from hostproxy.codec.http1 import HeadLimits, RequestError, RequestHead
from tests.codec.legal_requests import CASES
from tests.codec.reading import LIMITS, at_line_ends, head, lines_of, read_request, refusal, single_bytes

DEFAULTS: dict[str, Any] = {
    "method": b"GET",
    "target": b"/",
    "authority": b"a",
    "host": b"a",
    "port": 0,
    "scheme": b"",
    "minor": 1,
    "fields": [],
    "length": 0,
    "keep_alive": True,
    "expect_continue": False,
    "upgrade": b"",
    "te_trailers": False,
    "via": b"",
    "forwarded_for": b"",
    "forwarded_proto": b"",
    "request_id": b"",
    "stripped": 0,
}
BEHIND = b"\x00any bytes\nof a body"

legal = pytest.mark.parametrize(
    ("data", "expected"), [case[1:] for case in CASES], ids=[case[0][:60] for case in CASES]
)


def check(parsed: RequestHead | None, expected: dict[str, Any]) -> None:
    assert parsed is not None
    seen = {name: getattr(parsed, name) for name in DEFAULTS}
    seen["fields"] = lines_of(parsed.fields)
    assert seen == DEFAULTS | expected


@legal
def test_whole(data: bytes, expected: dict[str, Any]) -> None:
    parsed, rest = read_request([data])
    check(parsed, expected)
    assert rest == b""


@legal
def test_with_more_behind(data: bytes, expected: dict[str, Any]) -> None:
    parsed, rest = read_request([data + BEHIND])
    check(parsed, expected)
    assert rest == BEHIND


@legal
def test_split(data: bytes, expected: dict[str, Any]) -> None:
    pieces = (data[at : at + 97] for at in range(0, len(data), 97)) if len(data) > 3000 else single_bytes(data)
    for way in (pieces, at_line_ends(data)):
        parsed, rest = read_request(way)
        check(parsed, expected)
        assert rest == b""


@legal
def test_the_second_time_means_the_same(data: bytes, expected: dict[str, Any]) -> None:
    read_request([data])
    parsed, _ = read_request([data])
    check(parsed, expected)


def test_there_are_enough_cases() -> None:
    assert len({data for _, data, _ in CASES}) == len(CASES) >= 100


def test_pipelined_requests_come_one_by_one() -> None:
    rest = head(b"GET /1 HTTP/1.1", b"Host: a") + head(b"GET /2 HTTP/1.1", b"Host: b")
    first, rest = read_request([rest])
    second, rest = read_request([rest])
    assert first is not None
    assert second is not None
    assert (first.target, second.target, second.host, rest) == (b"/1", b"/2", b"b", b"")


LINE = b"GET /abc HTTP/1.1"
EXACT = head(LINE, b"Host: a", b"X: 12345")


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        (LIMITS._replace(request_line=len(LINE)), None),
        (LIMITS._replace(request_line=len(LINE) - 1), 414),
        (LIMITS._replace(header_size=len(b"X: 12345")), None),
        (LIMITS._replace(header_size=len(b"X: 12345") - 1), 431),
        (LIMITS._replace(header_count=2), None),
        (LIMITS._replace(header_count=1), 431),
        (LIMITS._replace(head_size=len(EXACT)), None),
        (LIMITS._replace(head_size=len(EXACT) - 1), 431),
        (LIMITS._replace(head_size=len(EXACT) - 6), 431),
    ],
)
def test_limits_hold_to_the_byte(limits: HeadLimits, status: int | None) -> None:
    for way in ([EXACT], [EXACT + b"more"], single_bytes(EXACT), at_line_ends(EXACT)):
        error = refusal(way, limits)
        assert (error.status if error else None) == status


def test_a_remembered_line_is_still_measured() -> None:
    data = head(b"GET / HTTP/1.1", b"Host: a", b"X: measured again")
    assert refusal([data]) is None
    error = refusal([data], LIMITS._replace(header_size=12))
    assert isinstance(error, RequestError)
    assert error.reason == "field-too-long"


def test_printing_shows_no_field_and_no_query() -> None:
    parsed, _ = read_request([head(b"GET /?token=hidden HTTP/1.1", b"Host: a", b"Cookie: hidden", b"Via: hidden")])
    assert "hidden" not in f"{parsed!r} {parsed}"
    assert "GET" in repr(parsed)
