"""Who may ask: a program on this host, not a web page that a browser on this host happens to show.

A page of a foreign site can make the browser ask 127.0.0.1, under a name of its own that it points there
("DNS rebinding") or across origins. The first gives itself away by Host, the second by Origin.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))
METHODS = (b"GET", b"HEAD")

# The port says nothing: whoever asks through an SSH tunnel has another one.
_HOST = re.compile(rb"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


class Refusal(NamedTuple):
    """Why a request is not answered."""

    status: int
    reason: str


def judge(
    method: bytes,
    hosts: Sequence[bytes],
    origins: Sequence[bytes],
    bound: str,
    methods: Sequence[bytes] = METHODS,
) -> Refusal | None:
    """Judge by method, Host and Origin. ``bound`` is the IP listened on, in lower case; "" for none.

    ``methods`` are those of the path. Where they change something, a web page gives itself away too: browsers send
    Origin with every POST. Who may change it is the business of :mod:`hostproxy.admin.access`.
    """
    if len(hosts) != 1:
        return Refusal(400, "exactly one Host field is needed")
    match = _HOST.fullmatch(hosts[0])
    name = match[1].decode("ascii").lower() if match else ""
    if name not in LOOPBACK_NAMES and (not bound or name != bound):
        return Refusal(403, "the Host field does not name this host: use localhost, 127.0.0.1 or [::1]")
    if origins:
        return Refusal(403, "requests from web pages are not answered (Origin)")
    if method not in methods:
        known = b", ".join(methods).decode()
        return Refusal(405, f"only {known}: nothing {'else ' if b'POST' in methods else ''}can be changed here")
    return None
