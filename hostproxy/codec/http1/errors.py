"""What a peer can do wrong, told apart by side.

``reason`` is one fixed word, safe as a counter label; ``detail`` is one sentence for the log. Neither ever
holds a field value or a query, which may be secret.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """A peer sent what must not be passed on: answer with ``status`` where possible, then close."""

    def __init__(self, reason: str, detail: str, status: int = 400) -> None:
        super().__init__(reason, detail, status)
        self.reason = reason
        self.detail = detail
        self.status = status

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class RequestError(ProtocolError):
    """A client's fault. ``status`` is one of 400, 414, 417, 431, 501, 505."""


class ResponseError(ProtocolError):
    """A server's fault; whatever it was, the client is told 502 (RFC 9110 15.6.3)."""

    def __init__(self, reason: str, detail: str, status: int = 502) -> None:
        super().__init__(reason, detail, 502)
