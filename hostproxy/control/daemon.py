"""Everything that a supervisor holds, for those who change it together: the supervisor itself, reloads, upgrades."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Protocol

from hostproxy.compile import compile_snapshot, listeners, nothing_new
from hostproxy.control import kept as kept_copy
from hostproxy.control.crew import Crew
from hostproxy.control.figures import TrafficFigures
from hostproxy.control.handle import Target
from hostproxy.control.kept import Kept
from hostproxy.control.listeners import CannotListen, Sockets
from hostproxy.control.reports import Reports
from hostproxy.control.sources import Sources, catalog_name
from hostproxy.control.state import SupervisorState
from hostproxy.control.upgrade import pinned
from hostproxy.health import LocalHealth
from hostproxy.telemetry.totals import Totals

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from hostproxy.compile import Inputs
    from hostproxy.config import Config
    from hostproxy.control.log_level import LogLevel
    from hostproxy.control.notify import Manager
    from hostproxy.control.reports import Owner
    from hostproxy.control.runtime import RuntimeDirectory
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.snapshot import Snapshot


class AdminPort(Protocol):
    """The open admin address: :class:`hostproxy.admin.server.AdminPort`."""

    def stopListening(self) -> object:
        """Close it, and cut the connections."""


# Opens it on a socket that is bound already and stays the caller's. Raises CannotListen.
OpenAdmin = Callable[["Config", "socket.socket"], AdminPort]


class Daemon:
    """The parts of one supervisor, and what is decided from them."""

    def __init__(
        self,
        reactor: MeshReactor,
        config: Config,
        owner: Owner,
        changed: Callable[[], None],
        open_admin: OpenAdmin,
        manager: Manager,
        now: Callable[[], float],
    ) -> None:
        """``changed`` is called when a source has news, ``now`` is the wall clock."""
        self.reactor = reactor
        self.config = config
        self.manager = manager
        self.now = now
        self.totals = Totals()
        self.state = SupervisorState(
            software=version_of("hostproxy"),
            pid=os.getpid(),
            started=now(),
            config=config,
            totals=self.totals,
        )
        self.figures = TrafficFigures(self.totals, reactor.seconds)
        self.sources = Sources(reactor, config, changed, now, None, self.figures)
        self.health = LocalHealth(reactor, config.services, now, random.random)
        self.keeper = kept_copy.Keeper(reactor, config.host.state_directory)
        self.sockets = Sockets(manager)
        self.crew = Crew(reactor, self._command, config.host.runtime_directory, Reports(self, owner), now)
        self.log_level: LogLevel  # of all processes; the supervisor, who can change its own, makes it
        self.directory: RuntimeDirectory  # once it is ours
        self.admin: AdminPort | None = None
        self.running = False  # news are taken
        self.compiled: tuple[Inputs, Snapshot] | None = None
        # On trial: gives what workers listen on, by listener id. What only one supervisor may do is not done.
        self.private: Callable[[Snapshot], Mapping[str, socket.socket]] | None = None
        self._changed = changed
        self._open_admin = open_admin
        self._python = pinned(sys.executable)

    def _command(self, place: int, descriptor: int) -> list[str]:
        """The command line of a worker. -P: what lies in the current directory is not imported."""
        return [
            self._python,
            "-P",
            "-m",
            "hostproxy.worker",
            f"--place={place}",
            f"--channel={descriptor}",
            f"--directory={self.config.host.runtime_directory}",
            f"--log-level={self.log_level.level}",
        ]

    def make_sources(self, config: Config, anew: bool = False) -> Sources:
        """Sources of ``config``, which go on with what those in force have, unless they begin ``anew``."""
        before = None if anew else self.sources
        return Sources(self.reactor, config, self._changed, self.now, before, self.figures)

    def register(self) -> None:
        """Have this host known to Consul, if it is used."""
        if self.sources.consul is not None:
            self.sources.consul.health(self.health.results.value)
            self.sources.consul.registration.start()

    # Listening

    def wanted(self) -> list[str]:
        """What is to be bound now."""
        return self.addresses(self.config, self.sources)

    @staticmethod
    def addresses(config: Config, sources: Sources) -> list[str]:
        """What is to be bound with these, the admin address first."""
        return [config.admin.listen, *(each.address for each in listeners(config) if sources.usable)]

    def drop_passed(self) -> list[str]:
        """Close what this process was born with and does not listen on. Returns the addresses."""
        # What conf.toml wants is bound once the first certificate and policy are there.
        return self.sockets.drop_passed() if self.sources.usable else []

    def open_admin(self, config: Config) -> AdminPort:
        """Answer on the admin address, which is bound. Raises CannotListen."""
        try:
            admin = self._open_admin(config, self.sockets[config.admin.listen])
        except CannotListen as error:
            raise CannotListen(f"[admin] listen: {error}") from None
        if self.private is None:
            self.directory.answers_at(config.admin.listen)
        return admin

    def close_admin(self) -> None:
        """Answer no more."""
        if self.admin is not None:
            self.admin.stopListening()
            self.admin = None

    # Deciding

    def compile(self) -> bool:
        """Compile what is in force now; says whether it is anything new."""
        unhealthy = frozenset(key for key, result in self.health.results.value.items() if not result.healthy)
        inputs = self.sources.inputs._replace(unhealthy=unhealthy)
        before = self.compiled
        version = before[1].version + 1 if before is not None else 1
        snapshot = compile_snapshot(version, inputs, before)
        news = before is None or not nothing_new(before[1], snapshot)
        if before is None or inputs.policy is not before[0].policy:
            self.figures.begin()
        if before is not None and not news:
            snapshot = before[1]
        # The catalog may have changed where workers need not know: in a datacenter that is not used now.
        self.compiled = (inputs, snapshot)
        if before is None or inputs.catalog is not before[0].catalog or inputs.policy is not before[0].policy:
            self.keep()
        return news

    def keep(self) -> None:
        """Have a copy of what is in force, unless that is somebody else's to write now."""
        if self.compiled is None or self.private is not None:
            return
        inputs = self.compiled[0]
        self.keeper.keep(
            Kept(
                saved=self.now(),
                catalog_path=catalog_name(inputs.config),
                catalog=dict(inputs.catalog),
                policy_path=inputs.config.policy.path,
                policy=inputs.policy,
            )
        )

    def target(self) -> Target:
        """What all workers shall be like."""
        assert self.compiled is not None
        snapshot = self.compiled[1]
        if self.private is not None:
            return Target(snapshot, self.private(snapshot))
        return Target(snapshot, {listener.id: self.sockets[listener.address] for listener in snapshot.listeners})
