"""What the supervisor knows, as the metrics want it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import TypeVar

import twisted

from hostproxy.admin.services import healths
from hostproxy.control.state import SupervisorState
from hostproxy.telemetry.exposition import ConsulFacts, ControllerFacts, HostFacts, WorkerFacts

# Of what grows with the mesh and not with this host: destinations, and what is known of each.
SERIES = 1000
OTHER = "__other__"
_IMPORTANCE = {"upstream": 0, "policy": 1, "traffic": 2}  # of what a service is wanted for

Key = TypeVar("Key")


def host_facts(state: SupervisorState, now: float) -> HostFacts:
    """Take the facts of one moment; ``now`` is Unix seconds."""
    loaded = state.catalog_source.loaded
    return HostFacts(
        build=(state.software, platform.python_version(), twisted.__version__),
        workers=tuple(
            WorkerFacts(worker.place, worker.phase == "serving", worker.restarts, worker.lag)
            for worker in state.workers
            if worker.place >= 0
        ),
        endpoints=_endpoints(state),
        confirmed=_confirmed(state),
        consul=_consul(state),
        controller=_controller(state),
        skews={peer: skew.ahead for peer, skew in state.skews.items()},
        catalog_age=max(0.0, now - loaded) if loaded else None,
        certificates={identity.uri: identity.not_after for identity in state.identities},
        health={key: result.healthy for key, result in state.health.items()},
        probes=state.health_counts,
        problems={
            "catalog": len(state.catalog_source.problems),
            "policy": len(state.policy_source.problems),
            "certificates": len(state.identity_source.problems),
            "registration": 1 if state.registration else 0,
        },
        reload_successful=not state.reloads.problems,
        reload_success=state.reloads.last_success,
        reloads={"success": state.reloads.succeeded, "refused": state.reloads.refused},
        upgrades={"success": state.upgrades.succeeded, "failed": state.upgrades.failed},
        log_dropped=state.log_dropped(),
    )


def _endpoints(state: SupervisorState) -> dict[str, dict[str, int]]:
    """By destination and health. Also of those without an instance: that is what alerts ask for."""
    compiled = state.snapshot.services.values() if state.snapshot is not None else ()
    wanted = {each.service: _IMPORTANCE.get(each.wanted_by, 9) for each in state.discovery.services}
    names = {*state.catalog, *wanted, *(service.name for service in compiled)}
    shown, rest = _most_important({name: (wanted.get(name, 9), name) for name in names})
    found = {name: healths(state.catalog.get(name, ())) for name in shown}
    if rest:
        found[OTHER] = healths(instance for name in rest for instance in state.catalog.get(name, ()))
    return found


def _confirmed(state: SupervisorState) -> dict[tuple[str, str], float]:
    """By service and datacenter; of those that aren't shown, the oldest."""
    every = {(each.service, each.datacenter): each for each in state.discovery.services}
    shown, rest = _most_important({key: (_IMPORTANCE.get(each.wanted_by, 9), key) for key, each in every.items()})
    found = {key: every[key].confirmed for key in shown}
    if rest:
        found[OTHER, OTHER] = min(every[key].confirmed for key in rest)
    return found


def _most_important(every: Mapping[Key, tuple[int, object]]) -> tuple[Sequence[Key], Sequence[Key]]:
    """Those that get series of their own, and the rest; by names, so that they stay the same."""
    ordered = sorted(every, key=every.__getitem__)
    if len(ordered) <= SERIES:
        return ordered, ()
    return ordered[: SERIES - 1], ordered[SERIES - 1 :]


def _controller(state: SupervisorState) -> ControllerFacts | None:
    steering = state.steering
    if steering is None:
        return None
    return ControllerFacts(
        last_contact=steering.last_contact, epoch=steering.epoch, generation=steering.generation
    )


def _consul(state: SupervisorState) -> ConsulFacts | None:
    counters = state.consul
    if counters is None:
        return None
    return ConsulFacts(
        requests=counters.requests,
        errors=counters.errors,
        index_resets=counters.index_resets,
        suppressed_empty=counters.suppressed_empty,
        refused_instances=counters.refused_instances,
        deferred_updates=counters.deferred_updates,
        last_success=counters.last_success,
        watches=state.discovery.watches,
    )
