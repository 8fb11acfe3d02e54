"""One daemon that watches services on a scripted Consul: for faults that a real one can't be made to have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.fakes.consul_stub import ConsulStub
from tests.fakes.origin import Origin
from tests.integration.consul_hosts import answers, origin, within
from tests.integration.host import Host, certificates

HEALTH = "/v1/health/service/"
WAIT = 2.0  # seconds of [discovery.consul] wait, so that nothing here has to wait for minutes
HOLD = 3.0  # seconds of hold_empty


class Scene:
    """The daemon, its Consul, and origins "a", "b" and "c" for whatever service."""

    def __init__(self, consul: ConsulStub, host: Host, origins: dict[str, Origin]) -> None:
        self.consul = consul
        self.host = host
        self.origins = origins

    def instance(self, name: str) -> dict[str, Any]:
        """An instance at the origin of that name."""
        return {"id": name, "address": "127.0.0.1", "port": self.origins[name].port, "status": "passing"}

    def watch(self, service: str, *names: str) -> None:
        """Let a service have these instances, and wait until they are used."""
        self.consul.set(service, *(self.instance(name) for name in names))
        within(5, lambda: answers(self.host, service) == {name.encode() for name in names})

    def asked(self, service: str) -> list[Any]:
        """What was asked about a service."""
        return self.consul.requests(HEALTH + service)

    def version(self) -> int:
        """Of the snapshot that the worker has. As new as a second."""
        return int(self.host.ask_json("/workers")["workers"][0]["snapshot"])


@contextlib.contextmanager
def scene(directory: Path, names: Sequence[str]) -> Iterator[Scene]:
    """A :class:`Scene` in which policy names these services, so that they are watched."""
    certificates(directory / "pki", "h", "client")
    origins = {name: origin(name.encode()) for name in "abc"}
    host = Host(directory / "h", "h", certificates=directory / "pki")
    host.policy = {"defaults": {"access": "allow"}, "service": {name: {"permissive": True} for name in names}}
    with ConsulStub() as consul:
        host.conf["discovery"] = {
            "backend": "consul",
            "consul": {
                "address": consul.address,
                "wait": f"{WAIT:g}s",
                "hold_empty": f"{HOLD:g}s",
                "stale_limit": "10s",
                "register": False,
                "allow": ["127.0.0.0/8"],
            },
        }
        host.write()
        host.start()
        try:
            host.wait_ready()
            consul.until(lambda state: state["blocked"] >= len(names))
            yield Scene(consul, host, origins)
        finally:
            host.stop()
            for each in origins.values():
                each.stop()
