"""Hosts whose catalog is a real Consul's: each with an agent, certificates, and origins behind its services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.consul import Consul
from tests.fakes.client import Outcome, exchange
from tests.fakes.cases import head
from tests.fakes.origin import Answer, Origin, reply
from tests.integration.host import Host, certificates


def consul_host(
    directory: Path,
    name: str,
    agent: Consul,
    *,
    authority: Path,
    services: dict[str, str] | None = None,
    check: dict[str, Any] | None = None,
    workers: int = 1,
    **settings: Any,
) -> Host:
    """A host beside ``agent``, not started. ``services`` are instances by name; ``settings`` go to discovery.consul."""
    own = directory / name
    certificates(own / "pki", name, *(services or {"client": ""}), authority=authority)
    host = Host(own, name, certificates=own / "pki", address=agent.ip, workers=workers)
    host.conf["host"]["datacenter"] = agent.datacenter
    host.conf["discovery"] = {
        "backend": "consul",
        "consul": {"address": agent.address, "node": agent.name, "allow": ["127.0.0.0/8"], "leave": "500ms", **settings},
    }
    if agent.token and "token_file" not in settings:
        token = own / "token"
        token.write_text(agent.token)
        token.chmod(0o600)
        host.conf["discovery"]["consul"]["token_file"] = str(token)
    for service, instance in (services or {"client": ""}).items():
        table: dict[str, Any] = {"name": service, "instances": [instance] if instance else []}
        if check is not None and instance:
            table["check"] = check
        host.conf["service"].append(table)
    host.conf["outbound"]["caller"] = "host"
    host.policy = {"defaults": {"access": "allow"}, "service": {}}
    return host


def origin(text: bytes) -> Origin:
    """An HTTP origin that answers with ``text``."""
    made = Origin()
    made.respond = lambda request, connection: Answer(reply(text))
    return made


def call(host: Host, service: str, target: str = "/", timeout: float = 5.0) -> Outcome:
    """One request through the HTTP proxy port of ``host``."""
    line = f"GET http://{service}{target} HTTP/1.1".encode()
    return exchange(host.proxy, head(line, b"Host: " + service.encode()), methods=[b"GET"], timeout=timeout)
