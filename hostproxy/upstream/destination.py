"""A service, or a subset of one, as one caller reaches it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hostproxy.enforce.retry import MAX_ATTEMPTS
from hostproxy.exchange.replies import Refusal
from hostproxy.upstream.balance import Balancer
from hostproxy.upstream.endpoint import Endpoint

if TYPE_CHECKING:
    from hostproxy.exchange.exchange import Exchange
    from hostproxy.telemetry.metrics import RequestSeries


class Destination:
    """The endpoints for one caller, and what policy says of calling them."""

    __slots__ = ("_balancer", "endpoints", "key", "lacking", "name", "secure", "series", "timeout", "unsuitable")

    def __init__(
        self,
        name: str,
        endpoints: Sequence[Endpoint],
        balance: str,
        timeout: float,
        series: RequestSeries,
        random: Callable[[], float],
        key: str = "",
    ) -> None:
        """``timeout``: seconds of a whole call, 0 for none. ``key``: how it is asked for, unless by its name."""
        self.name = name  # of the service
        self.key = key or name  # "v2.payments" for a subset
        self.endpoints = endpoints
        self.timeout = timeout
        self.unsuitable = ""  # why there can be no endpoint, for the caller to read
        self.lacking = "UH"  # the flag of what is refused for that
        self.series = series
        self.secure = any(endpoint.security is not None for endpoint in endpoints)  # reached over mutual TLS
        self._balancer = Balancer(balance, endpoints, random)

    def send(self, exchange: Exchange, now: float) -> None:
        """Give the request of ``exchange`` to an endpoint, or refuse it when none can take it."""
        endpoint = self.choose(exchange.tried, now)
        if endpoint is None or exchange.attempts >= MAX_ATTEMPTS:
            if exchange.tried:
                text = f"no endpoint of {self.key} could be reached; the last: {exchange.details}"
                exchange.refuse(Refusal(503, "UF", "connection_refused", text))
            else:
                text = self.unsuitable or f"service {self.key} has no endpoint that may be used"
                exchange.refuse(Refusal(503, self.lacking, "destination_unavailable", text))
            return
        endpoint.in_flight += 1
        exchange.endpoint = endpoint
        exchange.upstream = endpoint.label
        attempts = exchange.attempts
        exchange.attempts = attempts + 1
        # After a connection failed under a request, others that have been unused as long are no better. After one
        # could not be opened, those of the next endpoint are.
        connection = endpoint.take() if not attempts or exchange.tried else None
        if connection is not None:
            connection.start(exchange)
        elif endpoint.full:
            text = f"{endpoint.label} has [limits] upstream_connections open already"
            exchange.refuse(Refusal(503, "UO", "connection_limit_reached", text))
        else:
            exchange.waiting = endpoint.connect(exchange)

    def choose(self, tried: Sequence[object], now: float) -> Endpoint | None:
        """The endpoint for the next request or tunnel; ``None`` when there is no (other) one."""
        endpoints = self.endpoints
        if not endpoints:
            return None
        endpoint = self._balancer.pick()
        if tried or endpoint.resting_until > now:
            return self._balancer.choose(tried, now)  # type: ignore[return-value]
        return endpoint  # type: ignore[return-value]

    def retire(self, kept: Sequence[Endpoint] = ()) -> None:
        """Let go of all endpoints but those ``kept``."""
        keep = frozenset(kept)  # there may be thousands
        for endpoint in self.endpoints:
            if endpoint not in keep:
                endpoint.retire()
