"""The demo's two hosts: their files, their processes, and their end."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import tomli_w

SHOP = "127.0.1.1"
VAULT = "127.0.1.2"
TRUST_DOMAIN = "demo.mesh"

# How long the two daemons may take to be ready. They need about a second; a busy machine needs several.
START_TIME = 30.0
# How long they may take to leave after SIGTERM before they are killed.
STOP_TIME = 5.0

_PR_SET_PDEATHSIG = 1


class SiteError(Exception):
    """The demo can't go on; the text says why."""


class Site:
    """Two hosts. A context manager: when it is left, no process and no file is left either."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="hostproxy-demo-")
        self.path = Path(self._directory.name)
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self.upstream: tuple[str, int] = (SHOP, _free_port(SHOP))  # where cart sends its calls to payments
        self._admin: dict[str, tuple[str, int]] = {"shop": (SHOP, 0), "vault": (VAULT, 0)}

    def __enter__(self) -> Site:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for _, process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + STOP_TIME
        for _, process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                # Its workers are in its session: none of them may outlive the demo.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._directory.cleanup()

    def _start(self) -> None:
        mesh = {"shop": f"{SHOP}:{_free_port(SHOP)}", "vault": f"{VAULT}:{_free_port(VAULT)}"}
        instances = {f"payments-{number}": _free_port(VAULT) for number in (1, 2)}
        self._certificates("shop", "cart")
        self._certificates("vault", "payments", "--ca", str(self.path / "shop" / "certificates"))
        catalog = self.path / "catalog.toml"
        catalog.write_text(
            tomli_w.dumps(
                {
                    "instance": [
                        {
                            "service": "payments",
                            "host": "vault",
                            "address": f"{VAULT}:{port}",
                            "mesh": mesh["vault"],
                        }
                        for port in instances.values()
                    ]
                }
            )
        )
        policy = self.path / "policy.toml"
        policy.write_text(
            tomli_w.dumps(
                {
                    "defaults": {"access": "deny"},
                    "service": {
                        "payments": {
                            "timeout": "2s",
                            "allow": [{"from": ["cart"], "methods": ["POST"], "paths": ["/make-payment"]}],
                        }
                    },
                }
            )
        )
        self._configure(
            "shop",
            SHOP,
            mesh["shop"],
            {
                "service": [{"name": "cart", "instances": [f"{SHOP}:{_free_port(SHOP)}"]}],
                "outbound": {
                    "listen": "",
                    "upstream": [{"service": "payments", "listen": f"{SHOP}:{self.upstream[1]}", "caller": "cart"}],
                },
            },
        )
        self._configure(
            "vault",
            VAULT,
            mesh["vault"],
            {
                "service": [
                    {"name": "payments", "instances": [f"{VAULT}:{port}" for port in instances.values()]}
                ],
                "outbound": {"listen": ""},
            },
        )
        for name, port in instances.items():
            self._spawn(name, ["-m", "hostproxy.demo.instance", "--name", name, "--port", str(port)])
        for host in ("shop", "vault"):
            self._spawn(host, ["-m", "hostproxy", "run", "-c", str(self.path / host / "conf.toml")])
        self._wait(instances)

    def _certificates(self, host: str, service: str, *more: str) -> None:
        command = ["certs", "dev", str(self.path / host / "certificates"), "--trust-domain", TRUST_DOMAIN]
        done = subprocess.run(
            [sys.executable, "-m", "hostproxy", *command, "--host", host, "--service", service, *more],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise SiteError("making certificates failed: " + done.stderr.decode(errors="replace"))

    def _configure(self, host: str, address: str, mesh: str, more: dict[str, object]) -> None:
        directory = self.path / host
        port = _free_port("127.0.0.1")
        self._admin[host] = ("127.0.0.1", port)
        certificates = directory / "certificates"
        conf = {
            "host": {
                "name": host,
                "address": address,
                "state_directory": str(directory / "state"),
                "runtime_directory": str(directory / "run"),
            },
            "mesh": {"trust_domain": TRUST_DOMAIN, "listen": mesh},
            "discovery": {"backend": "file", "file": {"path": str(self.path / "catalog.toml")}},
            "identity": {
                "mode": "files",
                "files": {"ca": str(certificates / "ca.pem"), "directory": str(certificates)},
            },
            "policy": {"path": str(self.path / "policy.toml")},
            "admin": {"listen": f"127.0.0.1:{port}"},
            "workers": {"count": 1},
            "log": {"level": "warn"},
            "limits": {"drain": "2s"},
            **more,
        }
        (directory / "conf.toml").write_text(tomli_w.dumps(conf))

    def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        with (self.path / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the demo, which ends the others in order
                preexec_fn=_die_with_parent,
            )
        self._processes.append((name, process))

    def _wait(self, instances: dict[str, int]) -> None:
        """Until both daemons are ready and the instances listen."""
        deadline = time.monotonic() + START_TIME
        waiting = {("daemon", host) for host in self._admin} | {("instance", name) for name in instances}
        while waiting:
            for name, process in self._processes:
                if process.poll() is not None:
                    raise SiteError(f"{name} ended with status {process.returncode}:\n{self.log_of(name)}")
            for kind, name in sorted(waiting):
                if self._ready(name) if kind == "daemon" else _listens(VAULT, instances[name]):
                    waiting.discard((kind, name))
            if time.monotonic() > deadline:
                names = ", ".join(sorted(name for _, name in waiting))
                logs = "\n".join(self.log_of(name) for _, name in sorted(waiting))
                raise SiteError(f"not ready after {START_TIME:.0f} s: {names}\n{logs}")
            time.sleep(0.05)

    def _ready(self, host: str) -> bool:
        address, port = self._admin[host]
        connection = http.client.HTTPConnection(address, port, timeout=1.0)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def log_of(self, name: str) -> str:
        """The last lines that a process wrote."""
        return "\n".join((self.path / f"{name}.log").read_text(errors="replace").splitlines()[-20:])


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=0.5).close()
    except OSError:
        return False
    return True


def _die_with_parent() -> None:
    """In the child: SIGTERM when the demo dies without saying goodbye."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
