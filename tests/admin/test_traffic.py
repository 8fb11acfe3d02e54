"""/traffic, as hostproxy top asks for it."""

from __future__ import annotations

from hostproxy.admin.moment import take
from hostproxy.admin.traffic import traffic
from hostproxy.telemetry.metrics import WorkerMetrics
from tests.admin.states import NOW, make_state


def document():
    state = make_state()
    state.workers[0].reported = 12.5
    metrics = WorkerMetrics()
    series = metrics.requests("inbound", "web", "cart", "", True)
    for status, flags in ((0, "DC"), (0, "UF"), (403, "UAEX"), (404, "-"), (499, "-")):
        series.record(b"GET", status, flags, 0.002, -1.0, 0, 0)
    metrics.tcp("outbound", "cart", "payments", True).end("ended", 1.0)
    metrics.count("retries_total", ("reset", "success"), 2)
    metrics.gauge("downstream_connections", (), 7)
    metrics.gauge("upstream_connections", ("idle",), 3)
    state.totals.merge(12, metrics.export())
    return traffic(take(state, state.totals, NOW))


def test_requests():
    inbound, outbound = document()["requests"]
    assert [inbound[key] for key in ("direction", "caller", "service", "mtls")] == ["inbound", "web", "cart", True]
    assert [inbound[key] for key in ("requests", "failed", "denied", "in_flight")] == [15, 1, 1, 0]
    assert [outbound[key] for key in ("requests", "failed", "denied", "in_flight")] == [400, 3, 0, 2]
    assert sum(outbound["buckets"]) == 400
    assert (outbound["request_bytes"], outbound["response_bytes"]) == (40_000, 400_000)


def test_the_rest():
    found = document()
    (tcp,) = found["tcp"]
    assert (tcp["opened"], tcp["closed"], tcp["open"]) == (1, {"ended": 1}, 0)
    assert (found["retries"], found["malformed"]) == (2, 0)
    assert found["connections"] == {"downstream": 7, "upstream_active": 0, "upstream_idle": 3}
    assert found["workers"][0] == {"id": 11, "phase": "serving", "reported_seconds": 12.5}
    assert len(found["bounds"]) + 1 == len(found["requests"][0]["buckets"])
