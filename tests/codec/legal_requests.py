"""Requests that must pass: (name, bytes, what the head says where it differs from a plain GET / to a)."""

from __future__ import annotations

from typing import Any

from tests.codec.reading import head

GET = b"GET / HTTP/1.1"
POST = b"POST / HTTP/1.1"
HOST = b"Host: a"


def get(*lines: bytes) -> bytes:
    return head(GET, HOST, *lines)


def post(*lines: bytes) -> bytes:
    return head(POST, HOST, *lines)


def target(text: bytes) -> tuple[str, bytes, dict[str, Any]]:
    return f"target {text!r}", head(b"GET " + text + b" HTTP/1.1", HOST), {"target": text}


def method(name: bytes) -> tuple[str, bytes, dict[str, Any]]:
    return f"method {name!r}", head(name + b" / HTTP/1.1", HOST), {"method": name}


def passing(*lines: bytes) -> tuple[str, bytes, dict[str, Any]]:
    return f"passes {lines[0][:40]!r}", get(*lines), {"fields": list(lines)}


def host(value: bytes, name: bytes, port: int = 0, authority: bytes | None = None) -> tuple[str, bytes, dict[str, Any]]:
    expected = {"authority": value if authority is None else authority, "host": name, "port": port}
    return f"host {value!r}", head(GET, b"Host: " + value), expected


def length(value: bytes, number: int) -> tuple[str, bytes, dict[str, Any]]:
    return f"length {value!r}", post(b"Content-Length:" + value), {"method": b"POST", "length": number}


def absolute(text: bytes, **expected: Any) -> tuple[str, bytes, dict[str, Any]]:
    return f"absolute {text!r}", head(b"GET " + text + b" HTTP/1.1", HOST), {"scheme": b"http"} | expected


CASES: list[tuple[str, bytes, dict[str, Any]]] = [
    ("plain", get(), {}),
    ("one empty line before", b"\r\n" + get(), {}),
    *map(
        method,
        (b"PROPFIND", b"M-SEARCH", b"get", b"Get", b"X", b"!#$%&'*+-.^_`|~09", b"A" * 100, b"PRI", b"TRACE"),
    ),
    *map(
        target,
        (
            b"/?",
            b"/??",
            b"/?a=b&c=d?e",
            b"//",
            b"//b/c",
            b"///",
            b"/a//b",
            b"/.",
            b"/../..",
            b"/a/./b/../c",
            b"/%41%7e%2F%2f%00%ff",
            b"/;v=1;w",
            b"/a:b@c!$&'()*+,;=~-._",
            b"/http://b/",
            b"/*",
            b'/[1]|{x}^`"<>',
            b'/?discount=100%&path=C:\\x|{}[]^`"<>',
            b"/" + b"a" * 8000,
        ),
    ),
    ("OPTIONS *", head(b"OPTIONS * HTTP/1.1", HOST), {"method": b"OPTIONS", "target": b"*"}),
    ("OPTIONS path", head(b"OPTIONS / HTTP/1.1", HOST), {"method": b"OPTIONS"}),
    (
        "OPTIONS absolute, empty path",
        head(b"OPTIONS http://b:80 HTTP/1.1", HOST),
        {
            "method": b"OPTIONS",
            "target": b"*",
            "scheme": b"http",
            "authority": b"b:80",
            "host": b"b",
            "port": 80,
        },
    ),
    (
        "CONNECT",
        head(b"CONNECT b.c:443 HTTP/1.1", b"Host: b.c:443"),
        {"method": b"CONNECT", "target": b"b.c:443", "authority": b"b.c:443", "host": b"b.c", "port": 443},
    ),
    (
        "CONNECT IPv6",
        head(b"CONNECT [::1]:443 HTTP/1.1", HOST, b"Content-Length: 0"),
        {
            "method": b"CONNECT",
            "target": b"[::1]:443",
            "authority": b"[::1]:443",
            "host": b"[::1]",
            "port": 443,
        },
    ),
    # RFC 9112 3.2.2: a proxy "MUST ignore the received Host header field (if any) and instead replace it".
    absolute(b"http://b/c?d", target=b"/c?d", authority=b"b", host=b"b"),
    absolute(b"http://b", authority=b"b", host=b"b"),
    absolute(b"http://b?x=1", target=b"/?x=1", authority=b"b", host=b"b"),
    absolute(b"HTTP://B.Mesh:8080/", authority=b"B.Mesh:8080", host=b"b.mesh", port=8080),
    absolute(b"https://b/", scheme=b"https", authority=b"b", host=b"b"),
    absolute(
        b"http://[2001:db8::1]:80/x",
        target=b"/x",
        authority=b"[2001:db8::1]:80",
        host=b"[2001:db8::1]",
        port=80,
    ),
    absolute(b"http://b:/", authority=b"b", host=b"b"),
    absolute(b"http://b//c", target=b"//c", authority=b"b", host=b"b"),
    host(b"", b""),
    host(b"A.Example.ORG", b"a.example.org"),
    host(b"a.", b"a"),
    host(b"a.example.:80", b"a.example", 80),
    host(b"a:80", b"a", 80),
    host(b"a:65535", b"a", 65535),
    host(b"a:00080", b"a", 80),
    host(b"a:", b"a", authority=b"a"),
    host(b"127.0.0.1:8080", b"127.0.0.1", 8080),
    host(b"[::1]", b"[::1]"),
    host(b"[::FFFF:127.0.0.1]:80", b"[::ffff:127.0.0.1]", 80),
    host(b"service_name", b"service_name"),
    host(b"a-b~c", b"a-b~c"),
    host(b"ex%41mple", b"ex%41mple"),
    host(b"a!$&'()*+;=", b"a!$&'()*+;="),
    host(b"a" * 255, b"a" * 255),
    ("Host without space", head(GET, b"Host:a"), {}),
    ("Host with white space", head(GET, b"hOsT: \t a\t "), {}),
    passing(b"Name:"),
    passing(b"Name: "),
    passing(b"Name:value"),
    passing(b"Name:\tvalue\t"),
    passing(b"Name:   value   "),
    passing(b"Name: a\tb  c"),
    passing(b"Name: caf\xc3\xa9 \xff\x80"),
    passing(b"!#$%&'*+-.^_`|~: y"),
    passing(b"1: 2"),
    passing(b"user_id: 7"),
    passing(b"http://a/: y"),
    passing(b"Name: a:b:c"),
    passing(b"Cookie: a=b", b"Cookie: c=d"),
    passing(b"Accept: a", b"X: 1", b"Accept: b", b"X: 2"),
    passing(b"Trailer: Checksum"),
    passing(b"Max-Forwards: 3"),
    passing(b"Forwarded: for=1.2.3.4"),
    passing(b"Authorization: Basic QQ=="),
    passing(b"Long: " + b"x" * 16000),
    passing(*[b"X: %d" % number for number in range(99)]),
    length(b"0", 0),
    length(b" 5 ", 5),
    length(b"\t5\t", 5),
    length(b" 005", 5),
    length(b" 4294967296", 2**32),
    length(b" 9223372036854775807", 2**63 - 1),
    length(b" 0000000000000000005", 5),
    ("GET with a body", get(b"Content-Length: 3"), {"length": 3}),
    ("chunked GET", get(b"Transfer-Encoding: chunked"), {"length": -1}),
    ("chunked in capitals", post(b"TRANSFER-ENCODING:\t CHUNKED \t"), {"method": b"POST", "length": -1}),
    ("POST without a body", post(), {"method": b"POST"}),
    ("close", get(b"Connection: close"), {"keep_alive": False}),
    ("close in a list", get(b"Connection: x ,\tClose,"), {"keep_alive": False}),
    ("many options", get(b"Connection: " + b"x," * 63 + b"close"), {"keep_alive": False}),
    ("empty Connection", get(b"Connection:"), {}),
    ("keep-alive and close", get(b"Connection: keep-alive", b"Connection: close"), {"keep_alive": False}),
    ("1.0", head(b"GET / HTTP/1.0"), {"minor": 0, "authority": b"", "host": b"", "keep_alive": False}),
    ("1.0 with Host", head(b"GET / HTTP/1.0", HOST), {"minor": 0, "keep_alive": False}),
    ("1.0 keep-alive", head(b"GET / HTTP/1.0", HOST, b"Connection: Keep-Alive"), {"minor": 0}),
    (
        "1.0 absolute",
        head(b"GET http://b/ HTTP/1.0"),
        {"minor": 0, "keep_alive": False, "scheme": b"http", "authority": b"b", "host": b"b"},
    ),
    (
        "1.0 keep-alive and close",
        head(b"GET / HTTP/1.0", HOST, b"Connection: keep-alive, close"),
        {"minor": 0, "keep_alive": False},
    ),
    (
        "1.0 expecting 100-continue",
        head(b"POST / HTTP/1.0", HOST, b"Content-Length: 5", b"Expect: 100-continue"),
        {"method": b"POST", "minor": 0, "keep_alive": False, "length": 5},
    ),
    (
        "expecting 100-continue",
        post(b"Content-Length: 5", b"Expect: 100-Continue"),
        {"method": b"POST", "length": 5, "expect_continue": True},
    ),
    ("expecting 100-continue for nothing", post(b"Expect: 100-continue"), {"method": b"POST"}),
    (
        "websocket",
        get(b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
        {"upgrade": b"websocket", "fields": [b"Sec-WebSocket-Version: 13"]},
    ),
    (
        "several protocols",
        get(b"Connection: upgrade", b"Upgrade: websocket , IRC/6.9", b"Upgrade: h2c, x"),
        {"upgrade": b"websocket, IRC/6.9, x"},
    ),
    ("upgrade that Connection does not name", get(b"Upgrade: websocket"), {}),
    (
        "upgrade in 1.0",
        head(b"GET / HTTP/1.0", HOST, b"Connection: upgrade", b"Upgrade: websocket"),
        {"minor": 0, "keep_alive": False},
    ),
    ("h2c", get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA"), {}),
    ("TE", get(b"Connection: TE", b"TE: gzip;q=0.5, trailers"), {"te_trailers": True}),
    ("TE without trailers", get(b"Connection: TE", b"TE: gzip"), {}),
    ("TE that Connection does not name", get(b"TE: trailers"), {}),
    (
        "hop-by-hop fields",
        get(
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"Proxy-Authorization: Basic QQ==",
            b"Proxy-Authenticate: Basic",
            b"TE: trailers",
            b"X: y",
        ),
        {"fields": [b"X: y"]},
    ),
    (
        "fields that Connection names",
        get(
            b"X-Drop: 1",
            b"Connection: x-drop, X-Also",
            b"X-Stay: 2",
            b"x-ALSO:3",
            b"X-Drop: 4",
            b"Connection: Gone",
        ),
        {"fields": [b"X-Stay: 2"]},
    ),
    (
        "framing, routing and our fields that Connection names stay",
        post(
            b"Connection: host, content-length, x-forwarded-for, via, x-request-id, x-forwarded-proto",
            b"Content-Length: 5",
            b"Via: 1.1 x",
            b"X-Forwarded-For: 192.0.2.1",
            b"X-Forwarded-Proto: https",
            b"X-Request-Id: 7",
        ),
        {
            "method": b"POST",
            "length": 5,
            "via": b"1.1 x",
            "forwarded_for": b"192.0.2.1",
            "forwarded_proto": b"https",
            "request_id": b"7",
        },
    ),
    (
        "our fields, more than once",
        get(
            b"Via: 1.0 x",
            b"X-Forwarded-For: 192.0.2.1",
            b"VIA: 1.1 y, 1.1 z",
            b"Via:",
            b"x-forwarded-for:192.0.2.2",
            b"X-Request-Id:",
            b"X-Request-Id: one",
            b"X-Forwarded-Proto: http",
        ),
        {
            "via": b"1.0 x, 1.1 y, 1.1 z",
            "forwarded_for": b"192.0.2.1, 192.0.2.2",
            "request_id": b"one",
            "forwarded_proto": b"http",
        },
    ),
    (
        "fields that only CGI would take for framing",
        post(
            b"Content-Length: 5",
            b"Content_Length: 6",
            b"Transfer_Encoding: chunked",
            b"Connection: CONTENT_LENGTH",
        ),
        {"method": b"POST", "length": 5, "stripped": 2},
    ),
    (
        "claims of identity",
        get(
            b"X-Forwarded-Client-Cert: By=spiffe://mesh/service/admin",
            b"x_forwarded_client_cert: By=spiffe://mesh/service/admin",
            b"X-Forwarded_Client-Cert: 1",
            b"X-Hostproxy-Caller: admin",
            b"X_Hostproxy_Caller: admin",
            b"X_Forwarded_For: 127.0.0.1",
            b"X_Request_Id: 1",
            b"X-Hostproxyish: stays",
        ),
        {"stripped": 7, "fields": [b"X-Hostproxyish: stays"]},
    ),
]
