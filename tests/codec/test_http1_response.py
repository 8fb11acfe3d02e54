from __future__ import annotations

from typing import Any

import pytest

from hostproxy.codec.http1 import CHUNKED, UNTIL_CLOSE, ProtocolError, ResponseError, ResponseHead, parse_response
from tests.codec.reading import LIMITS, at_line_ends, find, head, lines_of, read_response, single_bytes

OK = b"HTTP/1.1 200 OK"
LENGTH_5 = b"Content-Length: 5"
TE = b"Transfer-Encoding: chunked"

DEFAULTS: dict[str, Any] = {
    "status": 200,
    "reason": b"OK",
    "minor": 1,
    "fields": [],
    "length": 5,
    "keep_alive": True,
    "upgrade": b"",
    "via": b"",
    "no_body": False,
    "stripped": 0,
}
NO_BODY: dict[str, Any] = {"length": 0, "no_body": True}


def ok(*lines: bytes) -> bytes:
    return head(OK, LENGTH_5, *lines)


def status(line: bytes, code: int, reason: bytes) -> tuple[bytes, bytes, dict[str, Any]]:
    return head(line, LENGTH_5), b"GET", {"status": code, "reason": reason}


LEGAL: list[tuple[bytes, bytes, dict[str, Any]]] = [
    (ok(), b"GET", {}),
    status(b"HTTP/1.1 200 ", 200, b""),
    status(b"HTTP/1.1 200", 200, b""),
    status(b"HTTP/1.1 404 Not Found", 404, b"Not Found"),
    status(b"HTTP/1.1 200 caf\xe9 \t\x80", 200, b"caf\xe9 \t\x80"),
    status(b"HTTP/1.1 200   padded  ", 200, b"padded"),
    status(b"HTTP/1.1 299 Whatever", 299, b"Whatever"),
    status(b"HTTP/1.1 599 x", 599, b"x"),
    status(b"HTTP/1.1 205 Reset", 205, b"Reset"),
    status(b"HTTP/1.1 200 " + b"x" * 8000, 200, b"x" * 8000),
    (head(b"HTTP/1.0 200 OK", LENGTH_5), b"GET", {"minor": 0, "keep_alive": False}),
    (head(b"HTTP/1.0 200 OK", LENGTH_5, b"Connection: keep-alive"), b"GET", {"minor": 0}),
    (ok(b"Connection: close"), b"GET", {"keep_alive": False}),
    (head(OK, b"Content-Length: 0"), b"GET", {"length": 0}),
    (head(OK, b"Content-Length:\t0005 "), b"GET", {}),
    (head(OK, b"content-length:9223372036854775807"), b"GET", {"length": 2**63 - 1}),
    (head(OK, TE), b"GET", {"length": CHUNKED}),
    (head(OK, b"transfer-encoding:\tChunked "), b"GET", {"length": CHUNKED}),
    (head(OK), b"GET", {"length": UNTIL_CLOSE, "keep_alive": False}),
    (head(OK, b"Connection: keep-alive"), b"GET", {"length": UNTIL_CLOSE, "keep_alive": False}),
    (head(b"HTTP/1.0 200 OK"), b"GET", {"length": UNTIL_CLOSE, "keep_alive": False, "minor": 0}),
    # Heads that announce a body and never have one.
    (ok(), b"HEAD", {"fields": [b"Content-Length: 5"]} | NO_BODY),
    (ok(b"X: y"), b"HEAD", {"fields": [b"Content-Length: 5", b"X: y"]} | NO_BODY),
    (head(OK, b"Content-Length: 05"), b"HEAD", {"fields": [b"Content-Length: 5"]} | NO_BODY),
    (head(OK, TE), b"HEAD", NO_BODY),
    (head(OK), b"HEAD", NO_BODY),
    (
        head(b"HTTP/1.1 304 Not Modified", LENGTH_5),
        b"GET",
        {"status": 304, "reason": b"Not Modified", "fields": [b"Content-Length: 5"]} | NO_BODY,
    ),
    (head(b"HTTP/1.1 304 x", TE), b"GET", {"status": 304, "reason": b"x"} | NO_BODY),
    (head(b"HTTP/1.1 204 x"), b"GET", {"status": 204, "reason": b"x"} | NO_BODY),
    (head(b"HTTP/1.1 204 x", b"Content-Length: 0"), b"GET", {"status": 204, "reason": b"x"} | NO_BODY),
    (head(b"HTTP/1.1 204 x", b"Content-Length: 0"), b"HEAD", {"status": 204, "reason": b"x"} | NO_BODY),
    (head(b"HTTP/1.1 100 Continue"), b"GET", {"status": 100, "reason": b"Continue"} | NO_BODY),
    (head(b"HTTP/1.1 100"), b"GET", {"status": 100, "reason": b""} | NO_BODY),
    (
        head(b"HTTP/1.1 103 Early Hints", b"Link: </a>; rel=preload"),
        b"GET",
        {"status": 103, "reason": b"Early Hints", "fields": [b"Link: </a>; rel=preload"]} | NO_BODY,
    ),
    (
        head(
            b"HTTP/1.1 101 Switching",
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Accept: x",
        ),
        b"GET",
        {
            "status": 101,
            "reason": b"Switching",
            "upgrade": b"websocket",
            "fields": [b"Sec-WebSocket-Accept: x"],
        }
        | NO_BODY,
    ),
    # RFC 9110 9.3.6: the lengths in a 2xx to CONNECT are ignored; in a refusal they count.
    (head(OK), b"CONNECT", NO_BODY),
    (ok(), b"CONNECT", NO_BODY),
    (head(OK, TE), b"CONNECT", NO_BODY),
    (head(b"HTTP/1.1 403 No", LENGTH_5), b"CONNECT", {"status": 403, "reason": b"No"}),
    # Fields.
    (
        ok(b"Server:x", b"Empty:", b"Set-Cookie: a", b"Set-Cookie: b", b"X: caf\xe9\tx"),
        b"GET",
        {"fields": [b"Server:x", b"Empty:", b"Set-Cookie: a", b"Set-Cookie: b", b"X: caf\xe9\tx"]},
    ),
    (
        ok(b"Keep-Alive: timeout=5", b"Proxy-Connection: x", b"Proxy-Authenticate: Basic", b"TE: x", b"X: y"),
        b"GET",
        {"fields": [b"X: y"]},
    ),
    (ok(b"Connection: X-Drop", b"x-drop: 1", b"X: y"), b"GET", {"fields": [b"X: y"]}),
    # Sent by large sites; the framing stays what it is.
    (head(OK, b"Connection: Transfer-Encoding", TE), b"GET", {"length": CHUNKED}),
    (ok(b"Via: 1.1 x", b"via: 1.0 y"), b"GET", {"via": b"1.1 x, 1.0 y"}),
    (ok(b"Upgrade: h2c, websocket"), b"GET", {}),
    (ok(b"Connection: upgrade", b"Upgrade: h2c"), b"GET", {}),
    (
        ok(b"X-Hostproxy-Reason: x", b"X_Hostproxy_Reason: x", b"X_Forwarded_Client_Cert: y", b"X-Host: z"),
        b"GET",
        {"stripped": 3, "fields": [b"X-Host: z"]},
    ),
    (ok(b"Content_Length: 6", b"Transfer_Encoding: chunked"), b"GET", {"stripped": 2}),
    (
        ok(b"Host: x", b"Expect: y", b"X-Forwarded-For: z", b"X-Request-Id: 1", b"Trailer: T"),
        b"GET",
        {"fields": [b"Host: x", b"Expect: y", b"X-Forwarded-For: z", b"X-Request-Id: 1", b"Trailer: T"]},
    ),
    (
        ok(*[b"X: %d" % number for number in range(99)]),
        b"GET",
        {"fields": [b"X: %d" % number for number in range(99)]},
    ),
]

HOSTILE: list[tuple[bytes, bytes, str]] = [
    (head(b"HTTP/2.0 200 OK"), b"GET", "bad-status-line"),
    (head(b"HTTP/1.2 200 OK"), b"GET", "bad-status-line"),
    (head(b"HTTP/0.9 200 OK"), b"GET", "bad-status-line"),
    (head(b"HTTP/1.10 200 OK"), b"GET", "bad-status-line"),
    (head(b"HTTP/1.1200 OK"), b"GET", "bad-status-line"),
    (head(b"HTTP/1.1\t200 OK"), b"GET", "bad-status-line"),
    (head(b"HTTP/1.1"), b"GET", "bad-status-line"),
    (head(b"http/1.1 200 OK"), b"GET", "bad-status-line"),
    (head(b" HTTP/1.1 200 OK"), b"GET", "bad-status-line"),
    (head(b"ICY 200 OK"), b"GET", "bad-status-line"),
    (head(b"200 OK"), b"GET", "bad-status-line"),
    (head(b""), b"GET", "bad-status-line"),
    (b"\r\n" + ok(), b"GET", "bad-status-line"),
    (b"\n" + ok(), b"GET", "bare-lf"),
    (head(b"GET / HTTP/1.1"), b"GET", "bad-status-line"),
    (head(b"HTTP/1.1  200 OK"), b"GET", "bad-status"),
    (head(b"HTTP/1.1 200OK"), b"GET", "bad-status"),
    (head(b"HTTP/1.1 20 OK"), b"GET", "bad-status"),
    (head(b"HTTP/1.1 2000 OK"), b"GET", "bad-status"),
    (head(b"HTTP/1.1 2x0 OK"), b"GET", "bad-status"),
    (head(b"HTTP/1.1 +20 OK"), b"GET", "bad-status"),
    (head(b"HTTP/1.1 \xb200 OK"), b"GET", "bad-status"),
    (head(b"HTTP/1.1 000 OK"), b"GET", "bad-status"),
    (head(b"HTTP/1.1 099 OK"), b"GET", "bad-status"),
    (head(b"HTTP/1.1 600 OK"), b"GET", "bad-status"),
    (head(b"HTTP/1.1 999 OK"), b"GET", "bad-status"),
    (head(b"HTTP/1.1 200\tOK"), b"GET", "bad-status"),
    (head(b"HTTP/1.1 "), b"GET", "bad-status"),
    (head(b"HTTP/1.1 200 O\x00K"), b"GET", "control-character"),
    (head(b"HTTP/1.1 200 O\x1b[1mK"), b"GET", "control-character"),
    (head(b"HTTP/1.1 200 O\x7fK"), b"GET", "control-character"),
    (head(b"HTTP/1.1 200 O\rK"), b"GET", "bare-cr"),
    (head(b"HTTP/1.1 200 OK\r"), b"GET", "bare-cr"),
    (b"HTTP/1.1 200 OK\nContent-Length: 5\n\n", b"GET", "bare-lf"),
    (b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n", b"GET", "bare-lf"),
    (ok(b"X: y\nSet-Cookie: evil"), b"GET", "bare-lf"),
    (ok(b"X: y\rSet-Cookie: evil"), b"GET", "bare-cr"),
    (ok(b"X: y", b" folded"), b"GET", "obs-fold"),
    (ok(b"X: y", b"\tfolded"), b"GET", "obs-fold"),
    (ok(b"X : y"), b"GET", "space-before-colon"),
    (ok(b": y"), b"GET", "bad-field-name"),
    (ok(b"X y: z"), b"GET", "bad-field-name"),
    (ok(b"X"), b"GET", "bad-field"),
    (ok(b"X: \x00"), b"GET", "control-character"),
    (ok(b"X: \x0b"), b"GET", "control-character"),
    (ok(b"Connection: a b"), b"GET", "bad-connection"),
    (ok(b"Upgrade: a b"), b"GET", "bad-upgrade"),
    (ok(b"Content-Length: 6"), b"GET", "duplicate-length"),
    (ok(b"Content-Length: 5"), b"GET", "duplicate-length"),
    (ok(b"Content-Length: 6"), b"HEAD", "duplicate-length"),
    (ok(TE), b"GET", "length-and-encoding"),
    (head(OK, TE, LENGTH_5), b"GET", "length-and-encoding"),
    (ok(TE), b"HEAD", "length-and-encoding"),
    (head(b"HTTP/1.1 304 x", LENGTH_5, TE), b"GET", "length-and-encoding"),
    (ok(TE), b"CONNECT", "length-and-encoding"),
    (head(b"HTTP/1.0 200 OK", TE), b"GET", "encoding-in-1.0"),
    (head(b"HTTP/1.0 200 OK", TE), b"HEAD", "encoding-in-1.0"),
    (head(OK, TE, TE), b"GET", "bad-encoding"),
    (head(b"HTTP/1.1 204 x", LENGTH_5), b"GET", "body-not-allowed"),
    (head(b"HTTP/1.1 204 x", TE), b"GET", "body-not-allowed"),
    (head(b"HTTP/1.1 204 x", LENGTH_5), b"HEAD", "body-not-allowed"),
    (head(b"HTTP/1.1 100 x", LENGTH_5), b"GET", "body-not-allowed"),
    (head(b"HTTP/1.1 101 x", TE), b"GET", "body-not-allowed"),
    (head(b"HTTP/1.1 103 x", TE), b"GET", "body-not-allowed"),
    (head(b"HTTP/1.1 200 " + b"x" * 8192), b"GET", "start-line-too-long"),
    (ok(b"X: " + b"x" * 16384), b"GET", "field-too-long"),
    (ok(*[b"X: %d" % number for number in range(100)]), b"GET", "too-many-fields"),
    (ok(*[b"X: " + b"x" * 1000] * 62), b"GET", "head-too-long"),
    *[
        (head(OK, b"Content-Length: " + value), b"GET", "bad-length")
        for value in (
            b"",
            b"+5",
            b"-1",
            b"0x5",
            b"5 5",
            b"5, 5",
            b"5_0",
            b"\xd9\xa5",
            b"9223372036854775808",
            b"5;",
        )
    ],
    *[
        (head(OK, b"Transfer-Encoding: " + value), b"GET", reason)
        for value, reason in (
            (b"", "bad-encoding"),
            (b"identity", "bad-encoding"),
            (b"gzip", "bad-encoding"),
            (b"xchunked", "bad-encoding"),
            (b"chunked, chunked", "bad-encoding"),
            (b"chunked;x", "bad-encoding"),
            (b"chunked, identity", "bad-encoding"),
            (b"\x0bchunked", "control-character"),
            (b"gzip, chunked", "unsupported-encoding"),
        )
    ],
]

legal = pytest.mark.parametrize(("data", "method", "expected"), LEGAL)
hostile = pytest.mark.parametrize(("data", "method", "reason"), HOSTILE)


def check(parsed: ResponseHead | None, expected: dict[str, Any]) -> None:
    assert parsed is not None
    seen = {name: getattr(parsed, name) for name in DEFAULTS}
    seen["fields"] = lines_of(parsed.fields)
    assert seen == DEFAULTS | expected


@legal
def test_legal(data: bytes, method: bytes, expected: dict[str, Any]) -> None:
    for way in ([data], single_bytes(data), at_line_ends(data)):
        parsed, rest = read_response(way, method)
        check(parsed, expected)
        assert rest == b""


@legal
def test_legal_with_more_behind(data: bytes, method: bytes, expected: dict[str, Any]) -> None:
    parsed, rest = read_response([data + b"\nbody\x00"], method)
    check(parsed, expected)
    assert rest == b"\nbody\x00"


@hostile
def test_hostile_whole(data: bytes, method: bytes, reason: str) -> None:
    for way in ([data], [data + b"HTTP/1.1 200 OK\r\n\r\n"]):
        with pytest.raises(ResponseError) as caught:
            read_response(way, method)
        assert (caught.value.status, caught.value.reason) == (502, reason)


@hostile
def test_hostile_split(data: bytes, method: bytes, reason: str) -> None:
    for way in (single_bytes(data), at_line_ends(data)):
        with pytest.raises(ProtocolError):
            read_response(way, method)


def test_there_are_enough_cases() -> None:
    assert len(LEGAL) >= 45
    assert len(HOSTILE) >= 85


@pytest.mark.parametrize(
    "data",
    [b"<html>", b"SSH-2.0-x\r\n", b"\x15\x03\x03\x00\x02\x02\x28", b"HTTP/1.1 20\r\n", b"HTTP/1.1 200 \x00"],
)
def test_what_is_not_http_is_refused_before_a_head_is_complete(data: bytes) -> None:
    for way in ([data], single_bytes(data)):
        with pytest.raises(ProtocolError):
            find(way)


def test_printing_shows_no_field() -> None:
    parsed, _ = read_response([ok(b"Set-Cookie: hidden")])
    assert "hidden" not in f"{parsed!r} {parsed}"


def test_a_remembered_status_line_is_still_measured() -> None:
    data = ok()
    read_response([data])
    with pytest.raises(ResponseError, match="start-line-too-long"):
        read_response([data], limits=LIMITS._replace(request_line=10))


def test_the_reason_of_another_hostproxy_passes_and_no_claim_of_identity() -> None:
    data = ok(b"X-Hostproxy-Reason: x", b"X-Forwarded-Client-Cert: y")
    head = parse_response(data, len(data), LIMITS, b"GET", from_peer=True)
    assert (head.fields, head.stripped) == (b"X-Hostproxy-Reason: x\r\n", 1)
