"""A service, or a subset of one, as one caller reaches it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hostproxy.enforce.retry import MAX_ATTEMPTS
from hostproxy.exchange.replies import Refusal
from hostproxy.upstream.balance import Balancer
from hostproxy.upstream.endpoint import Endpoint

if TYPE_CHECKING:
    from hostproxy.enforce.retry import RetryPolicy
    from hostproxy.exchange.exchange import Exchange
    from hostproxy.telemetry.metrics import RequestSeries
    from hostproxy.upstream.routing import Routing


class Destination:
    """The endpoints for one caller, and what policy says of calling them."""

    __slots__ = (
        "_balancer",
        "endpoints",
        "key",
        "lacking",
        "name",
        "random",
        "retry",
        "routing",
        "secure",
        "series",
        "subset",
        "timeout",
        "unsuitable",
    )

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
        self.subset = self.key.removesuffix(name).removesuffix(".")
        self.endpoints = endpoints
        self.timeout = timeout
        self.unsuitable = ""  # why there can be no endpoint, for the caller to read
        self.lacking = "UH"  # the flag of what is refused for that
        self.series = series  # of requests that take no route
        self.retry: RetryPolicy | None = None  # of requests without a route that has its own; None: there is none
        self.routing: Routing | None = None  # None: all its requests are treated alike
        self.secure = any(endpoint.security is not None for endpoint in endpoints)  # reached over mutual TLS
        self.random = random  # gives floats in [0, 1)
        self._balancer = Balancer(balance, endpoints, random)

    def send(self, exchange: Exchange, now: float) -> None:
        """Give the request of ``exchange`` to an endpoint, or refuse it when none can take it."""
        attempts = exchange.attempts
        tried: Sequence[object] = exchange.tried
        retries = exchange.retries
        if retries is None:
            endpoint = self.choose(tried, now)
        else:
            retries.begin_try(exchange, now)
            attempts -= retries.before
            endpoint = self._choose_other(tried, retries.visited, now)
        if endpoint is None or attempts >= MAX_ATTEMPTS:
            if tried:
                text = f"no endpoint of {self.key} could be reached; the last: {exchange.details}"
                exchange.refuse(Refusal(503, "UF", "connection_refused", text))
            else:
                text = self.unsuitable or f"service {self.key} has no endpoint that may be used"
                exchange.refuse(Refusal(503, self.lacking, "destination_unavailable", text))
            return
        endpoint.in_flight += 1
        exchange.endpoint = endpoint
        exchange.upstream = endpoint.label
        exchange.attempts += 1
        # After a connection failed under a request, others that have been unused as long are no better. After one
        # could not be opened, those of the next endpoint are.
        fresh = attempts > 0 and not tried
        if retries is not None and retries.lost and endpoint in retries.visited:
            fresh = True
        connection = None if fresh else endpoint.take()
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

    def requests(self) -> int:
        """How many requests that were for this destination have ended, wherever a route led them."""
        ended = sum(self.series.codes.values())
        return ended if self.routing is None else ended + self.routing.requests()

    def _choose_other(self, tried: Sequence[object], visited: Sequence[object], now: float) -> Endpoint | None:
        """One that has not had the request, if there is any that does not rest; else any but those ``tried``."""
        endpoint = self.choose((*tried, *visited), now)
        if visited and (endpoint is None or endpoint.resting_until > now):
            return self.choose(tried, now)
        return endpoint

    def retire(self, kept: Sequence[Endpoint] = ()) -> None:
        """Let go of all endpoints but those ``kept``."""
        keep = frozenset(kept)  # there may be thousands
        for endpoint in self.endpoints:
            if endpoint not in keep:
                endpoint.retire()
