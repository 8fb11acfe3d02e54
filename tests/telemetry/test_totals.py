"""Sums over workers that come and go."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.telemetry import totals as room
from hostproxy.telemetry.metrics import OVERFLOW, WorkerMetrics
from hostproxy.telemetry.totals import Totals

KEY = ("inbound", "cart", "payments", "default", True, "")
OK = (b"GET", 200, "-")


def worker(requests=1, in_flight=0, source="cart"):
    metrics = WorkerMetrics()
    series = metrics.requests("inbound", source, "payments", "default", True)
    series.in_flight = in_flight
    for _ in range(requests):
        series.record(b"GET", 200, "-", 0.002, 0.001, 10, 20)
    tcp = metrics.tcp("inbound", source, "db", True)
    for _ in range(requests):
        tcp.begin()
    tcp.end("client-closed", 2.0)
    metrics.count("retries_total", ("connect", "ok"), requests)
    metrics.gauge("upstream_connections", ("idle",), in_flight)
    return metrics.export()


def test_nothing_yet():
    total = Totals().view().sum()
    assert (total.requests, total.tcp, total.events, total.levels) == ({}, {}, {}, {})


def test_workers_are_added_up():
    totals = Totals()
    totals.merge(1, worker(3, in_flight=1))
    totals.merge(2, worker(4, in_flight=2))
    total = totals.view().sum()
    requests = total.requests[KEY]
    assert requests.codes[OK] == 7
    assert requests.buckets[2] == 7
    assert requests.first_byte_buckets[1] == 7
    assert requests.seconds == pytest.approx(0.014)
    assert requests.first_byte_seconds == pytest.approx(0.007)
    assert (requests.request_bytes, requests.response_bytes, requests.in_flight) == (70, 140, 3)
    tcp = total.tcp[("inbound", "cart", "db", True)]
    assert (tcp.opened, tcp.open, tcp.closed, tcp.seconds) == (7, 5, {"client-closed": 2}, 4.0)
    assert total.events["retries_total"] == {("connect", "ok"): 7}
    assert total.levels["upstream_connections"] == {("idle",): 3.0}


def test_the_newest_export_of_a_worker_replaces_the_one_before():
    totals = Totals()
    totals.merge(1, worker(3))
    totals.merge(1, worker(5))
    assert totals.view().sum().requests[KEY].codes[OK] == 5


def test_an_embedded_message_is_taken_as_it_is():
    totals = Totals()
    totals.merge(1, msgspec.Raw(worker(2)))
    assert totals.view().sum().requests[KEY].codes[OK] == 2


def test_the_counts_of_the_dead_stay_and_their_levels_go():
    totals = Totals()
    totals.merge(1, worker(3, in_flight=4))
    totals.retire(1)
    totals.merge(2, worker(1, in_flight=1))
    total = totals.view().sum()
    assert total.requests[KEY].codes[OK] == 4
    assert total.requests[KEY].in_flight == 1
    assert total.tcp[("inbound", "cart", "db", True)].open == 0
    assert total.levels["upstream_connections"] == {("idle",): 1.0}


def test_to_retire_who_never_reported_changes_nothing():
    totals = Totals()
    totals.merge(1, worker(3))
    totals.retire(9)
    totals.retire(9)
    assert totals.view().sum().requests[KEY].codes[OK] == 3


def test_a_view_does_not_change_any_more():
    totals = Totals()
    totals.merge(1, worker(3))
    view = totals.view()
    totals.merge(1, worker(30))
    totals.retire(1)
    totals.merge(2, worker(5))
    totals.retire(2)
    assert view.sum().requests[KEY].codes[OK] == 3
    assert view.sum().requests[KEY].codes[OK] == 3


def test_garbage_is_refused_and_the_last_good_export_stays():
    totals = Totals()
    totals.merge(1, worker(3))
    with pytest.raises(msgspec.DecodeError):
        totals.merge(1, b"\xc1")
    assert totals.view().sum().requests[KEY].codes[OK] == 3


def test_the_dead_of_a_long_life_are_bounded(monkeypatch):
    monkeypatch.setattr(room, "DEAD_SERIES_LIMIT", 3)
    totals = Totals()
    for number in range(10):
        totals.merge(number, worker(1, source=f"caller-{number}"))
        totals.retire(number)
    total = totals.view().sum()
    assert len(total.requests) == 4
    assert total.requests[("inbound", OVERFLOW, OVERFLOW, OVERFLOW, True, OVERFLOW)].codes[OK] == 7
    assert len(total.tcp) == 4
    assert total.tcp[("inbound", OVERFLOW, OVERFLOW, True)].opened == 7


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=30))
def test_counters_never_go_back(steps):
    """Whatever the order of reports, deaths and births."""
    totals = Totals()
    alive = {}
    born = 0
    seen = 0
    for place, kind in steps:
        if kind == 2 and place in alive:
            totals.retire(alive.pop(place)[0])
        else:
            if place not in alive:
                born += 1
                alive[place] = [born, 0]
            alive[place][1] += kind
            totals.merge(
                alive[place][0], worker(alive[place][1]) if alive[place][1] else WorkerMetrics().export()
            )
        requests = totals.view().sum().requests.get(KEY)
        now = requests.codes[OK] if requests else 0
        assert now >= seen
        seen = now
