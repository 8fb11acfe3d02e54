"""What discovery knows: the instances of every service, and how a file says it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hostproxy.mesh import addresses, names
from hostproxy.mesh.document import CATALOG_SIZE, Document, Invalid, read
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import Integer, ListOf, Text
from hostproxy.mesh.schema import Key, Table, Tables

# How well an instance is, from best to worst. Whatever is worst among the checks of an instance and of its host holds.
PASSING, WARNING, CRITICAL, MAINTENANCE = HEALTH = ("passing", "warning", "critical", "maintenance")


class Instance(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One address of a service, as discovery knows it.

    Without tracking by the collector (it cannot be part of a cycle): there are ten thousands of them.
    """

    service: str
    host: str
    address: str  # "10.0.0.12:9001", "[::1]:9001" or "unix:/run/app.sock": where the instance listens
    mesh: str = ""  # its host's mesh port "10.0.0.12:15443"; empty: no hostproxy there
    datacenter: str = ""
    zone: str = ""
    version: str = ""
    tags: tuple[str, ...] = ()
    weight: int = 1  # in its present health; 0: no traffic
    meta: tuple[tuple[str, str], ...] = ()  # sorted; what policy can pick instances by besides version and tags
    health: str = PASSING
    reason: str = ""  # why it is not passing: the name of the check


Catalog = Mapping[str, tuple[Instance, ...]]  # by service name; instances in the order of host and address

# In a file, and a share of it is one service; CATALOG_SIZE holds about as many.
INSTANCES = 100_000

INSTANCE = Table(
    Instance,
    Key("service", Text(names.service), "the service that it belongs to"),
    Key("host", Text(names.host), "the host that it runs on"),
    Key("address", Text(addresses.reachable), "the address where the instance listens"),
    Key(
        "mesh",
        Text(addresses.reachable_ip, empty=True),
        "the mesh port of its host; absent: no hostproxy there",
    ),
    Key("datacenter", Text(names.datacenter, empty=True), "the datacenter of its host"),
    Key("zone", Text(names.word, empty=True), "the part of the datacenter"),
    Key("version", Text(names.word, empty=True), "its version"),
    Key("tags", ListOf(Text(names.word), most=64), "words that policy can pick instances by"),
    Key("weight", Integer(1, 1000), "its share of the traffic"),
)

CATALOG = Table(
    dict, Key("instance", Tables(INSTANCE, most=INSTANCES), "an instance of a service", default=())
)


def load(path: str) -> Catalog:
    """Read a catalog file. Raises :class:`Invalid` with every problem that it has."""
    return parse(read(path, CATALOG_SIZE))


def parse(document: Document) -> Catalog:
    """Return the catalog that a document holds. Raises :class:`Invalid`."""
    findings = Findings(document)
    instances: tuple[Instance, ...] = CATALOG.read(document.data, (), findings)["instance"]
    _check(instances, findings)
    if findings.problems:
        raise Invalid(findings.all_problems())
    by_service: dict[str, list[Instance]] = {}
    for instance in instances:
        by_service.setdefault(instance.service, []).append(instance)
    # Sorted, so that a file in another order is no change.
    return {name: tuple(sorted(each, key=_order)) for name, each in by_service.items()}


def changed(old: Catalog, new: Catalog) -> set[str]:
    """Return the services whose instances differ, those that came and went included.

    Of a service that did not change, both have the same tuple as a rule; its instances are not looked at then.
    """
    if old is new:
        return set()
    names = {name for name in old if name not in new}
    for name, instances in new.items():
        known = old.get(name)
        if known is not instances and known != instances:
            names.add(name)
    return names


def _order(instance: Instance) -> tuple[str, str]:
    return instance.host, instance.address


def _check(instances: tuple[Instance, ...], findings: Findings) -> None:
    first: dict[tuple[str, str, str], int] = {}
    for index, instance in enumerate(instances):
        if not instance.service or not instance.address:
            continue  # refused before
        # The same loopback address or socket path is another place on every host.
        host = f"{instance.datacenter}/{instance.host}" if addresses.is_local(instance.address) else ""
        key = (instance.service, instance.address, host)
        if first.setdefault(key, index) != index:
            line, _ = findings.document.place(("instance", first[key], "address"))
            findings.add(
                ("instance", index, "address"),
                f'"{instance.address}" is an instance of "{instance.service}" at line {line} already',
                "remove one of the two",
            )
        if addresses.is_unix(instance.address) and not instance.mesh:
            findings.add(
                ("instance", index, "address"),
                "no other host can reach a Unix socket",
                "give the mesh port of its host too",
            )
