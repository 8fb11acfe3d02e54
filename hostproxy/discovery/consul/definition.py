"""What the services of this host look like in Consul: a pure function of conf.toml."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from hostproxy.mesh import addresses
from hostproxy.mesh.units import format_duration

if TYPE_CHECKING:
    from hostproxy.config import Host
    from hostproxy.config_services import LocalService

OWN = "hostproxy"  # the name, and the ID, of hostproxy itself as a service
MESH_PORT = "mesh_port"  # in the metadata of everything that is on a host with a hostproxy
OWNER = "registered_by"  # in the metadata of everything that hostproxy registered: the name of its host
TTL = 30.0  # seconds after which hostproxy counts as dead when it does not say that it lives
SHORTEST_TTL = 10.0  # seconds; two beats may be lost without harm
SHORTEST_INTERVAL = 1.0  # seconds; the agent runs no check more often
NOTE_SIZE = 512  # bytes of a reason that is sent along

# A check of another kind has another ID: under the same one, the agent would go on running the old kind beside it.
_TTL, _HTTP, _TCP = "hostproxy:", "hostproxy-http:", "hostproxy-tcp:"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A check as it is registered."""

    id: str
    name: str
    notes: str  # in words the whole of it: the agent does not show how it checks, so this is what is compared
    fields: dict[str, Any]  # how it checks, as Consul names that
    ttl: float = 0.0  # seconds; 0.0: the agent runs it


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """An instance as it is registered."""

    id: str
    service: str
    instance: str = ""  # its address in conf.toml; empty: this is hostproxy itself
    address: str
    port: int
    tags: tuple[str, ...] = ()
    meta: dict[str, str]
    weight: int = 1
    check: Check | None = None

    def arguments(self, status: str) -> dict[str, Any]:
        """Return what py-consul's ``agent.service.register`` takes; ``status`` is of the check, empty: Consul's own."""
        check: dict[str, Any] | None = None
        if self.check is not None:
            check = {"CheckID": self.check.id, "Name": self.check.name, "Notes": self.check.notes, **self.check.fields}
            if status:
                check["Status"] = status
        return {
            "name": self.service,
            "service_id": self.id,
            "address": self.address,
            "port": self.port,
            "tags": list(self.tags),
            "meta": self.meta,
            "weights": {"Passing": self.weight, "Warning": 1},
            "check": check,
        }


def definitions(
    services: Iterable[LocalService], host: Host, mesh_port: int, software: str
) -> dict[str, Definition]:
    """Return by ID what is to be registered: the instances of ``services``, and hostproxy of version ``software``.

    What configuration refuses is left out: of two instances of a service with the same port the second, because in
    Consul they are one; and a Unix socket that the agent should check, because it cannot.
    """
    own_check = Check(
        id=_TTL + OWN,
        name="workers of hostproxy",
        notes=f"passing while its workers serve; critical without word from it for {format_duration(TTL)}",
        fields={"TTL": format_duration(TTL)},
        ttl=TTL,
    )
    own = Definition(
        id=OWN,
        service=OWN,
        address=host.address,
        port=mesh_port,
        meta=_meta({OWNER: host.name, MESH_PORT: str(mesh_port), "version": software, "zone": host.zone}),
        check=own_check,
    )
    found = {own.id: own}
    for service in services:
        for instance in service.instances if service.register else ():
            unix = addresses.is_unix(instance)
            if unix and service.check.wanted and service.check.run_by == "consul":
                continue
            port = mesh_port if unix else addresses.split(instance)[1]
            ident = service_id(service.name, instance)
            definition = Definition(
                id=ident,
                service=service.name,
                instance=instance,
                address=host.address,
                port=port,
                tags=tuple(dict.fromkeys(service.tags)),
                meta=_meta(
                    {
                        **service.meta,
                        OWNER: host.name,
                        MESH_PORT: str(mesh_port),
                        "version": service.version,
                        "zone": host.zone,
                        "protocol": service.protocol,
                        "socket": instance.removeprefix(addresses.UNIX) if unix else "",
                    }
                ),
                weight=service.weight,
                check=_check(service, instance, ident),
            )
            found.setdefault(ident, definition)
    return found


def service_id(service: str, instance: str) -> str:
    """Return the ID of the instance of a service at a canonical address; it stays the same over restarts."""
    if addresses.is_unix(instance):
        # Eight digits, so that it is no port.
        return f"{OWN}-{service}-{hashlib.sha256(instance.encode()).hexdigest()[:8]}"
    return f"{OWN}-{service}-{addresses.split(instance)[1]}"


def check_ids(service_id: str) -> tuple[str, ...]:
    """Return the IDs that a check of ours can have."""
    return _TTL + service_id, _HTTP + service_id, _TCP + service_id


def note(text: str) -> str:
    """Return a reason in printable characters and at most :data:`NOTE_SIZE` bytes."""
    printable = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:NOTE_SIZE]
    )
    return printable.encode()[:NOTE_SIZE].decode(errors="ignore")


def _meta(pairs: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in pairs.items() if value}


def _check(service: LocalService, instance: str, ident: str) -> Check | None:
    check = service.check
    if not check.wanted:
        return None
    name = f"{service.name} at {instance}"
    does = f"GET {check.http} from {instance}" if check.http else f"connect to {instance}"
    if check.run_by == OWN:
        ttl = max(3 * check.interval, SHORTEST_TTL)
        return Check(
            id=_TTL + ident,
            name=name,
            notes=f"hostproxy: {does} every {format_duration(check.interval)};"
            f" critical without word from it for {format_duration(ttl)}",
            fields={"TTL": format_duration(ttl)},
            ttl=ttl,
        )
    interval, timeout = format_duration(max(check.interval, SHORTEST_INTERVAL)), format_duration(check.timeout)
    how = {"HTTP": f"http://{instance}{check.http}"} if check.http else {"TCP": instance}
    return Check(
        id=(_HTTP if check.http else _TCP) + ident,
        name=name,
        notes=f"Consul: {does} every {interval} within {timeout};"
        f" passing after {check.healthy}, critical after {check.unhealthy} in a row",
        fields={
            **how,
            "Interval": interval,
            "Timeout": timeout,
            "SuccessBeforePassing": check.healthy,
            "FailuresBeforeCritical": check.unhealthy,
        },
    )
