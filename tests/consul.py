"""A real Consul for tests: agents as processes, on loopback addresses, in as many datacenters as wanted.

``tests/get-consul`` fetches one. It is looked for in ``$HOSTPROXY_CONSUL``, on PATH, and beside the interpreter.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.integration import needs
from tests.integration.host import free_port

MASTER = "5a2a1c5e-0000-4000-8000-000000000001"  # the token that may do everything, where ACLs are on
UP = 30.0  # seconds until a leader is elected; two to five are usual
_addresses = itertools.count(1)


def path() -> str:
    """The program. Without one the test is skipped; in CI it fails."""
    beside = Path(sys.executable).with_name("consul")
    found = os.environ.get("HOSTPROXY_CONSUL") or shutil.which("consul") or (str(beside) if beside.exists() else "")
    return found or needs.missing("there is no Consul: run tests/get-consul DIRECTORY and add that to PATH")


class Consul:
    """One agent. Each has a loopback address of its own, so that many servers fit on one machine."""

    def __init__(
        self,
        directory: Path,
        name: str = "node-1",
        *,
        datacenter: str = "dc1",
        server: bool = True,
        servers: int = 1,
        join: tuple[Consul, ...] = (),
        join_wan: tuple[Consul, ...] = (),
        acl: bool = False,
        memory: bool = False,
        **settings: Any,
    ) -> None:
        """``servers`` of the datacenter are waited for before one leads. ``settings`` go into its configuration.

        With ``memory`` it leads at once, and forgets everything when it ends: for a server without other agents.
        """
        self.command = [path(), "agent", *(["-dev"] if memory else [])]
        self.name, self.datacenter = name, datacenter
        number = next(_addresses)
        self.ip = f"127.77.{number // 250}.{number % 250 + 1}"
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port(self.ip)
        self.ports = {"http": self.port, "dns": -1, "grpc": -1, "https": -1}
        self.ports |= {kind: free_port(self.ip) for kind in ("server", "serf_lan", "serf_wan")}
        self.process: subprocess.Popen[bytes] | None = None
        self.token = MASTER if acl else ""
        self.settings: dict[str, Any] = {
            "node_name": name,
            "datacenter": datacenter,
            "data_dir": str(directory / "data"),
            "bind_addr": self.ip,
            "client_addr": self.ip,
            "ports": self.ports,
            "server": server,
            "disable_update_check": True,
            "leave_on_terminate": False,
            "log_level": "warn",
            "retry_join": [f"{each.ip}:{each.ports['serf_lan']}" for each in join],
            "retry_interval": "1s",
            "performance": {"raft_multiplier": 1},
            "check_update_interval": "0s",
            **settings,
        }
        if server:
            self.settings["bootstrap_expect"] = servers
            self.settings["retry_join_wan"] = [f"{each.ip}:{each.ports['serf_wan']}" for each in join_wan]
            self.settings["retry_interval_wan"] = "1s"
        if acl:
            self.settings["acl"] = {
                "enabled": True,
                "default_policy": "deny",
                "tokens": {"master": MASTER, "agent": MASTER},
            }

    @property
    def address(self) -> str:
        """As ``[discovery.consul] address`` has it."""
        return f"http://{self.ip}:{self.port}"

    # Its life

    def start(self, wait: bool = True) -> Consul:
        """Start it; with ``wait``, until a leader is known to it. It ends with the *thread* that calls this."""
        configuration = self.directory / "agent.json"
        configuration.write_text(json.dumps(self.settings))
        log = (self.directory / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [*self.command, f"-config-file={configuration}"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                # It ends with the test that started it, however that ends.
                preexec_fn=_die_with_parent,
            )
        if wait:
            self.wait_for_leader()
        return self

    def wait_for_leader(self) -> None:
        """Until it answers, knows a leader, and is in the catalog itself."""
        self.until(lambda: bool(self.get("/v1/status/leader")), "no leader")
        self.until(
            lambda: any(node["Node"] == self.name for node in self.get("/v1/catalog/nodes") or ()), "not in its catalog"
        )

    def until(self, condition: Callable[[], bool], what: str, limit: float = UP) -> None:
        """Wait for something that this agent says."""
        end = time.monotonic() + limit
        while True:
            with contextlib.suppress(OSError, Refused, http.client.HTTPException):
                if condition():
                    return
            assert self.process is None or self.process.poll() is None, self.log()
            assert time.monotonic() < end, f"{self.name}: {what}\n{self.log()}"
            time.sleep(0.1)

    def kill(self) -> None:
        """Without a word, as when the machine loses power."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """In order."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def pause(self, stopped: bool) -> None:
        """Freeze it, or let it go on: connections stay, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)

    def log(self) -> str:
        """The end of what it wrote."""
        return (self.directory / "log").read_text(errors="replace")[-4000:]

    # Its HTTP interface

    def request(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """The decoded answer; None when it is empty. Raises :class:`Refused`."""
        connection = http.client.HTTPConnection(self.ip, self.port, timeout=15)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            headers = {"X-Consul-Token": self.token if token is None else token}
            connection.request(method, path, data, headers if headers["X-Consul-Token"] else {})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise Refused(answer.status, content.decode(errors="replace"))
        if path.startswith("/v1/snapshot"):
            return content
        return json.loads(content) if content.strip() else None

    def get(self, path: str, **options: Any) -> Any:
        """GET."""
        return self.request("GET", path, **options)

    def put(self, path: str, body: Any = None, **options: Any) -> Any:
        """PUT."""
        return self.request("PUT", path, body, **options)

    def register(self, name: str, address: str, port: int, **more: Any) -> None:
        """A service that somebody else registers with this agent: ``more`` is Meta, Tags, Check, Weights, ID."""
        self.put("/v1/agent/service/register", {"Name": name, "Address": address, "Port": port, **more})

    def policy(self, name: str, rules: str) -> str:
        """A token that may do what ``rules`` (HCL) say. Only with ACLs."""
        self.put("/v1/acl/policy", {"Name": name, "Rules": rules})
        token = self.put("/v1/acl/token", {"Description": name, "Policies": [{"Name": name}]})
        return str(token["SecretID"])


class Refused(Exception):
    """The agent answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


@contextlib.contextmanager
def running(directory: Path, **options: Any) -> Iterator[Consul]:
    """A server, with a leader; stopped at the end."""
    consul = Consul(directory, **options)
    try:
        yield consul.start()
    finally:
        consul.kill()


def _die_with_parent() -> None:
    import ctypes

    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
