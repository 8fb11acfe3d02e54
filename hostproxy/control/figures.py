"""How traffic goes since the policy in force came: what the controller compares between hosts."""

from __future__ import annotations

from collections.abc import Callable

from hostproxy.mesh.messages import Figures
from hostproxy.telemetry.families import REQUEST_BOUNDS
from hostproxy.telemetry.flags import DENIED, DOWNSTREAM_CLOSED
from hostproxy.telemetry.totals import Totals

SHARE = 0.99


class TrafficFigures:
    """Differences of what the workers have counted. Requests of both directions: policy judges either."""

    def __init__(self, totals: Totals, seconds: Callable[[], float]) -> None:
        """``seconds``: a monotonic clock."""
        self._totals = totals
        self._seconds = seconds
        self._since = seconds()
        self._before = _Counts()

    def begin(self) -> None:
        """Another policy is in force: count from here on."""
        self._since = self._seconds()
        self._before = _counted(self._totals)

    def __call__(self) -> Figures:
        """Since then."""
        now, before = _counted(self._totals), self._before
        buckets = [after - earlier for after, earlier in zip(now.buckets, before.buckets, strict=True)]
        return Figures(
            seconds=max(0.0, self._seconds() - self._since),
            requests=max(0, now.requests - before.requests),
            failures=max(0, now.failures - before.failures),
            denied=max(0, now.denied - before.denied),
            p99=_quantile(buckets),
        )


class _Counts:
    __slots__ = ("buckets", "denied", "failures", "requests")

    def __init__(self) -> None:
        self.requests = self.failures = self.denied = 0
        self.buckets = [0] * (len(REQUEST_BOUNDS) + 1)


def _counted(totals: Totals) -> _Counts:
    counts = _Counts()
    for series in totals.view().sum().requests.values():
        for (_, status, flags), count in series.codes.items():
            counts.requests += count
            if flags == DENIED:
                counts.denied += count
            elif status >= 500 or (not status and flags != DOWNSTREAM_CLOSED):
                counts.failures += count
        for index, count in enumerate(series.buckets):
            counts.buckets[index] += count
    return counts


def _quantile(buckets: list[int]) -> float:
    """The upper edge of the bucket in which the slowest hundredth begins; 0.0 without requests."""
    total = sum(buckets)
    reached = 0
    for count, edge in zip(buckets, (*REQUEST_BOUNDS, REQUEST_BOUNDS[-1] * 2), strict=True):
        reached += count
        if total and reached >= total * SHARE:
            return edge
    return 0.0
