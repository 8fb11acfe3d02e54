"""Consul for the demo: finding one, and an agent of its own for each host, as in the field.

What is registered at an agent belongs to it, so two hosts can't share one: each would take the other's away.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PROGRAM = "consul"
DATACENTER = "dc1"
VERSION_TIME = 10.0  # seconds for "consul version"; it takes a tenth

_VERSION = re.compile(r"Consul v(\d+)\.(\d+)\.(\d+)")

HOW_TO_GET_ONE = """\
Get one, put it on PATH or name it with --consul /path/to/consul:
  packages and binaries of HashiCorp: https://developer.hashicorp.com/consul/install
  on Debian, in a checkout of hostproxy: tests/get-consul .venv/bin
hostproxy demo, without --consul, needs none."""


class NoConsul(Exception):
    """There is none that could be used; the text says how to get one."""


class Program(NamedTuple):
    """A Consul that can be run."""

    path: str
    version: tuple[int, int, int]

    @property
    def title(self) -> str:
        """For people."""
        return "Consul " + ".".join(map(str, self.version))


def find(given: str) -> Program:
    """The program at ``given``; when that is empty, the one on PATH, or beside the interpreter. Raises NoConsul."""
    beside = str(Path(sys.executable).parent)
    path = shutil.which(given) if given else shutil.which(PROGRAM) or shutil.which(PROGRAM, path=beside)
    if path is None:
        where = f"{given} is no program" if given else f"there is no Consul on PATH, nor in {beside}"
        raise NoConsul(f"{where}\n{HOW_TO_GET_ONE}")
    try:
        done = subprocess.run([path, "version"], capture_output=True, timeout=VERSION_TIME, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoConsul(f"{path} can't be run: {error}\n{HOW_TO_GET_ONE}") from None
    said = _VERSION.search(done.stdout.decode(errors="replace"))
    if said is None:
        raise NoConsul(f'{path} is not Consul: "{path} version" does not say so\n{HOW_TO_GET_ONE}')
    major, minor, patch = map(int, said.groups())
    return Program(os.path.abspath(path), (major, minor, patch))


class Agent(NamedTuple):
    """An agent on a host of the demo."""

    program: Program
    host: str  # which is its node name too
    ip: str
    ports: Mapping[str, int]  # http, server, serf_lan, serf_wan

    @property
    def name(self) -> str:
        """Of its process."""
        return f"consul-{self.host}"

    @property
    def http(self) -> tuple[str, int]:
        """Where it answers."""
        return self.ip, self.ports["http"]

    @property
    def url(self) -> str:
        """The same as conf.toml has it."""
        return f"http://{self.ip}:{self.ports['http']}"

    def configure(self, directory: Path, server: Agent | None) -> list[str]:
        """Write its configuration and return its command: the server of the datacenter, or a client of ``server``."""
        closed = {"dns": -1, "grpc": -1, "https": -1}
        if self.program.version >= (1, 14, 0):
            closed["grpc_tls"] = -1  # open by default since then; unknown, and so an error, before
        settings: dict[str, object] = {
            "node_name": self.host,
            "datacenter": DATACENTER,
            "bind_addr": self.ip,
            "client_addr": self.ip,
            "ports": {**closed, **self.ports},
            "disable_update_check": True,
            "leave_on_terminate": False,
            "log_level": "warn",
        }
        command = [self.program.path, "agent", f"-config-file={directory / f'{self.name}.json'}"]
        if server is None:
            command.append("-dev")  # leads at once, and keeps everything in memory
        else:
            # What is registered with it outlives its being killed.
            settings["data_dir"] = str(directory / self.name)
            settings["retry_join"] = [f"{server.ip}:{server.ports['serf_lan']}"]
            settings["retry_interval"] = "1s"
        (directory / f"{self.name}.json").write_text(json.dumps(settings))
        return command
