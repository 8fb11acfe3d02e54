"""The demo's two hosts: their files, their processes, and their end."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from hostproxy.demo import controller
from hostproxy.demo.consul import Agent, Program
from hostproxy.demo.controller import Controller
from hostproxy.demo.processes import Processes, SiteError

SHOP = "127.0.1.1"
VAULT = "127.0.1.2"
HOSTS = {"vault": VAULT, "shop": SHOP}
SERVICES = {"vault": "payments", "shop": "cart"}  # by host: what runs there
INSTANCES = ("payments-1", "payments-2")
TRUST_DOMAIN = "demo.mesh"
PAID = "/make-payment"  # what cart may do from the beginning
REFUND = "/refund"  # and what only the second generation of the policy allows

# How long something may take to be ready: daemons, controller, Consul. They need a second or two; a busy machine more.
START_TIME = 30.0
# How often a host tells the controller how it stands, which a wave waits for: nobody watches a demo for a minute.
REPORTS = "1s"
# Between two looks at what is waited for.
LOOK = 0.05


class Site:
    """Two hosts. A context manager: when it is left, no process and no file is left either."""

    def __init__(self, consul: Program | None = None) -> None:
        """Where services run is in a file, or in ``consul``."""
        self.consul = consul
        self._directory = tempfile.TemporaryDirectory(prefix="hostproxy-demo-")
        self.path = Path(self._directory.name)
        self._processes = Processes(self.path)
        self.upstream: tuple[str, int] = (SHOP, _free_port(SHOP))  # where cart sends its calls to payments
        self.instances = {name: (VAULT, _free_port(VAULT)) for name in INSTANCES}
        self.admin = {name: (ip, _free_port(ip)) for name, ip in HOSTS.items()}
        self._mesh = {name: f"{ip}:{_free_port(ip)}" for name, ip in HOSTS.items()}
        self._told = {name: f"{ip}:{_free_port(ip)}" for name, ip in HOSTS.items()}  # where policy is brought to
        self.controller = Controller(self.path / "ctl", _free_port("127.0.0.1"))
        self.agents: dict[str, Agent] = {}
        if consul is not None:
            for name, ip in HOSTS.items():
                ports = {kind: _free_port(ip) for kind in ("http", "server", "serf_lan", "serf_wan")}
                self.agents[name] = Agent(consul, name, ip, ports)

    def __enter__(self) -> Site:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._processes.dismiss(*HOSTS, controller.NAME)
        self._processes.wait()  # they leave Consul while it is still there
        self._processes.kill_all()
        self._directory.cleanup()

    # What happens to it

    def start_instance(self, name: str) -> None:
        """Start an instance of payments, and wait for it."""
        self._processes.wait()  # for the one before it
        ip, port = self.instances[name]
        options = ["--name", name, "--address", ip, "--port", str(port)]
        self._processes.start(name, [sys.executable, "-m", "hostproxy.demo.instance", *options])
        self.wait(lambda: _listens(ip, port), f"{name} does not listen", name)

    def end_instance(self, name: str) -> None:
        """Ask one to end, as an update of it would."""
        self._processes.dismiss(name)

    def start_agent(self, host: str) -> None:
        """Start the agent of a host, and wait until it knows a leader."""
        agent = self.agents[host]
        server = self.agents["vault"]
        self._processes.start(agent.name, agent.configure(self.path, None if agent is server else server))
        self.wait(lambda: bool(ask(agent.http, "/v1/status/leader")), f"{agent.name} has no leader", agent.name)

    def kill_agent(self, host: str) -> None:
        """Without a word, as when it crashes."""
        self._processes.kill(self.agents[host].name)

    def apply_policy(self, *paths: str, options: Sequence[str] = ()) -> int:
        """Let cart call these paths of payments, and nobody anything else; the number of the generation."""
        allow = [{"from": ["cart"], "methods": ["POST"], "paths": list(paths)}]
        policy: dict[str, dict[str, Any]] = {
            "mesh.toml": {"defaults": {"access": "deny"}},
            "payments.toml": {"service": {"payments": {"timeout": "2s", "allow": allow}}},
        }
        return self.controller.apply(self.path / "policy", policy, *options)

    # What it says

    def endpoints(self) -> list[dict[str, Any]]:
        """The instances of payments as shop's hostproxy knows them: what ``hostproxy endpoints`` shows."""
        document = ask(self.admin["shop"], "/catalog?service=payments")
        return list(document["services"]["payments"]["instances"])

    def wait(
        self,
        condition: Callable[[], bool],
        problem: str,
        process: str,
        idle: Callable[[], None] = lambda: time.sleep(LOOK),
    ) -> None:
        """Until ``condition()``. After :data:`START_TIME` raises SiteError: the problem, and what ``process`` said."""
        deadline = time.monotonic() + START_TIME
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException, Unavailable):
                if condition():
                    return
            self._processes.check()
            if time.monotonic() > deadline:
                raise SiteError(f"{problem} after {START_TIME:.0f} s\n{self._processes.log_of(process)}")
            idle()

    # How it comes to be

    def _start(self) -> None:
        for host in self.agents:
            self.start_agent(host)
        self.controller.init(TRUST_DOMAIN)
        self._processes.start(controller.NAME, self.controller.command)
        for name in self.instances:
            self.start_instance(name)
        self.wait(self.controller.leads, "the controller does not lead", controller.NAME)
        self.apply_policy(PAID)
        self._write_catalog()
        upstream = {"service": "payments", "listen": _text(self.upstream), "caller": "cart"}
        self._configure("shop", {"name": "cart"}, upstream=[upstream])
        payments: dict[str, Any] = {"name": "payments", "instances": [_text(each) for each in self.instances.values()]}
        if self.consul is not None:
            payments["check"] = {"http": "/health", "interval": "200ms", "unhealthy": 2}
        self._configure("vault", payments)
        for host in HOSTS:
            command = [sys.executable, "-m", "hostproxy", "run", "-c", str(self.path / host / "conf.toml")]
            self._processes.start(host, command)
        for host in HOSTS:
            self.wait(lambda host=host: _ready(self.admin[host]), f"{host} is not ready", host)  # type: ignore[misc]
        self.wait(
            lambda: sum(instance["used"] for instance in self.endpoints()) == len(self.instances),
            "shop does not know all instances of payments",
            "shop",
        )

    def _write_catalog(self) -> None:
        rows = [
            {"service": "payments", "host": "vault", "address": _text(each), "mesh": self._mesh["vault"]}
            for each in self.instances.values()
        ]
        (self.path / "catalog.toml").write_text(tomli_w.dumps({"instance": rows}))

    def _configure(self, host: str, service: dict[str, Any], **outbound: Any) -> None:
        directory = self.path / host
        directory.mkdir()
        conf = {
            "host": {
                "name": host,
                "address": HOSTS[host],
                "state_directory": str(directory / "state"),
                "runtime_directory": str(directory / "run"),
            },
            "mesh": {"trust_domain": TRUST_DOMAIN, "listen": self._mesh[host]},
            "outbound": {"listen": "", **outbound},
            "service": [service],
            "discovery": self._discovery(host),
            "identity": {"mode": "controller"},
            "controller": self._steering(host),
            "admin": {"listen": _text(self.admin[host])},
            "workers": {"count": 1},
            "log": {"level": "warn"},
            "limits": {"drain": "2s"},
        }
        (directory / "conf.toml").write_text(tomli_w.dumps(conf))

    def _steering(self, host: str) -> dict[str, Any]:
        """Let the host join, and be what runs on it."""
        self.controller.operate("service", "assign", SERVICES[host], host)
        made = self.controller.operate("token", "create", "--host", host)
        token = self.path / host / "join.token"
        token.touch(0o600)
        token.write_text(made["token"] + "\n")
        return {
            "url": made["url"],
            "ca_fingerprint": made["fingerprint"],
            "join_token_file": str(token),
            "listen": self._told[host],
            "interval": REPORTS,
        }

    def _discovery(self, host: str) -> dict[str, Any]:
        if self.consul is None:
            return {"backend": "file", "file": {"path": str(self.path / "catalog.toml")}}
        # The hosts of the demo have loopback addresses; and nobody waits for it to end.
        consul = {"address": self.agents[host].url, "allow": ["127.0.0.0/8"], "leave": "0s"}
        return {"backend": "consul", "consul": consul}


class Unavailable(Exception):
    """An answer that says: not yet."""


def ask(address: tuple[str, int], path: str) -> Any:
    """A JSON answer, of a daemon's admin address or an agent of Consul. Raises OSError, HTTPException, Unavailable."""
    connection = http.client.HTTPConnection(*address, timeout=1.0)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise Unavailable(f"{response.status} {body[:200]!r}")
    return json.loads(body)


def _ready(address: tuple[str, int]) -> bool:
    ask(address, "/ready")
    return True


def _text(address: tuple[str, int]) -> str:
    ip, port = address
    return f"{ip}:{port}"


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _listens(address: str, port: int) -> bool:
    socket.create_connection((address, port), timeout=0.5).close()
    return True
