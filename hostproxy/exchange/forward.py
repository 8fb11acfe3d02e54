"""Message heads as they are sent on: what a proxy takes away and adds (RFC 9110 section 7.6).

The codec has already taken away the fields that end here. These functions put together what remains with the fields
that describe this hop. They build HTTP/1.1; lines are joined once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hostproxy.codec.http1 import CHUNKED

if TYPE_CHECKING:
    from hostproxy.codec.http1 import RequestHead, ResponseHead

VIA = b"hostproxy"  # RFC 9110 section 7.6.3 allows a pseudonym: host names are nobody's business outside

# RFC 9110 section 8.6: a request whose method "anticipates" content says so when it has none.
_WITH_CONTENT = frozenset((b"POST", b"PUT", b"PATCH"))

_VIA_LINES = (b"Via: 1.0 " + VIA, b"Via: 1.1 " + VIA)


def request(head: RequestHead, source: bytes, protocol: bytes, identity: bytes, request_id: bytes) -> bytes:
    """The head of a request, for an HTTP/1.1 server.

    ``source`` is the address of who sent it (empty for a Unix socket), ``protocol`` "http" or "https" as it was
    spoken there, ``identity`` the field line that names the verified peer, or empty.
    """
    lines = [head.method + b" " + head.target + b" HTTP/1.1", b"Host: " + head.authority]
    lines += head.fields
    length = head.length
    if length > 0:
        lines.append(b"Content-Length: %d" % length)
    elif length == CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    elif head.method in _WITH_CONTENT:
        lines.append(b"Content-Length: 0")
    if head.expect_continue:
        lines.append(b"Expect: 100-continue")
    if head.upgrade:
        lines.append(b"Connection: Upgrade\r\nUpgrade: " + head.upgrade)
    elif head.te_trailers:
        lines.append(b"Connection: TE\r\nTE: trailers")
    via = head.via
    lines.append(b"Via: " + via + b", 1.%d " % head.minor + VIA if via else _VIA_LINES[head.minor])
    forwarded = head.forwarded_for
    if forwarded:
        lines.append(
            b"X-Forwarded-For: " + forwarded + b", " + source if source else b"X-Forwarded-For: " + forwarded
        )
    elif source:
        lines.append(b"X-Forwarded-For: " + source)
    lines.append(b"X-Forwarded-Proto: " + (head.forwarded_proto or protocol))
    if identity:
        lines.append(identity)
    lines.append(b"X-Request-Id: " + request_id + b"\r\n\r\n")
    return b"\r\n".join(lines)


def response(head: ResponseHead, minor: int, keep_alive: bool, chunked: bool) -> bytes:
    """The head of a response, for a client of HTTP/1.``minor``.

    ``chunked``: the body follows in chunks, whatever its framing was. ``keep_alive``: the connection stays open.
    """
    reason = head.reason
    lines = [b"HTTP/1.1 %d " % head.status + reason]
    lines += head.fields
    length = head.length
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
    elif length >= 0 and not head.no_body:
        lines.append(b"Content-Length: %d" % length)
    via = head.via
    lines.append(b"Via: " + via + b", 1.%d " % head.minor + VIA if via else _VIA_LINES[head.minor])
    if not keep_alive:
        lines.append(b"Connection: close\r\n\r\n")
    elif minor:
        lines.append(b"\r\n")
    else:
        lines.append(b"Connection: keep-alive\r\n\r\n")
    return b"\r\n".join(lines)


def informational(head: ResponseHead) -> bytes:
    """A 1xx head other than 101."""
    return b"\r\n".join((b"HTTP/1.1 %d " % head.status + head.reason, *head.fields, b"\r\n"))


def switching(head: ResponseHead) -> bytes:
    """A 101 head."""
    lines: Sequence[bytes] = (
        b"HTTP/1.1 101 " + head.reason,
        *head.fields,
        b"Connection: Upgrade\r\nUpgrade: " + head.upgrade,
        b"\r\n",
    )
    return b"\r\n".join(lines)
