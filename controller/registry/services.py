"""Which service runs on which host, as operators say: in controller.toml, or by a command."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from controller.registry.hosts import host_name
from controller.registry.records import Record, Refused, change, read, read_all
from controller.store import Store
from hostproxy.mesh import spiffe

MOST_HOSTS = 10_000  # of one service
_WHERE = "services/"


class Service(Record, frozen=True):
    """Where a service runs."""

    hosts: tuple[str, ...]  # sorted


class Services:
    """All services."""

    def __init__(self, store: Store, configured: Mapping[str, Collection[str]]) -> None:
        """``configured`` hosts by service are those of controller.toml; no command takes them away."""
        self._store = store
        self._configured = {name: frozenset(hosts) for name, hosts in configured.items()}

    async def hosts(self, service: str) -> frozenset[str]:
        """Where a service runs."""
        known = await read(self._store, _key(service), Service)
        return self._configured.get(service, frozenset()) | frozenset(known.hosts if known is not None else ())

    async def all(self) -> dict[str, frozenset[str]]:
        """The hosts of each service."""
        found = dict(self._configured)
        for name, service in (await read_all(self._store, _WHERE, Service)).items():
            found[name] = found.get(name, frozenset()) | frozenset(service.hosts)
        return dict(sorted(found.items()))

    async def assign(self, service: str, host: str) -> None:
        """It runs there from now on. Raises :class:`Refused`."""
        host_name(host)

        def more(known: Service | None) -> Service:
            hosts = known.hosts if known is not None else ()
            if len(hosts) >= MOST_HOSTS:
                raise Refused("full", f"{service} runs on {MOST_HOSTS} hosts already")
            return known if known is not None and host in hosts else Service(hosts=tuple(sorted((*hosts, host))))

        await change(self._store, _key(service), Service, more)

    async def withdraw(self, service: str, host: str) -> None:
        """It does not run there any more. Raises :class:`Refused`."""
        if host in self._configured.get(service, ()):
            raise Refused("service", f"controller.toml says that {service} runs on {host}: change it there")

        def fewer(known: Service | None) -> Service | None:
            if known is None or host not in known.hosts:
                raise Refused("service", f"{service} is not said to run on {host}")
            hosts = tuple(each for each in known.hosts if each != host)
            return Service(hosts=hosts) if hosts else None

        await change(self._store, _key(service), Service, fewer)


def _key(service: str) -> str:
    try:
        spiffe.check_service(service)
    except spiffe.InvalidName as error:
        raise Refused("name", str(error)) from None
    return _WHERE + service
