"""One hostproxy as a real process: its files, its life, and what it says about itself."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import tomli_w

from tests.fakes.cases import HOST, head
from tests.fakes.client import Outcome, exchange
from tests.stopwatch import Stopwatch

TRUST_DOMAIN = "mesh.test"
START = 15.0  # seconds until /ready; an idle machine takes about one
PORTS = range(20_000, 32_768)
_first = random.randrange(len(PORTS))  # two runs at once on one machine begin in different places
_ports = itertools.chain(PORTS[_first:], PORTS[:_first])
# And where they meet none takes what the other has: the byte of a port in this file is locked until the process ends.
_taken = os.open(f"{tempfile.gettempdir()}/hostproxy-tests-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)
STOP = 15.0  # seconds until a terminated process must be gone


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on now, and that no call has given before, in any run of the tests at this time.

    Below the range that the kernel takes ports of outgoing connections from: none of those can be in the way when
    the daemon binds it later.
    """
    for port in _ports:
        with socket.socket() as sock:
            try:
                fcntl.lockf(_taken, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
                sock.bind((address, port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port is left")


def replace(path: Path, text: str) -> None:
    """Put a file in place at once, as an operator's tool does."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.rename(path)


def certificates(directory: Path, host: str, *services: str, authority: Path | None = None, **options: str) -> None:
    """``hostproxy certs dev``."""
    command = [sys.executable, "-m", "hostproxy", "certs", "dev", str(directory)]
    command += ["--trust-domain", options.pop("trust_domain", TRUST_DOMAIN), "--host", host]
    if services:
        command += ["--service", *services]
    if authority is not None:
        command += ["--ca", str(authority)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Host:
    """A directory with conf.toml, catalog and policy, and the daemon that runs on them.

    Change ``conf``, ``catalog`` and ``policy`` (as TOML would have them) and call the ``write_`` method.
    """

    alive: ClassVar[list[Host]] = []  # started and not stopped, for reports of failures

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        certificates: Path,
        address: str = "127.0.0.1",
        workers: int = 1,
        limits: dict[str, Any] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.name = name
        self.address = address
        self.mesh = f"{address}:{free_port(address)}"
        self.proxy = f"{address}:{free_port(address)}"
        self.admin = f"{address}:{free_port(address)}"
        self.conf: dict[str, Any] = {
            "host": {
                "name": name,
                "address": address,
                "state_directory": str(directory / "state"),
                "runtime_directory": str(directory / "run"),
            },
            "mesh": {"trust_domain": TRUST_DOMAIN, "listen": self.mesh},
            "outbound": {"listen": self.proxy, "upstream": []},
            "service": [],
            "discovery": {"backend": "file", "file": {"path": str(directory / "catalog.toml")}},
            "identity": {
                "mode": "files",
                "files": {"ca": str(certificates / "ca.pem"), "directory": str(certificates)},
            },
            "policy": {"path": str(directory / "policy.toml")},
            "admin": {"listen": self.admin},
            "workers": {"count": workers},
            "limits": limits or {},
            "log": {"access": {"path": str(directory / "access.log")}},
        }
        self.catalog: list[dict[str, Any]] = []
        self.policy: dict[str, Any] = {"defaults": {"access": "allow"}, "service": {}}
        self.process: subprocess.Popen[bytes] | None = None
        self._sessions: list[int] = []
        (directory / "state").mkdir(exist_ok=True)
        (directory / "run").mkdir(exist_ok=True)

    # files

    def write(self) -> None:
        """All files."""
        self.write_conf()
        self.write_catalog()
        self.write_policy()

    def write_conf(self) -> None:
        replace(self.directory / "conf.toml", tomli_w.dumps(self.conf))

    def write_catalog(self) -> None:
        replace(self.directory / "catalog.toml", tomli_w.dumps({"instance": self.catalog}))

    def write_policy(self) -> None:
        replace(self.directory / "policy.toml", tomli_w.dumps(self.policy))

    def add_upstream(self, service: str, listen: str | None = None, caller: str = "") -> str:
        """A fixed port for ``service``; its address."""
        listen = listen or f"{self.address}:{free_port(self.address)}"
        self.conf["outbound"]["upstream"].append({"service": service, "listen": listen, "caller": caller})
        return listen

    # life

    def start(self, *wrapper: str) -> Host:
        """Start the daemon, behind a command such as prlimit if given."""
        command = [
            *wrapper,
            sys.executable,
            "-m",
            "hostproxy",
            "run",
            "-c",
            str(self.directory / "conf.toml"),
        ]
        with (self.directory / "output.log").open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._sessions.append(self.process.pid)
        if self not in Host.alive:
            Host.alive.append(self)
        return self

    def wait_ready(self, timeout: float = START) -> Host:
        """Wait until the daemon takes traffic."""
        waiting = Stopwatch()
        seen = "no answer"
        while waiting.seconds < timeout:
            assert self.process is not None
            code = self.process.poll()
            if code is not None:
                self.stop()
                raise AssertionError(f"hostproxy {self.name} left with status {code}:\n{self.output()}")
            with contextlib.suppress(OSError):
                status, body = self.ask("/ready")
                if status == 200:
                    return self
                seen = f"{status} {body[:500]!r}"
            time.sleep(0.03)
        output = self.output()
        self.stop()
        raise AssertionError(f"hostproxy {self.name} is not ready after {timeout} s: {seen}\n{output}")

    def reload(self) -> None:
        """SIGHUP."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def terminate(self) -> None:
        """SIGTERM, and no waiting."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = STOP) -> int:
        """The exit status of the daemon."""
        assert self.process is not None
        return self.process.wait(timeout)

    def stop(self) -> int | None:
        """End everything that was started here, whatever state it is in; the exit status of a clean end."""
        code: int | None = None
        if self.process is not None:
            if self.process.poll() is None:
                self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.process.wait(STOP)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(STOP)
        if self in Host.alive:
            Host.alive.remove(self)
        return code

    def processes(self) -> list[int]:
        """Every live process that descends from a start of this host: they share its session."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    state, _, _, session = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:4]
                    if int(session) in self._sessions and state != "Z":
                        found.append(int(entry))
        return sorted(found)

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if b"hostproxy.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    # what it says

    def ask(self, path: str) -> tuple[int, bytes]:
        """A GET of the admin port. Raises :class:`OSError` when nothing answers."""
        outcome = exchange(self.admin, head(b"GET " + path.encode() + b" HTTP/1.1", b"Host: " + self.admin.encode()))
        if not outcome.responses:
            raise OSError(f"admin: {outcome}")
        return outcome.responses[0].status, bytes(outcome.responses[0].body)

    def ask_json(self, path: str) -> Any:
        """A JSON answer of the admin port."""
        status, body = self.ask(path)
        assert status == 200, (status, body[:500])
        return json.loads(body)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its full text."""
        status, body = self.ask("/metrics")
        assert status == 200, (status, body[:500])
        samples = {}
        for line in body.decode().splitlines():
            if line and not line.startswith("#"):
                key, _, value = line.rpartition(" ")
                samples[key] = float(value)
        return samples

    def metric(self, name: str, *parts: str) -> float:
        """The sum of the samples of ``name`` whose labels contain every one of ``parts``."""
        return sum(
            value
            for key, value in self.metrics().items()
            if key.partition("{")[0] == f"hostproxy_{name}" and all(part in key for part in parts)
        )

    def output(self) -> str:
        """The end of what it printed."""
        with contextlib.suppress(OSError):
            return (self.directory / "output.log").read_text(errors="replace")[-6000:]
        return ""

    def access_log(self) -> list[dict[str, Any]]:
        """The access log."""
        with contextlib.suppress(OSError):
            return [json.loads(line) for line in (self.directory / "access.log").read_text().splitlines()]
        return []

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


def fetch(address: str, target: str = "/", *fields: bytes, method: str = "GET", timeout: float = 5.0) -> Outcome:
    """One ordinary request on a connection of its own."""
    line = f"{method} {target} HTTP/1.1".encode()
    return exchange(address, head(line, HOST, *fields), methods=[method.encode()], timeout=timeout)


def resident(pid: int) -> int:
    """Bytes of memory that a process has in RAM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(pid)


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def eventually(condition: Any, timeout: float = 5.0, message: str = "") -> Any:
    """Wait until ``condition()`` is true, and return it. ``timeout`` is in seconds of a :class:`Stopwatch`."""
    waiting = Stopwatch()
    while True:
        value = condition()
        if value:
            return value
        assert waiting.seconds < timeout, message or "it did not happen in time"
        time.sleep(0.02)
