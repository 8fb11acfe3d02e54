"""What is counted about Consul: plain numbers, which the metrics are read from."""

from __future__ import annotations


class Counters:
    """Counted since the start of the supervisor."""

    __slots__ = (
        "deferred_updates",
        "errors",
        "index_resets",
        "last_success",
        "refused_instances",
        "requests",
        "suppressed_empty",
    )

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], int] = {}  # (endpoint, status or kind of AgentError) -> requests
        self.errors: dict[str, int] = {}  # reason -> answers, and failed queries, of no use
        self.index_resets = 0  # times that Consul's index went backwards
        self.suppressed_empty = 0  # empty answers that were not taken at once, for a service that had instances
        self.refused_instances = 0  # instances left out for an address where none can be
        self.deferred_updates = 0  # answers that waited because changes came too fast
        self.last_success = 0.0  # Unix seconds of the last usable answer; 0.0: never

    def request(self, endpoint: str, code: str) -> None:
        """Count one request and what came of it."""
        key = (endpoint, code)
        self.requests[key] = self.requests.get(key, 0) + 1

    def error(self, reason: str) -> None:
        """Count an answer or a query that was of no use."""
        self.errors[reason] = self.errors.get(reason, 0) + 1
