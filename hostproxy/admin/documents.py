"""The JSON documents of the admin room: pure functions of one moment. Keys are a promise to scripts.

Times are Unix seconds under the names of the state, durations end in ``_seconds``.
"""

from __future__ import annotations

from typing import Any

from hostproxy.admin import services
from hostproxy.admin.encode import Entries
from hostproxy.admin.moment import Moment, plain, since
from hostproxy.admin.problems import degraded, readiness
from hostproxy.control.state import SourceState, SupervisorState, WorkerState
from hostproxy.telemetry.export import Export


def ready(state: SupervisorState) -> dict[str, Any]:
    """The answer of /ready. ``degraded`` is what does not work although traffic flows."""
    is_ready, reasons = readiness(state)
    return {"ready": is_ready, "reasons": reasons, "degraded": degraded(state)}


def config(moment: Moment) -> dict[str, Any]:
    """The answer of /config: conf.toml as it is in force, defaults filled in."""
    document: dict[str, Any] = plain(moment.state.config)
    return document


def snapshot(moment: Moment) -> dict[str, Any]:
    """The answer of /snapshot: what the workers decide by. Certificates and keys are left out."""
    current = moment.state.snapshot
    if current is None:
        return {"snapshot": None}
    fields = {name: getattr(current, name) for name in current.__struct_fields__ if name != "services"}
    destinations = sorted(current.services.items())
    return {"snapshot": {**plain(fields), "services": Entries((name, plain(item)) for name, item in destinations)}}


def workers(moment: Moment) -> dict[str, Any]:
    """The answer of /workers."""
    return {
        "workers": [
            {**_worker(worker, moment), "description": plain(worker.description)}
            for worker in moment.state.workers
        ]
    }


def status(moment: Moment) -> dict[str, Any]:
    """The answer of /status: everything on one page, for ``hostproxy status``."""
    state = moment.state
    is_ready, reasons = readiness(state)
    host = state.config.host
    sums = moment.view.sum()
    return {
        "host": {
            "name": host.name,
            "address": host.address,
            "datacenter": host.datacenter,
            "zone": host.zone,
            "trust_domain": state.config.mesh.trust_domain,
        },
        "version": state.software,
        "pid": state.pid,
        "uptime_seconds": since(state.started, moment.now),
        "ready": is_ready,
        "reasons": reasons,
        "degraded": degraded(state),
        "workers": [_worker(worker, moment) for worker in state.workers],
        "listeners": [plain(listener) for listener in state.listeners],
        "services": _services(state, sums),
        "catalog": _source(state.catalog_source),
        "discovery": services.summary(moment),
        "health": [
            {"service": service, "address": address, **plain(result)}
            for (service, address), result in sorted(state.health.items())
        ],
        "policy": {
            **_source(state.policy_source),
            "default_access": state.policy.default_access if state.policy is not None else None,
            "services": len(state.policy.services) if state.policy is not None else 0,
        },
        "certificates": _certificates(moment),
        "controller": plain(state.steering),  # null: certificates and policy come from files
        "clocks": {peer: plain(skew) for peer, skew in state.skews.items()},  # against them; seconds
        "reloads": plain(state.reloads),
        "upgrades": plain(state.upgrades),
    }


def _source(source: SourceState) -> dict[str, Any]:
    document: dict[str, Any] = plain(source)
    return document


def _worker(worker: WorkerState, moment: Moment) -> dict[str, Any]:
    export = moment.view.workers.get(worker.id, Export())
    requests = sum(sum(series.codes.values()) for series in export.requests.values())
    uptime = since(worker.since, moment.now) if worker.pid else 0.0
    return {
        "place": worker.place,
        "id": worker.id,
        "pid": worker.pid,
        "phase": worker.phase,
        "restarts": worker.restarts,
        "snapshot": worker.version,
        "uptime_seconds": uptime,
        "lag_seconds": worker.lag,
        "problem": worker.problem,
        "connections": _number(worker, "connections") + _number(worker, "tunnels"),
        "requests": requests,
        "requests_in_flight": sum(series.in_flight for series in export.requests.values()),
        "requests_per_second": round(requests / uptime, 1) if uptime else 0.0,
    }


def _number(worker: WorkerState, name: str) -> int:
    """A number of Traffic.describe(); a worker that has not reported yet has none."""
    value = worker.description.get(name)
    return value if isinstance(value, int) else 0


def _services(state: SupervisorState, sums: Export) -> list[dict[str, Any]]:
    """One row per service that this host knows: as a destination of its callers, or as one that runs here."""
    current = state.snapshot
    known = {service.name for service in current.services.values()} if current is not None else set()
    here = current.locals if current is not None else {}
    rows: dict[str, dict[str, Any]] = {}

    def row(name: str) -> dict[str, Any]:
        return rows.setdefault(
            name,
            {
                "name": name,
                "instances": len(state.catalog.get(name, ())),
                "instances_here": len(here[name].instances) if name in here else 0,
                "outbound": {"requests": 0, "errors": 0, "connections": 0},
                "inbound": {"requests": 0, "errors": 0, "connections": 0},
            },
        )

    for name in (*known, *here):
        row(name)
    for key, series in sums.requests.items():
        numbers = row(key.destination)[key.direction]
        for (_, code, _), count in series.codes.items():
            numbers["requests"] += count
            numbers["errors"] += count if code >= 500 else 0
    for (direction, _, destination, _), tcp in sums.tcp.items():
        row(destination)[direction]["connections"] += tcp.opened
    return [rows[name] for name in sorted(rows)]


def _certificates(moment: Moment) -> dict[str, Any]:
    rows = sorted(moment.state.identities, key=lambda identity: (identity.not_after, identity.name))
    items = [
        {
            "name": identity.name,
            "uri": identity.uri,
            "not_before": identity.not_before,
            "not_after": identity.not_after,
            "expires_in_seconds": round(identity.not_after - moment.now, 1),
        }
        for identity in rows
    ]
    source = _source(moment.state.identity_source)
    return {**source, "next_expiry": items[0] if items else None, "identities": items}
