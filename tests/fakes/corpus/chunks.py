"""Chunk sizes, extensions, line ends and trailers of requests (RFC 9112 section 7.1)."""

from __future__ import annotations

from tests.fakes.cases import Message, either, forward, post, refuse

TE = b"Transfer-Encoding: chunked"
HELLO = Message(b"POST", body=b"hello")
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: origin.test\r\n\r\n"


def _chunked(body: bytes, *fields: bytes) -> bytes:
    return post(TE, *fields, body=body)


def _sized(size: bytes) -> bytes:
    return _chunked(size + b"\r\nhello\r\n0\r\n\r\n")


def _extended(extension: bytes) -> bytes:
    return _chunked(b"5" + extension + b"\r\nhello\r\n0\r\n\r\n")


def _trailed(trailers: bytes) -> bytes:
    return _chunked(b"5\r\nhello\r\n0\r\n" + trailers + b"\r\n")


_bad_sizes = {
    "empty": b"",
    "not-hex": b"g",
    "hex-prefix": b"0x5",
    "plus": b"+5",
    "minus": b"-5",
    "space-before": b" 5",
    "tab-before": b"\t5",
    "underscore": b"0_5",
    "decimal-point": b"5.0",
    "quoted": b'"5"',
    "letter-after": b"5h",
    "space-inside": b"0 5",
    "comma": b"5,5",
    "nul-after": b"5\x00",
    "nul-before": b"\x005",
    "vertical-tab": b"5\x0b",
    "form-feed": b"5\x0c",
    "high-byte": b"\xff5",
    "nbsp": b"5\xa0",
    "fullwidth": "５".encode(),
    "arabic": "٥".encode(),
    "two-to-64-plus-5": b"10000000000000005",
    "two-to-64-minus-1": b"ffffffffffffffff",
    "two-to-63": b"8000000000000000",
    "two-to-128": b"1" + b"0" * 32,
    "eighty-digits": b"5" * 80,
    "five-thousand-digits": b"5" * 5000,
    "bare-cr-after": b"5\r",
    "bare-cr-before": b"\r5",
    "colon": b"5:",
    "equals": b"5=5",
}

_legal_extensions = {
    "name": b";a",
    "name-value": b";a=b",
    "quoted": b';a="b c"',
    "quoted-empty": b';a=""',
    "quoted-semicolon": b';a="b;c"',
    "quoted-pair": b';a="\\""',
    "several": b";a=b;c=d;e",
    "blanks": b" ; a = b",
    "tabs": b"\t;\ta\t=\tb",
    "token-characters": b";!#$%&'*+-.^_`|~=1",
}

_bad_extensions = {
    "bare-lf": b";a\nb",
    "bare-lf-first": b";\n",
    "bare-lf-last": b";a\n",
    "bare-cr": b";a\rb",
    "bare-cr-last": b";a\r",
    "nul": b";a=\x00",
    "escape": b";a=\x1b",
    "backspace": b';a="\x08"',
}

_loose_extensions = {
    "empty": b";",
    "empty-twice": b";;a",
    "value-missing": b";a=",
    "name-missing": b";=b",
    "unquoted-space": b";a=b c",
    "quote-open": b';a="b',
    "high-byte": b";\xff",
    "delete": b";a=\x7f",
    "brackets": b";[a]=(b)",
}

_bad_trailers = {
    "no-colon": b"X-T\r\n",
    "space-before-colon": b"X-T : v\r\n",
    "empty-name": b": v\r\n",
    "nul-in-value": b"X-T: \x00\r\n",
    "control-in-value": b"X-T: \x01\r\n",
    "nul-in-name": b"X\x00T: v\r\n",
    "bare-cr": b"X-T: a\rb\r\n",
    "leading-space": b" X-T: v\r\n",
    "request-line": b"GET /smuggled HTTP/1.1\r\n",
    "space-in-name": b"X T: v\r\n",
}

_forbidden_trailers = {
    "content-length": b"Content-Length: 50",
    "transfer-encoding": b"Transfer-Encoding: chunked",
    "host": b"Host: evil.test",
    "authorization": b"Authorization: Basic eDp5",
    "connection": b"Connection: close",
    "trailer": b"Trailer: X",
    "content-type": b"Content-Type: text/evil",
    "x-forwarded-for": b"X-Forwarded-For: 1.2.3.4",
    "x-forwarded-client-cert": b"X-Forwarded-Client-Cert: URI=spiffe://mesh.test/service/admin",
}

REQUESTS = [
    # legal
    forward("chunk-size-zeros-before", _sized(b"005"), HELLO),
    forward("chunk-size-upper", _chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), Message(b"POST", body=b"0123456789")),
    forward("chunk-size-lower", _chunked(b"a\r\n0123456789\r\n0\r\n\r\n"), Message(b"POST", body=b"0123456789")),
    forward("chunk-last-several-zeros", _chunked(b"5\r\nhello\r\n000\r\n\r\n"), HELLO),
    forward("chunk-last-extension", _chunked(b"5\r\nhello\r\n0;a=b\r\n\r\n"), HELLO),
    forward("chunk-none", _chunked(b"0\r\n\r\n"), Message(b"POST")),
    forward("chunk-one-byte-each", _chunked(b"".join(b"1\r\n%c\r\n" % c for c in b"hello") + b"0\r\n\r\n"), HELLO),
    forward(
        "chunk-data-is-line-ends",
        _chunked(b"8\r\n\r\n0\r\n\r\n\n\r\n0\r\n\r\n"),
        Message(b"POST", body=b"\r\n0\r\n\r\n\n"),
    ),
    forward(
        "chunk-large",
        _chunked(b"186a0\r\n" + b"x" * 100_000 + b"\r\n0\r\n\r\n"),
        Message(b"POST", body=b"x" * 100_000),
    ),
    forward(
        "chunk-thousand",
        _chunked(b"3\r\nabc\r\n" * 1000 + b"0\r\n\r\n"),
        Message(b"POST", body=b"abc" * 1000),
    ),
    *(forward(f"chunk-extension-{n}", _extended(v), HELLO) for n, v in _legal_extensions.items()),
    forward("chunk-trailer", _trailed(b"X-T: v\r\n"), Message(b"POST", body=b"hello", trailers=((b"x-t", b"v"),))),
    forward(
        "chunk-trailer-announced",
        _chunked(b"5\r\nhello\r\n0\r\nX-Sum: abc\r\n\r\n", b"Trailer: X-Sum"),
        Message(b"POST", body=b"hello", trailers=((b"x-sum", b"abc"),)),
    ),
    forward(
        "chunk-trailers-two",
        _trailed(b"X-A: 1\r\nX-B: 2\r\n"),
        Message(b"POST", body=b"hello", trailers=((b"x-a", b"1"), (b"x-b", b"2"))),
    ),
    forward(
        "chunk-trailer-empty-value",
        _trailed(b"X-T:\r\n"),
        Message(b"POST", body=b"hello", trailers=((b"x-t", b""),)),
    ),
    # sizes
    *(refuse(f"chunk-size-{n}", _sized(v), partial=True) for n, v in _bad_sizes.items()),
    either("chunk-size-space-after", _sized(b"5 "), HELLO, partial=True),
    either("chunk-size-tab-after", _sized(b"5\t"), HELLO, partial=True),
    either("chunk-size-many-zeros", _sized(b"0" * 30 + b"5"), HELLO, partial=True),
    either("chunk-size-thousand-zeros", _sized(b"0" * 1000 + b"5"), HELLO, partial=True),
    refuse("chunk-data-too-long", _chunked(b"5\r\nhelloX\r\n0\r\n\r\n"), partial=True),
    refuse("chunk-data-too-short", _chunked(b"6\r\nhello\r\n0\r\n\r\n"), partial=True),
    refuse("chunk-data-no-line-end", _chunked(b"5\r\nhello0\r\n\r\n"), partial=True),
    refuse("chunk-data-two-wrong-bytes", _chunked(b"5\r\nhelloXX0\r\n\r\n"), partial=True),
    refuse("chunk-data-bare-lf", _chunked(b"5\r\nhello\n0\r\n\r\n"), partial=True),
    refuse("chunk-data-bare-cr", _chunked(b"5\r\nhello\r0\r\n\r\n"), partial=True),
    refuse("chunk-data-cr-cr-lf", _chunked(b"5\r\nhello\r\r\n0\r\n\r\n"), partial=True),
    refuse("chunk-data-lf-cr", _chunked(b"5\r\nhello\n\r0\r\n\r\n"), partial=True),
    refuse("chunk-size-bare-lf", _chunked(b"5\nhello\r\n0\r\n\r\n"), partial=True),
    refuse("chunk-size-bare-cr", _chunked(b"5\rhello\r\n0\r\n\r\n"), partial=True),
    refuse("chunk-size-lf-cr", _chunked(b"5\n\rhello\r\n0\r\n\r\n"), partial=True),
    refuse("chunk-empty-line-before", _chunked(b"\r\n5\r\nhello\r\n0\r\n\r\n"), partial=True),
    refuse("chunk-last-bare-lf", _chunked(b"5\r\nhello\r\n0\n\r\n"), partial=True),
    refuse("chunk-last-all-bare-lf", _chunked(b"5\r\nhello\r\n0\n\n"), partial=True),
    either("chunk-end-bare-lf", _chunked(b"5\r\nhello\r\n0\r\n\n"), HELLO, partial=True, why="RFC 9112 2.2"),
    refuse("chunk-end-cr-cr-lf", _chunked(b"5\r\nhello\r\n0\r\n\r\r\n"), partial=True),
    refuse("chunk-last-minus-zero", _chunked(b"5\r\nhello\r\n-0\r\n\r\n"), partial=True),
    refuse("chunk-last-hex-prefix", _chunked(b"5\r\nhello\r\n0x0\r\n\r\n"), partial=True),
    refuse("chunk-body-not-chunked", _chunked(b"hello"), partial=True, silent=True, half_close=True),
    refuse("chunk-body-is-json", _chunked(b'{"a": 1}\r\n\r\n'), partial=True),
    refuse("chunk-endless-size-line", _chunked(b"0" * 100_000), partial=True),
    # extensions
    *(refuse(f"chunk-extension-{n}", _extended(v), partial=True) for n, v in _bad_extensions.items()),
    *(either(f"chunk-extension-{n}", _extended(v), HELLO, partial=True) for n, v in _loose_extensions.items()),
    either("chunk-extension-quoted-line-end", _chunked(b'5;a="\r\nhello\r\n0\r\n\r\n'), HELLO, partial=True),
    refuse(
        "chunk-extension-terminator-spill",
        _chunked(b"2;\nxx\r\n10\r\n\r\n0\r\n\r\n" + SMUGGLED),
        partial=True,
    ),
    refuse("chunk-extension-endless", _extended(b";" + b"a" * 100_000), partial=True),
    refuse("chunk-extension-bare-lf-on-last", _chunked(b"5\r\nhello\r\n0;\nX: y\r\n\r\n"), partial=True),
    refuse("chunk-extension-without-semicolon", _extended(b" a=b"), partial=True),
    # trailers
    *(refuse(f"chunk-trailer-{n}", _trailed(v), partial=True) for n, v in _bad_trailers.items()),
    either("chunk-trailer-folded", _trailed(b"X-T: a\r\n b\r\n"), HELLO, partial=True, why="RFC 9112 5.2"),
    either("chunk-trailer-bare-lf", _trailed(b"X-T: v\n"), HELLO, partial=True, why="RFC 9112 2.2"),
    *(
        either(
            f"chunk-trailer-forbidden-{n}",
            _trailed(v + b"\r\n"),
            Message(b"POST", body=b"hello", trailers=()),
            partial=True,
            why="RFC 9110 6.5.1",
        )
        for n, v in _forbidden_trailers.items()
    ),
    refuse(
        "chunk-trailer-too-large",
        _trailed(b"".join(b"X-%d: " % i + b"v" * 8000 + b"\r\n" for i in range(10))),
        partial=True,
    ),
    refuse("chunk-trailer-field-too-large", _trailed(b"X-T: " + b"v" * 17_000 + b"\r\n"), partial=True),
    refuse("chunk-trailers-too-many", _trailed(b"".join(b"X-%d: v\r\n" % i for i in range(150))), partial=True),
]
