"""Sums over all workers of this host, kept by the supervisor.

A worker's export is cumulative, so the newest replaces the one before. When a process dies its counts move to
a sum of the dead and its levels (requests in flight, open connections) vanish: counters never go back.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hostproxy.telemetry.export import Export, RequestKey, RequestTotals, TcpKey, TcpTotals, decode
from hostproxy.telemetry.metrics import EVENT_LIMIT, OVERFLOW, SERIES_LIMIT

# The dead of a long life knew more label values than one worker may know at a time; beyond this they are
# added up under __overflow__.
DEAD_SERIES_LIMIT = 4 * SERIES_LIMIT
DEAD_EVENT_LIMIT = 4 * EVENT_LIMIT


class View(msgspec.Struct, frozen=True):
    """The totals at one moment. Nothing in it changes any more, so any thread may read it."""

    workers: Mapping[int, Export]
    dead: Export

    def sum(self) -> Export:
        """Counters of the living and the dead, levels of the living."""
        total = Export()
        _add_counters(total, self.dead)
        for export in self.workers.values():
            _add_counters(total, export)
            _add_levels(total, export)
        return total


class Totals:
    """The newest export of each worker process, and the sum of those that died."""

    __slots__ = ("_dead", "_workers")

    def __init__(self) -> None:
        self._workers: dict[int, Export] = {}
        self._dead = Export()

    def merge(self, worker: int, export: bytes) -> None:
        """Take the newest export of a process. Raises msgspec.DecodeError when it is not one."""
        self._workers[worker] = decode(export)

    def retire(self, worker: int) -> None:
        """Keep the counts of a process that died and drop its levels; its number must not come back."""
        last = self._workers.pop(worker, None)
        if last is None:
            return
        dead = Export()
        _add_counters(dead, self._dead)
        _add_counters(dead, last)
        self._dead = dead

    def forget(self, worker: int) -> None:
        """Drop what a process has counted: it is known under another number now."""
        self._workers.pop(worker, None)

    def view(self) -> View:
        """The totals of now."""
        return View(dict(self._workers), self._dead)


def _add_counters(total: Export, part: Export) -> None:
    """Add the counters of ``part``; ``total`` never shares a list or map with it."""
    for request_key, requests in part.requests.items():
        _add_requests(_requests_of(total, request_key), requests)
    for tcp_key, tcp in part.tcp.items():
        _add_tcp(_tcp_of(total, tcp_key), tcp)
    for name, counts in part.events.items():
        sums = total.events.setdefault(name, {})
        for labels, count in counts.items():
            place = labels if labels in sums or len(sums) < DEAD_EVENT_LIMIT else (OVERFLOW,) * len(labels)
            sums[place] = sums.get(place, 0) + count


def _add_levels(total: Export, part: Export) -> None:
    for request_key, requests in part.requests.items():
        _requests_of(total, request_key).in_flight += requests.in_flight
    for tcp_key, tcp in part.tcp.items():
        _tcp_of(total, tcp_key).open += tcp.open
    for name, levels in part.levels.items():
        sums = total.levels.setdefault(name, {})
        for labels, level in levels.items():
            sums[labels] = sums.get(labels, 0.0) + level


def _requests_of(total: Export, key: RequestKey) -> RequestTotals:
    found = total.requests.get(key)
    if found is None:
        if len(total.requests) >= DEAD_SERIES_LIMIT:
            key = RequestKey(key.direction, OVERFLOW, OVERFLOW, OVERFLOW, key.mtls, OVERFLOW)
        found = total.requests.setdefault(key, RequestTotals({}, [], 0.0, [], 0.0, 0, 0, 0))
    return found


def _tcp_of(total: Export, key: TcpKey) -> TcpTotals:
    found = total.tcp.get(key)
    if found is None:
        if len(total.tcp) >= DEAD_SERIES_LIMIT:
            key = (key[0], OVERFLOW, OVERFLOW, key[3])
        found = total.tcp.setdefault(key, TcpTotals(0, {}, 0, 0, [], 0.0, 0))
    return found


def _add_requests(total: RequestTotals, part: RequestTotals) -> None:
    for key, count in part.codes.items():
        total.codes[key] = total.codes.get(key, 0) + count
    total.buckets = _add_lists(total.buckets, part.buckets)
    total.seconds += part.seconds
    total.first_byte_buckets = _add_lists(total.first_byte_buckets, part.first_byte_buckets)
    total.first_byte_seconds += part.first_byte_seconds
    total.request_bytes += part.request_bytes
    total.response_bytes += part.response_bytes


def _add_tcp(total: TcpTotals, part: TcpTotals) -> None:
    total.opened += part.opened
    for reason, count in part.closed.items():
        total.closed[reason] = total.closed.get(reason, 0) + count
    total.received += part.received
    total.sent += part.sent
    total.buckets = _add_lists(total.buckets, part.buckets)
    total.seconds += part.seconds


def _add_lists(left: list[int], right: list[int]) -> list[int]:
    """Bucket by bucket; an empty list stands for zeros."""
    if not left:
        return list(right)
    return [a + b for a, b in zip(left, right, strict=True)]
