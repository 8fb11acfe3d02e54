"""The catalog of the stub of Consul: services, nodes and their checks, as answers of the HTTP interface have them.

Compared with Consul 1.8.7, see test_consul_stub.py. Answers are put together from pieces that stay as they are until
their instance changes, so that tens of thousands of instances can be served and changed one by one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

SERF = "serfHealth"
NODE_MAINTENANCE = "_node_maintenance"
SERVICE_MAINTENANCE = "_service_maintenance:"

encode = msgspec.json.encode


class Instance(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An instance of a service, as tests write it."""

    id: str = ""  # empty: the service and the port
    node: str = ""  # empty: the node of the agent
    address: str = ""  # empty: the node's
    port: int = 0
    tags: list[str] = []
    meta: dict[str, str] | None = None
    weights: tuple[int, int] = (1, 1)  # passing, warning
    tagged_addresses: dict[str, dict[str, Any]] | None = None
    status: str = ""  # of a check of its own; empty: it has none
    output: str = ""  # of this check
    maintenance: str | None = None  # the reason
    checks: list[dict[str, Any]] = []  # more of them, written as Consul does
    node_address: str = "127.0.0.1"
    node_meta: dict[str, str] = {}
    node_status: str = "passing"
    node_maintenance: str | None = None  # the reason


def check(node: str, check_id: str, name: str, status: str, **more: Any) -> dict[str, Any]:
    """A check with all fields that Consul shows."""
    return {
        "Node": node,
        "CheckID": check_id,
        "Name": name,
        "Status": status,
        "Notes": "",
        "Output": "",
        "ServiceID": "",
        "ServiceName": "",
        "ServiceTags": [],
        "Type": "",
        "Definition": {},
        "CreateIndex": 0,
        "ModifyIndex": 0,
        **more,
    }


class Service:
    """One service in one datacenter."""

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.index = 0
        self.entries: dict[str, bytes] = {}  # by ID, of those that have not changed since the last answer
        self.created: dict[str, int] = {}
        self.modified: dict[str, int] = {}
        self.body: bytes | None = None


class Catalog:
    """What the servers of all datacenters know. ``changed(datacenter, service)`` is called after each change."""

    def __init__(self, datacenter: str, node: str, changed: Callable[[str, str], object]) -> None:
        self.datacenter, self.node = datacenter, node
        self.index = 10
        self.datacenters: dict[str, dict[str, Service]] = {datacenter: {}}
        self.coordinates: list[Any] = []
        self.coordinates_index = 1
        self._changed = changed

    def set(self, datacenter: str, name: str, instances: Iterable[Instance]) -> None:
        """Replace all instances of a service. The index moves even when they are the same."""
        services = self.datacenters.setdefault(datacenter, {})
        wanted = {}
        for instance in instances:
            instance.id = instance.id or f"{name}-{instance.port}"
            instance.node = instance.node or self.node
            assert instance.id not in wanted, f"two instances of {name} have the ID {instance.id}"
            wanted[instance.id] = instance
        self.index += 1
        service = services.setdefault(name, Service())
        for key in [key for key, old in service.instances.items() if wanted.get(key) != old]:
            service.entries.pop(key, None)
        for key, instance in wanted.items():
            if service.instances.get(key) != instance:
                service.created.setdefault(key, self.index)
                service.modified[key] = self.index
        service.instances = wanted
        self._touch(datacenter, name, service)
        if not wanted:
            del services[name]

    def change(self, datacenter: str, name: str, key: str, changes: Mapping[str, Any]) -> None:
        """Change some fields of one instance."""
        service = self.datacenters[datacenter][name]
        fields = {**msgspec.structs.asdict(service.instances[key]), **changes}
        service.instances[key] = msgspec.convert(fields, Instance)
        service.entries.pop(key, None)
        self.index += 1
        service.modified[key] = self.index
        self._touch(datacenter, name, service)

    def restore(self, index: int) -> None:
        """Go on from another index, as after restoring a snapshot; all who wait get an answer."""
        self.index = index
        for datacenter, services in self.datacenters.items():
            for name, service in services.items():
                service.index = index
                self._changed(datacenter, name)
            self._changed(datacenter, "")

    def _touch(self, datacenter: str, name: str, service: Service) -> None:
        service.index = self.index
        service.body = None
        self._changed(datacenter, name)

    def health(self, datacenter: str, name: str) -> tuple[bytes, int]:
        """The answer about a service, and its index: the whole table's for a service that there isn't."""
        service = self.datacenters[datacenter].get(name)
        if service is None:
            return b"[]", self.index
        if service.body is None:
            entries = service.entries
            for key, instance in service.instances.items():
                if key not in entries:
                    entries[key] = encode(self._entry(datacenter, name, service, instance))
            service.body = b"[%b]" % b",".join([entries[key] for key in service.instances])
        return service.body, service.index

    def names(self, datacenter: str) -> dict[str, list[str]]:
        """The names of all services, with their tags."""
        names = {"consul": []} | {
            name: sorted({tag for one in service.instances.values() for tag in one.tags})
            for name, service in self.datacenters[datacenter].items()
        }
        return dict(sorted(names.items()))

    def _entry(self, datacenter: str, name: str, service: Service, one: Instance) -> dict[str, Any]:
        indexes = {"CreateIndex": service.created[one.id], "ModifyIndex": service.modified[one.id]}
        node = {
            "ID": str(uuid.uuid5(uuid.NAMESPACE_DNS, one.node)),
            "Node": one.node,
            "Address": one.node_address,
            "Datacenter": datacenter,
            "TaggedAddresses": dict.fromkeys(("lan", "lan_ipv4", "wan", "wan_ipv4"), one.node_address),
            "Meta": {"consul-network-segment": "", **one.node_meta},
            "CreateIndex": 5,
            "ModifyIndex": 6,
        }
        addresses = one.tagged_addresses
        if addresses is None and one.address:
            here = {"Address": one.address, "Port": one.port}
            addresses = {"lan_ipv4": here, "wan_ipv4": here}
        about = {
            "ID": one.id,
            "Service": name,
            "Tags": one.tags,
            "Address": one.address,
            **({"TaggedAddresses": addresses} if addresses is not None else {}),
            "Meta": one.meta,
            "Port": one.port,
            "Weights": {"Passing": one.weights[0], "Warning": one.weights[1]},
            "EnableTagOverride": False,
            "Proxy": {"MeshGateway": {}, "Expose": {}},
            "Connect": {},
            **indexes,
        }
        return {"Node": node, "Service": about, "Checks": _checks(name, one, indexes)}


def _checks(name: str, one: Instance, indexes: dict[str, int]) -> list[dict[str, Any]]:
    healthy = one.node_status == "passing"
    output = "Agent alive and reachable" if healthy else "Agent not live or unreachable"
    checks = [check(one.node, SERF, "Serf Health Status", one.node_status, Output=output, CreateIndex=5, ModifyIndex=5)]
    if one.node_maintenance is not None:
        more = {"Notes": one.node_maintenance, "Type": "maintenance", **indexes}
        checks.append(check(one.node, NODE_MAINTENANCE, "Node Maintenance Mode", "critical", **more))
    of_service = {"ServiceID": one.id, "ServiceName": name, "ServiceTags": one.tags, **indexes}
    if one.maintenance is not None:
        more = {"Notes": one.maintenance, "Type": "maintenance", **of_service}
        checks.append(check(one.node, SERVICE_MAINTENANCE + one.id, "Service Maintenance Mode", "critical", **more))
    if one.status:
        more = {"Output": one.output, "Type": "ttl", **of_service}
        checks.append(check(one.node, f"service:{one.id}", f"Service '{name}' check", one.status, **more))
    return [*checks, *({**each, **indexes} for each in one.checks)]
