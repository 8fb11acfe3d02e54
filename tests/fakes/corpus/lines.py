"""Request lines, versions, methods, targets and line ends (RFC 9112 sections 2 and 3)."""

from __future__ import annotations

from tests.fakes.cases import HOST, Message, either, forward, get, head, refuse

# RFC 9931 section 8: "proxy servers MUST close the underlying connection when rejecting a CONNECT request, without
# processing any further requests on that connection": what follows may be the payload of a client that did not wait.
REFUSED_METHOD = frozenset({400, 403, 405, 421, 501})
VERSION_REFUSED = frozenset({400, 426, 505})


def _line(line: bytes) -> bytes:
    return head(line, HOST)


_legal_methods = [
    b"PUT",
    b"PATCH",
    b"DELETE",
    b"OPTIONS",
    b"PROPFIND",
    b"MKCOL",
    b"REPORT",
    b"M-SEARCH",
    b"PURGE",
]
_unusual_methods = [b"FOO", b"get", b"X-CUSTOM", b"QUERY", b"BREW"]

_bad_methods = {
    "empty": b"",
    "paren": b"(GET)",
    "colon": b"GET:",
    "slash": b"GET/",
    "comma": b"GET,POST",
    "quoted": b'"GET"',
    "at": b"@GET",
    "nul": b"G\x00ET",
    "escape": b"\x1bGET",
    "high": b"G\xc9T",
    "vertical-tab": b"GET\x0b",
    "bracket": b"[GET]",
    "byte-order-mark": b"\xef\xbb\xbfGET",
    "bare-cr": b"GET\r",
}

_bad_versions = {
    "missing-minor": b"HTTP/1",
    "missing-minor-dot": b"HTTP/1.",
    "no-dot": b"HTTP/11",
    "minor-two-digits": b"HTTP/1.10",
    "minor-leading-zero": b"HTTP/1.01",
    "major-leading-zero": b"HTTP/01.1",
    "lower": b"http/1.1",
    "mixed": b"Http/1.1",
    "https": b"HTTPS/1.1",
    "plus": b"HTTP/+1.1",
    "minus": b"HTTP/-1.1",
    "comma": b"HTTP/1,1",
    "space-inside": b"HTTP/ 1.1",
    "space-before-slash": b"HTTP /1.1",
    "no-slash": b"HTTP1.1",
    "letters": b"HTTP/a.b",
    "icy": b"ICY/1.1",
    "rtsp": b"RTSP/1.0",
    "trailing-tab": b"HTTP/1.1\t",
    "trailing-letters": b"HTTP/1.1x",
    "trailing-nul": b"HTTP/1.1\x00",
    "twice": b"HTTP/1.1 HTTP/1.1",
    "fullwidth": "HTTP/１.1".encode(),
    "double-slash": b"HTTP//1.1",
    "three-parts": b"HTTP/1.1.1",
}

_other_versions = [b"HTTP/0.9", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.9", b"HTTP/0.0"]

_legal_targets = {
    "path": b"/a/b/c",
    "query": b"/a?b=c&d=e",
    "query-question-marks": b"/a?b?c",
    "query-empty": b"/?",
    "query-slashes": b"/a?b=/../c",
    "double-slash": b"//a//b",
    "dots": b"/a/../b/./c",
    "parameters": b"/a;b=c/d;e",
    "percent": b"/%41%2f%2F%20",
    "percent-dots": b"/%2e%2e/%2E",
    "percent-nul": b"/%00",
    "percent-line-end": b"/a%0d%0aX:%20y",
    "sub-delims": b"/!$&'()*+,;=:@-._~",
    "absolute-in-path": b"/http://evil.test/",
    "query-absolute": b"/?u=http://evil.test/#".replace(b"#", b""),
    "long": b"/" + b"a" * 2000,
}

_bad_targets = {
    "empty": b"",
    "no-slash": b"a/b",
    "no-slash-host": b"origin.test/x",
    "backslash": b"\\a",
    "asterisk-with-get": b"*",
    "authority-with-get": b"origin.test:80",
    "query-only": b"?a=b",
    "fragment": b"/a#b",
    "space": b"/a b",
    "tab": b"/a\tb",
    "nul": b"/a\x00b",
    "delete": b"/a\x7fb",
    "escape": b"/a\x1bb",
    "bare-cr": b"/a\rb",
    "vertical-tab": b"/a\x0bb",
    "form-feed": b"/a\x0cb",
    "userinfo": b"http://user:secret@origin.test/",
    "host-empty": b"http:///x",
    "host-empty-port": b"http://:80/x",
    "port-letters": b"http://origin.test:http/x",
    "port-too-large": b"http://origin.test:99999/x",
    "port-negative": b"http://origin.test:-80/x",
    "bracket-open": b"http://[::1/x",
    "host-space": b"http://origin .test/x",
    "host-nul": b"http://origin\x00.test/x",
    "host-comma-host": b"http://origin.test,evil.test:80:80/x",
    "absolute-fragment": b"http://origin.test/x#y",
    "one-slash": b"http:/origin.test/x",
    "no-slashes": b"http:origin.test",
    "ftp": b"ftp://origin.test/x",
    "javascript": b"javascript:alert(1)",
    "file": b"file:///etc/passwd",
}

_loose_targets = {
    "percent-bare": b"/%",
    "percent-not-hex": b"/%zz",
    "percent-one-digit": b"/%4",
    "high-bytes": "/é".encode(),
    "latin1": b"/\xff",
    "angle": b"/<a>",
    "quote": b'/"a"',
    "curly": b"/{a}",
    "pipe": b"/a|b",
    "caret": b"/a^b",
    "backtick": b"/a`b",
    "square": b"/a[b]",
    "backslash": b"/a\\b",
}

REQUESTS = [
    *(forward(f"method-{m.decode().lower()}", _line(m + b" /m HTTP/1.1"), Message(m, b"/m")) for m in _legal_methods),
    *(
        forward(f"method-unusual-{m.decode()}", _line(m + b" /m HTTP/1.1"), Message(m, b"/m"), why="RFC 9110 9.1")
        for m in _unusual_methods
    ),
    forward("method-head", _line(b"HEAD /m HTTP/1.1"), Message(b"HEAD", b"/m")),
    either("method-symbols", _line(b"!#$%&'*+ / HTTP/1.1"), Message(b"!#$%&'*+")),
    either("method-32-letters", _line(b"A" * 32 + b" / HTTP/1.1"), Message(b"A" * 32)),
    either("method-1000-letters", _line(b"A" * 1000 + b" / HTTP/1.1"), Message(b"A" * 1000)),
    either("method-trace", _line(b"TRACE / HTTP/1.1"), Message(b"TRACE"), statuses=REFUSED_METHOD),
    refuse(
        "method-connect",
        head(b"CONNECT origin.test:443 HTTP/1.1", b"Host: origin.test:443"),
        statuses=REFUSED_METHOD,
    ),
    refuse(
        "method-connect-data-behind",
        head(b"CONNECT origin.test:443 HTTP/1.1", b"Host: origin.test:443") + get(b"/smuggled"),
        statuses=REFUSED_METHOD,
    ),
    refuse("method-connect-path", _line(b"CONNECT /x HTTP/1.1"), statuses=REFUSED_METHOD),
    refuse("method-connect-absolute", _line(b"CONNECT http://origin.test/ HTTP/1.1"), statuses=REFUSED_METHOD),
    refuse("method-connect-no-port", _line(b"CONNECT origin.test HTTP/1.1"), statuses=REFUSED_METHOD),
    refuse(
        "method-connect-loopback",
        head(b"CONNECT 127.0.0.1:22 HTTP/1.1", b"Host: 127.0.0.1:22"),
        statuses=REFUSED_METHOD,
    ),
    *(refuse(f"method-bad-{n}", _line(v + b" / HTTP/1.1")) for n, v in _bad_methods.items()),
    # versions
    forward("version-10", _line(b"GET /v HTTP/1.0"), Message(target=b"/v"), closes=True),
    forward("version-10-no-host", head(b"GET /v HTTP/1.0"), Message(target=b"/v"), closes=True, why="RFC 9112 3.2"),
    forward(
        "version-10-keep-alive",
        head(b"GET /v HTTP/1.0", HOST, b"Connection: keep-alive"),
        Message(target=b"/v"),
    ),
    forward(
        "version-10-post",
        head(b"POST /v HTTP/1.0", HOST, b"Content-Length: 5") + b"hello",
        Message(b"POST", b"/v", b"hello"),
        closes=True,
    ),
    either(
        "version-12",
        _line(b"GET /v HTTP/1.2"),
        Message(target=b"/v"),
        statuses=VERSION_REFUSED,
        why="RFC 9110 2.5",
    ),
    *(refuse(f"version-{v[5:].decode()}", _line(b"GET / " + v), statuses=VERSION_REFUSED) for v in _other_versions),
    *(refuse(f"version-bad-{n}", _line(b"GET / " + v), statuses=VERSION_REFUSED) for n, v in _bad_versions.items()),
    refuse("version-missing", _line(b"GET /")),
    refuse("version-missing-space", _line(b"GET / ")),
    # targets
    *(forward(f"target-{n}", get(v), Message(target=v)) for n, v in _legal_targets.items()),
    *(refuse(f"target-bad-{n}", get(v)) for n, v in _bad_targets.items()),
    *(either(f"target-loose-{n}", get(v), Message(target=v)) for n, v in _loose_targets.items()),
    forward("target-asterisk", _line(b"OPTIONS * HTTP/1.1"), Message(b"OPTIONS", b"*")),
    forward("target-absolute", get(b"http://origin.test/x"), Message(target=b"/x", host=b"origin.test")),
    forward("target-absolute-query", get(b"http://origin.test/x?y=z"), Message(target=b"/x?y=z")),
    forward("target-absolute-no-path", get(b"http://origin.test"), Message(target=b"/")),
    forward("target-absolute-only-query", get(b"http://origin.test?a=b"), Message(target=b"/?a=b")),
    forward("target-absolute-scheme-case", get(b"HTTP://origin.test/x"), Message(target=b"/x")),
    forward(
        "target-absolute-host-case",
        head(b"GET http://ORIGIN.test/x HTTP/1.1", b"Host: ORIGIN.test"),
        Message(target=b"/x"),
    ),
    forward(
        "target-absolute-port",
        head(b"GET http://origin.test:8080/x HTTP/1.1", b"Host: origin.test:8080"),
        Message(target=b"/x", host=b"origin.test:8080"),
    ),
    forward(
        "target-absolute-ipv6",
        head(b"GET http://[::1]:80/x HTTP/1.1", b"Host: [::1]:80"),
        Message(target=b"/x"),
    ),
    forward(
        "target-absolute-options",
        _line(b"OPTIONS http://origin.test HTTP/1.1"),
        Message(b"OPTIONS", (b"*", b"/")),
        why="RFC 9112 3.2.4",
    ),
    forward("target-absolute-post", _line(b"POST http://origin.test/x HTTP/1.1"), Message(b"POST", b"/x")),
    either(
        "target-absolute-https",
        get(b"https://origin.test/x"),
        Message(target=b"/x"),
        statuses=frozenset({400, 403, 421, 501}),
    ),
    refuse("target-asterisk-post", _line(b"POST * HTTP/1.1")),
    refuse("target-asterisk-more", _line(b"OPTIONS *x HTTP/1.1")),
    # spaces and line ends
    refuse("line-double-space", _line(b"GET  / HTTP/1.1")),
    refuse("line-double-space-version", _line(b"GET /  HTTP/1.1")),
    refuse("line-tab", _line(b"GET\t/\tHTTP/1.1")),
    refuse("line-tab-mixed", _line(b"GET /\tHTTP/1.1")),
    refuse("line-leading-space", _line(b" GET / HTTP/1.1")),
    refuse("line-leading-tab", _line(b"\tGET / HTTP/1.1")),
    either("line-trailing-space", _line(b"GET / HTTP/1.1 "), why="RFC 9112 3: may parse on whitespace"),
    refuse("line-extra-word", _line(b"GET / x HTTP/1.1")),
    refuse("line-vertical-tab", _line(b"GET\x0b/\x0bHTTP/1.1")),
    refuse("line-form-feed", _line(b"GET\x0c/\x0cHTTP/1.1")),
    refuse("line-nbsp", _line(b"GET\xa0/\xa0HTTP/1.1")),
    refuse("line-bare-cr-end", b"GET / HTTP/1.1\rHost: origin.test\r\n\r\n"),
    refuse("line-cr-cr-lf", b"GET / HTTP/1.1\r\r\nHost: origin.test\r\n\r\n"),
    refuse("line-only-version", _line(b"HTTP/1.1")),
    refuse("line-only-method", _line(b"GET")),
    refuse("line-response", b"HTTP/1.1 200 OK\r\nHost: origin.test\r\nContent-Length: 0\r\n\r\n"),
    either("line-bare-lf", b"GET / HTTP/1.1\nHost: origin.test\r\n\r\n", why="RFC 9112 2.2"),
    either("lines-all-bare-lf", b"GET / HTTP/1.1\nHost: origin.test\n\n", why="RFC 9112 2.2"),
    either("empty-line-bare-lf", b"GET / HTTP/1.1\r\nHost: origin.test\r\n\n", why="RFC 9112 2.2"),
    refuse("empty-line-cr-cr-lf", b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\r\n"),
    refuse("lines-bare-cr", b"GET / HTTP/1.1\rHost: origin.test\r\r", silent=True, half_close=True),
    refuse("lines-lf-cr", b"GET / HTTP/1.1\n\rHost: origin.test\n\r\n\r", silent=True, half_close=True),
    forward("empty-line-before", b"\r\n" + get(b"/e"), Message(target=b"/e"), why="RFC 9112 2.2"),
    either("empty-lines-before-two", b"\r\n\r\n" + get(b"/e"), Message(target=b"/e")),
    either("empty-line-before-lf", b"\n" + get(b"/e"), Message(target=b"/e")),
    refuse("empty-line-before-cr", b"\r" + get(b"/e")),
    either("empty-lines-before-thousands", b"\r\n" * 40_000 + get(b"/e"), Message(target=b"/e")),
    refuse("line-end-escaped", b"GET / HTTP/1.1\\r\\nHost: origin.test\r\n\r\n"),
]
