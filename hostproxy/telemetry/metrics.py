"""Counting in a worker: plain slots, because a label look-up per request would cost more than the routing.

The data path keeps the series it needs (a look-up per route, not per request) and calls ``record`` once per
request. Label values are bounded: a full family counts under ``__overflow__`` and says so in
``metrics_overflow_total``. What is exported is cumulative since the worker's start.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import msgspec

from hostproxy.telemetry.export import Labels, RequestKey, TcpKey
from hostproxy.telemetry.families import EVENTS, LEVELS, REQUEST_BOUNDS, TCP_BOUNDS

OVERFLOW = "__overflow__"
OTHER_METHOD = b"OTHER"
METHODS = frozenset(  # RFC 9110 section 9.3 and RFC 5789; all others are counted as OTHER
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH")
)

# A series of requests is about 45 lines of exposition, so this is 45,000 lines and 0.4 s of rendering per
# scrape; enough for 20 local services that call 50 each.
SERIES_LIMIT = 1000
# Distinct (method, code, flags) of one series: ten ordinary codes times nine methods, and room for flags.
CODES_LIMIT = 128
# Label sets of one rare event, and reasons of one TCP series; rules and destinations are the widest.
EVENT_LIMIT = 1000
REASON_LIMIT = 32

_encode = msgspec.msgpack.Encoder().encode


class RequestSeries:
    """HTTP requests of one :class:`hostproxy.telemetry.export.RequestKey`."""

    __slots__ = (
        "buckets",
        "codes",
        "first_byte_buckets",
        "first_byte_seconds",
        "in_flight",
        "request_bytes",
        "response_bytes",
        "seconds",
    )

    def __init__(self) -> None:
        self.in_flight = 0  # the data path adds one at a request's head and takes it away at its end
        self.request_bytes = 0
        self.response_bytes = 0
        self.codes: dict[tuple[bytes, int, str], int] = {}
        self.buckets = [0] * (len(REQUEST_BOUNDS) + 1)
        self.seconds = 0.0
        self.first_byte_buckets = [0] * (len(REQUEST_BOUNDS) + 1)
        self.first_byte_seconds = 0.0

    def record(
        self,
        method: bytes,
        code: int,
        flags: str,
        seconds: float,
        first_byte: float,
        received: int,
        sent: int,
    ) -> None:
        """Count one request that ended.

        ``code`` is 0 when the client got no answer; ``flags`` is "-" unless hostproxy interfered (see
        :mod:`hostproxy.telemetry.flags`); ``seconds`` is the whole time, ``first_byte`` the time to the
        answer's first byte, negative when there was none; ``received`` and ``sent`` are bytes.
        """
        try:
            self.codes[method, code, flags] += 1
        except KeyError:
            self._count_rare(method, code, flags)
        self.buckets[bisect_left(REQUEST_BOUNDS, seconds)] += 1
        self.seconds += seconds
        if first_byte >= 0.0:
            self.first_byte_buckets[bisect_left(REQUEST_BOUNDS, first_byte)] += 1
            self.first_byte_seconds += first_byte
        self.request_bytes += received
        self.response_bytes += sent

    def _count_rare(self, method: bytes, code: int, flags: str) -> None:
        """Count a combination met for the first time, or a method that is not told apart."""
        codes = self.codes
        key = (method if method in METHODS else OTHER_METHOD, code, flags)
        if key not in codes and len(codes) >= CODES_LIMIT:
            # The class of the code stays, so that ratios of errors stay right; ten more keys at most.
            key = (OTHER_METHOD, code // 100 * 100, OVERFLOW)
        codes[key] = codes.get(key, 0) + 1


class TcpSeries:
    """TCP connections of one (direction, source, destination, mtls)."""

    __slots__ = ("buckets", "closed", "open", "opened", "received", "seconds", "sent")

    def __init__(self) -> None:
        self.opened = 0
        self.open = 0
        self.closed: dict[str, int] = {}
        self.received = 0  # bytes from the client; the relay adds to it while the connection lives
        self.sent = 0  # bytes to the client
        self.buckets = [0] * (len(TCP_BOUNDS) + 1)
        self.seconds = 0.0

    def begin(self) -> None:
        """Count a connection that is relayed from now on."""
        self.opened += 1
        self.open += 1

    def end(self, reason: str, seconds: float) -> None:
        """Count its end: what ended it, and how long it lasted."""
        self.open -= 1
        if reason not in self.closed and len(self.closed) >= REASON_LIMIT:
            reason = OVERFLOW
        self.closed[reason] = self.closed.get(reason, 0) + 1
        self.buckets[bisect_left(TCP_BOUNDS, seconds)] += 1
        self.seconds += seconds


class WorkerMetrics:
    """All numbers of one worker."""

    __slots__ = ("_events", "_levels", "_refreshers", "_requests", "_tcp")

    def __init__(self) -> None:
        self._requests: dict[RequestKey, RequestSeries] = {}
        self._tcp: dict[TcpKey, TcpSeries] = {}
        self._events: dict[str, dict[Labels, int]] = {name: {} for name in EVENTS}
        self._levels: dict[str, dict[Labels, float]] = {name: {} for name in LEVELS}
        self._refreshers: list[Callable[[WorkerMetrics], None]] = []

    def requests(
        self, direction: str, source: str, destination: str, route: str, mtls: bool, subset: str = ""
    ) -> RequestSeries:
        """The series of these labels, made at the first call; the overflow series when there are too many."""
        key = RequestKey(direction, source, destination, route, mtls, subset)
        series = self._requests.get(key)
        if series is None:
            if len(self._requests) >= SERIES_LIMIT:
                self.count("metrics_overflow_total", ("requests",))
                key = RequestKey(direction, OVERFLOW, OVERFLOW, OVERFLOW, mtls, OVERFLOW)
            series = self._requests.setdefault(key, RequestSeries())
        return series

    def tcp(self, direction: str, source: str, destination: str, mtls: bool) -> TcpSeries:
        """The series of these labels, made at the first call; the overflow series when there are too many."""
        key = (direction, source, destination, mtls)
        series = self._tcp.get(key)
        if series is None:
            if len(self._tcp) >= SERIES_LIMIT:
                self.count("metrics_overflow_total", ("tcp",))
                key = (direction, OVERFLOW, OVERFLOW, mtls)
            series = self._tcp.setdefault(key, TcpSeries())
        return series

    def count(self, name: str, labels: Labels, by: int = 1) -> None:
        """Count a rare event of :data:`hostproxy.telemetry.families.EVENTS`.

        Raises KeyError for a name, ValueError for a number of labels, that the table does not have.
        """
        counts = self._events[name]
        try:
            counts[labels] += by
        except KeyError:
            labels = self._admit(name, labels, len(EVENTS[name].labels), counts)
            counts[labels] = counts.get(labels, 0) + by

    def gauge(self, name: str, labels: Labels, value: float) -> None:
        """Set a level of :data:`hostproxy.telemetry.families.LEVELS`; errors as for :meth:`count`."""
        levels = self._levels[name]
        if labels not in levels:
            labels = self._admit(name, labels, len(LEVELS[name].labels), levels)
        levels[labels] = value

    def _admit(
        self, name: str, labels: Labels, expected: int, known: dict[Labels, int] | dict[Labels, float]
    ) -> Labels:
        if len(labels) != expected:
            raise ValueError(f"{name} takes {expected} labels, got {labels!r}")
        if len(known) < EVENT_LIMIT:
            return labels
        self.count("metrics_overflow_total", (name,))
        return (OVERFLOW,) * expected

    def on_export(self, refresh: Callable[[WorkerMetrics], None]) -> None:
        """Call ``refresh(self)`` before each export: to set gauges, and to fetch counts that others keep."""
        self._refreshers.append(refresh)

    def export(self) -> bytes:
        """All numbers, cumulative, as the msgpack of :class:`hostproxy.telemetry.export.Export`."""
        for refresh in self._refreshers:
            refresh(self)
        requests = {
            # Without a subset as an earlier release has it, which may be who asks: an upgrade can lead back to it.
            key if key.subset else key[:-1]: (
                series.codes,
                series.buckets,
                series.seconds,
                series.first_byte_buckets,
                series.first_byte_seconds,
                series.request_bytes,
                series.response_bytes,
                series.in_flight,
            )
            for key, series in self._requests.items()
        }
        tcp = {
            key: (
                series.opened,
                series.closed,
                series.received,
                series.sent,
                series.buckets,
                series.seconds,
                series.open,
            )
            for key, series in self._tcp.items()
        }
        return _encode((requests, tcp, self._events, self._levels))
