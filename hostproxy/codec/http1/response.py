"""A response's head: bytes in, one meaning out, or a refusal (RFC 9112 4, 5 and 6)."""

from __future__ import annotations

import msgspec

from hostproxy.codec.http1 import fields
from hostproxy.codec.http1.errors import ResponseError
from hostproxy.codec.http1.fields import PEER_RESPONSE_FIELDS, PLAIN_FIELD, RESPONSE_FIELDS
from hostproxy.codec.http1.head import HeadLimits, check_sizes
from hostproxy.codec.http1.request import CHUNKED
from hostproxy.codec.http1.startline import parse_status_line

UNTIL_CLOSE = -2  # ResponseHead.length: the body ends with the connection


class ResponseHead(msgspec.Struct):
    """What a response says, and what of it goes on. Never printed whole: it may hold secrets."""

    status: int
    reason: bytes  # phrase without control characters, may be empty
    minor: int  # of HTTP/1.x
    fields: bytes  # end-to-end field lines in order, each with its CRLF; Content-Length only with HEAD and 304
    length: int  # bytes of the body; -1: chunked; -2: until the server closes
    keep_alive: bool  # the server takes another request on this connection
    upgrade: bytes  # protocols named, b"" when none
    via: bytes
    no_body: bool  # 1xx, 204, 304, answers to HEAD, and 2xx to CONNECT
    stripped: int  # lines taken out that claimed an identity or looked like a field that the proxy acts on

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status}, length {self.length}>"


def parse_response(
    buffer: bytes, end: int, limits: HeadLimits, request_method: bytes, from_peer: bool = False
) -> ResponseHead:
    """Parse the head ``buffer[:end]``, where ``end`` comes from ``find_head_end``. Raises ResponseError.

    ``from_peer``: another hostproxy has sent it, which may use fields that no instance may.
    """
    lines = buffer[: end - 4].split(b"\r\n")
    status_line = lines.pop(0)
    if end > limits.header_size or end > limits.request_line or len(lines) > limits.header_count:
        check_sizes(lines, len(status_line), limits, ResponseError)
    minor, status, reason = parse_status_line(status_line)
    # RFC 9112 6.3: these end with their head, "regardless of the header fields present".
    is_tunnel = request_method == b"CONNECT" and 200 <= status < 300
    never_has_body = status < 200 or status == 204
    tells_length = request_method == b"HEAD" or status == 304
    no_body = tells_length or never_has_body or is_tunnel

    length: int | None = None
    chunked = False
    connection = stripped = 0
    upgrade = via = b""
    named: frozenset[bytes] | None = None
    passing: list[bytes] = []
    known = PEER_RESPONSE_FIELDS if from_peer else RESPONSE_FIELDS
    remembered = known.recent
    for line in lines:
        field = remembered.get(line)
        if field is None:
            field = known.meaning(line)
        if field is PLAIN_FIELD:
            passing.append(line)
            continue
        kind, value, number, names = field
        if kind == fields.LENGTH:
            if length is not None:
                raise ResponseError("duplicate-length", "more than one Content-Length field")
            length = number
            if tells_length and not never_has_body:
                passing.append(b"Content-Length: %d" % number)
        elif kind == fields.CONNECTION:
            connection |= number
            if names:
                named = names if named is None else named | names
        elif kind == fields.ENCODING:
            if chunked:
                raise ResponseError("bad-encoding", "more than one Transfer-Encoding field")
            chunked = True
        elif kind == fields.VIA:
            via = fields.joined(via, value) if via else value
        elif kind == fields.UPGRADE:
            upgrade = fields.joined(upgrade, value) if upgrade else value
        elif kind == fields.FORGED:
            stripped += 1

    if named is not None:
        passing = fields.without_named(passing, named)
    if chunked:
        _check_chunked(length, minor)
    if never_has_body and (chunked or length):
        # RFC 9110 8.6, RFC 9112 6.1: neither field may be in 1xx and 204. A naive server may send what they
        # announce, which would be read as the next response. "Content-Length: 0" is common and harmless.
        raise ResponseError("body-not-allowed", f"status {status} announces a body")
    if no_body:
        length = 0
    elif chunked:
        length = CHUNKED
    elif length is None:
        length = UNTIL_CLOSE
    return ResponseHead(
        status,
        reason,
        minor,
        fields.block_of(passing),
        length,
        length != UNTIL_CLOSE and not connection & fields.CLOSE and (minor == 1 or connection & fields.KEEP_ALIVE != 0),
        upgrade if minor and connection & fields.UPGRADE_OPTION else b"",
        via,
        no_body,
        stripped,
    )


def _check_chunked(length: int | None, minor: int) -> None:
    if length is not None:
        raise ResponseError("length-and-encoding", "both Content-Length and Transfer-Encoding")
    if not minor:
        # RFC 9112 6.1: "MUST treat the message as if the framing is faulty".
        raise ResponseError("encoding-in-1.0", "Transfer-Encoding in HTTP/1.0")
