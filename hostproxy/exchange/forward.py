"""Message heads as they are sent on: what a proxy takes away and adds (RFC 9110 section 7.6).

The codec has already taken away the fields that end here. These functions put together what remains with the fields
that describe this hop. They build HTTP/1.1; everything is joined once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hostproxy.codec.http1 import RequestHead, ResponseHead

VIA = b"hostproxy"  # RFC 9110 section 7.6.3 allows a pseudonym: host names are nobody's business outside

# RFC 9110 section 8.6: a request whose method "anticipates" content says so when it has none.
_WITH_CONTENT = frozenset((b"POST", b"PUT", b"PATCH"))

_VIA_LINES = (b"Via: 1.0 " + VIA + b"\r\n", b"Via: 1.1 " + VIA + b"\r\n")


def request(head: RequestHead, source: bytes, protocol: bytes, identity: bytes, request_id: bytes) -> bytes:
    """The head of a request, for an HTTP/1.1 server.

    ``source`` is the address of who sent it (empty for a Unix socket), ``protocol`` "http" or "https" as it was
    spoken there, ``identity`` the field line, with its CRLF, that names the verified peer, or empty.
    """
    parts = [head.method, b" ", head.target, b" HTTP/1.1\r\nHost: ", head.authority, b"\r\n", head.fields]
    length = head.length
    if length:
        if length > 0:
            parts.append(b"Content-Length: %d\r\n" % length)
        else:
            parts.append(b"Transfer-Encoding: chunked\r\n")
    elif head.method in _WITH_CONTENT:
        parts.append(b"Content-Length: 0\r\n")
    if head.expect_continue:
        parts.append(b"Expect: 100-continue\r\n")
    if head.upgrade:
        parts.append(b"Connection: Upgrade\r\nUpgrade: " + head.upgrade + b"\r\n")
    elif head.te_trailers:
        parts.append(b"Connection: TE\r\nTE: trailers\r\n")
    via = head.via
    parts.append(b"Via: %b, 1.%d %b\r\n" % (via, head.minor, VIA) if via else _VIA_LINES[head.minor])
    forwarded = head.forwarded_for
    if not forwarded:
        forwarded = source
    elif source:
        forwarded += b", " + source
    if forwarded:
        parts += (b"X-Forwarded-For: ", forwarded, b"\r\n")
    proto = head.forwarded_proto or protocol
    parts += (b"X-Forwarded-Proto: ", proto, b"\r\n", identity, b"X-Request-Id: ", request_id, b"\r\n\r\n")
    return b"".join(parts)


def response(head: ResponseHead, minor: int, keep_alive: bool, chunked: bool) -> bytes:
    """The head of a response, for a client of HTTP/1.``minor``.

    ``chunked``: the body follows in chunks, whatever its framing was. ``keep_alive``: the connection stays open.
    """
    parts = [status_line(head.status, head.reason), head.fields]
    if chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    elif head.length >= 0 and not head.no_body:
        parts.append(b"Content-Length: %d\r\n" % head.length)
    via = head.via
    parts.append(b"Via: %b, 1.%d %b\r\n" % (via, head.minor, VIA) if via else _VIA_LINES[head.minor])
    if not keep_alive:
        parts.append(b"Connection: close\r\n\r\n")
    elif minor:
        parts.append(b"\r\n")
    else:
        parts.append(b"Connection: keep-alive\r\n\r\n")
    return b"".join(parts)


@lru_cache(256)  # distinct status lines; servers use a few dozen
def status_line(status: int, reason: bytes) -> bytes:
    """A status line with its CRLF."""
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


def informational(head: ResponseHead) -> bytes:
    """A 1xx head other than 101."""
    return b"".join((status_line(head.status, head.reason), head.fields, b"\r\n"))


def switching(head: ResponseHead) -> bytes:
    """A 101 head."""
    line = status_line(101, head.reason)
    return b"".join((line, head.fields, b"Connection: Upgrade\r\nUpgrade: ", head.upgrade, b"\r\n\r\n"))
