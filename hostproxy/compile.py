"""Configuration, catalog, policy and certificates compiled into what workers decide with. Pure functions.

Compiling again after a change of the catalog touches only the services that changed, and everything that came
out the same is the same object as before: so is finding what to tell the workers, :func:`difference`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from hostproxy.discovery.catalog import changed
from hostproxy.mesh.policy import ServicePolicy
from hostproxy.selection import Here, select
from hostproxy.snapshot import AccessLog, Delta, Listener, Local, Service, Snapshot, Workload

if TYPE_CHECKING:
    from hostproxy.config import Config
    from hostproxy.config_services import LocalService
    from hostproxy.discovery.catalog import Catalog
    from hostproxy.identity.files import Identities
    from hostproxy.mesh.policy import Policy

# Whose certificate is presented by callers that are not a service of this host.
HOST = "host"

DEFAULT_PROTOCOL = "http"
NO_RULES = ServicePolicy()

Value = TypeVar("Value")


class Inputs(NamedTuple):
    """Everything that a snapshot is made of."""

    config: Config
    catalog: Catalog
    policy: Policy
    identities: Identities
    bands: Mapping[str, int] = MappingProxyType({})  # by host: how far away it is, for prefer = "round-trip"
    unhealthy: frozenset[tuple[str, str]] = frozenset()  # instances of this host: service and address
    denied: tuple[str, ...] = ()  # SPIFFE IDs that the controller has barred
    usable: bool = True  # else nothing listens: there is no certificate or no policy yet


def compile_snapshot(version: int, inputs: Inputs, before: tuple[Inputs, Snapshot] | None = None) -> Snapshot:
    """The snapshot of ``inputs``; ``before``, what was compiled last, saves the work for all that is unchanged."""
    config = inputs.config
    identities = inputs.identities
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
        locals=_locals(inputs, before),
        listeners=_listeners(inputs, before),
        workloads=workloads(config),
        first_use=first_use(config),
        denied=inputs.denied,
    )


def _listeners(inputs: Inputs, before: tuple[Inputs, Snapshot] | None) -> tuple[Listener, ...]:
    if not inputs.usable:
        return ()
    same = before is not None and before[0].config is inputs.config and before[0].usable
    return before[1].listeners if before is not None and same else listeners(inputs.config)


def first_use(config: Config) -> float:
    """How many seconds a request waits for news of a service that is not known; 0: it does not."""
    return config.discovery.consul.first_use if config.discovery.backend == "consul" else 0.0


def destination(service: str, subset: str = "") -> str:
    """The key of Snapshot.services for a service, or a subset of one."""
    return f"{subset}.{service}" if subset else service


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
            service=destination(upstream.service, upstream.subset),
            caller=upstream.caller,
        )
        for upstream in outbound.upstreams
    )
    return tuple(found)


def workloads(config: Config) -> tuple[Workload, ...]:
    """How callers are known. A user that this host doesn't have is nobody, and never everybody."""
    return tuple(
        Workload(service.name, service.unit, service.uid)
        for service in config.services
        if service.known_by_kernel and not (service.user and service.uid is None)
    )


def identity_names(config: Config) -> tuple[str, ...]:
    """The services whose certificates this host presents: its own, and those in whose name it calls."""
    names = dict.fromkeys(service.name for service in config.services)
    names.update(dict.fromkeys(listener.caller for listener in listeners(config)))
    return tuple(name for name in names if name not in ("", HOST))


def difference(old: Snapshot, new: Snapshot) -> Delta | None:
    """What turns ``old`` into ``new``; None when that takes a whole snapshot."""
    changeable = ("version", "services", "locals", "identities", "authorities", "denied")
    for field in Snapshot.__struct_fields__:
        if field not in changeable and getattr(old, field) != getattr(new, field):
            return None
    return Delta(
        version=new.version,
        services=_changes(old.services, new.services),
        locals=_changes(old.locals, new.locals),
        identities=_changes(old.identities, new.identities),
        authorities=None if old.authorities == new.authorities else new.authorities,
        denied=None if old.denied == new.denied else new.denied,
    )


def nothing_new(old: Snapshot, new: Snapshot) -> bool:
    """Whether ``new`` says the same as ``old``, but for its version."""
    delta = difference(old, new)
    return delta is not None and not (
        delta.services
        or delta.locals
        or delta.identities
        or delta.authorities is not None
        or delta.denied is not None
    )


def _changes(old: Mapping[str, Value], new: Mapping[str, Value]) -> dict[str, Value | None]:
    changes: dict[str, Value | None] = {name: None for name in old if name not in new}
    for name, value in new.items():
        known = old.get(name)
        if known is not value and known != value:
            changes[name] = value
    return changes


def _services(inputs: Inputs, before: tuple[Inputs, Snapshot] | None) -> dict[str, Service]:
    """Every destination that is known from the catalog; and from policy, or because it runs here, if nobody asks."""
    config, catalog, policy = inputs.config, inputs.catalog, inputs.policy
    protocols = {local.name: local.protocol for local in config.services}
    expected = policy.services.keys() | protocols.keys()
    if first_use(config):
        # What nobody watches, though policy names it or it runs here, is as unknown as any other: workers ask for it.
        expected &= {upstream.service for upstream in config.outbound.upstreams}
    named = _upstream_subsets(config)
    known = before[1].services if before is not None else {}
    if before is not None and _scope(before[0].config) == _scope(config):
        services = dict(known)
        names = _affected(before[0], inputs)
        old_policy = before[0].policy
        for name in names:
            for subset in _subsets(name, old_policy, named):
                services.pop(destination(name, subset), None)
    else:
        services = {}
        names = {*catalog, *expected, *named}
    here = Here(config.host.name, config.host.datacenter, config.host.zone, inputs.bands)
    for name in names:
        subsets = _subsets(name, policy, named)
        if name not in catalog and name not in expected:
            subsets = named.get(name, ())  # it is not known; still an upstream is to say why it does not work
        for subset in subsets:
            key = destination(name, subset)
            service = _service(name, subset, inputs, protocols.get(name, DEFAULT_PROTOCOL), here)
            services[key] = known[key] if service == known.get(key) else service
    return services


def _scope(config: Config) -> tuple[object, ...]:
    """All of a configuration that destinations are compiled from: a reload that leaves it alone leaves them alone."""
    host = config.host
    protocols = {local.name: local.protocol for local in config.services}
    return host.name, host.datacenter, host.zone, first_use(config), protocols, _upstream_subsets(config)


def _affected(old: Inputs, new: Inputs) -> set[str]:
    """The services that may be compiled to something else, with the same configuration."""
    names = changed(old.catalog, new.catalog)
    before, after = old.policy.services, new.policy.services
    if before is not after:
        names |= {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if old.bands is not new.bands and old.bands != new.bands:
        names |= {name for name, rules in after.items() if rules.prefer == "round-trip"}
    return names


def _upstream_subsets(config: Config) -> dict[str, list[str]]:
    """The subsets that upstreams name, by service."""
    named: dict[str, list[str]] = {}
    for upstream in config.outbound.upstreams:
        if upstream.subset:
            named.setdefault(upstream.service, []).append(upstream.subset)
    return named


def _subsets(name: str, policy: Policy, named: Mapping[str, Iterable[str]]) -> Iterable[str]:
    """The subsets of a service that are destinations: "" for the service itself, and those defined or asked for."""
    rules = policy.services.get(name, NO_RULES)
    return dict.fromkeys(["", *rules.subsets, *named.get(name, ())])


def _service(name: str, subset: str, inputs: Inputs, protocol: str, here: Here) -> Service:
    rules = inputs.policy.services.get(name, NO_RULES)
    selection = select(name, inputs.catalog.get(name, ()), rules, subset, here)
    protocol = rules.protocol or protocol
    by_requests = protocol == DEFAULT_PROTOCOL  # else it is carried as bytes, in which nobody tells requests apart
    return Service(
        name=name,
        subset=subset,
        protocol=protocol,
        timeout=rules.timeout,
        balance=rules.balance,
        places=selection.places,
        obstacle=selection.obstacle,
        retry=rules.retry if by_requests else None,
        routes=rules.routes if by_requests and not subset else (),
    )


def _locals(inputs: Inputs, before: tuple[Inputs, Snapshot] | None) -> dict[str, Local]:
    """The services of this host. After news of health, only those that it is about are made again."""
    old = before[0] if before is not None else None
    known = before[1].locals if before is not None else {}
    same = old is not None and old.config is inputs.config and old.policy is inputs.policy
    affected = {service for service, _ in old.unhealthy ^ inputs.unhealthy} if old is not None else set()
    return {
        local.name: known[local.name] if same and local.name not in affected else _local(local, inputs)
        for local in inputs.config.services
    }


def _local(local: LocalService, inputs: Inputs) -> Local:
    """A service of this host with what its callers may do."""
    policy = inputs.policy
    rules = policy.services.get(local.name, NO_RULES)
    default_allow, reason = policy.default(local.name)
    instances = _usable(local, inputs, rules.panic_threshold)
    return Local(
        name=local.name,
        protocol=rules.protocol or local.protocol,
        instances=instances,
        allow=rules.allow,
        default_allow=default_allow,
        default_reason=reason,
        timeout=_longest_timeout(rules),
        failing="" if instances or not local.instances else f"health checks: no instance of {local.name} passes",
        deny=rules.deny,
    )


def _longest_timeout(rules: ServicePolicy) -> float:
    """How long a call may take here, where nobody knows which route it took: as long as the longest of them allows."""
    timeouts = [rules.timeout, *(route.timeout for route in rules.routes if route.timeout is not None)]
    return max(timeouts) if all(timeouts) else 0.0


def _usable(local: LocalService, inputs: Inputs, threshold: int) -> tuple[str, ...]:
    """The instances that pass their health check; all of them when none does, unless ``threshold`` is 0.

    One that passes takes all: callers weigh this host by what passes, so it gets no more than its share.
    """
    healthy = tuple(address for address in local.instances if (local.name, address) not in inputs.unhealthy)
    return healthy if healthy or not threshold else local.instances
