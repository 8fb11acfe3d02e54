"""The documents about services: where they run, how that is known, and what is decided about each instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hostproxy.admin.encode import Entries
from hostproxy.admin.moment import Moment, plain, since
from hostproxy.control.state import SupervisorState
from hostproxy.discovery.catalog import HEALTH, Instance
from hostproxy.discovery.knowledge import ServiceKnowledge
from hostproxy.mesh.policy import ServicePolicy
from hostproxy.selection import Here, Verdict, explain, select
from hostproxy.snapshot import Service

_NO_RULES = ServicePolicy()


def catalog(moment: Moment, service: str = "", subset: str = "") -> dict[str, Any]:
    """The answer of /catalog: instances, and whether they are used; of all services or one, of all of it or a subset.

    A service that was asked for is always among ``services``; ``known`` says whether anything is known of it.
    """
    state = moment.state
    knowledge = _knowledge(state)
    listed = set(state.discovery.names)
    names = [service] if service else _names(state, knowledge)
    return {
        **plain(state.catalog_source),
        "services": Entries(
            (name, _service(moment, name, subset, knowledge.get(name, ()), name in listed)) for name in names
        ),
    }


def discovery(moment: Moment) -> dict[str, Any]:
    """The answer of /discovery: how the catalog is known, a row for each service and datacenter."""
    state = moment.state
    known = state.discovery
    knowledge = _knowledge(state)
    return {
        "backend": known.backend,
        "source": known.source or state.catalog_source.path,
        "datacenter": state.config.host.datacenter,
        "problem": known.problem,
        "since": known.since,
        "watches": known.watches,
        "names": known.names or sorted(state.catalog),
        "round_trips": known.round_trips,
        "services": [
            row
            for name in _names(state, knowledge)
            for row in _rows(moment, name, knowledge.get(name, ()))
        ],
    }


def summary(moment: Moment) -> dict[str, Any]:
    """What /status says of it."""
    state = moment.state
    known = state.discovery
    confirmed = [each.confirmed for each in known.services if each.confirmed]
    return {
        "backend": known.backend,
        "source": known.source or state.catalog_source.path,
        "problem": known.problem,
        "since": known.since,
        "watches": known.watches,
        "services": len({each.service for each in known.services}) or len(state.catalog),
        "names": len(known.names) or len(state.catalog),
        "oldest_confirmed": min(confirmed, default=None),
        "unconfirmed": len(known.services) - len(confirmed),
        "held": sorted({each.service for each in known.services if each.held}),
        "registered": state.registered,
        "registration_problem": state.registration,
    }


def _compiled(state: SupervisorState) -> Mapping[str, Service]:
    return state.snapshot.services if state.snapshot is not None else {}


def _names(state: SupervisorState, knowledge: Iterable[str]) -> list[str]:
    """Services that anything is known of; policy may name some without an instance."""
    compiled = (service.name for service in _compiled(state).values())
    return sorted({*knowledge, *state.catalog, *compiled})


def _knowledge(state: SupervisorState) -> Mapping[str, tuple[ServiceKnowledge, ...]]:
    """By service, the own datacenter first. A file is read whole: there is nothing to say of each."""
    found: dict[str, list[ServiceKnowledge]] = {}
    for each in state.discovery.services:
        found.setdefault(each.service, []).append(each)
    if state.discovery.backend == "file":
        source = state.catalog_source
        how = "kept" if source.kept else "file"
        for name in state.catalog:
            found.setdefault(name, [ServiceKnowledge(service=name, source=how, confirmed=source.loaded)])
    return {
        name: tuple(sorted(several, key=lambda each: (_far(state, each.datacenter), each.datacenter)))
        for name, several in found.items()
    }


def _far(state: SupervisorState, datacenter: str) -> bool:
    return datacenter not in ("", state.config.host.datacenter)


def _service(
    moment: Moment, name: str, subset: str, knowledge: tuple[ServiceKnowledge, ...], listed: bool
) -> dict[str, Any]:
    state = moment.state
    instances = state.catalog.get(name, ())
    rules = _rules(state, name)
    host = state.config.host
    here = Here(host.name, host.datacenter, host.zone, state.bands)
    return {
        "known": bool(knowledge or instances or name in _compiled(state)),
        "listed": listed or name in state.catalog,
        "protocol": _protocol(state, name),
        "subset": subset or rules.default_subset,
        "subsets": sorted(rules.subsets),
        "obstacle": select(name, instances, rules, subset, here).obstacle,
        "knowledge": [{"datacenter": each.datacenter, **_known(each, moment.now)} for each in knowledge],
        "instances": [_instance(verdict) for verdict in explain(instances, rules, subset, here)],
    }


def _rules(state: SupervisorState, name: str) -> ServicePolicy:
    return state.policy.services.get(name, _NO_RULES) if state.policy is not None else _NO_RULES


def _protocol(state: SupervisorState, name: str) -> str:
    """What callers here speak with it; "" when nothing of it reached the workers."""
    service = _compiled(state).get(name)
    return service.protocol if service is not None else ""


def _instance(verdict: Verdict) -> dict[str, Any]:
    instance = verdict.instance
    return {
        "address": instance.address,
        "host": instance.host,
        "mesh": instance.mesh,
        "datacenter": instance.datacenter,
        "zone": instance.zone,
        "version": instance.version,
        "tags": instance.tags,
        "meta": plain(dict(instance.meta)),
        "weight": instance.weight,
        "health": instance.health,
        "reason": instance.reason,
        "used": verdict.used,
        "level": verdict.level,
        "share": round(verdict.share, 6),
        "why": verdict.why,
    }


def _rows(moment: Moment, name: str, knowledge: tuple[ServiceKnowledge, ...]) -> Iterator[dict[str, Any]]:
    state = moment.state
    instances = state.catalog.get(name, ())
    service = _compiled(state).get(name)
    for each in knowledge or (ServiceKnowledge(service=name, source=""),):
        far = _far(state, each.datacenter)
        mine = [one for one in instances if len(knowledge) == 1 or _belongs(state, one, each, far)]
        yield {
            "service": name,
            "datacenter": each.datacenter,
            "protocol": _protocol(state, name),
            "instances": healths(mine),
            "obstacle": service.obstacle if service is not None else "",
            **_known(each, moment.now),
        }


def _belongs(state: SupervisorState, instance: Instance, knowledge: ServiceKnowledge, far: bool) -> bool:
    if far:
        return instance.datacenter == knowledge.datacenter
    return not _far(state, instance.datacenter)


def healths(instances: Iterable[Instance]) -> dict[str, int]:
    """How many there are in each state, all states named."""
    counts = Counter(instance.health for instance in instances)
    return {health: counts[health] for health in HEALTH}


def _known(knowledge: ServiceKnowledge, now: float) -> dict[str, Any]:
    """How something is known. ``age_seconds`` counts from the last confirmation; None: there was none."""
    return {
        "source": knowledge.source,
        "wanted_by": knowledge.wanted_by,
        "changed": knowledge.changed,
        "confirmed": knowledge.confirmed,
        "unchanged_seconds": since(knowledge.changed, now) if knowledge.changed else None,
        "age_seconds": since(knowledge.confirmed, now) if knowledge.confirmed else None,
        "index": knowledge.index,
        "behind_seconds": knowledge.behind,
        "problem": knowledge.problem,
        "held": knowledge.held,
    }
