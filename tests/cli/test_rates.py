"""What happened between two looks at the counters."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hostproxy.cli.rates import SORTS, between, quantile

BOUNDS = [0.1, 0.2, 1.0]


def series(service: str = "web", requests: int = 0, buckets: list[int] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "direction": "outbound",
        "caller": "cart",
        "service": service,
        "route": "",
        "mtls": True,
        "requests": requests,
        "failed": 0,
        "denied": 0,
        "in_flight": 0,
        "buckets": buckets if buckets is not None else [requests, 0, 0, 0],
        "request_bytes": 0,
        "response_bytes": 0,
        **more,
    }


def document(reported: list[float], *requests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "started": 1.0,
        "now": 1000.0 + max(reported),
        "workers": [{"id": number, "reported_seconds": each} for number, each in enumerate(reported)],
        "bounds": BOUNDS,
        "requests": list(requests),
        "tcp": [],
        "retries": 0,
        "malformed": 0,
        **more,
    }


def test_rates_are_by_the_times_of_the_counts() -> None:
    before = document([10.0, 10.5], series(requests=100))
    after = document([12.0, 12.5], series(requests=300, failed=2, denied=4, in_flight=3, response_bytes=1000))
    found = between(before, after)
    assert found is not None
    (row,) = found.rows
    assert (found.seconds, row.requests, row.success, row.failed, row.denied) == (2.0, 100.0, 0.99, 1.0, 2.0)
    assert (row.active, row.sent) == (3, 500.0)
    assert found.total.requests == 100.0


def test_one_of_two_workers_has_reported() -> None:
    found = between(document([10.0, 10.0], series(requests=0)), document([11.0, 10.0], series(requests=50)))
    assert found is not None
    assert found.rows[0].requests == 100.0


def test_nothing_new() -> None:
    one = document([10.0], series(requests=5))
    assert between(one, one) is None


def test_another_daemon() -> None:
    assert between(document([10.0]), document([11.0], started=2.0)) is None


def test_other_workers_than_before_are_by_the_clock() -> None:
    before = document([10.0])
    after = document([5.0, 14.0], series(requests=40))
    found = between(before, after)
    assert found is not None
    assert (found.seconds, found.rows[0].requests) == (4.0, 10.0)


def test_routes_and_plain_text_are_put_together_and_new_series_count_from_nothing() -> None:
    before = document([10.0], series(requests=10))
    after = document([11.0], series(requests=10), series(requests=7, mtls=False), series("stock", 0, []))
    found = between(before, after)
    assert found is not None
    assert [(row.service, row.requests, row.success) for row in found.rows] == [("web", 7.0, 1.0), ("stock", 0.0, None)]


def test_quantiles_are_of_the_interval_alone() -> None:
    before = document([10.0], series(requests=1000, buckets=[1000, 0, 0, 0]))
    after = document([11.0], series(requests=1100, buckets=[1000, 100, 0, 0]))
    found = between(before, after)
    assert found is not None
    assert found.rows[0].p50 == pytest.approx(0.15)
    assert found.rows[0].p99 == pytest.approx(0.199)


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, [10, 0, 0, 0], 0.05),
        (0.5, [0, 0, 10, 0], 0.6),
        (1.0, [5, 5, 0, 0], 0.2),
        (0.5, [5, 5, 0, 0], 0.1),
        (0.99, [50, 0, 0, 50], math.inf),
        (0.5, [0, 0, 0, 0], None),
    ],
)
def test_quantiles(share: float, counts: list[int], expected: float | None) -> None:
    assert quantile(share, counts, BOUNDS) == (expected if expected in (None, math.inf) else pytest.approx(expected))


def test_tcp() -> None:
    one = {"direction": "inbound", "caller": "cart", "service": "db", "mtls": True, "opened": 5, "closed": {"ended": 4},
           "open": 1, "received_bytes": 100, "sent_bytes": 200}  # fmt: skip
    later = {**one, "opened": 9, "closed": {"ended": 5, "reset": 1}, "open": 3, "received_bytes": 300}
    found = between(document([10.0], tcp=[one]), document([12.0], tcp=[later], retries=3, malformed=1))
    assert found is not None
    (row,) = found.tcp
    assert (row.open, row.opened, row.closed, row.received, row.sent) == (3, 2.0, 1.0, 100.0, 0.0)
    assert (found.retries, found.malformed) == (1.5, 0.5)


def test_every_sort_puts_the_largest_first() -> None:
    busy = series("b", 9, failed=1, denied=2, in_flight=1, request_bytes=1)
    found = between(document([10.0]), document([11.0], series("a", 1, [0, 0, 0, 1]), busy))
    assert found is not None
    first = {name: max(found.rows, key=key).service for name, key in SORTS.items()}
    assert first == {"requests": "b", "errors": "b", "denied": "b", "latency": "a", "active": "b", "bytes": "b"}
