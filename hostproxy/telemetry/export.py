"""What a worker tells the supervisor once a second: cumulative numbers, as msgpack.

Everything counts from the worker's start, so a message that gets lost costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class RequestKey(NamedTuple):
    """Labels of a series of requests. An earlier release has fewer: what it tells is taken over at an upgrade."""

    direction: str
    source: str
    destination: str
    route: str
    mtls: bool
    subset: str = ""


TcpKey = tuple[str, str, str, bool]  # direction, source, destination, mtls
Labels = tuple[str, ...]


class RequestTotals(msgspec.Struct, array_like=True):
    """Requests of one series. Histogram lists hold one count per bucket, not cumulative; the last is +Inf."""

    codes: dict[tuple[bytes, int, str], int]  # by (method, status code, response flags)
    buckets: list[int]
    seconds: float
    first_byte_buckets: list[int]
    first_byte_seconds: float
    request_bytes: int
    response_bytes: int
    in_flight: int


class TcpTotals(msgspec.Struct, array_like=True):
    """TCP connections of one series."""

    opened: int
    closed: dict[str, int]  # by reason
    received: int
    sent: int
    buckets: list[int]
    seconds: float
    open: int


class Export(msgspec.Struct, array_like=True):
    """All numbers of one worker, or sums over several."""

    requests: dict[RequestKey, RequestTotals] = {}
    tcp: dict[TcpKey, TcpTotals] = {}
    events: dict[str, dict[Labels, int]] = {}
    levels: dict[str, dict[Labels, float]] = {}


decode = msgspec.msgpack.Decoder(Export).decode
