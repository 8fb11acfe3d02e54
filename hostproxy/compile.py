"""Configuration, catalog, policy and certificates compiled into what workers decide with. Pure functions.

Compiling again after a change of the catalog touches only the services that changed, and everything that came
out the same is the same object as before: so is finding what to tell the workers, :func:`difference`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from hostproxy.discovery.catalog import changed
from hostproxy.snapshot import AccessLog, AllowRule, Delta, Listener, Local, Service, Snapshot

if TYPE_CHECKING:
    from hostproxy.config import Config, LocalService
    from hostproxy.discovery.catalog import Catalog
    from hostproxy.identity.files import Identities
    from hostproxy.mesh.policy import Policy, ServicePolicy

# Whose certificate is presented by callers that are not a service of this host.
HOST = "host"

DEFAULT_PROTOCOL = "http"

Value = TypeVar("Value")


class Inputs(NamedTuple):
    """Everything that a snapshot is made of."""

    config: Config
    catalog: Catalog
    policy: Policy
    identities: Identities


def compile_snapshot(version: int, inputs: Inputs, before: tuple[Inputs, Snapshot] | None = None) -> Snapshot:
    """The snapshot of ``inputs``; ``before``, what was compiled last, saves the work for all that is unchanged."""
    config, _, _, identities = inputs
    access = config.log.access_path
    return Snapshot(
        version=version,
        host=config.host.name,
        datacenter=config.host.datacenter,
        zone=config.host.zone,
        trust_domain=config.mesh.trust_domain,
        domains=config.outbound.domains,
        connect_ports=config.outbound.connect_ports,
        limits=config.limits,
        access_log=AccessLog(access, config.log.access_sample) if access else None,
        authorities=identities.authorities,
        identities=dict(identities.by_name),
        services=_services(inputs, before),
        locals={local.name: _local(local, inputs.policy) for local in config.services},
        listeners=listeners(config),
    )


def listeners(config: Config) -> tuple[Listener, ...]:
    """Every listener that the configuration asks of the workers."""
    found = [Listener(id="mesh", kind="mesh", address=config.mesh.listen)]
    outbound = config.outbound
    if outbound.listen:
        found.append(Listener("proxy", "proxy", outbound.listen, "", outbound.caller))
    found.extend(
        Listener(
            id=f"upstream:{upstream.service}@{upstream.listen}",
            kind="upstream",
            address=upstream.listen,
            service=upstream.service,
            caller=upstream.caller,
        )
        for upstream in outbound.upstreams
    )
    return tuple(found)


def identity_names(config: Config) -> tuple[str, ...]:
    """The services whose certificates this host presents: its own, and those in whose name it calls."""
    names = dict.fromkeys(service.name for service in config.services)
    names.update(dict.fromkeys(listener.caller for listener in listeners(config)))
    return tuple(name for name in names if name not in ("", HOST))


def difference(old: Snapshot, new: Snapshot) -> Delta | None:
    """What turns ``old`` into ``new``; None when that takes a whole snapshot."""
    changeable = ("version", "services", "locals", "identities", "authorities")
    for field in Snapshot.__struct_fields__:
        if field not in changeable and getattr(old, field) != getattr(new, field):
            return None
    return Delta(
        version=new.version,
        services=_changes(old.services, new.services),
        locals=_changes(old.locals, new.locals),
        identities=_changes(old.identities, new.identities),
        authorities=None if old.authorities == new.authorities else new.authorities,
    )


def nothing_new(old: Snapshot, new: Snapshot) -> bool:
    """Whether ``new`` says the same as ``old``, but for its version."""
    delta = difference(old, new)
    return delta is not None and not (
        delta.services or delta.locals or delta.identities or delta.authorities is not None
    )


def _changes(old: Mapping[str, Value], new: Mapping[str, Value]) -> dict[str, Value | None]:
    changes: dict[str, Value | None] = {name: None for name in old if name not in new}
    for name, value in new.items():
        known = old.get(name)
        if known is not value and known != value:
            changes[name] = value
    return changes


def _services(inputs: Inputs, before: tuple[Inputs, Snapshot] | None) -> dict[str, Service]:
    """Every service that is known from the catalog, from the policy, or because it runs here."""
    config, catalog, policy, _ = inputs
    protocols = {local.name: local.protocol for local in config.services}
    if before is not None and before[0].policy is policy and before[0].config is config:
        services = dict(before[1].services)
        names = changed(before[0].catalog, catalog)
    else:
        services = {}
        names = {*catalog, *policy.services, *protocols}
    known = before[1].services if before is not None else {}
    for name in names:
        if name not in catalog and name not in policy.services and name not in protocols:
            services.pop(name, None)
            continue
        service = _service(name, inputs, protocols.get(name, DEFAULT_PROTOCOL))
        if service == known.get(name):
            service = known[name]
        services[name] = service
    return services


def _service(name: str, inputs: Inputs, protocol: str) -> Service:
    rules: ServicePolicy | None = inputs.policy.services.get(name)
    instances = inputs.catalog.get(name, ())
    if rules is None:
        return Service(name=name, protocol=protocol, instances=instances)
    return Service(
        name=name,
        protocol=rules.protocol or protocol,
        permissive=rules.permissive,
        timeout=rules.timeout,
        balance=rules.balance,
        instances=instances,
    )


def _local(local: LocalService, policy: Policy) -> Local:
    """A service of this host with what its callers may do.

    With rules, or with ``access = "deny"``, a call must match a rule. Without either, everybody with a
    certificate of the trust domain may call.
    """
    rules = policy.services.get(local.name)
    allow = rules.allow if rules is not None else ()
    if allow:
        default_allow = False
        reason = f"{allow[0].source}: no allow rule of service.{local.name} matches"
    elif policy.default_access is not None:
        default_allow = policy.default_access == "allow"
        reason = f"{policy.default_source}: [defaults] access"
    else:
        default_allow = True
        reason = "no policy speaks of this service"
    return Local(
        name=local.name,
        protocol=(rules.protocol if rules is not None else None) or local.protocol,
        instances=local.instances,
        allow=tuple(AllowRule(rule.callers, rule.methods, rule.paths, rule.source) for rule in allow),
        default_allow=default_allow,
        default_reason=reason,
        timeout=rules.timeout if rules is not None else 0.0,
    )
