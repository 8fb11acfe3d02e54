"""What is wrong on this host, in sentences: why no traffic should come, and what fails although it flows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hostproxy.admin.moment import utc
from hostproxy.control.state import SourceState, SupervisorState
from hostproxy.discovery.knowledge import ServiceKnowledge
from hostproxy.mesh.clocks import TOLD

NAMED = 5  # of many that have the same problem; /discovery has all


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
    steering = state.steering
    if steering is not None and state.unsteered:
        what = "a policy" if steering.joined else "a certificate"
        why = "; ".join(steering.problems) or "it is being asked"
        reasons.append(f"nothing listens before the controller has given {what}: {why}")
    if state.lost:
        why = state.discovery.problem or "its first answers are awaited"
        reasons.append(f"nothing is known yet of any service, neither from Consul nor from before: {why}")
    return False, reasons or ["no worker has been started yet"]


def degraded(state: SupervisorState) -> list[str]:
    """What does not work although traffic flows."""
    lines = list(state.degraded)
    if state.discovery.backend == "file":
        lines += _source("catalog", state.catalog_source)
    else:
        # Of the agent and of what is kept, _discovery says more.
        others = [each for each in state.catalog_source.problems if each != state.discovery.problem]
        lines += [f"catalog: {problem}" for problem in others]
        lines += _discovery(state)
    lines += [
        f"clock: this host's is {skew.against(peer)} (clock skew); set the one that is wrong"
        for peer, skew in state.skews.items()
        if abs(skew.ahead) >= TOLD
    ]
    lines += _source("policy", state.policy_source)
    lines += _source("certificates", state.identity_source)
    if state.registration:
        lines.append(f"registration: {state.registration}")
    lines += _health(state)
    lines += [f"reload refused: {problem}" for problem in state.reloads.problems]
    lines += [f"upgrade failed: {problem}" for problem in state.upgrades.problems]
    return lines


def _source(name: str, source: SourceState) -> Iterator[str]:
    for problem in source.problems:
        yield f"{name}: {problem}"
    if source.kept:
        yield f"{name}: in use is the copy kept in the state directory"


def _discovery(state: SupervisorState) -> Iterator[str]:
    known = state.discovery
    if known.problem:
        yield f"discovery: {known.problem} (since {utc(known.since)}); what was known before stays in use"
    held = [each for each in known.services if each.held]
    if held:
        yield f"discovery: Consul has no instance any more of {_names(held)}; the last ones are kept for a while"
    kept = [each for each in known.services if each.source == "kept"]
    if kept:
        yield f"discovery: known only from the copy kept in the state directory: {_names(kept)}"
    if known.problem:
        return  # which all have
    stale = [each for each in known.services if each.problem and not each.held]
    for each in stale[:NAMED]:
        confirmed = f"last confirmed {utc(each.confirmed)}" if each.confirmed else "never confirmed"
        yield f"discovery: {_name(each)}: {each.problem} ({confirmed})"
    if len(stale) > NAMED:
        yield f"discovery: {len(stale) - NAMED} more services have a problem: see hostproxy services"


def _health(state: SupervisorState) -> Iterator[str]:
    unhealthy = sorted((key, result) for key, result in state.health.items() if not result.healthy)
    for (service, address), result in unhealthy[:NAMED]:
        yield f"service {service}: {address} is unhealthy: {result.reason} (since {utc(result.since)})"
    if len(unhealthy) > NAMED:
        yield f"service: {len(unhealthy) - NAMED} more instances here are unhealthy"


def _name(service: ServiceKnowledge) -> str:
    return f"{service.service} in {service.datacenter}" if service.datacenter else service.service


def _names(services: Sequence[ServiceKnowledge]) -> str:
    return some(map(_name, services))


def some(names: Iterable[str]) -> str:
    """The first few of many."""
    every = list(names)
    more = len(every) - NAMED
    return ", ".join(every[:NAMED]) + (f" and {more} more" if more > 0 else "")
