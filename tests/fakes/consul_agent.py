"""The agent of the stub of Consul: services that are registered with it, and their checks.

Without what Consul does by itself over time, but for TTL checks, which expire; checks of other types stay as they
were registered, and nothing is deregistered for being critical too long.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tests.fakes.consul_catalog import SERVICE_MAINTENANCE, Catalog, Instance, check

STATUSES = ("passing", "warning", "critical")
BY_WORD = {"pass": "passing", "warn": "warning", "fail": "critical"}
NO_REASON = (
    "Maintenance mode is enabled for this service, but no reason was provided. This is a default message."
)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9.]+)(ms|s|m|h)")


class Refusal(Exception):
    """The agent answers with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def seconds(text: str) -> float:
    """Read a duration of Go, such as ``1m30s``."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise Refusal(400, f'Request decode failed: time: invalid duration "{text}"')
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class LocalAgent:
    """Services registered with this agent, which it puts into the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self.services: dict[str, dict[str, Any]] = {}  # by ID, as /v1/agent/services shows them
        self.checks: dict[str, dict[str, Any]] = {}  # by CheckID, as /v1/agent/checks shows them
        self.unknown_check = 500  # status for a check that there isn't; newer versions say 404
        self._catalog = catalog
        self._published: dict[str, set[str]] = {}  # by name of the service, IDs that are in the catalog because of us
        self._ttls: dict[str, float] = {}
        self._expiries: dict[str, asyncio.TimerHandle] = {}

    def forget(self) -> None:
        """Lose everything that was registered."""
        for key in list(self.services):
            self.deregister(key)

    def register(self, body: bytes, replace: bool) -> None:
        """Of ``PUT /v1/agent/service/register``."""
        definition = _lower(_decode(body))
        name = definition.get("name") or ""
        if not name:
            raise Refusal(400, "Missing service name")
        key = definition.get("id") or name
        weights = _lower(definition.get("weights") or {})
        passing, warning = weights.get("passing", 1), weights.get("warning", 1)
        if passing < 1:
            raise Refusal(400, "Invalid Weights: Passing must be greater than 0")
        service: dict[str, Any] = {
            "ID": key,
            "Service": name,
            "Tags": definition.get("tags") or [],
            "Meta": definition.get("meta") or {},
            "Port": definition.get("port", 0),
            "Address": definition.get("address", ""),
            "Weights": {"Passing": passing, "Warning": warning},
            "EnableTagOverride": bool(definition.get("enabletagoverride")),
        }
        if service["Address"]:
            here = {"Address": service["Address"], "Port": service["Port"]}
            service["TaggedAddresses"] = {"lan_ipv4": here, "wan_ipv4": here}
        wanted = [definition["check"]] if definition.get("check") else []
        wanted += definition.get("checks") or []
        # Made before anything is changed: one that is wrong refuses the whole.
        made = [self._made(service, _lower(one), number, len(wanted)) for number, one in enumerate(wanted, 1)]
        previous = self.services.get(key)
        self.services[key] = service
        kept = {check_id for check_id, _, _ in made}
        for old in [each for each, one in self.checks.items() if one["ServiceID"] == key]:
            if replace and old not in kept and not old.startswith(SERVICE_MAINTENANCE):
                self._drop(old)
        for check_id, one, ttl in made:
            existing = self.checks.get(check_id)
            if existing is not None:
                one |= {"Status": existing["Status"], "Output": existing["Output"]}
            self.checks[check_id] = one
            if ttl:
                self._ttls[check_id] = ttl
                self._beat(check_id)
        if previous is not None and previous["Service"] != name:
            self._publish(previous["Service"])
        self._publish(name)

    def _made(self, service: dict[str, Any], one: Mapping[str, Any], number: int, of: int) -> tuple[str, Any, float]:
        check_id = one.get("checkid") or one.get("id") or f"service:{service['ID']}" + (f":{number}" if of > 1 else "")
        ttl = seconds(one["ttl"]) if one.get("ttl") else 0.0
        kinds = [kind for kind in ("http", "tcp", "grpc") if one.get(kind)]
        if not ttl and not kinds:
            raise Refusal(400, "Invalid check: TTL must be > 0 for TTL checks")
        status = one.get("status") or "critical"
        if status not in STATUSES:
            raise Refusal(400, f"Invalid check: invalid status {status!r}")
        more = {
            "Notes": one.get("notes", ""),
            "ServiceID": service["ID"],
            "ServiceName": service["Service"],
            "ServiceTags": service["Tags"],
            "Type": "ttl" if ttl else kinds[0],
        }
        name = one.get("name") or f"Service '{service['Service']}' check"
        return check_id, check(self._catalog.node, check_id, name, status, **more), ttl

    def deregister(self, key: str) -> None:
        """Of ``PUT /v1/agent/service/deregister/ID``; one that there isn't is no error."""
        service = self.services.pop(key, None)
        if service is not None:
            for each in [each for each, one in self.checks.items() if one["ServiceID"] == key]:
                self._drop(each)
            self._publish(service["Service"])

    def maintenance(self, key: str, enable: str | None, reason: str) -> None:
        """Of ``PUT /v1/agent/service/maintenance/ID``."""
        service = self.services.get(key)
        if enable is None:
            raise Refusal(400, "Missing value for enable")
        if enable not in ("true", "false"):
            raise Refusal(400, f'Invalid value for enable: "{enable}"')
        if service is None:
            raise Refusal(404, f'No service registered with ID "{key}"')
        check_id = SERVICE_MAINTENANCE + key
        self._drop(check_id)
        if enable == "true":
            more = {
                "Notes": reason or NO_REASON,
                "ServiceID": key,
                "ServiceName": service["Service"],
                "ServiceTags": service["Tags"],
                "Type": "maintenance",
            }
            one = check(self._catalog.node, check_id, "Service Maintenance Mode", "critical", **more)
            self.checks[check_id] = one
        self._publish(service["Service"])

    def report(self, check_id: str, word: str, note: str, body: bytes) -> None:
        """Of ``PUT /v1/agent/check/pass/ID``, warn, fail, and update."""
        if word == "update":
            update = _lower(_decode(body))
            status, note = update.get("status", ""), update.get("output", "")
            if status not in STATUSES:
                raise Refusal(400, f"Invalid check status: '{status}'")
        else:
            status = BY_WORD[word]
        if check_id not in self._ttls:
            raise Refusal(self.unknown_check, f'CheckID "{check_id}" does not have associated TTL')
        self._beat(check_id)
        self._judge(check_id, status, note)

    def _judge(self, check_id: str, status: str, output: str) -> None:
        one = self.checks[check_id]
        if (one["Status"], one["Output"]) != (status, output):
            self.checks[check_id] = {**one, "Status": status, "Output": output}
            self._publish(one["ServiceName"])

    def _beat(self, check_id: str) -> None:
        self._stop(check_id)
        loop = asyncio.get_running_loop()
        expire: Callable[[str, str, str], None] = self._judge
        self._expiries[check_id] = loop.call_later(self._ttls[check_id], expire, check_id, "critical", "TTL expired")

    def _stop(self, check_id: str) -> None:
        timer = self._expiries.pop(check_id, None)
        if timer is not None:
            timer.cancel()

    def _drop(self, check_id: str) -> None:
        self._stop(check_id)
        self._ttls.pop(check_id, None)
        self.checks.pop(check_id, None)

    def _publish(self, name: str) -> None:
        """Bring the catalog up to date about a service; what others have put there stays."""
        catalog = self._catalog
        known = catalog.datacenters[catalog.datacenter].get(name)
        before = list(known.instances.values()) if known is not None else []
        own = [
            Instance(
                id=service["ID"],
                node=catalog.node,
                address=service["Address"],
                port=service["Port"],
                tags=service["Tags"],
                meta=service["Meta"] or None,
                weights=(service["Weights"]["Passing"], service["Weights"]["Warning"]),
                checks=[one for one in self.checks.values() if one["ServiceID"] == service["ID"]],
            )
            for service in self.services.values()
            if service["Service"] == name
        ]
        published = self._published.get(name, set())
        after = [one for one in before if one.id not in published] + own
        self._published[name] = {one.id for one in own}
        if after != before:
            catalog.set(catalog.datacenter, name, after)


def _decode(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Refusal(400, f"Request decode failed: {error}") from None


def _lower(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Names in lower case: Consul reads them in whatever case."""
    return {name.lower(): value for name, value in fields.items()}
