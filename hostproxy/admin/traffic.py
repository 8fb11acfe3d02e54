"""/traffic: what was counted of requests and TCP connections, for who makes rates of it, as ``hostproxy top`` does.

Everything is cumulative, over the workers that live and those that died. ``reported_seconds`` of the workers is when
their counts are of, by a clock of their own: a rate is the difference of counts by the difference of these.
"""

from __future__ import annotations

from typing import Any

from hostproxy.admin.moment import Moment
from hostproxy.telemetry.export import Export, RequestTotals
from hostproxy.telemetry.families import REQUEST_BOUNDS
from hostproxy.telemetry.flags import DENIED, DOWNSTREAM_CLOSED


def traffic(moment: Moment) -> dict[str, Any]:
    """The answer of /traffic."""
    state, sums = moment.state, moment.view.sum()
    return {
        "name": state.config.host.name,
        "version": state.software,
        "started": state.started,
        "now": moment.now,
        "workers": [
            {"id": worker.id, "phase": worker.phase, "reported_seconds": round(worker.reported, 3)}
            for worker in state.workers
            if worker.pid
        ],
        "bounds": REQUEST_BOUNDS,
        "requests": [
            {
                "direction": direction,
                "caller": caller,
                "service": service,
                "route": route,
                "subset": subset,
                "mtls": mtls,
                **_counts(series),
            }
            for (direction, caller, service, route, mtls, subset), series in sorted(sums.requests.items())
        ],
        "tcp": [
            {
                "direction": direction,
                "caller": caller,
                "service": service,
                "mtls": mtls,
                "opened": series.opened,
                "closed": series.closed,
                "open": series.open,
                "received_bytes": series.received,
                "sent_bytes": series.sent,
            }
            for (direction, caller, service, mtls), series in sorted(sums.tcp.items())
        ],
        "retries": sum(sums.events.get("retries_total", {}).values()),
        "malformed": sum(sums.events.get("malformed_requests_total", {}).values()),
        "connections": _levels(sums),
    }


def _counts(series: RequestTotals) -> dict[str, Any]:
    """Failed is what the service or the way to it is to blame for: no client that left, and no denial."""
    failed = denied = 0
    for (_, status, flags), count in series.codes.items():
        if flags == DENIED:
            denied += count
        elif status >= 500 or (not status and flags != DOWNSTREAM_CLOSED):
            failed += count
    return {
        "requests": sum(series.codes.values()),
        "failed": failed,
        "denied": denied,
        "in_flight": series.in_flight,
        "buckets": series.buckets,
        "request_bytes": series.request_bytes,
        "response_bytes": series.response_bytes,
    }


def _levels(sums: Export) -> dict[str, int]:
    upstream = sums.levels.get("upstream_connections", {})
    return {
        "downstream": int(sums.levels.get("downstream_connections", {}).get((), 0)),
        "upstream_active": int(upstream.get(("active",), 0)),
        "upstream_idle": int(upstream.get(("idle",), 0)),
    }
