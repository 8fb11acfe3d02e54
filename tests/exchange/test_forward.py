from __future__ import annotations

import h11
import pytest

from hostproxy.codec.http1 import HeadLimits, RequestHead, ResponseHead, parse_request, parse_response
from hostproxy.exchange import forward

LIMITS = HeadLimits(8192, 16384, 100, 61440)


def asked(data: bytes) -> RequestHead:
    return parse_request(data, len(data), LIMITS)


def answered(data: bytes, method: bytes = b"GET") -> ResponseHead:
    return parse_response(data, len(data), LIMITS, method)


def sent(data: bytes, **changes: bytes) -> list[bytes]:
    """The lines that go on for the request ``data``."""
    arguments = {
        "source": b"10.0.0.9",
        "protocol": b"http",
        "identity": b"",
        "request_id": b"id-1",
        **changes,
    }
    head = forward.request(asked(data), **arguments)
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def test_a_get() -> None:
    assert sent(b"GET /x?y HTTP/1.1\r\nHost: a:80\r\nAccept: */*\r\nUser-Agent: curl\r\n\r\n") == [
        b"GET /x?y HTTP/1.1",
        b"Host: a:80",
        b"Accept: */*",
        b"User-Agent: curl",
        b"Via: 1.1 hostproxy",
        b"X-Forwarded-For: 10.0.0.9",
        b"X-Forwarded-Proto: http",
        b"X-Request-Id: id-1",
    ]


def test_what_came_by_http_1_0_goes_on_as_1_1_and_says_so() -> None:
    lines = sent(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    assert lines[0] == b"GET / HTTP/1.1"
    assert b"Via: 1.0 hostproxy" in lines


def test_an_absolute_target_becomes_host_and_path() -> None:
    lines = sent(b"GET http://payments:80/x HTTP/1.1\r\nHost: other\r\n\r\n")
    assert lines[:2] == [b"GET /x HTTP/1.1", b"Host: payments:80"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"Content-Length: 5\r\n", b"Content-Length: 5"),
        (b"Content-Length: 0\r\n", b"Content-Length: 0"),
        (b"", b"Content-Length: 0"),
        (b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked"),
    ],
)
def test_one_framing(fields: bytes, expected: bytes) -> None:
    lines = sent(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    assert [line for line in lines if line.lower().startswith((b"content-length", b"transfer-encoding"))] == [
        expected
    ]


def test_a_get_without_body_says_nothing_of_a_length() -> None:
    assert not any(
        b"Content-Length" in line for line in sent(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    )


def test_hop_by_hop_fields_end_here() -> None:
    lines = sent(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine\r\nKeep-Alive: timeout=5\r\nX-Mine: 1\r\n"
        b"Proxy-Connection: keep-alive\r\nTE: trailers\r\nX-Else: 2\r\n\r\n"
    )
    text = b"\n".join(lines).lower()
    for name in (b"connection:", b"keep-alive", b"x-mine", b"proxy-connection", b"\nte:"):
        assert name not in text
    assert b"X-Else: 2" in lines


def test_te_trailers_is_said_anew() -> None:
    lines = sent(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: trailers, deflate\r\n\r\n")
    assert [line for line in lines if line.startswith((b"Connection", b"TE"))] == [
        b"Connection: TE",
        b"TE: trailers",
    ]


def test_an_upgrade_is_asked_for_anew() -> None:
    lines = sent(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    assert lines.count(b"Connection: Upgrade") == 1
    assert lines.count(b"Upgrade: websocket") == 1


def test_expect_goes_on() -> None:
    lines = sent(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
    assert b"Expect: 100-continue" in lines


def test_lists_of_those_before_are_continued() -> None:
    lines = sent(
        b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 front\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\r\n"
    )
    assert b"Via: 1.1 front, 1.1 hostproxy" in lines
    assert b"X-Forwarded-For: 1.2.3.4, 10.0.0.9" in lines
    assert b"X-Forwarded-Proto: https" in lines


def test_a_unix_socket_has_no_address_to_tell() -> None:
    assert not any(
        b"X-Forwarded-For" in line for line in sent(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", source=b"")
    )
    lines = sent(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n", source=b"")
    assert b"X-Forwarded-For: 1.2.3.4" in lines


def test_identity_is_ours_to_tell() -> None:
    line = b"X-Forwarded-Client-Cert: By=spiffe://m/service/b;URI=spiffe://m/service/a"
    lines = sent(
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Client-Cert: URI=spiffe://m/service/forged\r\n\r\n",
        identity=line + b"\r\n",
    )
    assert [one for one in lines if one.lower().startswith(b"x-forwarded-client-cert")] == [line]
    lines = sent(b"GET / HTTP/1.1\r\nHost: a\r\nx-forwarded-client-cert: forged\r\n\r\n")
    assert not any(b"client-cert" in one.lower() for one in lines)


def test_the_request_id_stands_once() -> None:
    lines = sent(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n", request_id=b"mine")
    assert [line for line in lines if line.lower().startswith(b"x-request-id")] == [b"X-Request-Id: mine"]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /p HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
        b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_others_read_the_same(data: bytes) -> None:
    head = asked(data)
    server = h11.Connection(h11.SERVER)
    server.receive_data(forward.request(head, b"::1", b"https", b"", b"x"))
    event = server.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (head.method, head.target)
    lengths = [value for name, value in event.headers if name in (b"content-length", b"transfer-encoding")]
    assert len(lengths) == (1 if head.length or head.method == b"POST" else 0)


def lines_of(head: bytes) -> list[bytes]:
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


@pytest.mark.parametrize(
    ("data", "minor", "keep", "chunked", "framing"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 1, True, False, [b"Content-Length: 5"]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 1, True, False, [b"Content-Length: 0"]),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            1,
            True,
            True,
            [b"Transfer-Encoding: chunked"],
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n", 1, True, True, [b"Transfer-Encoding: chunked"]),
        (b"HTTP/1.1 200 OK\r\n\r\n", 0, False, False, []),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 1, True, False, []),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 1, True, False, [b"Content-Length: 9"]),
    ],
)
def test_the_framing_of_responses(
    data: bytes, minor: int, keep: bool, chunked: bool, framing: list[bytes]
) -> None:
    lines = lines_of(forward.response(answered(data), minor, keep, chunked))
    found = [line for line in lines if line.startswith((b"Content-Length", b"Transfer-Encoding"))]
    assert found == framing


@pytest.mark.parametrize(
    ("minor", "keep", "expected"),
    [
        (1, True, []),
        (1, False, [b"Connection: close"]),
        (0, True, [b"Connection: keep-alive"]),
        (0, False, [b"Connection: close"]),
    ],
)
def test_what_is_said_of_the_connection(minor: int, keep: bool, expected: list[bytes]) -> None:
    head = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Mine\r\nX-Mine: 1\r\n\r\n")
    lines = lines_of(forward.response(head, minor, keep, False))
    assert [line for line in lines if line.startswith(b"Connection")] == expected
    assert b"X-Mine: 1" not in lines


def test_a_response_keeps_its_status_reason_and_fields() -> None:
    head = answered(
        b"HTTP/1.0 418 I'm a teapot\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nVia: 1.1 back\r\n\r\n"
    )
    lines = lines_of(forward.response(head, 1, True, True))
    assert lines[0] == b"HTTP/1.1 418 I'm a teapot"
    assert [line for line in lines if line.startswith(b"Set-Cookie")] == [
        b"Set-Cookie: a=1",
        b"Set-Cookie: b=2",
    ]
    assert b"Via: 1.1 back, 1.0 hostproxy" in lines


def test_an_empty_reason_keeps_its_space() -> None:
    head = answered(b"HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n")
    assert forward.response(head, 1, True, False).startswith(b"HTTP/1.1 299 \r\n")


def test_interim_and_switching_heads() -> None:
    head = answered(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    assert forward.informational(head) == b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    head = answered(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert forward.informational(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    head = answered(
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"
    )
    assert lines_of(forward.switching(head)) == [
        b"HTTP/1.1 101 Switching Protocols",
        b"Sec-WebSocket-Accept: x",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
    ]
