"""The JSON documents of the admin room: pure functions of one moment. Keys are a promise to scripts.

Times are Unix seconds under the names of the state, durations end in ``_seconds``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from hostproxy.control.state import SourceState, SupervisorState, WorkerState
from hostproxy.telemetry.export import Export
from hostproxy.telemetry.totals import View

HIDDEN = "(hidden)"
_SECRET = re.compile(r".*_key|(?:.*_)?(?:token|password|passphrase|secret)")


class Moment(msgspec.Struct, frozen=True):
    """All there is to show, at one moment; safe to read on any thread."""

    state: SupervisorState
    view: View
    now: float  # Unix seconds


def plain(value: object) -> Any:
    """Make JSON of structs by field names. Secrets never come through, nor bytes, which may be a key."""
    if isinstance(value, msgspec.Struct):
        return _fields({name: getattr(value, name) for name in value.__struct_fields__})
    if isinstance(value, Mapping):
        return _fields({str(key): item for key, item in value.items()})
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def _fields(fields: Mapping[str, object]) -> dict[str, Any]:
    return {
        name: HIDDEN if item and isinstance(item, str) and _SECRET.fullmatch(name) else plain(item)
        for name, item in fields.items()
    }


def readiness(state: SupervisorState) -> tuple[bool, list[str]]:
    """Whether traffic should be sent here, and if not, why."""
    if state.ready:
        return True, []
    if state.stopping:
        return False, ["hostproxy is stopping and drains its connections"]
    reasons = [
        f"worker {worker.place} is {worker.phase}" + (f": {worker.problem}" if worker.problem else "")
        for worker in state.workers
        if worker.place >= 0 and worker.phase != "serving"
    ]
    return False, reasons or ["no worker has been started yet"]


def ready(state: SupervisorState) -> dict[str, Any]:
    """The answer of /ready. ``degraded`` is what does not work although traffic flows."""
    is_ready, reasons = readiness(state)
    return {"ready": is_ready, "reasons": reasons, "degraded": degraded(state)}


def degraded(state: SupervisorState) -> list[str]:
    """What does not work although traffic flows."""
    lines = list(state.degraded)
    for name, source in _sources(state):
        lines += [f"{name}: {problem}" for problem in source.problems]
        if source.kept:
            lines.append(f"{name}: in use is the copy kept in the state directory")
    lines += [f"reload refused: {problem}" for problem in state.reloads.problems]
    return lines


def config(moment: Moment) -> dict[str, Any]:
    """The answer of /config: conf.toml as it is in force, defaults filled in."""
    document: dict[str, Any] = plain(moment.state.config)
    return document


def catalog(moment: Moment) -> dict[str, Any]:
    """The answer of /catalog: where services run."""
    snapshot = moment.state.snapshot
    services = snapshot.services if snapshot is not None else {}
    return {
        **_source(moment.state.catalog_source),
        "services": {name: plain(service.instances) for name, service in sorted(services.items())},
    }


def snapshot(moment: Moment) -> dict[str, Any]:
    """The answer of /snapshot: what the workers decide by. Certificates and keys are left out."""
    current = moment.state.snapshot
    return {"snapshot": None if current is None else plain(current)}


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
        "uptime_seconds": _since(state.started, moment.now),
        "ready": is_ready,
        "reasons": reasons,
        "degraded": degraded(state),
        "workers": [_worker(worker, moment) for worker in state.workers],
        "listeners": [plain(listener) for listener in state.listeners],
        "services": _services(state, sums),
        "catalog": _source(state.catalog_source),
        "policy": {
            **_source(state.policy_source),
            "default_access": state.policy.default_access if state.policy is not None else None,
            "services": len(state.policy.services) if state.policy is not None else 0,
        },
        "certificates": _certificates(moment),
        "reloads": plain(state.reloads),
    }


def _sources(state: SupervisorState) -> tuple[tuple[str, SourceState], ...]:
    return (
        ("catalog", state.catalog_source),
        ("policy", state.policy_source),
        ("certificates", state.identity_source),
    )


def _source(source: SourceState) -> dict[str, Any]:
    document: dict[str, Any] = plain(source)
    return document


def _since(begin: float, now: float) -> float:
    return round(max(0.0, now - begin), 1)


def _worker(worker: WorkerState, moment: Moment) -> dict[str, Any]:
    export = moment.view.workers.get(worker.id, Export())
    requests = sum(sum(series.codes.values()) for series in export.requests.values())
    uptime = _since(worker.since, moment.now) if worker.pid else 0.0
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
    known = current.services if current is not None else {}
    here = current.locals if current is not None else {}
    rows: dict[str, dict[str, Any]] = {}

    def row(name: str) -> dict[str, Any]:
        return rows.setdefault(
            name,
            {
                "name": name,
                "instances": len(known[name].instances) if name in known else 0,
                "instances_here": len(here[name].instances) if name in here else 0,
                "outbound": {"requests": 0, "errors": 0, "connections": 0},
                "inbound": {"requests": 0, "errors": 0, "connections": 0},
            },
        )

    for name in (*known, *here):
        row(name)
    for (direction, _, destination, _, _), series in sums.requests.items():
        numbers = row(destination)[direction]
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
