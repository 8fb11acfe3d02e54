"""Several messages on one connection, limits, and other protocols on the port."""

from __future__ import annotations

from hostproxy.limits import Limits
from tests.fakes.cases import HOST, Message, either, forward, get, head, post, refuse

LIMITS = Limits()
TE = b"Transfer-Encoding: chunked"
HELLO = Message(b"POST", body=b"hello")
ONE, TWO, THREE = (Message(target=b"/%d" % n) for n in (1, 2, 3))
GET1, GET2, GET3 = (get(b"/%d" % n) for n in (1, 2, 3))
CLOSE = b"Connection: close"
TOO_LONG = frozenset({400, 414, 431})
TOO_LARGE = frozenset({400, 431})

CLIENT_HELLO = bytes.fromhex(
    "16030100a5010000a10303000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20e0e1e2e3e4e5e6e7e8"
    "e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff000813021303130100ff0100005000000010000e00000b6f726967696e2e"
    "74657374000b000403000102000a00160014001d0017001e0019001801000101010201030104002300000016000000170000000d00"
    "1e001c040305030603080708080809080a080b080408050806040105010601"
)


def _sized_line(length: int) -> bytes:
    """A request line of ``length`` bytes without its line end."""
    return b"GET /" + b"a" * (length - len(b"GET / HTTP/1.1")) + b" HTTP/1.1"


def _sized_field(length: int) -> bytes:
    """A field line of ``length`` bytes without its line end."""
    return b"X-Long: " + b"v" * (length - len(b"X-Long: "))


def _counted(count: int) -> bytes:
    """A head of ``count`` field lines, Host among them."""
    return get(b"/", *(b"X-%d: v" % n for n in range(count - 1)))


def _sized_head(length: int) -> bytes:
    """A whole head of ``length`` bytes, its empty line included, no field above 8 KiB."""
    fields: list[bytes] = []
    while (missing := length - len(get(b"/", *fields))) > 8 * 1024:
        fields.append(b"X-%d: " % len(fields) + b"v" * 8000)
    fields.append(b"X-Fill: " + b"v" * (missing - len(b"X-Fill: \r\n")))
    data = get(b"/", *fields)
    assert len(data) == length
    return data


REQUESTS = [
    # pipelines
    forward("pipeline-two", GET1 + GET2, ONE, TWO),
    forward("pipeline-three", GET1 + GET2 + GET3, ONE, TWO, THREE),
    forward(
        "pipeline-twenty",
        b"".join(get(b"/%d" % n) for n in range(20)),
        *(Message(target=b"/%d" % n) for n in range(20)),
    ),
    forward("pipeline-length-then-get", post(b"Content-Length: 5", body=b"hello") + GET2, HELLO, TWO),
    forward("pipeline-chunked-then-get", post(TE, body=b"5\r\nhello\r\n0\r\n\r\n") + GET2, HELLO, TWO),
    forward("pipeline-trailers-then-get", post(TE, body=b"5\r\nhello\r\n0\r\nX-T: v\r\n\r\n") + GET2, HELLO, TWO),
    forward("pipeline-no-body-post-then-get", post() + GET2, Message(b"POST"), TWO),
    forward("pipeline-length-zero-then-get", post(b"Content-Length: 0") + GET2, Message(b"POST"), TWO),
    forward("pipeline-head-then-get", head(b"HEAD /1 HTTP/1.1", HOST) + GET2, Message(b"HEAD", b"/1"), TWO),
    forward(
        "pipeline-empty-line-between",
        post(b"Content-Length: 5", body=b"hello") + b"\r\n" + GET2,
        HELLO,
        TWO,
        why="RFC 9112 2.2",
    ),
    forward("pipeline-close-stops", get(b"/1", CLOSE) + GET2, ONE, closes=True, why="RFC 9112 9.6"),
    forward("pipeline-close-last", GET1 + get(b"/2", CLOSE), ONE, TWO, closes=True),
    forward("pipeline-close-then-junk", get(b"/1", CLOSE) + b"\x00\x01junk", ONE, closes=True),
    forward("pipeline-http10-stops", head(b"GET /1 HTTP/1.0", HOST) + GET2, ONE, closes=True),
    forward(
        "pipeline-http10-keep-alive",
        head(b"GET /1 HTTP/1.0", HOST, b"Connection: keep-alive") + GET2,
        ONE,
        TWO,
    ),
    forward(
        "pipeline-upgrade-declined-then-get",
        get(b"/1", b"Connection: Upgrade", b"Upgrade: foo") + GET2,
        ONE,
        TWO,
        why="origin answers 200",
    ),
    forward("pipeline-half-close", GET1 + GET2, ONE, TWO, half_close=True),
    refuse("pipeline-good-then-bad-line", GET1 + b"GET  / HTTP/1.1\r\nHost: origin.test\r\n\r\n", ONE),
    refuse("pipeline-good-then-no-host", GET1 + head(b"GET /2 HTTP/1.1"), ONE),
    refuse("pipeline-good-then-both", GET1 + post(b"Content-Length: 5", TE, body=b"0\r\n\r\n"), ONE),
    refuse("pipeline-good-then-junk", GET1 + b"\x00\x01\x02junk\r\n\r\n", ONE),
    refuse("pipeline-good-then-lower-version", GET1 + b"GET /2\r\n\r\n", ONE),
    refuse(
        "pipeline-length-too-short",
        post(b"Content-Length: 3", body=b"hello\r\n") + GET2,
        Message(b"POST", body=b"hel"),
    ),
    refuse("pipeline-get-with-hidden-body", GET1 + b"hello" * 3 + b"\r\n\r\n", ONE),
    refuse("pipeline-chunked-then-junk", post(TE, body=b"0\r\n\r\n") + b"X\r\n" + GET2, Message(b"POST")),
    refuse("pipeline-bad-then-good", head(b"GET / HTTP/1.1") + GET2),
    refuse("pipeline-bad-length-then-good", post(b"Content-Length: +5", body=b"hello") + GET2),
    refuse("pipeline-cl-cl-then-good", post(b"Content-Length: 0", b"Content-Length: 5", body=b"hello") + GET2),
    refuse("pipeline-bad-chunk-then-good", post(TE, body=b"5\r\nhelloXX0\r\n\r\n") + GET2, partial=True),
    refuse(
        "pipeline-connect-then-good",
        head(b"CONNECT a:1 HTTP/1.1", b"Host: a:1") + GET2,
        statuses=frozenset({400, 403, 405, 501}),
    ),
    refuse("pipeline-third-bad", GET1 + GET2 + head(b"GET /3 HTTP/1.1", HOST, HOST), ONE, TWO),
    refuse("pipeline-good-then-cut", GET1 + b"GET /2 HT", ONE, silent=True, half_close=True),
    either(
        "pipeline-expect-then-get",
        post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello") + GET2,
        HELLO,
        TWO,
    ),
    either("pipeline-empty-lines-between", GET1 + b"\r\n\r\n" + GET2, ONE, TWO),
    # limits of limits.py: just under, just over
    forward(
        "limit-line-under",
        head(_sized_line(LIMITS.request_line - 2), HOST),
        Message(target=_sized_line(LIMITS.request_line - 2).split(b" ")[1]),
    ),
    refuse("limit-line-over", head(_sized_line(LIMITS.request_line + 1), HOST), statuses=TOO_LONG),
    refuse("limit-line-far-over", head(_sized_line(200_000), HOST), statuses=TOO_LONG),
    refuse("limit-line-endless", b"GET /" + b"a" * 100_000, statuses=TOO_LONG),
    refuse("limit-method-endless", b"A" * 100_000, statuses=TOO_LONG | {501}),
    forward("limit-field-under", get(b"/", _sized_field(LIMITS.header_size - 2)), Message()),
    refuse("limit-field-over", get(b"/", _sized_field(LIMITS.header_size + 1)), statuses=TOO_LARGE),
    refuse(
        "limit-field-endless",
        b"GET / HTTP/1.1\r\nHost: origin.test\r\nX: " + b"v" * 100_000,
        statuses=TOO_LARGE,
    ),
    refuse("limit-name-endless", b"GET / HTTP/1.1\r\nHost: origin.test\r\n" + b"X" * 100_000, statuses=TOO_LARGE),
    forward(
        "limit-count-under",
        _counted(LIMITS.header_count),
        Message(present=((b"x-%d" % (LIMITS.header_count - 2), b"v"),)),
    ),
    refuse("limit-count-over", _counted(LIMITS.header_count + 1), statuses=TOO_LARGE),
    refuse("limit-count-far-over", _counted(5000), statuses=TOO_LARGE),
    refuse("limit-count-tiny-fields", get(b"/", *(b"a:" for _ in range(10_000))), statuses=TOO_LARGE),
    forward("limit-head-under", _sized_head(LIMITS.head_size - 4), Message()),
    refuse("limit-head-over", _sized_head(LIMITS.head_size + 64), statuses=TOO_LARGE),
    refuse("limit-head-far-over", _sized_head(LIMITS.head_size * 3), statuses=TOO_LARGE),
    forward("limit-target-4k", get(b"/" + b"q" * 4096), Message(target=b"/" + b"q" * 4096)),
    forward("limit-cookie-8k", get(b"/", b"Cookie: a=" + b"c" * 8192), Message()),
    forward("body-64k", post(b"Content-Length: 65536", body=b"b" * 65536), Message(b"POST", body=b"b" * 65536)),
    forward(
        "body-300k",
        post(b"Content-Length: 300000", body=b"b" * 300_000),
        Message(b"POST", body=b"b" * 300_000),
    ),
    # other protocols
    refuse("foreign-http09", b"GET /\r\n", silent=True, half_close=True),
    refuse("foreign-http09-lf", b"GET /\n", silent=True, half_close=True),
    refuse(
        "foreign-h2-preface",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        statuses=frozenset({400, 405, 501, 505}),
    ),
    refuse("foreign-h2-preface-as-11", head(b"PRI * HTTP/1.1", HOST), statuses=frozenset({400, 405, 501, 505})),
    refuse("foreign-tls-hello", CLIENT_HELLO, silent=True, half_close=True),
    refuse("foreign-ssh", b"SSH-2.0-OpenSSH_9.2\r\n", silent=True, half_close=True),
    refuse("foreign-smtp", b"EHLO origin.test\r\n\r\n", silent=True, half_close=True),
    refuse("foreign-redis", b"*1\r\n$4\r\nPING\r\n\r\n", silent=True, half_close=True),
    refuse("foreign-proxy-v1", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n" + GET1),
    refuse(
        "foreign-proxy-v2",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x01\x00\x50" + GET1,
    ),
    refuse("foreign-nuls", b"\x00" * 64 + b"\r\n\r\n"),
    refuse("foreign-high-bytes", bytes(range(128, 256)) + b"\r\n\r\n"),
    refuse("foreign-utf16", "GET / HTTP/1.1\r\nHost: a\r\n\r\n".encode("utf-16"), silent=True, half_close=True),
    refuse("foreign-nothing", b"", silent=True, half_close=True),
    refuse("foreign-only-line-ends", b"\r\n\r\n", silent=True, half_close=True),
    refuse("foreign-only-spaces", b"    \r\n\r\n"),
    refuse("foreign-websocket-frame", b"\x81\x85\x00\x00\x00\x00hello\r\n\r\n"),
]
