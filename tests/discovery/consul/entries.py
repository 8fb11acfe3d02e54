"""Answers of Consul, as 1.8.7 writes them."""

from __future__ import annotations

import json
from typing import Any


def check(status: str = "passing", name: str = "alive", check_id: str = "service:1") -> dict[str, Any]:
    """A check of a node or an instance."""
    return {
        "Node": "n",
        "CheckID": check_id,
        "Name": name,
        "Status": status,
        "Notes": "",
        "Output": "changes all the time",
        "ServiceTags": [],
        "Definition": {},
        "ModifyIndex": 15,
    }


def entry(
    address: str = "10.0.0.1",
    port: Any = 8080,
    node: str = "db-1",
    health: str = "passing",
    meta: dict[str, str] | None = None,
    **service: Any,
) -> dict[str, Any]:
    """One element of ``/v1/health/service/NAME``."""
    return {
        "Node": {
            "ID": "22bdaabf-f3d3-74e0-27c4-1a3d3a13ba56",
            "Node": node,
            "Address": "10.9.9.9",
            "Datacenter": "dc1",
            "TaggedAddresses": {"lan": "10.9.9.9", "wan": "192.0.2.9"},
            "Meta": {"consul-network-segment": ""},
            "ModifyIndex": 12,
        },
        "Service": {
            "ID": "web1",
            "Service": "web",
            "Tags": ["blue"],
            "Address": address,
            "TaggedAddresses": {"lan_ipv4": {"Address": address, "Port": 8080}},
            "Meta": {"version": "2", "mesh_port": "15443", "zone": "rack-3"} if meta is None else meta,
            "Port": port,
            "Weights": {"Passing": 5, "Warning": 2},
            "EnableTagOverride": False,
            "Connect": {},
            "ModifyIndex": 13,
            **service,
        },
        "Checks": [check(name="Serf Health Status", check_id="serfHealth"), check(health)],
    }


def body(*entries: Any) -> bytes:
    """The whole answer."""
    return json.dumps(list(entries), separators=(",", ":")).encode()
