"""Live requests, for somebody who watches: which ones he wants, and what he gets to see of them.

Everything here is pure. What a request carries for its service alone stays hidden, by lists of what may be seen and
not of what may not: of a query the names without their values, of header fields the names, and the values of those
that are known to hold no secret.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from hostproxy.telemetry.flags import DENIED

# Clients choose the texts of a record: so much of each is shown (characters).
PATH_LIMIT = 512
TEXT_LIMIT = 256
NAME_LIMIT = 64
FIELDS = 64  # header fields of a head; more is an attack, or a test of us
PARAMETERS = 32  # of a query

HIDDEN = "*"
_CUT = "..."

# Header fields whose values are shown. None of them is a credential, a cookie, a token, a name of a person, or a URL,
# which may have any of these in its query.
# fmt: off
SHOWN = frozenset(
    (
        "accept", "accept-charset", "accept-encoding", "accept-language", "accept-ranges", "age", "allow",
        "cache-control", "content-disposition", "content-encoding", "content-language", "content-length",
        "content-range", "content-type", "date", "expires", "expect", "if-modified-since", "if-unmodified-since",
        "last-modified", "max-forwards", "pragma", "priority", "proxy-status", "range", "retry-after", "server",
        "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "vary", "via", "warning",
        "access-control-allow-credentials", "access-control-allow-headers", "access-control-allow-methods",
        "access-control-allow-origin", "access-control-expose-headers", "access-control-max-age",
        "access-control-request-headers", "access-control-request-method", "alt-svc", "strict-transport-security",
        "x-content-type-options", "x-frame-options", "grpc-accept-encoding", "grpc-encoding", "grpc-status",
        "grpc-timeout", "sec-websocket-extensions", "sec-websocket-version", "b3", "traceparent", "x-b3-flags",
        "x-b3-parentspanid", "x-b3-sampled", "x-b3-spanid", "x-b3-traceid", "x-request-id",
    )
)
# fmt: on


class Filter(msgspec.Struct, frozen=True, array_like=True):
    """What a watcher wants. Empty: whatever; several: all of them have to fit."""

    service: str = ""  # that is called
    caller: str = ""  # service that calls
    direction: str = ""  # outbound or inbound
    method: bytes = b""
    path: bytes = b""  # prefix
    lowest: int = 0  # status
    highest: int = 0  # 0: whatever
    peer: str = ""  # address at either end, with or without its port
    slower: float = 0.0  # seconds
    denied: bool = False  # by policy
    tcp: bool = False  # TCP connections only
    headers: bool = False  # show header fields

    @property
    def of_requests(self) -> bool:
        """Whether it asks for what TCP connections don't have."""
        return bool(self.method or self.path or self.highest)

    def takes(self, facts: Facts) -> bool:
        """Whether this one is wanted."""
        if self.tcp if facts.http else self.of_requests:
            return False
        return not (
            (self.service and self.service != facts.service)
            or (self.caller and self.caller != facts.caller)
            or (self.direction and self.direction != facts.direction)
            or (self.method and self.method != facts.method)
            or (self.path and not facts.target.startswith(self.path))
            or (self.highest and not self.lowest <= facts.status <= self.highest)
            or (self.denied and facts.flags != DENIED)
            or facts.seconds < self.slower
            or (self.peer and not any(map(self._is_peer, facts.ends)))
        )

    def _is_peer(self, end: str) -> bool:
        if end == self.peer:
            return True
        return end.startswith(f"[{self.peer}]:" if ":" in self.peer else f"{self.peer}:")


class Facts(NamedTuple):
    """What filters look at."""

    http: bool
    direction: str
    caller: str
    service: str
    method: bytes
    target: bytes
    status: int
    flags: str
    seconds: float
    ends: tuple[str, str]  # addresses of the client and of the endpoint


Fields = list[tuple[str, str]]


class TapRecord(msgspec.Struct, kw_only=True, gc=False):
    """One line. Where keys are those of the access log they mean the same; the order is part of the format."""

    event: str  # request: one is over; open, close: a TCP connection
    ts: str  # RFC 3339, milliseconds, UTC: now
    dir: str
    source: str
    source_identity: str
    client: str  # address that the connection came from; empty for a Unix socket
    dest: str
    route: str = ""
    subset: str = ""
    method: str = ""
    path: str = ""  # the query without values
    authority: str = ""
    status: int = 0
    flags: str
    details: str
    rule: str  # that decided, or the default (file:line)
    upstream: str
    attempts: int = 0
    bytes_in: int
    bytes_out: int
    dur_ms: float
    ttfb_ms: float = -1.0
    tls: str
    request_id: str = ""
    # Where header fields were asked for: name and value, in their order.
    request_headers: Fields | msgspec.UnsetType = msgspec.UNSET
    response_headers: Fields | msgspec.UnsetType = msgspec.UNSET


def cut(text: str, length: int = TEXT_LIMIT) -> str:
    """At most ``length`` characters of ``text``; three dots mark the cut."""
    return text if len(text) <= length else text[: length - len(_CUT)] + _CUT


def path_of(target: bytes) -> str:
    """The target of a request as it is shown: the names of its query stay, the values go."""
    path, mark, query = target.partition(b"?")
    shown = cut(path.decode("latin-1"), PATH_LIMIT)
    return f"{shown}?{redacted(query.decode('latin-1'))}" if mark else shown


def redacted(query: str) -> str:
    """A query without its values. A part without ``=`` may be all value, so it goes too."""
    parts = query.split("&", PARAMETERS)
    shown = []
    for part in parts[:PARAMETERS]:
        name, is_pair, _ = part.partition("=")
        if is_pair and name and len(name) <= NAME_LIMIT:
            shown.append(f"{name}={HIDDEN}")
        elif part:
            shown.append(HIDDEN)
    if len(parts) > PARAMETERS:
        shown.append(_CUT)
    return "&".join(shown)


def fields_of(block: bytes) -> Fields:
    """Header fields as they are shown, of ``block``, which has a CRLF behind each."""
    lines = block.split(b"\r\n", FIELDS)
    fields: Fields = []
    for line in lines[:FIELDS]:
        if not line:
            continue
        name, _, value = line.decode("latin-1").partition(":")
        known = name.lower() in SHOWN
        fields.append((cut(name, NAME_LIMIT), cut(value.strip()) if known else HIDDEN))
    if len(lines) > FIELDS and lines[FIELDS]:
        fields.append((_CUT, ""))
    return fields


def statuses(text: str) -> tuple[int, int]:
    """The lowest and the highest that "503" or "5xx" means. Raises ValueError."""
    if len(text) == 3 and text.isascii() and text[0] in "12345":
        if text[1:].lower() == "xx":
            return int(text[0]) * 100, int(text[0]) * 100 + 99
        if text.isdigit():
            return int(text), int(text)
    raise ValueError(f'{text}: is no status: write one like "503", or a class like "5xx"')

