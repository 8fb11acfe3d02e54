"""The routes of a service, as the requests of one caller take them: to which destination, and how.

Destinations are named by their keys and looked up for each request, as those of subsets come and go by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hostproxy.enforce.retry import RetryPolicy
from hostproxy.route.split import Split
from hostproxy.route.table import NONE, RouteTable

if TYPE_CHECKING:
    from hostproxy.mesh.routes import Route
    from hostproxy.snapshot import Service
    from hostproxy.telemetry.metrics import RequestSeries, WorkerMetrics


class Way:
    """Where a share of a route's requests goes, and how."""

    __slots__ = ("_series", "_series_of", "key", "retry", "route", "timeout")

    def __init__(
        self,
        route: str,
        key: str,
        timeout: float | None,
        retry: RetryPolicy | None,
        series_of: Callable[[bool], RequestSeries],
    ) -> None:
        """``series_of(secure)`` makes the series, with and without mutual TLS."""
        self.route = route  # as logs name it
        self.key = key  # of the destination
        self.timeout = timeout  # seconds of a whole call, 0 for none; None: the destination's
        self.retry = retry  # None: the destination's
        self._series: dict[bool, RequestSeries] = {}
        self._series_of = series_of

    def series(self, secure: bool) -> RequestSeries:
        """Where requests are counted that are sent with mutual TLS, or in plain text. Made when first used."""
        series = self._series.get(secure)
        if series is None:
            series = self._series[secure] = self._series_of(secure)
        return series

    def requests(self) -> int:
        """How many have ended."""
        return sum(sum(series.codes.values()) for series in self._series.values())


class Routing:
    """All routes of a service, for one caller."""

    __slots__ = ("_random", "_table", "_ways", "source")

    def __init__(
        self, service: Service, caller: str, metrics: WorkerMetrics, random: Callable[[], float]
    ) -> None:
        """``random`` gives numbers from 0 up to 1, and decides on shares."""
        self.source = service.routes
        self._table = RouteTable(service.routes)
        self._random = random
        self._ways = [_ways(route, service.name, caller, metrics) for route in service.routes]

    def find(self, method: bytes, target: bytes, fields: bytes) -> Way | None:
        """The way of a request; ``None``: no route matches."""
        index = self._table.find(method, target, fields)
        if index == NONE:
            return None
        split, ways = self._ways[index]
        return ways[0] if split is None else ways[split.pick(self._random())]

    def requests(self) -> int:
        """How many requests that took one of the routes have ended."""
        return sum(way.requests() for _, ways in self._ways for way in ways)


def _ways(
    route: Route, service: str, caller: str, metrics: WorkerMetrics
) -> tuple[Split | None, tuple[Way, ...]]:
    """The ways of one route, and what divides its requests among them; None: there is one only."""
    retry = RetryPolicy(route.retry) if route.retry is not None else None

    def way(subset: str) -> Way:
        def series_of(secure: bool) -> RequestSeries:
            # Not by its source: that becomes another one's with every edit above it.
            return metrics.requests("outbound", caller, service, route.name, secure, subset)

        key = f"{subset}.{service}" if subset else service
        return Way(route.name or route.source, key, route.timeout, retry, series_of)

    if not route.split:
        return None, (way(""),)
    ways = tuple(way(share.subset) for share in route.split)
    return Split(route.split) if len(ways) > 1 else None, ways
