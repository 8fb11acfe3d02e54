"""Whether a request may be sent a second time. Pure decisions."""

from __future__ import annotations

# RFC 9110 section 9.2.2: methods whose repetition has the intended effect of one request.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))

# How many endpoints are asked for a connection before giving up: the first and three more. HAProxy retries 3.
MAX_ATTEMPTS = 4


def may_repeat(method: bytes, reused: bool, replayable: bool, unsent: bool, attempts: int) -> bool:
    """May a request be repeated whose connection ended before any byte of a response?

    RFC 9112 section 9.3.1 allows it for an idempotent method when "the underlying transport connection closed
    prematurely". Only on a connection that had served others (``reused``) is that the ordinary race with the
    server's keep-alive timeout; on a fresh one the request itself may be what breaks the server. ``replayable``
    says that the whole body, if any, is still here, ``unsent`` that nothing of the request has left this process: then
    repeating is no repetition.
    """
    if not replayable or attempts >= MAX_ATTEMPTS:
        return False
    return unsent or (reused and method in IDEMPOTENT)
