"""What the agent has, and what has to be written until it has what it should: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from hostproxy.discovery.consul.definition import OWN, OWNER, Definition, check_ids

if TYPE_CHECKING:
    from hostproxy.config import Host

_MAINTENANCE = "_service_maintenance:"


class AgentService(msgspec.Struct, frozen=True):
    """A service as the agent shows it."""

    service: str = msgspec.field(name="Service", default="")
    address: str = msgspec.field(name="Address", default="")
    port: int = msgspec.field(name="Port", default=0)
    tags: tuple[str, ...] | None = msgspec.field(name="Tags", default=None)
    meta: dict[str, str] | None = msgspec.field(name="Meta", default=None)
    weights: dict[str, int] | None = msgspec.field(name="Weights", default=None)


class AgentCheck(msgspec.Struct, frozen=True):
    """A check as the agent shows it."""

    service: str = msgspec.field(name="ServiceID", default="")
    status: str = msgspec.field(name="Status", default="")
    notes: str = msgspec.field(name="Notes", default="")


class Actual(NamedTuple):
    """What the agent has whose service ID could be one of ours."""

    services: dict[str, AgentService]
    checks: dict[str, AgentCheck]  # of these services

    def maintained(self, service_id: str, reason: str) -> bool:
        """Say whether a service is in maintenance for exactly this reason."""
        check = self.checks.get(_MAINTENANCE + service_id)
        return check is not None and check.notes == reason


class Plan(NamedTuple):
    """What has to be written, in this order."""

    register: tuple[Definition, ...] = ()
    lift: tuple[str, ...] = ()  # IDs of services, out of the maintenance in which an earlier stop left them
    drop: tuple[str, ...] = ()  # IDs of checks
    remove: tuple[str, ...] = ()  # IDs of services

    @property
    def nothing(self) -> bool:
        """Whether everything is as it should be."""
        return not any(self)


def read(services: object, checks: object) -> Actual:
    """Return what the agent has that concerns us, of its decoded answers.

    Raises :class:`msgspec.ValidationError` when that is not what an agent says. Of what others registered nothing is
    looked at but the ID.
    """
    ours = {
        ident: msgspec.convert(service, AgentService)
        for ident, service in msgspec.convert(services, dict[str, Any]).items()
        if ident == OWN or ident.startswith(OWN + "-")
    }
    theirs = {
        ident: msgspec.convert(check, AgentCheck)
        for ident, check in msgspec.convert(checks, dict[str, Any]).items()
        if isinstance(check, dict) and str(check.get("ServiceID")) in ours
    }
    return Actual(ours, theirs)


def plan(desired: Mapping[str, Definition], actual: Actual, host: Host, reason: str, again: bool) -> Plan:
    """Return the difference. ``reason`` is the one we give for maintenance; with ``again``, all is registered again."""
    return Plan(
        tuple(each for each in desired.values() if again or _differs(each, actual)),
        tuple(ident for ident in desired if actual.maintained(ident, reason)),
        tuple(ident for ident, check in actual.checks.items() if _is_left_over(ident, check, desired)),
        tuple(ident for ident in ours(actual, host) if ident not in desired),
    )


def ours(actual: Actual, host: Host) -> list[str]:
    """Return the IDs that the hostproxy of ``host`` registered. IDs alone say nothing: anybody may choose them."""
    return [ident for ident, service in actual.services.items() if (service.meta or {}).get(OWNER) == host.name]


def taken(desired: Mapping[str, Definition], actual: Actual, host: Host) -> dict[str, str]:
    """Return the IDs that we want and somebody else has, with who that is: nothing of others is ever written over."""
    owners = {ident: (actual.services[ident].meta or {}).get(OWNER) for ident in desired if ident in actual.services}
    return {
        ident: f"the hostproxy of {owner}" if owner else "another program"
        for ident, owner in owners.items()
        if owner != host.name
    }


def status_so_far(definition: Definition, actual: Actual) -> str:
    """Return how Consul sees an instance now, so that it is not taken away from callers by being registered again.

    One that is new is critical until somebody has looked at it.
    """
    if definition.id not in actual.services:
        return "critical"
    found = [actual.checks[ident].status for ident in check_ids(definition.id) if ident in actual.checks]
    return next((status for status in ("critical", "warning") if status in found), "passing")


def _differs(definition: Definition, actual: Actual) -> bool:
    service = actual.services.get(definition.id)
    if service is None:
        return True
    wanted, check = definition.check, None
    if wanted is not None:
        check = actual.checks.get(wanted.id)
        if check is None or check.service != definition.id or check.notes != wanted.notes:
            return True
    return (
        service.service != definition.service
        or service.address != definition.address
        or service.port != definition.port
        or set(service.tags or ()) != set(definition.tags)
        or (service.meta or {}) != definition.meta
        or (service.weights or {}) != {"Passing": definition.weight, "Warning": 1}
    )


def _is_left_over(ident: str, check: AgentCheck, desired: Mapping[str, Definition]) -> bool:
    """Whether it is a check of ours that its service no longer has. Those of others stay, maintenance above all."""
    definition = desired.get(check.service)
    if definition is None or ident not in check_ids(check.service):
        return False
    return definition.check is None or definition.check.id != ident
