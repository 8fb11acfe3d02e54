"""What one case of the hostile corpus says: bytes on the wire, and what a strict proxy makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

HOST = b"Host: origin.test"

# Ways to refuse a request that cannot be understood; a case with another right answer names it.
REFUSALS = frozenset({400, 414, 431, 501, 505})


class Verdict(Enum):
    """What a strict proxy does with a case."""

    FORWARD = "forward"  # legal: reaches the origin as exactly the messages stated
    REFUSE = "refuse"  # answered with an error and closed; the origin sees only the legal messages before it
    EITHER = "either"  # the RFC allows both; if forwarded, then as exactly the messages stated
    PASS = "pass"  # a response that the client must see exactly as stated, complete
    BAD_GATEWAY = "bad gateway"  # 502, or visibly cut short; never complete


@dataclass(frozen=True, slots=True)
class Message:
    """A request as the origin must receive it."""

    method: bytes = b"GET"
    target: bytes | tuple[bytes, ...] = b"/"  # several: any of them
    body: bytes = b""
    host: bytes | None = None
    trailers: tuple[tuple[bytes, bytes], ...] | None = None  # None: not looked at
    present: tuple[tuple[bytes, bytes], ...] = ()  # name in lower case, value
    absent: tuple[bytes, ...] = ()  # names in lower case, neither in the head nor in the trailers


@dataclass(frozen=True, slots=True)
class RequestCase:
    """Bytes of a client and the verdict on them."""

    name: str
    data: bytes
    verdict: Verdict
    messages: tuple[Message, ...] = ()  # legal requests that reach the origin, in order
    statuses: frozenset[int] = REFUSALS
    partial: bool = False  # the fault lies behind a head: the origin may see a request begin that never ends
    silent: bool = False  # closing without an answer is right, too
    half_close: bool = False  # the client ends its side after the last byte
    closes: bool = False  # the connection ends after the last legal message
    why: str = ""


@dataclass(frozen=True, slots=True)
class ResponseCase:
    """Bytes of an origin and what the client must see of them."""

    name: str
    data: bytes
    verdict: Verdict
    status: int = 200
    body: bytes = b""
    request: bytes = b"GET /case HTTP/1.1\r\n" + HOST + b"\r\n\r\n"
    ending: str = "keep"  # what the origin does after the last byte: keep, close, reset
    late: bytes = b""  # sent a moment after the response was complete
    trailers: tuple[tuple[bytes, bytes], ...] | None = None
    informational: tuple[int, ...] | None = None  # statuses of interim responses that must be passed on
    present: tuple[tuple[bytes, bytes], ...] = ()
    absent: tuple[bytes, ...] = ()
    forbidden: tuple[bytes, ...] = field(default=())  # bytes that must not reach the client in any way
    why: str = ""


def head(line: bytes, *fields: bytes) -> bytes:
    """A whole head from its lines."""
    return b"\r\n".join((line, *fields)) + b"\r\n\r\n"


def get(target: bytes = b"/", *fields: bytes) -> bytes:
    """A GET of ``target`` with a Host and more field lines."""
    return head(b"GET " + target + b" HTTP/1.1", HOST, *fields)


def post(*fields: bytes, body: bytes = b"", target: bytes = b"/") -> bytes:
    """A POST with these field lines and body bytes, in whatever disagreement."""
    return head(b"POST " + target + b" HTTP/1.1", HOST, *fields) + body


def forward(
    name: str,
    data: bytes,
    *messages: Message,
    closes: bool = False,
    half_close: bool = False,
    why: str = "",
) -> RequestCase:
    """A legal request or pipeline."""
    wanted = messages or (Message(),)
    return RequestCase(name, data, Verdict.FORWARD, wanted, half_close=half_close, closes=closes, why=why)


def refuse(
    name: str,
    data: bytes,
    *messages: Message,
    partial: bool = False,
    silent: bool = False,
    half_close: bool = False,
    statuses: frozenset[int] = REFUSALS,
    why: str = "",
) -> RequestCase:
    """A request that must be refused after ``messages`` have been carried."""
    return RequestCase(
        name, data, Verdict.REFUSE, messages, statuses, partial, silent, half_close, closes=True, why=why
    )


def either(
    name: str,
    data: bytes,
    *messages: Message,
    statuses: frozenset[int] = REFUSALS,
    partial: bool = False,
    closes: bool = False,
    why: str = "",
) -> RequestCase:
    """A request that may be refused, or forwarded as exactly ``messages``."""
    return RequestCase(name, data, Verdict.EITHER, messages or (Message(),), statuses, partial, closes=closes, why=why)
