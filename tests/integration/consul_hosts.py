"""Hosts whose catalog is a real Consul's: each with an agent, certificates, and origins behind its services."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.consul import Consul
from tests.fakes.cases import head
from tests.fakes.client import Outcome, exchange
from tests.fakes.origin import Answer, Origin, reply
from tests.integration.host import Host, certificates, eventually


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
        "consul": {
            "address": agent.address,
            "node": agent.name,
            "allow": ["127.0.0.0/8"],
            "leave": "1s",
            **settings,
        },
    }
    if agent.token and "token_file" not in settings:
        host.conf["discovery"]["consul"]["token_file"] = str(token_file(own / "token", agent.token))
    for service, instance in (services or {"client": ""}).items():
        table: dict[str, Any] = {"name": service, "instances": [instance] if instance else []}
        if check is not None and instance:
            table["check"] = check
        host.conf["service"].append(table)
    host.conf["outbound"]["caller"] = "host"
    host.policy = {"defaults": {"access": "allow"}, "service": {}}
    return host


def token_file(path: Path, token: str) -> Path:
    """Put a token where hostproxy reads it, as a tool of an operator does."""
    new = path.with_name(path.name + ".new")
    new.write_text(token + "\n")
    new.chmod(0o600)
    return new.rename(path)


def origin(text: bytes) -> Origin:
    """An HTTP origin that answers with ``text``."""
    made = Origin()
    made.respond = lambda request, connection: Answer(reply(text))
    return made


def call(host: Host, service: str, target: str = "/", timeout: float = 5.0) -> Outcome:
    """One request through the HTTP proxy port of ``host``."""
    line = f"GET http://{service}{target} HTTP/1.1".encode()
    return exchange(host.proxy, head(line, b"Host: " + service.encode()), methods=[b"GET"], timeout=timeout)


def answer(host: Host, service: str) -> bytes | int:
    """The body of a 200, else the status; 0 when nothing came."""
    outcome = call(host, service)
    if outcome.statuses != [200]:
        return outcome.statuses[0] if outcome.statuses else 0
    return bytes(outcome.responses[0].body)


def answers(host: Host, service: str, count: int = 12) -> set[bytes | int]:
    """What so many requests are answered."""
    return {answer(host, service) for _ in range(count)}


def within(seconds: float, condition: Callable[[], Any], what: str = "") -> Any:
    """Wait until ``condition()`` is true, and return it."""
    return eventually(condition, seconds, what or f"it did not happen within {seconds:g} s")


def knowledge(host: Host, service: str) -> dict[str, Any]:
    """How ``host`` knows a service; empty when it does not."""
    services: list[dict[str, Any]] = host.ask_json("/discovery")["services"]
    return next((each for each in services if each["service"] == service and each["source"]), {})


def command(host: Host, *arguments: str) -> tuple[int, str]:
    """Run ``hostproxy`` as an operator on that host does: its exit status, and what it printed."""
    line = [sys.executable, "-m", "hostproxy", *arguments, "-c", str(host.directory / "conf.toml")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, done.stdout + done.stderr


class Site:
    """Servers of Consul, agents, hosts and origins of one test or module; all of it ends with :meth:`close`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = directory / "ca"
        self._made = contextlib.ExitStack()
        self._certified = False

    def closing(self, action: Callable[[], Any]) -> None:
        """Do this at the end, too."""
        self._made.callback(action)

    def consul(self, name: str, wait: bool = True, **options: Any) -> Consul:
        """Start an agent: a server, unless told otherwise."""
        consul = Consul(self.directory / f"consul-{options.get('datacenter', 'dc1')}-{name}", name, **options)
        self._made.callback(consul.kill)
        return consul.start(wait)

    def agent(self, name: str, server: Consul, wait: bool = True, **options: Any) -> Consul:
        """Start an agent that is no server."""
        options |= {"datacenter": server.datacenter, "acl": bool(server.token)}
        return self.consul(name, wait, server=False, join=(server,), **options)

    def origin(self, text: bytes) -> Origin:
        """An origin that answers with ``text``."""
        made = origin(text)
        self._made.callback(made.stop)
        return made

    def host(self, name: str, agent: Consul, **options: Any) -> Host:
        """A host, with its files not yet written. See :func:`consul_host`."""
        if not self._certified:
            certificates(self.authority, "authority")
            self._certified = True
        host = consul_host(self.directory, name, agent, authority=self.authority, **options)
        self._made.callback(host.stop)
        return host

    def caller(self, name: str, agent: Consul, *upstreams: str, **options: Any) -> Host:
        """A host that only calls, and registers nothing; ``upstreams`` are services with a port of their own."""
        host = self.host(name, agent, **{"register": False, **options})
        for service in upstreams:
            host.add_upstream(service)
        return host

    @staticmethod
    def start(*hosts: Host) -> None:
        """Write their files and start them, all at once."""
        for host in hosts:
            host.write()
            host.start()
        for host in hosts:
            host.wait_ready()

    def close(self) -> None:
        """End everything. Hosts leave in parallel, before the agents die."""
        alive = [host for host in Host.alive if self.directory in host.directory.parents]
        if alive:
            with ThreadPoolExecutor(len(alive)) as pool:
                list(pool.map(Host.stop, alive))
        self._made.close()


@contextlib.contextmanager
def site(directory: Path) -> Iterator[Site]:
    """A :class:`Site` that is closed at the end."""
    made = Site(directory)
    try:
        yield made
    finally:
        made.close()


def upstream(host: Host, number: int = 0) -> str:
    """The address of an ``[[outbound.upstream]]``."""
    return str(host.conf["outbound"]["upstream"][number]["listen"])
