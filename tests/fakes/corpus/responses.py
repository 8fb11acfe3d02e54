"""Responses of an origin: framing, syntax, interim responses, surplus and missing bytes (RFC 9112)."""

from __future__ import annotations

from typing import Any

from hostproxy.limits import Limits
from tests.fakes.cases import HOST, ResponseCase, Verdict, head

LIMITS = Limits()
TE = b"Transfer-Encoding: chunked"
CL5 = b"Content-Length: 5"
CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned"
HEAD_REQUEST = head(b"HEAD /case HTTP/1.1", HOST)
OLD_REQUEST = head(b"GET /case HTTP/1.0", HOST)


def ok(*fields: bytes, body: bytes = b"", line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A response with this status line."""
    return head(line, *fields) + body


def passes(name: str, data: bytes, body: bytes = b"", status: int = 200, **more: Any) -> ResponseCase:
    return ResponseCase(name, data, Verdict.PASS, status, body, **more)


def fails(name: str, data: bytes, **more: Any) -> ResponseCase:
    return ResponseCase(name, data, Verdict.BAD_GATEWAY, **more)


def either(name: str, data: bytes, body: bytes = b"", status: int = 200, **more: Any) -> ResponseCase:
    return ResponseCase(name, data, Verdict.EITHER, status, body, **more)


_odd_lengths = {
    "plus": b"+5",
    "minus": b"-5",
    "hex": b"0x5",
    "underscore": b"0_5",
    "arabic": "٥".encode(),
    "decimal": b"5.0",
    "different-list": b"5, 6",
    "space-inside": b"5 5",
    "letters": b"five",
    "nul": b"5\x00",
    "vertical-tab": b"5\x0b",
    "two-to-64-plus-5": b"18446744073709551621",
    "thirty-digits": b"9" * 30,
    "semicolon": b"5;",
    "comma-after": b"5,",
    "quoted": b'"5"',
    "empty": b"",
}

_odd_codings = {
    "identity": b"identity",
    "gzip": b"gzip",
    "gzip-last": b"chunked, gzip",
    "twice": b"chunked, chunked",
    "prefix": b"xchunked",
    "quoted": b'"chunked"',
    "parameter": b"chunked;q=1",
    "nul": b"chunked\x00",
    "vertical-tab": b"\x0bchunked",
    "cow": b"cow",
    "empty": b"",
}

_bad_sizes = {
    "not-hex": b"g",
    "hex-prefix": b"0x5",
    "plus": b"+5",
    "minus": b"-5",
    "space-before": b" 5",
    "underscore": b"0_5",
    "nul": b"5\x00",
    "two-to-64-plus-5": b"10000000000000005",
    "two-to-64-minus-1": b"ffffffffffffffff",
    "empty": b"",
    "bare-cr": b"5\r",
    "letter-after": b"5h",
    "fullwidth": "５".encode(),
}

_bad_lines = {
    "http09": b"<html>hello</html>",
    "version-2": b"HTTP/2.0 200 OK",
    "version-0": b"HTTP/0.9 200 OK",
    "version-lower": b"http/1.1 200 OK",
    "version-missing-minor": b"HTTP/1 200 OK",
    "version-leading-zero": b"HTTP/01.1 200 OK",
    "version-two-digits": b"HTTP/1.10 200 OK",
    "icy": b"ICY 200 OK",
    "status-two-digits": b"HTTP/1.1 20 OK",
    "status-four-digits": b"HTTP/1.1 2000 OK",
    "status-letters": b"HTTP/1.1 2x0 OK",
    "status-plus": b"HTTP/1.1 +200 OK",
    "status-minus": b"HTTP/1.1 -200 OK",
    "status-zero": b"HTTP/1.1 000 OK",
    "status-099": b"HTTP/1.1 099 OK",
    "status-missing": b"HTTP/1.1",
    "status-missing-reason": b"HTTP/1.1 OK",
    "status-fullwidth": "HTTP/1.1 ２00 OK".encode(),
    "no-space": b"HTTP/1.1200 OK",
    "tab": b"HTTP/1.1\t200\tOK",
    "leading-space": b" HTTP/1.1 200 OK",
    "reason-nul": b"HTTP/1.1 200 O\x00K",
    "reason-control": b"HTTP/1.1 200 O\x01K",
    "reason-bare-cr": b"HTTP/1.1 200 OK\rX: y",
    "cr-cr-lf": b"HTTP/1.1 200 OK\r",
    "request": b"GET / HTTP/1.1",
}

_bad_fields = {
    "no-colon": b"X-A",
    "empty-name": b": v",
    "name-space": b"X A: v",
    "name-nul": b"X\x00A: v",
    "name-control": b"X\x01A: v",
    "name-high": b"X\xe9A: v",
    "name-bracket": b"X[A]: v",
    "name-bare-cr": b"X\rA: v",
    "value-nul": b"X-A: a\x00b",
    "value-bell": b"X-A: a\x07b",
    "value-escape": b"X-A: a\x1bb",
    "value-delete": b"X-A: a\x7fb",
    "value-bare-cr": b"X-A: a\rb",
    "value-bare-cr-field": b"X-A: a\rSet-Cookie: b=c",
    "value-cr-cr": b"X-A: a\r\rb",
    "value-cr-last": b"X-A: a\r",
}

_bad_trailers = {
    "no-colon": b"X-T\r\n",
    "space-before-colon": b"X-T : v\r\n",
    "nul": b"X-T: \x00\r\n",
    "bare-cr": b"X-T: a\rb\r\n",
    "status-line": b"HTTP/1.1 200 OK\r\n",
}

_forbidden_trailers = {
    "content-length": b"Content-Length: 50",
    "transfer-encoding": b"Transfer-Encoding: chunked",
    "connection": b"Connection: close",
    "content-type": b"Content-Type: text/evil",
}

RESPONSES = [
    # legal framing
    passes("length", ok(CL5, body=b"hello"), b"hello"),
    passes("length-zero", ok(b"Content-Length: 0")),
    passes("length-tabs", ok(b"Content-Length:\t5\t", body=b"hello"), b"hello"),
    passes("length-connection-close", ok(CL5, b"Connection: close", body=b"hello"), b"hello", ending="close"),
    passes("length-then-closed-unannounced", ok(CL5, body=b"hello"), b"hello", ending="close"),
    passes("length-then-reset", ok(CL5, body=b"hello"), b"hello", ending="reset"),
    passes("chunked", ok(TE, body=CHUNKED), b"hello"),
    passes("chunked-empty", ok(TE, body=b"0\r\n\r\n")),
    passes("chunked-case", ok(b"transfer-ENCODING: Chunked", body=CHUNKED), b"hello"),
    passes("chunked-extensions", ok(TE, body=b'5;a=b;c="d e"\r\nhello\r\n0;x\r\n\r\n'), b"hello"),
    passes("chunked-zeros-before", ok(TE, body=b"0005\r\nhello\r\n000\r\n\r\n"), b"hello"),
    passes(
        "chunked-one-byte-each",
        ok(TE, body=b"".join(b"1\r\n%c\r\n" % c for c in b"hello") + b"0\r\n\r\n"),
        b"hello",
    ),
    passes(
        "chunked-hex-letters",
        ok(TE, body=b"A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n"),
        b"01234567890123456789a",
    ),
    passes(
        "chunked-trailers",
        ok(TE, body=b"5\r\nhello\r\n0\r\nX-T: v\r\n\r\n"),
        b"hello",
        trailers=((b"x-t", b"v"),),
    ),
    passes(
        "chunked-trailers-announced",
        ok(TE, b"Trailer: X-Sum", body=b"5\r\nhello\r\n0\r\nX-Sum: abc\r\n\r\n"),
        b"hello",
        trailers=((b"x-sum", b"abc"),),
    ),
    passes("chunked-large", ok(TE, body=b"30d40\r\n" + b"x" * 200_000 + b"\r\n0\r\n\r\n"), b"x" * 200_000),
    passes("chunked-thousand", ok(TE, body=b"3\r\nabc\r\n" * 1000 + b"0\r\n\r\n"), b"abc" * 1000),
    passes(
        "chunked-for-old-client",
        ok(TE, body=CHUNKED),
        b"hello",
        request=OLD_REQUEST,
        absent=(b"transfer-encoding",),
    ),
    passes(
        "chunked-trailers-for-old-client",
        ok(TE, body=b"5\r\nhello\r\n0\r\nX-T: v\r\n\r\n"),
        b"hello",
        request=OLD_REQUEST,
        absent=(b"transfer-encoding",),
    ),
    passes("until-close", ok(body=b"hello"), b"hello", ending="close"),
    passes("until-close-empty", ok(), b"", ending="close"),
    passes("until-close-for-old-client", ok(body=b"hello"), b"hello", request=OLD_REQUEST, ending="close"),
    passes("until-close-large", ok(b"Connection: close", body=b"y" * 200_000), b"y" * 200_000, ending="close"),
    passes("until-close-looks-like-responses", ok(body=POISON * 2), POISON * 2, ending="close"),
    passes("old-until-close", ok(body=b"hello", line=b"HTTP/1.0 200 OK"), b"hello", ending="close"),
    passes("old-length", ok(CL5, body=b"hello", line=b"HTTP/1.0 200 OK"), b"hello", ending="close"),
    passes("old-keep-alive", ok(CL5, b"Connection: keep-alive", body=b"hello", line=b"HTTP/1.0 200 OK"), b"hello"),
    passes("body-all-bytes", ok(b"Content-Length: 256", body=bytes(range(256))), bytes(range(256))),
    passes("body-looks-like-response", ok(b"Content-Length: %d" % len(POISON), body=POISON), POISON),
    passes("body-300k", ok(b"Content-Length: 300000", body=b"z" * 300_000), b"z" * 300_000),
    passes("no-content", ok(line=b"HTTP/1.1 204 No Content"), status=204),
    passes("not-modified", ok(b'ETag: "a"', line=b"HTTP/1.1 304 Not Modified"), status=304),
    passes(
        "not-modified-with-length",
        ok(b"Content-Length: 100", line=b"HTTP/1.1 304 Not Modified"),
        status=304,
        why="RFC 9112 6.3 rule 1",
    ),
    passes("not-modified-chunked", ok(TE, line=b"HTTP/1.1 304 Not Modified"), status=304),
    passes("reset-content", ok(b"Content-Length: 0", line=b"HTTP/1.1 205 Reset Content"), status=205),
    passes(
        "head-length",
        ok(b"Content-Length: 100"),
        request=HEAD_REQUEST,
        present=((b"content-length", b"100"),),
    ),
    passes("head-chunked", ok(TE), request=HEAD_REQUEST),
    passes("head-no-framing", ok(), request=HEAD_REQUEST),
    passes("head-until-close", ok(b"Connection: close"), request=HEAD_REQUEST, ending="close"),
    # legal syntax
    passes("reason-empty", ok(CL5, body=b"hello", line=b"HTTP/1.1 200 "), b"hello"),
    passes("reason-obs-text", ok(CL5, body=b"hello", line=b"HTTP/1.1 200 D\xe9j\xe0 vu"), b"hello"),
    passes("reason-several-words", ok(CL5, body=b"hello", line=b"HTTP/1.1 200 All is\twell"), b"hello"),
    passes("status-299", ok(CL5, body=b"hello", line=b"HTTP/1.1 299 Odd"), b"hello", 299),
    passes("status-404", ok(CL5, body=b"hello", line=b"HTTP/1.1 404 Not Found"), b"hello", 404),
    passes("status-500", ok(CL5, body=b"hello", line=b"HTTP/1.1 500 Internal Server Error"), b"hello", 500),
    passes("status-502-of-origin", ok(CL5, body=b"hello", line=b"HTTP/1.1 502 Bad Gateway"), b"hello", 502),
    passes("status-599", ok(CL5, body=b"hello", line=b"HTTP/1.1 599 Odd"), b"hello", 599),
    passes(
        "status-426",
        ok(
            CL5,
            b"Upgrade: foo/1",
            b"Connection: upgrade",
            body=b"hello",
            line=b"HTTP/1.1 426 Upgrade Required",
        ),
        b"hello",
        426,
    ),
    passes(
        "redirect",
        ok(b"Content-Length: 0", b"Location: http://elsewhere.test/", line=b"HTTP/1.1 302 Found"),
        b"",
        302,
        present=((b"location", b"http://elsewhere.test/"),),
    ),
    passes(
        "field-twice",
        ok(CL5, b"Set-Cookie: a=1", b"Set-Cookie: b=2", body=b"hello"),
        b"hello",
        present=((b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")),
    ),
    passes("value-obs-text", ok(CL5, b"X-A: caf\xe9", body=b"hello"), b"hello", present=((b"x-a", b"caf\xe9"),)),
    passes("value-empty", ok(CL5, b"X-A:", body=b"hello"), b"hello", present=((b"x-a", b""),)),
    passes("value-tab", ok(CL5, b"X-A: a\tb", body=b"hello"), b"hello", present=((b"x-a", b"a\tb"),)),
    passes("value-8k", ok(CL5, b"X-A: " + b"v" * 8192, body=b"hello"), b"hello"),
    passes(
        "limit-count-under",
        ok(CL5, *(b"X-%d: v" % n for n in range(LIMITS.header_count - 1)), body=b"hello"),
        b"hello",
    ),
    passes("limit-field-under", ok(CL5, b"X-A: " + b"v" * (LIMITS.header_size - 7), body=b"hello"), b"hello"),
    passes(
        "hop-by-hop-removed",
        ok(
            CL5,
            b"Connection: X-Hop, keep-alive",
            b"X-Hop: 1",
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: x",
            body=b"hello",
        ),
        b"hello",
        absent=(b"x-hop", b"keep-alive", b"proxy-connection"),
    ),
    passes("upgrade-field-in-200", ok(CL5, b"Upgrade: h2", b"Connection: Upgrade", body=b"hello"), b"hello"),
    passes("alt-svc", ok(CL5, b'Alt-Svc: h3=":443"', body=b"hello"), b"hello"),
    # interim responses
    passes("continue-unasked", ok(line=b"HTTP/1.1 100 Continue") + ok(CL5, body=b"hello"), b"hello"),
    passes(
        "early-hints",
        ok(b"Link: </a.css>", line=b"HTTP/1.1 103 Early Hints") + ok(CL5, body=b"hello"),
        b"hello",
        informational=(103,),
    ),
    passes(
        "early-hints-three",
        ok(b"Link: </a>", line=b"HTTP/1.1 103 Early Hints") * 3 + ok(CL5, body=b"hello"),
        b"hello",
        informational=(103, 103, 103),
    ),
    passes("processing", ok(line=b"HTTP/1.1 102 Processing") + ok(CL5, body=b"hello"), b"hello"),
    passes("interim-unknown", ok(line=b"HTTP/1.1 199 Odd") + ok(CL5, body=b"hello"), b"hello"),
    passes(
        "early-hints-for-old-client",
        ok(b"Link: </a>", line=b"HTTP/1.1 103 Early Hints") + ok(CL5, body=b"hello"),
        b"hello",
        request=OLD_REQUEST,
        informational=(),
        why="RFC 9110 15.2",
    ),
    either("interim-hundred", ok(line=b"HTTP/1.1 100 Continue") * 100 + ok(CL5, body=b"hello"), b"hello"),
    either("interim-flood", ok(line=b"HTTP/1.1 100 Continue") * 20_000 + ok(CL5, body=b"hello"), b"hello"),
    either(
        "interim-flood-large",
        ok(b"Link: " + b"a" * 4000, line=b"HTTP/1.1 103 Early Hints") * 500 + ok(CL5, body=b"hello"),
        b"hello",
    ),
    fails("interim-only-then-closed", ok(line=b"HTTP/1.1 100 Continue"), ending="close"),
    fails("interim-only-then-reset", ok(line=b"HTTP/1.1 103 Early Hints"), ending="reset"),
    either(
        "interim-with-length",
        ok(b"Content-Length: 0", line=b"HTTP/1.1 103 Early Hints") + ok(CL5, body=b"hello"),
        b"hello",
    ),
    fails("interim-with-body", ok(CL5, line=b"HTTP/1.1 100 Continue") + b"hello" + ok(CL5, body=b"hello")),
    fails(
        "interim-with-chunked-body",
        ok(TE, line=b"HTTP/1.1 103 Early Hints") + CHUNKED + ok(CL5, body=b"hello"),
    ),
    fails(
        "switching-unasked",
        ok(b"Connection: Upgrade", b"Upgrade: websocket", line=b"HTTP/1.1 101 Switching Protocols") + b"\x81\x05hello",
    ),
    fails(
        "switching-unasked-h2c",
        ok(b"Connection: Upgrade", b"Upgrade: h2c", line=b"HTTP/1.1 101 Switching Protocols")
        + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    ),
    fails("switching-unasked-bare", ok(line=b"HTTP/1.1 101 Switching Protocols") + POISON),
    fails("switching-then-response", ok(line=b"HTTP/1.1 101 Switching Protocols") + ok(CL5, body=b"hello")),
    # lengths
    either("length-twice-same", ok(CL5, CL5, body=b"hello"), b"hello", why="RFC 9110 8.6"),
    either("length-list-same", ok(b"Content-Length: 5, 5", body=b"hello"), b"hello", why="RFC 9110 8.6"),
    either("length-leading-zeros", ok(b"Content-Length: 005", body=b"hello"), b"hello"),
    fails("length-twice-different", ok(CL5, b"Content-Length: 6", body=b"helloX")),
    fails("length-twice-different-closed", ok(CL5, b"Content-Length: 6", body=b"hello"), ending="close"),
    fails("length-twice-zero", ok(b"Content-Length: 0", b"Content-Length: %d" % len(POISON), body=POISON)),
    *(
        fails(f"length-{n}", ok(b"Content-Length: " + v, body=b"hello"), ending="close")
        for n, v in _odd_lengths.items()
    ),
    fails("both", ok(CL5, TE, body=CHUNKED), ending="close"),
    fails("both-coding-first", ok(TE, b"Content-Length: 3", body=CHUNKED)),
    fails("both-hidden-response", ok(b"Content-Length: %d" % (len(POISON) + 5), TE, body=b"0\r\n\r\n" + POISON)),
    *(
        fails(f"coding-{n}", ok(b"Transfer-Encoding: " + v, body=CHUNKED), ending="close")
        for n, v in _odd_codings.items()
    ),
    fails("coding-twice-fields", ok(TE, TE, body=CHUNKED), ending="close"),
    fails("coding-twice-identity", ok(TE, b"Transfer-Encoding: identity", body=CHUNKED), ending="close"),
    fails("coding-in-http10", ok(TE, body=CHUNKED, line=b"HTTP/1.0 200 OK"), ending="close", why="RFC 9112 6.1"),
    either(
        "coding-space-before-colon",
        ok(b"Transfer-Encoding : chunked", body=CHUNKED),
        b"hello",
        ending="close",
        why="RFC 9112 5.1",
    ),
    either(
        "length-space-before-colon",
        ok(b"Content-Length : 5", body=b"hello"),
        b"hello",
        ending="close",
        why="RFC 9112 5.1",
    ),
    either(
        "coding-folded",
        ok(b"Transfer-Encoding:\r\n chunked", body=CHUNKED),
        b"hello",
        ending="close",
        why="RFC 9112 5.2",
    ),
    fails("coding-behind-bare-cr", ok(b"X: y\rTransfer-Encoding: chunked", body=CHUNKED), ending="close"),
    either(
        "coding-behind-bare-lf",
        ok(b"X: y\nTransfer-Encoding: chunked", body=CHUNKED),
        b"hello",
        ending="close",
        why="RFC 9112 2.2",
    ),
    either("connection-nominates-length", ok(b"Connection: Content-Length", CL5, body=b"hello"), b"hello"),
    either("connection-nominates-coding", ok(b"Connection: Transfer-Encoding", TE, body=CHUNKED), b"hello"),
    # chunks
    *(
        fails(f"chunk-size-{n}", ok(TE, body=v + b"\r\nhello\r\n0\r\n\r\n"), ending="close")
        for n, v in _bad_sizes.items()
    ),
    either("chunk-size-space-after", ok(TE, body=b"5 \r\nhello\r\n0\r\n\r\n"), b"hello"),
    fails("chunk-data-too-long", ok(TE, body=b"5\r\nhelloX\r\n0\r\n\r\n"), ending="close"),
    fails("chunk-data-no-line-end", ok(TE, body=b"5\r\nhello0\r\n\r\n"), ending="close"),
    fails("chunk-data-bare-lf", ok(TE, body=b"5\r\nhello\n0\r\n\r\n"), ending="close"),
    fails("chunk-size-bare-lf", ok(TE, body=b"5\nhello\r\n0\r\n\r\n"), ending="close"),
    fails("chunk-last-bare-lf", ok(TE, body=b"5\r\nhello\r\n0\n\r\n"), ending="close"),
    fails("chunk-extension-bare-lf", ok(TE, body=b"5;a\nb\r\nhello\r\n0\r\n\r\n"), ending="close"),
    fails("chunk-extension-nul", ok(TE, body=b"5;a=\x00\r\nhello\r\n0\r\n\r\n"), ending="close"),
    fails(
        "chunk-extension-endless",
        ok(TE, body=b"5;" + b"a" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"),
        ending="close",
    ),
    fails("chunk-body-not-chunked", ok(TE, body=b"hello world"), ending="close"),
    *(
        fails(f"chunk-trailer-{n}", ok(TE, body=b"5\r\nhello\r\n0\r\n" + v + b"\r\n"), ending="close")
        for n, v in _bad_trailers.items()
    ),
    *(
        either(
            f"chunk-trailer-forbidden-{n}",
            ok(TE, body=b"5\r\nhello\r\n0\r\n" + v + b"\r\n\r\n"),
            b"hello",
            trailers=(),
        )
        for n, v in _forbidden_trailers.items()
    ),
    fails(
        "chunk-trailer-too-large",
        ok(
            TE,
            body=b"5\r\nhello\r\n0\r\n" + b"".join(b"X-%d: " % n + b"v" * 8000 + b"\r\n" for n in range(10)) + b"\r\n",
        ),
        ending="close",
    ),
    # cut short
    fails("cut-nothing", b"", ending="close"),
    fails("cut-nothing-reset", b"", ending="reset"),
    fails("cut-in-status-line", b"HTTP/1.1 2", ending="close"),
    fails("cut-in-field", b"HTTP/1.1 200 OK\r\nContent-Le", ending="close"),
    fails("cut-before-empty-line", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", ending="close"),
    fails("cut-in-empty-line", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r", ending="close"),
    fails("cut-before-empty-line-reset", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", ending="reset"),
    fails("cut-length-nothing", ok(b"Content-Length: 10"), ending="close"),
    fails("cut-length", ok(b"Content-Length: 10", body=b"hello"), ending="close"),
    fails("cut-length-one-missing", ok(b"Content-Length: 6", body=b"hello"), ending="close"),
    fails("cut-length-reset", ok(b"Content-Length: 10", body=b"hello"), ending="reset"),
    fails("cut-length-large", ok(b"Content-Length: 200000", body=b"x" * 199_999), ending="close"),
    fails(
        "cut-length-for-old-client",
        ok(b"Content-Length: 10", body=b"hello"),
        ending="close",
        request=OLD_REQUEST,
    ),
    fails("cut-old-length", ok(b"Content-Length: 10", body=b"hello", line=b"HTTP/1.0 200 OK"), ending="close"),
    fails("cut-chunked-nothing", ok(TE), ending="close"),
    fails("cut-chunked-in-size", ok(TE, body=b"5"), ending="close"),
    fails("cut-chunked-in-data", ok(TE, body=b"5\r\nhel"), ending="close"),
    fails("cut-chunked-before-last", ok(TE, body=b"5\r\nhello\r\n"), ending="close"),
    fails("cut-chunked-after-last", ok(TE, body=b"5\r\nhello\r\n0\r\n"), ending="close"),
    fails("cut-chunked-last-line-end", ok(TE, body=b"5\r\nhello\r\n0\r\n\r"), ending="close"),
    fails("cut-chunked-in-trailers", ok(TE, body=b"5\r\nhello\r\n0\r\nX-T: v\r\n"), ending="close"),
    fails("cut-chunked-reset", ok(TE, body=b"5\r\nhello\r\n"), ending="reset"),
    fails("cut-chunked-for-old-client", ok(TE, body=b"5\r\nhello\r\n"), ending="close", request=OLD_REQUEST),
    fails("cut-until-close-reset", ok(body=b"hello"), ending="reset"),
    fails("cut-until-close-reset-for-old-client", ok(body=b"hello"), ending="reset", request=OLD_REQUEST),
    # surplus: never to anybody
    either("surplus-behind-length", ok(CL5, body=b"helloEXTRA"), b"hello", forbidden=(b"EXTRA",)),
    either("surplus-behind-length-zero", ok(b"Content-Length: 0", body=b"EXTRA"), b"", forbidden=(b"EXTRA",)),
    either("surplus-response", ok(CL5, body=b"hello") + POISON, b"hello", forbidden=(b"poisoned",)),
    either("surplus-behind-chunked", ok(TE, body=CHUNKED + b"EXTRA"), b"hello", forbidden=(b"EXTRA",)),
    either("surplus-response-behind-chunked", ok(TE, body=CHUNKED) + POISON, b"hello", forbidden=(b"poisoned",)),
    either(
        "surplus-behind-no-content",
        ok(line=b"HTTP/1.1 204 No Content") + b"EXTRA",
        b"",
        204,
        forbidden=(b"EXTRA",),
    ),
    either(
        "surplus-no-content-with-length",
        ok(CL5, line=b"HTTP/1.1 204 No Content") + b"hello",
        b"",
        204,
        forbidden=(b"hello",),
    ),
    either(
        "surplus-no-content-chunked",
        ok(TE, line=b"HTTP/1.1 204 No Content") + CHUNKED,
        b"",
        204,
        forbidden=(b"hello",),
    ),
    either(
        "surplus-not-modified-body",
        ok(CL5, line=b"HTTP/1.1 304 Not Modified") + b"hello",
        b"",
        304,
        forbidden=(b"hello",),
    ),
    either("surplus-head-body", ok(CL5, body=b"hello"), b"", request=HEAD_REQUEST, forbidden=(b"hello",)),
    either("surplus-head-chunked-body", ok(TE, body=CHUNKED), b"", request=HEAD_REQUEST, forbidden=(b"hello",)),
    either("surplus-head-response", ok(CL5) + POISON, b"", request=HEAD_REQUEST, forbidden=(b"poisoned",)),
    either("surplus-line-end", ok(CL5, body=b"hello\r\n"), b"hello", forbidden=(b"hello\r\n",)),
    either(
        "surplus-no-content-response",
        ok(line=b"HTTP/1.1 204 No Content") + POISON,
        b"",
        204,
        forbidden=(b"poisoned",),
    ),
    either(
        "surplus-interim-behind",
        ok(CL5, body=b"hello") + ok(line=b"HTTP/1.1 100 Continue"),
        b"hello",
        forbidden=(b"100 Continue",),
    ),
    either("reset-content-with-body", ok(CL5, line=b"HTTP/1.1 205 Reset Content") + b"hello", b"hello", 205),
    passes("late-surplus-response", ok(CL5, body=b"hello"), b"hello", late=POISON, forbidden=(b"poisoned",)),
    passes("late-surplus-junk", ok(CL5, body=b"hello"), b"hello", late=b"junk"),
    passes(
        "late-surplus-timeout-response",
        ok(CL5, body=b"hello"),
        b"hello",
        late=ok(b"Content-Length: 0", b"Connection: close", line=b"HTTP/1.1 408 Request Timeout"),
    ),
    passes("late-surplus-behind-head", ok(CL5), request=HEAD_REQUEST, late=b"hello", forbidden=(b"hello",)),
    # syntax
    *(fails(f"line-{n}", head(v, CL5) + b"hello", ending="close") for n, v in _bad_lines.items()),
    fails("line-foreign-tls", b"\x15\x03\x01\x00\x02\x02\x46", ending="close"),
    fails("line-foreign-ssh", b"SSH-2.0-OpenSSH_9.2\r\n", ending="close"),
    fails("line-foreign-nuls", b"\x00" * 100, ending="close"),
    fails(
        "line-foreign-h2-settings",
        b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00\x03\x00\x00\x00\x64" * 3,
        ending="close",
    ),
    either("line-reason-missing", ok(CL5, body=b"hello", line=b"HTTP/1.1 200"), b"hello"),
    either("line-double-space", ok(CL5, body=b"hello", line=b"HTTP/1.1  200 OK"), b"hello"),
    either("line-double-space-reason", ok(CL5, body=b"hello", line=b"HTTP/1.1 200  OK"), b"hello"),
    either("line-version-12", ok(CL5, body=b"hello", line=b"HTTP/1.2 200 OK"), b"hello"),
    either("line-status-600", ok(CL5, body=b"hello", line=b"HTTP/1.1 600 Odd"), b"hello", 600, why="RFC 9110 15"),
    either("line-status-999", ok(CL5, body=b"hello", line=b"HTTP/1.1 999 Odd"), b"hello", 999),
    either("line-empty-before", b"\r\n" + ok(CL5, body=b"hello"), b"hello"),
    either("line-bare-lf", b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello", b"hello", why="RFC 9112 2.2"),
    either("lines-all-bare-lf", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", b"hello", why="RFC 9112 2.2"),
    *(fails(f"field-{n}", ok(CL5, v, body=b"hello"), ending="close") for n, v in _bad_fields.items()),
    either("field-space-before-colon", ok(CL5, b"X-A : v", body=b"hello"), b"hello", why="RFC 9112 5.1"),
    either("field-folded", ok(CL5, b"X-A: a", b" b", body=b"hello"), b"hello", why="RFC 9112 5.2"),
    either("field-bare-lf", ok(CL5, b"X-A: a\nX-B: b", body=b"hello"), b"hello", why="RFC 9112 2.2"),
    fails("field-first-line-space", ok(b" X-A: v", CL5, body=b"hello"), ending="close"),
    fails("limit-count-over", ok(CL5, *(b"X-%d: v" % n for n in range(1000)), body=b"hello"), ending="close"),
    fails(
        "limit-field-over",
        ok(CL5, b"X-A: " + b"v" * (LIMITS.header_size + 16), body=b"hello"),
        ending="close",
    ),
    fails(
        "limit-head-over",
        ok(CL5, *(b"X-%d: " % n + b"v" * 8000 for n in range(12)), body=b"hello"),
        ending="close",
    ),
    fails("limit-field-endless", b"HTTP/1.1 200 OK\r\nX-A: " + b"v" * 300_000, ending="close"),
    fails("limit-status-line-endless", b"HTTP/1.1 200 " + b"O" * 300_000, ending="close"),
    fails("limit-fields-endless", b"HTTP/1.1 200 OK\r\n" + b"X-A: v\r\n" * 30_000, ending="close"),
]
