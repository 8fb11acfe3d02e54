"""A real controller and hosts that join it: each has an address of loopback, and origins behind its services."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import tomli_w

from tests.fakes.cases import head
from tests.fakes.client import Outcome, exchange
from tests.fakes.origin import Answer, Connection, Origin, reply
from tests.integration.host import STOP, TRUST_DOMAIN, Host, eventually, free_port
from tests.stopwatch import Stopwatch

START = 20.0  # seconds until a controller leads
OPEN = {"mesh.toml": '[defaults]\naccess = "allow"\n'}

Document = dict[str, Any]


class Refused(Exception):
    """The controller said no."""

    def __init__(self, status: int, answer: Any) -> None:
        super().__init__(f"{status} {answer}")
        self.status = status
        self.answer = answer


class Controller:
    """``hostproxy-controller run`` with what ``init`` made in ``directory``; ``settings`` go into controller.toml."""

    alive: ClassVar[list[Controller]] = []  # started and not stopped, for reports of failures

    def __init__(self, directory: Path, **settings: Document) -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"https://localhost:{self.address.rpartition(':')[2]}"
        self.process: subprocess.Popen[bytes] | None = None
        made = self.command(
            "init", str(directory), "--trust-domain", TRUST_DOMAIN, "--dns", "localhost", "--listen", self.address
        )
        assert made.returncode == 0, made.stdout + made.stderr
        path = directory / "controller.toml"
        document = tomllib.loads(path.read_text())
        for table, values in settings.items():
            document.setdefault(table, {}).update(values)
        path.write_text(tomli_w.dumps(document))

    # Life

    def start(self, *program: str) -> Controller:
        """Start it, or another program that takes its place, and wait until it leads."""
        program = program or ("-m", "controller")
        with (self.directory / "output.log").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *program, "run", "-c", str(self.directory / "controller.toml")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        Controller.alive.append(self)
        waiting = Stopwatch()
        while waiting.seconds < START:
            assert self.process.poll() is None, self.output()
            with contextlib.suppress(OSError):
                if self.get("/v1/status")["leading"]:
                    return self
            time.sleep(0.03)
        raise AssertionError(f"the controller does not lead:\n{self.output()}")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(STOP)
        if self in Controller.alive:
            Controller.alive.remove(self)
        return status

    def output(self) -> str:
        """The end of what it printed."""
        with contextlib.suppress(OSError):
            return (self.directory / "output.log").read_text(errors="replace")[-6000:]
        return ""

    # What operators do

    @staticmethod
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        """``hostproxy-controller``."""
        line = [sys.executable, "-m", "controller", *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)

    def operate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``hostproxy-controller``, which finds this one."""
        return self.command(*arguments, "-c", str(self.directory / "controller.toml"))

    def ask(self, method: str, path: str, body: Document | None = None) -> Document:
        """One call of the operators' interface. Raises :class:`Refused`."""
        connection = http.client.HTTPConnection("localhost", timeout=10)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as raw:
            raw.settimeout(10)
            raw.connect(str(self.directory / "operator.sock"))
            connection.sock = raw
            connection.request(method, path, json.dumps(body).encode() if body is not None else None)
            response = connection.getresponse()
            answer = json.loads(response.read())
        if response.status not in (200, 201):
            raise Refused(response.status, answer)
        assert isinstance(answer, dict)
        return answer

    def get(self, path: str) -> Document:
        """Read something."""
        return self.ask("GET", path)

    def post(self, path: str, **body: Any) -> Document:
        """Have something done."""
        return self.ask("POST", path, body)

    def apply(self, files: dict[str, str], **more: Any) -> int:
        """Apply policy; the number of the generation."""
        generation: int = self.post("/v1/policy", files=files, **more)["generation"]
        return generation

    def assign(self, service: str, host: str) -> None:
        """Say that ``service`` runs on ``host``."""
        self.ask("PUT", f"/v1/services/{service}/hosts/{host}")

    def withdraw(self, service: str, host: str) -> None:
        """Say that it does not."""
        self.ask("DELETE", f"/v1/services/{service}/hosts/{host}")

    def host(self, name: str) -> Document:
        """How a host stands."""
        row: Document = self.get(f"/v1/hosts/{name}")["host"]
        return row

    def states(self) -> dict[str, tuple[str, int]]:
        """State and generation of every host."""
        return {row["name"]: (row["state"], row["generation"]) for row in self.get("/v1/hosts")["hosts"]}

    def rollout(self) -> Document:
        """The one that is under way, or was the last."""
        found: Document = self.get("/v1/rollout")["rollout"]
        return found

    def await_generation(self, generation: int, *hosts: str, timeout: float = 5.0) -> None:
        """Wait until these hosts, or all, say that they have ``generation``."""
        waiting = Stopwatch()
        while True:
            states = self.states()
            if all(states[name][1] == generation for name in hosts or states):
                return
            assert waiting.seconds < timeout, f"generation {generation} is not everywhere: {states}"
            time.sleep(0.01)

    def audit(self) -> list[Document]:
        """The last thousand lines of the audit log."""
        lines: list[Document] = self.get("/v1/audit?count=1000")["lines"]
        return lines


class Site:
    """A controller, hosts "h1", "h2" ... with a service each ("s1" on "h1"), and what ends them all."""

    def __init__(self, directory: Path, **settings: Document) -> None:
        self.directory = directory
        self.controller = Controller(directory / "controller", **settings)
        self.hosts: dict[str, Host] = {}
        self.origins: dict[str, Origin] = {}  # by service
        self.broken: set[str] = set()  # services whose origin answers 500

    def host(self, *services: str, interval: str = "60s", **limits: Any) -> Host:
        """Another host with these services, "sN" without any, not started. It has no token yet."""
        number = len(self.hosts) + 1
        name = f"h{number}"
        host = Host(
            self.directory / name,
            name,
            certificates=self.directory,
            address=f"127.0.4.{number}",
            limits={"drain": "1s", **limits},
        )
        host.conf["policy"] = {}
        host.conf["identity"] = {"mode": "controller"}
        host.conf["controller"] = {
            "url": self.controller.url,
            "ca_fingerprint": "",
            "join_token_file": str(host.directory / "token"),
            "listen": f"{host.address}:{free_port(host.address)}",
            "interval": interval,
        }
        for service in services or (f"s{number}",):
            self._serve(host, service)
            self.controller.assign(service, name)
        host.conf["outbound"]["caller"] = host.conf["service"][0]["name"]
        self.hosts[name] = host
        return host

    def _serve(self, host: Host, service: str) -> None:
        origin = Origin(lambda *_: self._answer(service))
        self.origins[service] = origin
        table = {"name": service, "instances": [origin.address]}
        if service.endswith("-tcp"):
            table["protocol"] = "tcp"
            origin.handle = echo
        host.conf["service"].append(table)

    def _answer(self, service: str) -> Answer:
        if service in self.broken:
            return Answer(reply(b"", b"500 Internal Server Error"))
        return Answer(reply(service.encode()))

    def catalog(self) -> None:
        """Tell each host of all services."""
        instances = [
            {"service": service["name"], "host": host.name, "address": service["instances"][0], "mesh": host.mesh}
            for host in self.hosts.values()
            for service in host.conf["service"]
        ]
        for host in self.hosts.values():
            host.catalog = instances
            host.write_catalog()

    def token(self, host: Host, **more: Any) -> str:
        """Make a token, and put it where the host reads it; the token."""
        made = self.controller.post("/v1/tokens", host=host.name, **more)
        host.conf["controller"]["ca_fingerprint"] = made["fingerprint"]
        path = host.directory / "token"
        new = path.with_name("token.new")
        new.write_text(made["token"] + "\n")
        new.chmod(0o600)
        new.rename(path)
        token: str = made["token"]
        return token

    def join(self, *hosts: Host) -> None:
        """Give tokens to hosts, all without others, and start them. Policy was applied before."""
        chosen = hosts or tuple(self.hosts.values())
        self.catalog()
        for host in chosen:
            self.token(host)
            host.write_conf()
            host.start()
        for host in chosen:
            host.wait_ready()

    def close(self) -> None:
        """End everything."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(Host.stop, self.hosts.values()))
        self.controller.kill()
        for origin in self.origins.values():
            origin.stop()


@contextlib.contextmanager
def site(directory: Path, **settings: Document) -> Iterator[Site]:
    """A :class:`Site` whose controller runs; it is closed at the end."""
    made = Site(directory, **settings)
    try:
        made.controller.start()
        yield made
    finally:
        made.close()


def echo(connection: Connection) -> None:
    """Send back what comes."""
    with contextlib.suppress(OSError):
        while data := connection.sock.recv(4096):
            connection.sock.sendall(data)


def call(host: Host, service: str, target: str = "/", method: str = "GET") -> Outcome:
    """One request through the HTTP proxy port of ``host``."""
    line = f"{method} http://{service}{target} HTTP/1.1".encode()
    return exchange(host.proxy, head(line, b"Host: " + service.encode()), methods=[method.encode()])


def status(host: Host, service: str, target: str = "/", method: str = "GET") -> int:
    """The status of one request; 0 without an answer."""
    statuses = call(host, service, target, method).statuses
    return statuses[0] if statuses else 0


def curl(site: Site, host: Host, directory: Path, name: str = "host") -> Callable[..., tuple[int, bytes]]:
    """A stranger's HTTPS client that shows a certificate of ``host``: method, path and document to status and body."""
    line = ["curl", "-sS", "-m", "5", "--cacert", str(site.controller.directory / "root.pem"), "-o", "-"]
    if name:
        held = directory / f"{name}.pem"
        held.write_bytes((host.directory / "state" / "identity" / f"{name}.pem").read_bytes())
        line += ["--cert", str(held)]

    def ask(method: str, path: str, body: Document | None = None) -> tuple[int, bytes]:
        more = ["--data-binary", json.dumps(body)] if body is not None else []
        command = [*line, "-X", method, *more, "-w", "%{http_code}", site.controller.url + path]
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout[-3:]), done.stdout[:-3]

    return ask


def within(seconds: float, condition: Callable[[], Any], what: str = "") -> Any:
    """Wait until ``condition()`` is true, and return it."""
    return eventually(condition, seconds, what or f"it did not happen within {seconds:g} s")
