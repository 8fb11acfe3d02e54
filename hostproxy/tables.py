"""A snapshot as a worker looks things up in it.

A destination is a service or a subset of one; ``payments`` and ``v2.payments`` are their keys. Destinations and their
endpoints are made when first used, and survive the next snapshot as far as it says the same: connections, loads and
rests stay with an endpoint whose address stays, whatever becomes of its weight. A change of one service costs the
destinations of that service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from hostproxy.enforce.authorise import Authoriser
from hostproxy.enforce.retry import RetryPolicy
from hostproxy.identity.contexts import ClientContexts, ServerContexts
from hostproxy.identity.trust import Trust
from hostproxy.mesh.spiffe import ALPN_HTTP1, ALPN_TCP, ServerName, SpiffeId
from hostproxy.net.connect import Address
from hostproxy.route.names import Names
from hostproxy.upstream.destination import Destination
from hostproxy.upstream.dial import Dialling, Security
from hostproxy.upstream.endpoint import Endpoint
from hostproxy.upstream.routing import Routing

if TYPE_CHECKING:
    from hostproxy.snapshot import Delta, Identity, Local, Service, Snapshot
    from hostproxy.telemetry.metrics import WorkerMetrics

# Callers of one local service that have a destination of their own: services of the mesh, known by certificate.
MAX_CALLERS = 4096
# Services that one message tells the supervisor to be in use.
MAX_USED = 1000
# Endpoints that /workers shows of a worker: they go to the supervisor every second, 250 bytes each.
MAX_DESCRIBED = 200


def is_bytes(protocol: str) -> bool:
    """Whether a service's traffic is relayed as bytes. HTTP/2 and gRPC are, until streams are told apart."""
    return protocol != "http"


class LocalTable:
    """A service with instances on this host."""

    def __init__(self, local: Local, tables: Tables, before: LocalTable | None) -> None:
        self.name = local.name
        self.source = local
        self.authoriser = Authoriser(local.allow, local.deny, local.default_allow, local.default_reason)
        known: dict[str, Endpoint] = {one.label: one for one in before.endpoints} if before else {}
        self.endpoints: list[Endpoint] = [
            known.pop(address) if address in known else tables.endpoint(local.name, address, None, 1)
            for address in local.instances
        ]
        for endpoint in known.values():
            endpoint.retire()
        self._tables = tables
        self._destinations: dict[tuple[str, str], Destination] = {}

    def destination(self, caller: str) -> Destination:
        """Its instances for HTTP requests of ``caller``, a verified service name."""
        return self._of(caller, "http")

    def tcp(self, caller: str) -> Destination:
        """Its instances for connections of ``caller``."""
        return self._of(caller, "tcp")

    def _of(self, caller: str, kind: str) -> Destination:
        destination = self._destinations.get((caller, kind))
        if destination is None:
            if len(self._destinations) >= MAX_CALLERS:
                self._destinations.clear()
            tables = self._tables
            failing = self.source.failing
            destination = Destination(
                self.name,
                () if failing else self.endpoints,
                "least-request",
                self.source.timeout,
                tables.metrics.requests("inbound", caller, self.name, "", True),
                tables.random,
            )
            if failing:
                destination.unsuitable = failing
                destination.lacking = "LH"
            self._destinations[caller, kind] = destination
        return destination


class Tables:
    """Everything that the paths look up. One per worker, changed between events, never during one."""

    def __init__(
        self, snapshot: Snapshot, dialling: Dialling, metrics: WorkerMetrics, random: Callable[[], float]
    ) -> None:
        self.dialling = dialling
        self.metrics = metrics
        self.random = random
        self.server_contexts = ServerContexts()
        self._client_contexts = ClientContexts()
        self._destinations: dict[str, dict[tuple[str, str], Destination]] = {}  # by key, then caller and ALPN
        self._locals: dict[str, LocalTable] = {}
        self._services: dict[str, Service] = {}
        self._identities: dict[str, Identity] = {}
        self._authorities = b""
        self._counted: dict[tuple[str, str, str], int] = {}  # requests by destination, when used() last looked
        self.trust = dialling.trust
        self.denied: frozenset[str] = frozenset()  # SPIFFE IDs of services and hosts
        self.trust_domain = self.datacenter = ""
        self.apply(snapshot)

    # Changes

    def apply(self, snapshot: Snapshot) -> None:
        """Take a whole snapshot."""
        self.host = snapshot.host
        moved = snapshot.trust_domain != self.trust_domain
        self.trust_domain = snapshot.trust_domain
        self.datacenter = snapshot.datacenter
        self.connect_ports = frozenset(snapshot.connect_ports)
        self.dialling.bound(snapshot.limits)
        gone = self._services.keys() - snapshot.services.keys()
        changed = [
            name for name, service in snapshot.services.items() if moved or self._services.get(name) != service
        ]
        self._services = dict(snapshot.services)
        self.names = Names(snapshot.domains, self._services)
        self._refresh_destinations([*gone, *changed])
        self._refresh_locals(dict(snapshot.locals))
        self._refresh_identities(dict(snapshot.identities), snapshot.authorities)
        self._deny(snapshot.denied)

    def change(self, delta: Delta) -> None:
        """Take what changed."""
        for name, service in delta.services.items():
            if service is None:
                self._services.pop(name, None)
                self.names.forget()
            else:
                self._services[name] = service
        self._refresh_destinations(delta.services)
        if delta.locals:
            current = {name: table.source for name, table in self._locals.items()}
            self._refresh_locals(_merged(current, delta.locals))
        if delta.identities or delta.authorities is not None or delta.locals:
            authorities = self._authorities if delta.authorities is None else delta.authorities
            self._refresh_identities(_merged(self._identities, delta.identities), authorities)
        if delta.denied is not None:
            self._deny(delta.denied)

    def _refresh_destinations(self, services: Iterable[str]) -> None:
        for name in services:
            for key, old in self._destinations.pop(name, {}).items():
                if name in self._services:
                    new = self._build(name, *key, old)
                    self._destinations.setdefault(name, {})[key] = new
                    old.retire(new.endpoints)
                else:
                    old.retire()

    def _refresh_locals(self, locals_: dict[str, Local]) -> None:
        tables = {}
        for name, local in locals_.items():
            before = self._locals.pop(name, None)
            tables[name] = before if before and before.source == local else LocalTable(local, self, before)
        for table in self._locals.values():
            for endpoint in table.endpoints:
                endpoint.retire()
        self._locals = tables

    def _refresh_identities(self, identities: dict[str, Identity], authorities: bytes) -> None:
        if identities != self._identities or authorities != self._authorities:
            self._client_contexts.update(identities, authorities)
            replaced = [
                name
                for name in self._identities.keys() | identities.keys()
                if identities.get(name) != self._identities.get(name) or authorities != self._authorities
            ]
            self._identities = identities
            if authorities != self._authorities:
                self._authorities = authorities
                self.trust = self.dialling.trust = Trust(authorities)
            # Connections under a replaced certificate finish what they do; new ones show the new one.
            for of_service in self._destinations.values():
                for key in [key for key in of_service if key[0] in replaced]:
                    of_service.pop(key).retire()
        self.server_contexts.update(
            self.trust_domain,
            self.datacenter,
            identities,
            authorities,
            {
                name: (ALPN_TCP,) if is_bytes(table.source.protocol) else (ALPN_HTTP1,)
                for name, table in self._locals.items()
                if name in identities
            },
        )

    def _deny(self, identities: Iterable[str]) -> None:
        denied = frozenset(identities)
        if not denied <= self.denied:
            # Whoever is denied now may be at the other end of any connection that is kept for the next request.
            for of_service in self._destinations.values():
                for destination in of_service.values():
                    destination.retire()
            self._destinations.clear()
        self.denied = self.dialling.denied = denied

    # Look-ups

    def local(self, service: str) -> LocalTable | None:
        """A service of this host."""
        return self._locals.get(service)

    def identity_of(self, caller: str) -> str:
        """The SPIFFE ID that ``caller``, a service of this host or "host", calls with."""
        known = self._identities.get(caller)
        return known.uri if known is not None else ""

    def is_tcp(self, service: str) -> bool:
        """Whether a destination takes bytes instead of HTTP/1.1 requests."""
        found = self._services.get(service)
        return found is not None and is_bytes(found.protocol)

    def outbound(self, caller: str, service: str) -> Destination:
        """The destination ``service`` as ``caller`` reaches it with HTTP/1.1 requests."""
        try:
            return self._destinations[service][caller, ALPN_HTTP1]
        except KeyError:
            return self._first_use(service, caller, ALPN_HTTP1)

    def outbound_tcp(self, caller: str, service: str) -> Destination:
        """The destination ``service`` as ``caller`` reaches it with bytes."""
        try:
            return self._destinations[service][caller, ALPN_TCP]
        except KeyError:
            return self._first_use(service, caller, ALPN_TCP)

    def _first_use(self, service: str, caller: str, alpn: str) -> Destination:
        destination = self._build(service, caller, alpn, None)
        if service in self._services:  # else nothing would ever take it away again
            self._destinations.setdefault(service, {})[caller, alpn] = destination
        return destination

    # Building

    def endpoint(self, service: str, address: str, security: Security | None, weight: int) -> Endpoint:
        """A new endpoint."""
        return Endpoint(self.dialling, service, Address.parse(address), security, weight)

    def _build(self, key: str, caller: str, alpn: str, before: Destination | None) -> Destination:
        service = self._services.get(key)
        if service is None:
            series = self.metrics.requests("outbound", caller, key, "", False)
            return Destination(key, [], "random", 0.0, series, self.random)
        if alpn == ALPN_HTTP1 and is_bytes(service.protocol):
            unsuitable = (
                f'{key} has protocol "{service.protocol}", which is relayed as bytes: '
                "reach it through an [[outbound.upstream]] of its own, or with CONNECT"
            )
            endpoints = []
        else:
            unsuitable = service.obstacle
            endpoints = self._endpoints(service, caller, alpn, before.endpoints if before is not None else ())
        secure = any(endpoint.security is not None for endpoint in endpoints)
        series = self.metrics.requests("outbound", caller, service.name, "", secure, service.subset)
        destination = Destination(
            service.name, endpoints, service.balance, service.timeout, series, self.random, key
        )
        destination.unsuitable = unsuitable
        if alpn == ALPN_HTTP1:
            retry, routing = (before.retry, before.routing) if before is not None else (None, None)
            # What says the same is kept: it counts the retries that are under way.
            if retry is None or retry.source != service.retry:
                retry = RetryPolicy(service.retry) if service.retry is not None else None
            if routing is None or routing.source != service.routes:
                routing = Routing(service, caller, self.metrics, self.random) if service.routes else None
            destination.retry, destination.routing = retry, routing
        return destination

    def _endpoints(self, service: Service, caller: str, alpn: str, before: Iterable[Endpoint]) -> list[Endpoint]:
        """An endpoint for each place of ``service``: those of ``before`` that are still right, else new ones."""
        known = {
            (endpoint.label, endpoint.security.server_name if endpoint.security else ""): endpoint
            for endpoint in before
        }
        endpoints: list[Endpoint] = []
        securities: dict[str, Security] = {}  # by datacenter: the endpoints of one share it
        for place in service.places:
            security = None
            if place.secure:
                if caller not in self._identities:
                    continue  # a caller that has left this host, on a connection from before
                security = securities.get(place.datacenter)
                if security is None:
                    security = self._security(service.name, caller, alpn, place.datacenter)
                    securities[place.datacenter] = security
            endpoint = known.get((place.address, security.server_name if security else ""))
            if endpoint is None:
                endpoint = self.endpoint(service.name, place.address, security, place.weight)
            endpoint.weight = place.weight
            endpoints.append(endpoint)
        return endpoints

    def _security(self, service: str, caller: str, alpn: str, datacenter: str) -> Security:
        return Security(
            self._client_contexts.get(caller, (alpn,)),
            str(ServerName(service, datacenter, self.trust_domain)),
            str(SpiffeId.service(self.trust_domain, service)),
            self.trust_domain,
        )

    # Telling

    def used(self) -> tuple[str, ...]:
        """The services that were called since the last time; the most called ``MAX_USED`` of them."""
        counted: dict[tuple[str, str, str], int] = {}
        calls: dict[str, int] = {}
        for key, of_key in self._destinations.items():
            for (caller, alpn), destination in of_key.items():
                requests = counted[key, caller, alpn] = destination.requests()
                new = requests - self._counted.get((key, caller, alpn), 0)
                if not new:
                    # Long calls and tunnels were counted when they began, or will be when they end.
                    new = sum(endpoint.in_flight for endpoint in destination.endpoints)
                if new:
                    calls[destination.name] = calls.get(destination.name, 0) + abs(new)
        self._counted = counted
        return tuple(sorted(calls, key=calls.__getitem__, reverse=True)[:MAX_USED])

    def connections(self) -> tuple[int, int]:
        """Connections to endpoints: all, and those of them that are unused."""
        endpoints = [
            endpoint
            for of_service in self._destinations.values()
            for destination in of_service.values()
            for endpoint in destination.endpoints
        ]
        for table in self._locals.values():
            endpoints += table.endpoints
        return sum(one.open for one in endpoints), sum(one.idle for one in endpoints)

    def described(self) -> dict[str, object]:
        """The endpoints in use, for /workers; the busiest ``MAX_DESCRIBED`` of them."""
        destinations = [
            (caller, alpn, destination)
            for of_service in self._destinations.values()
            for (caller, alpn), destination in of_service.items()
        ]
        rows = [
            {
                "service": destination.key,
                "caller": caller,
                "alpn": alpn,
                "endpoint": endpoint.label,
                "mtls": endpoint.security is not None,
                "weight": endpoint.weight,
                "in_flight": endpoint.in_flight,
                "connections": endpoint.open,
                "idle": endpoint.idle,
                "resting": endpoint.resting_until > self.dialling.reactor.now,
            }
            for caller, alpn, destination in destinations
            for endpoint in destination.endpoints
        ]
        local = [
            {
                "service": table.name,
                "endpoint": endpoint.label,
                "in_flight": endpoint.in_flight,
                "connections": endpoint.open,
                "idle": endpoint.idle,
            }
            for table in self._locals.values()
            for endpoint in table.endpoints
        ]
        for some in (rows, local):
            some.sort(key=_business, reverse=True)
            del some[MAX_DESCRIBED:]
        return {"outbound": rows, "local": local}


def _business(row: dict[str, object]) -> tuple[object, object]:
    return row["in_flight"], row["connections"]


def _merged(current: dict, changes: dict) -> dict:  # type: ignore[type-arg]
    """``current`` with ``changes``, in which None takes away."""
    merged = {**current, **changes}
    return {name: value for name, value in merged.items() if value is not None}
