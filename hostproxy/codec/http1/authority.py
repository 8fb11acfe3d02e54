"""``host[:port]`` as the Host field and request targets carry it (RFC 9110 4.2, 7.2; RFC 3986 3.2)."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

from hostproxy.codec.http1.errors import RequestError

LONGEST_AUTHORITY = 255 + len(":65535")  # bytes; RFC 3986 3.2.2: names "limited to 255 characters in length"
CACHED_AUTHORITIES = 1024  # distinct Host values; a mesh has fewer names than this per worker

# reg-name of RFC 3986 without the comma, which is how a careless hop joins two Host lines into one.
_AUTHORITY = re.compile(
    rb"(\[[0-9A-Fa-f:.]{2,45}\]|(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?"
).fullmatch


class Authority(NamedTuple):
    """Where a request is meant to go."""

    text: bytes  # as sent, without an empty port
    host: bytes  # lower case, no trailing dot; IPv6 literals keep their brackets
    port: int  # 0: not given


NOWHERE = Authority(b"", b"", 0)


@lru_cache(CACHED_AUTHORITIES)
def parse_authority(text: bytes) -> Authority:
    """Read an authority. Raises RequestError "bad-host".

    RFC 9110 4.2.4: userinfo "SHOULD" be treated "as an error; it is likely being used to obscure the
    authority for the sake of phishing attacks". An IPv6 zone or IPvFuture literal never crosses hosts.
    """
    match = _AUTHORITY(text)
    if match is None or len(text) > LONGEST_AUTHORITY:
        raise RequestError("bad-host", "Host or target authority is no host[:port]")
    host, digits = match.groups()
    port = int(digits) if digits else 0
    if digits and not 0 < port < 65536:
        raise RequestError("bad-host", "port of Host or target authority is not 1 to 65535")
    if host.startswith(b"["):
        try:
            ipaddress.IPv6Address(host[1:-1].decode("ascii"))
        except ValueError:
            raise RequestError("bad-host", "Host or target authority holds a malformed IPv6 address") from None
    if digits == b"":
        text = host
    host = host.lower().removesuffix(b".")
    if not host:
        raise RequestError("bad-host", "Host or target authority names no host")
    return Authority(text, host, port)
