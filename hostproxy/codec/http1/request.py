"""A request's head: bytes in, one meaning out, or a refusal (RFC 9112 3, 5 and 6)."""

from __future__ import annotations

import msgspec

from hostproxy.codec.http1 import fields
from hostproxy.codec.http1.authority import NOWHERE, parse_authority
from hostproxy.codec.http1.errors import RequestError
from hostproxy.codec.http1.fields import PLAIN_FIELD, REQUEST_FIELDS
from hostproxy.codec.http1.head import HeadLimits, check_sizes
from hostproxy.codec.http1.startline import parse_request_line

CHUNKED = -1  # RequestHead.length, ResponseHead.length: the body is chunked


class RequestHead(msgspec.Struct):
    """What a request asks for, and what of it goes on. Never printed whole: it may hold secrets."""

    method: bytes
    target: bytes  # for upstream: path and query; "*" for OPTIONS; host:port for CONNECT
    authority: bytes  # effective host[:port] as sent; b"" when none was given
    host: bytes  # lower case, no port, no trailing dot; IPv6 literals in brackets
    port: int  # 0: not given
    scheme: bytes  # b"http" or b"https" of an absolute target, else b""
    minor: int  # of HTTP/1.x
    fields: bytes  # end-to-end field lines in order, each with its CRLF
    length: int  # bytes of the body; -1: chunked
    keep_alive: bool
    expect_continue: bool  # the client waits for 100 before it sends its body
    upgrade: bytes  # protocols asked for, b"" when none
    te_trailers: bool  # the client takes trailers
    via: bytes
    forwarded_for: bytes
    forwarded_proto: bytes
    request_id: bytes
    stripped: int  # lines taken out that claimed an identity or looked like a field that the proxy acts on

    def __repr__(self) -> str:
        return f"<RequestHead {self.method!r} to {self.authority!r}, length {self.length}>"


def parse_request(buffer: bytes, end: int, limits: HeadLimits) -> RequestHead:
    """Parse the head ``buffer[:end]``, where ``end`` comes from ``find_head_end``. Raises RequestError."""
    lines = buffer[: end - 4].split(b"\r\n")
    request_line = lines.pop(0)
    if not request_line and lines:
        request_line = lines.pop(0)
    if end > limits.header_size or end > limits.request_line or len(lines) > limits.header_count:
        check_sizes(lines, len(request_line), limits, RequestError)
    method, target, minor, scheme, authority = parse_request_line(request_line)

    host: bytes | None = None
    length: int | None = None
    chunked = expect_continue = te_trailers = False
    connection = stripped = 0
    upgrade = via = forwarded_for = forwarded_proto = request_id = b""
    named: frozenset[bytes] | None = None
    passing: list[bytes] = []
    remembered = REQUEST_FIELDS.recent
    for line in lines:
        field = remembered.get(line)
        if field is None:
            field = REQUEST_FIELDS.meaning(line)
        if field is PLAIN_FIELD:
            passing.append(line)
            continue
        kind, value, number, names = field
        if kind == fields.HOST:
            if host is not None:
                raise RequestError("duplicate-host", "more than one Host field")
            host = value
        elif kind == fields.CONNECTION:
            connection |= number
            if names:
                named = names if named is None else named | names
        elif kind == fields.LENGTH:
            if length is not None:
                raise RequestError("duplicate-length", "more than one Content-Length field")
            length = number
        elif kind == fields.REQUEST_ID:
            request_id = fields.joined(request_id, value) if request_id else value
        elif kind == fields.FORWARDED_FOR:
            forwarded_for = fields.joined(forwarded_for, value) if forwarded_for else value
        elif kind == fields.FORWARDED_PROTO:
            forwarded_proto = fields.joined(forwarded_proto, value) if forwarded_proto else value
        elif kind == fields.VIA:
            via = fields.joined(via, value) if via else value
        elif kind == fields.ENCODING:
            if chunked:
                raise RequestError("bad-encoding", "more than one Transfer-Encoding field")
            chunked = True
        elif kind == fields.UPGRADE:
            upgrade = fields.joined(upgrade, value) if upgrade else value
        elif kind == fields.EXPECT:
            expect_continue = True
        elif kind == fields.TE:
            te_trailers = te_trailers or number == 1
        elif kind == fields.FORGED:
            stripped += 1

    if named is not None:
        passing = fields.without_named(passing, named)
    if chunked:
        _check_chunked(length, minor)
        length = CHUNKED
    elif length is None:
        length = 0
    if authority is None:
        # RFC 9110 7.2: an empty Host says that the target has no authority.
        authority = parse_authority(host) if host else NOWHERE
    if host is None and minor:
        raise RequestError("missing-host", "HTTP/1.1 request without Host")
    if method == b"CONNECT" and length:
        # RFC 9110 9.3.6: "A CONNECT request message does not have content".
        raise RequestError("body-not-allowed", "CONNECT with a body")
    return RequestHead(
        method,
        target,
        authority.text,
        authority.host,
        authority.port,
        scheme,
        minor,
        fields.block_of(passing),
        length,
        not connection & fields.CLOSE and (minor == 1 or connection & fields.KEEP_ALIVE != 0),
        # RFC 9110 10.1.1: ignored in HTTP/1.0, and there is nothing to wait for without content.
        expect_continue and minor == 1 and length != 0,
        upgrade if minor and connection & fields.UPGRADE_OPTION else b"",
        te_trailers and connection & fields.TE_OPTION != 0,
        via,
        forwarded_for,
        forwarded_proto,
        request_id,
        stripped,
    )


def _check_chunked(length: int | None, minor: int) -> None:
    if length is not None:
        # RFC 9112 6.3: "ought to be handled as an error", as an attempt to smuggle.
        raise RequestError("length-and-encoding", "both Content-Length and Transfer-Encoding")
    if not minor:
        # RFC 9112 6.1: "MUST treat the message as if the framing is faulty".
        raise RequestError("encoding-in-1.0", "Transfer-Encoding in HTTP/1.0")
