"""What hostproxy itself says: one mechanism for every refusal and failure."""

from __future__ import annotations

from typing import NamedTuple

REASONS = {
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}


class Refusal(NamedTuple):
    """A response of our own."""

    status: int
    flags: str  # of telemetry.flags, for the log and the counters
    error: str  # a type of RFC 9209 (Proxy-Status), for programs
    details: str  # for the person who reads it: what, where, what to do


def reply(refusal: Refusal, request_id: bytes, close: bool, bodiless: bool) -> bytes:
    """The bytes of a refusal. It names its reason, so that nobody takes it for the service's own answer.

    ``bodiless`` leaves the body out, as in the answer to HEAD.
    """
    reason = REASONS.get(refusal.status, b"Error")
    text = refusal.details.encode("ascii", "replace")
    text = text.translate(_PRINTABLE)[:1000]
    body = b"hostproxy: %b (%b)\n" % (text, refusal.flags.encode())
    lines = [
        b"HTTP/1.1 %d %b" % (refusal.status, reason),
        b"Content-Type: text/plain; charset=us-ascii",
        b"Content-Length: %d" % len(body),
        b'Proxy-Status: hostproxy; error=%b; details="%b"'
        % (refusal.error.encode(), text.translate(_QUOTED)),
        b"X-Hostproxy-Reason: " + text,
    ]
    if request_id:
        lines.append(b"X-Request-Id: " + request_id)
    if close:
        lines.append(b"Connection: close")
    lines.append(b"\r\n" if bodiless else b"\r\n" + body)
    return b"\r\n".join(lines)


# Control characters never leave in a header field or a terminal; quotes would end the quoted string.
_PRINTABLE = bytes(byte if 32 <= byte < 127 else 63 for byte in range(256))
_QUOTED = bytes(39 if byte in b'"\\' else byte for byte in range(256))
