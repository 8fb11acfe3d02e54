"""Why there is no answer from the agent."""

from __future__ import annotations


class AgentError(Exception):
    """There is no answer of the agent. ``str()`` says what happened and what to do; it never holds the token."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        # "refused" (also an unknown host name), "timeout", "reset", "tls", "too_large", "token", "closed" (by us) or
        # "protocol": what came was not HTTP.
        self.kind = kind
