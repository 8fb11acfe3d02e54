"""What happened between two looks at the counters of a daemon: rates, shares and quantiles. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from hostproxy.cli.admin import Document

Key = tuple[str, str, str]  # direction, caller, service


class Row(NamedTuple):
    """Requests of one direction, caller and service. Rates are per second, times in seconds."""

    direction: str
    caller: str
    service: str
    requests: float
    success: float | None  # share; None: there was no request
    failed: float
    denied: float
    p50: float | None  # infinite: above the last bound of the histogram
    p95: float | None
    p99: float | None
    active: int
    received: float  # bytes
    sent: float


class TcpRow(NamedTuple):
    """TCP connections of one direction, caller and service."""

    direction: str
    caller: str
    service: str
    open: int
    opened: float
    closed: float
    received: float
    sent: float


class Rates(NamedTuple):
    """What happened, and in how many seconds."""

    seconds: float
    total: Row
    rows: list[Row]
    tcp: list[TcpRow]
    retries: float
    malformed: float


# What rows can be sorted by, the largest first.
SORTS: dict[str, Callable[[Row], float]] = {
    "requests": lambda row: row.requests,
    "errors": lambda row: row.failed,
    "denied": lambda row: row.denied,
    "latency": lambda row: row.p99 if row.p99 is not None else -1.0,
    "active": lambda row: row.active,
    "bytes": lambda row: row.received + row.sent,
}


def seconds_between(before: Document, after: Document) -> float:
    """The time that passed between what the two counted; 0: the later one has nothing new.

    Workers report once a second, each at its own time. The counts of all are of the mean of these times.
    """
    first = {one["id"]: one["reported_seconds"] for one in before["workers"]}
    second = {one["id"]: one["reported_seconds"] for one in after["workers"]}
    if first.keys() == second.keys() and first and all(first.values()):
        reported: float = sum(second.values()) - sum(first.values())
        return max(0.0, reported) / len(first)
    elapsed: float = after["now"] - before["now"]
    return max(0.0, elapsed)


def between(before: Document, after: Document) -> Rates | None:
    """What happened from ``before`` to ``after``. None: no worker has reported since, or it is another daemon."""
    if before["started"] != after["started"]:
        return None
    seconds = seconds_between(before, after)
    if seconds <= 0.0:
        return None
    bounds = after["bounds"]
    buckets = len(bounds) + 1
    earlier = _by_key(before["requests"], buckets)
    sums = {key: _less(each, earlier.get(key)) for key, each in _by_key(after["requests"], buckets).items()}
    total = _joined(sums.values(), buckets)
    tcp_before = _tcp_by_key(before["tcp"])
    tcp = [
        _tcp_row(key, each, tcp_before.get(key), seconds) for key, each in sorted(_tcp_by_key(after["tcp"]).items())
    ]
    return Rates(
        seconds,
        _row(("", "", ""), total, bounds, seconds),
        [_row(key, each, bounds, seconds) for key, each in sums.items()],
        tcp,
        (after["retries"] - before["retries"]) / seconds,
        (after["malformed"] - before["malformed"]) / seconds,
    )


def quantile(share: float, counts: Sequence[int], bounds: Sequence[float]) -> float | None:
    """Where ``share`` of the observations are below, as histogram_quantile of Prometheus has it; None without any."""
    total = sum(counts)
    if not total:
        return None
    wanted, reached, lower = share * total, 0, 0.0
    for count, upper in zip(counts, bounds, strict=False):
        if count and reached + count >= wanted:
            return lower + (upper - lower) * (wanted - reached) / count
        reached += count
        lower = upper
    return float("inf")


_SUMMED = ("requests", "failed", "denied", "in_flight", "request_bytes", "response_bytes")


def _joined(parts: Iterable[dict[str, Any]], buckets: int) -> dict[str, Any]:
    total: dict[str, Any] = {**dict.fromkeys(_SUMMED, 0), "buckets": [0] * buckets}
    for part in parts:
        for name in _SUMMED:
            total[name] += part[name]
        total["buckets"] = [a + b for a, b in zip(total["buckets"], part["buckets"] or [0] * buckets, strict=True)]
    return total


def _by_key(series: Sequence[dict[str, Any]], buckets: int) -> dict[Key, dict[str, Any]]:
    """Those of one route, or with and without mutual TLS, together."""
    parts: dict[Key, list[dict[str, Any]]] = {}
    for each in series:
        parts.setdefault((each["direction"], each["caller"], each["service"]), []).append(each)
    return {key: _joined(some, buckets) for key, some in parts.items()}


def _less(after: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    if before is None:
        return after
    less = {name: max(0, after[name] - before[name]) for name in _SUMMED if name != "in_flight"}
    buckets = [max(0, a - b) for a, b in zip(after["buckets"], before["buckets"], strict=True)]
    return {**less, "in_flight": after["in_flight"], "buckets": buckets}


def _row(key: Key, counts: dict[str, Any], bounds: Sequence[float], seconds: float) -> Row:
    requests, buckets = counts["requests"], counts["buckets"]
    direction, caller, service = key
    return Row(
        direction=direction,
        caller=caller,
        service=service,
        requests=requests / seconds,
        success=1 - counts["failed"] / requests if requests else None,
        failed=counts["failed"] / seconds,
        denied=counts["denied"] / seconds,
        p50=quantile(0.50, buckets, bounds),
        p95=quantile(0.95, buckets, bounds),
        p99=quantile(0.99, buckets, bounds),
        active=counts["in_flight"],
        received=counts["request_bytes"] / seconds,
        sent=counts["response_bytes"] / seconds,
    )


_TCP = ("open", "opened", "closed", "received_bytes", "sent_bytes")


def _tcp_by_key(series: Sequence[dict[str, Any]]) -> dict[Key, dict[str, int]]:
    sums: dict[Key, dict[str, int]] = {}
    for each in series:
        found = sums.setdefault((each["direction"], each["caller"], each["service"]), dict.fromkeys(_TCP, 0))
        for name in _TCP:
            found[name] += sum(each[name].values()) if name == "closed" else each[name]
    return sums


def _tcp_row(key: Key, after: dict[str, int], before: dict[str, int] | None, seconds: float) -> TcpRow:
    before = before or dict.fromkeys(_TCP, 0)
    opened, closed, received, sent = (max(0, after[name] - before[name]) / seconds for name in _TCP[1:])
    return TcpRow(*key, after["open"], opened, closed, received, sent)
