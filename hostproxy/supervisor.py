"""The deciding process: reads what operators wrote, binds the ports, and tells the workers. It carries no traffic.

::

    prepare   lock the runtime directory, read every source       (before the reactor turns)
    begin     take over sockets of workers left behind, bind the rest, open admin, start the crew
    changed   a source has news: compile, tell the crew, keep a copy
    reload    SIGHUP: everything of a new conf.toml, or nothing
    stop      SIGTERM, SIGINT: drain and leave; the second time: leave

When it dies the workers go on, and the next supervisor begins by taking over their sockets.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from hostproxy.admin import server as admin_server
from hostproxy.compile import compile_snapshot, listeners, nothing_new
from hostproxy.control import kept as kept_copy
from hostproxy.control import logs, notify
from hostproxy.control.crew import Crew
from hostproxy.control.figures import TrafficFigures
from hostproxy.control.handle import Target
from hostproxy.control.kept import Kept
from hostproxy.control.listeners import CannotListen, Sockets
from hostproxy.control.runtime import RuntimeDirectory, Unusable
from hostproxy.control.showing import Showing
from hostproxy.control.sources import Sources, catalog_name
from hostproxy.control.state import ReloadState, SupervisorState
from hostproxy.control.takeover import TakeOver
from hostproxy.health import LocalHealth
from hostproxy.mesh.document import Invalid
from hostproxy.telemetry.totals import Totals

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall
    from twisted.python.failure import Failure

    from hostproxy.admin.server import AdminPort
    from hostproxy.compile import Inputs
    from hostproxy.config import Config
    from hostproxy.control.handle import Handle
    from hostproxy.health import Result
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.snapshot import Listener, Snapshot

# After the second signal nothing is waited for but this (seconds).
HARD_STOP = 1.0

# Seconds between looks at everything that is shown but not reported.
REFRESH = 1.0
REFRESH_AGAIN = 0.1  # between two for news

# A look of the collector at all objects, of which 2,000 blocking queries have a quarter of a million, stops everything
# for 50 to 80 ms. As it comes it would be due every few minutes, and there is little for it to find; with these, it is
# due a few times a day.
GC_THRESHOLDS = (10_000, 20, 50)


class Supervisor:
    """The one deciding process of a host."""

    log = Logger()

    def __init__(
        self,
        reactor: MeshReactor,
        config: Config,
        load: Callable[[str], Config],
        set_log_level: Callable[[str], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        """``load`` reads a conf.toml again for a reload; ``now`` is the wall clock, for showing."""
        self.status = 0  # of the process, once the reactor has stopped
        self.totals = Totals()
        self.state = SupervisorState(
            software=version_of("hostproxy"),
            pid=os.getpid(),
            started=now(),
            config=config,
            totals=self.totals,
        )
        self._reactor = reactor
        self._config = config
        self._load = load
        self._set_log_level = set_log_level
        self._now = now
        self._directory: RuntimeDirectory
        self._take_over: TakeOver
        self._figures = TrafficFigures(self.totals, reactor.seconds)
        self._sources = Sources(reactor, config, self._changed, now, None, self._figures)
        self._health = LocalHealth(reactor, config.services, now, random.random)
        self._health.results.subscribe(self._checked)
        self._keeper = kept_copy.Keeper(reactor, config.host.state_directory)
        self._sockets = Sockets()
        self._crew = Crew(reactor, self._command, config.host.runtime_directory, self, now)
        self._showing = Showing(self.state, self._crew, self._keeper, self._health)
        self._admin: AdminPort | None = None
        self._compiled: tuple[Inputs, Snapshot] | None = None
        self._compile_due = False
        self._running = False  # between begin and stop
        self._announced = False
        self._finished = False
        self._refresher: DelayedCall | None = None
        self._looked = 0.0

    # Starting

    def prepare(self) -> list[str]:
        """Do what can be done before the reactor turns. Returns every reason not to start."""
        host = self._config.host
        try:
            self._directory = RuntimeDirectory(host.runtime_directory)
        except Unusable as unusable:
            return [str(unusable)]
        self._take_over = TakeOver(self._reactor, self._directory, self._crew, self._sockets)
        problems = self._sources.start(kept_copy.load(host.state_directory))
        if problems:
            self._directory.release(in_order=not self._directory.left_behind)
        return problems

    async def begin(self) -> None:
        """Bind what is to be bound and start the workers; stops the reactor when that cannot be."""
        _raise_descriptor_limit()
        for warning in self._config.warnings:
            self.log.warn("{warning}", warning=warning)
        problems = await self._take_over.bind(self._wanted())
        if self.state.stopping:
            return
        if not problems:
            try:
                self._admin = admin_server.listen(self._reactor, self._config.admin, self.state, self.totals)
            except CannotListen as error:
                problems = [f"[admin] listen: {error}"]
        if problems:
            self._give_up(problems)
            return
        self._running = True
        self._sockets.keep_only(self._wanted())
        self.state.reloads = ReloadState(succeeded=1, last_success=self._now())
        self._compile()
        self._crew.start(self._target(), self._config.workers.count)
        self._health.start()
        if self._sources.consul is not None:
            self._sources.consul.registration.start()
        self._look_around()

    def _give_up(self, problems: list[str]) -> None:
        for problem in problems:
            self.log.error("cannot start: {problem}", problem=problem)
        self.status = 1
        self._sources.stop()
        if not self._crew.pids:
            self._sockets.keep_only(())
        self._crew.forget()  # workers that were found go on as before
        self._directory.release(in_order=not self._directory.left_behind)
        self._reactor.stop()

    def _command(self, place: int, descriptor: int) -> list[str]:
        """The command line of a worker. -P: what lies in the current directory is not imported."""
        return [
            sys.executable,
            "-P",
            "-m",
            "hostproxy.worker",
            f"--place={place}",
            f"--channel={descriptor}",
            f"--directory={self._config.host.runtime_directory}",
            f"--log-level={self._config.log.level}",
        ]

    def failed(self, failure: Failure) -> None:
        """Starting raised what nobody expected."""
        self.log.failure("starting", failure)
        self._give_up([failure.getErrorMessage()])

    # Deciding

    def _changed(self) -> None:
        """A source has news. Several at once are compiled together."""
        if self._running and not self._compile_due:
            self._compile_due = True
            self._reactor.callLater(0, self._take_news)

    def _take_news(self) -> None:
        self._compile_due = False
        if not self._running:
            return
        # The first certificate and policy of a host that joins may have come, and with them its listeners.
        problems = self._sockets.bind_new(self._wanted())
        if problems:
            self._give_up(problems)
        elif self._compile():
            assert self._compiled is not None
            self.log.info("news is taken: snapshot {version}", version=self._compiled[1].version)
            self._crew.tell(self._target())
            self._look_soon()

    def _checked(self, results: Mapping[tuple[str, str], Result]) -> None:
        """Instances of this host became healthy or unhealthy."""
        if self._sources.consul is not None:
            self._sources.consul.health(results)
        self._changed()

    def _compile(self) -> bool:
        """Compile what is in force now; says whether it is anything new."""
        unhealthy = frozenset(key for key, result in self._health.results.value.items() if not result.healthy)
        inputs = self._sources.inputs._replace(unhealthy=unhealthy)
        before = self._compiled
        version = before[1].version + 1 if before is not None else 1
        snapshot = compile_snapshot(version, inputs, before)
        news = before is None or not nothing_new(before[1], snapshot)
        if before is None or inputs.policy is not before[0].policy:
            self._figures.begin()
        if before is not None and not news:
            snapshot = before[1]
        # The catalog may have changed where workers need not know: in a datacenter that is not used now.
        self._compiled = (inputs, snapshot)
        if before is None or inputs.catalog is not before[0].catalog or inputs.policy is not before[0].policy:
            self._keeper.keep(
                Kept(
                    saved=self._now(),
                    catalog_path=catalog_name(inputs.config),
                    catalog=dict(inputs.catalog),
                    policy_path=inputs.config.policy.path,
                    policy=inputs.policy,
                )
            )
        return news

    def _target(self) -> Target:
        assert self._compiled is not None
        snapshot = self._compiled[1]
        return Target(snapshot, {listener.id: self._sockets[listener.address] for listener in snapshot.listeners})

    @staticmethod
    def _addresses(config: Config) -> list[str]:
        return [listener.address for listener in listeners(config)]

    def _wanted(self) -> list[str]:
        """What is to be bound now."""
        return self._addresses(self._config) if self._sources.usable else []

    # Reloading

    def reload(self) -> None:
        """SIGHUP: take conf.toml whole or not at all; logs are opened again in either case."""
        if not self._running or self.state.stopping:
            self.log.warn("SIGHUP came before the start was done, or while stopping: nothing is reloaded")
            return
        self._crew.reopen_logs()
        notify.reloading()
        reloads = self.state.reloads
        problems = self._reload()
        if problems:
            for problem in problems:
                self.log.error("not reloaded, everything stays as it was: {problem}", problem=problem)
            self.state.reloads = ReloadState(
                succeeded=reloads.succeeded,
                refused=reloads.refused + 1,
                last_success=reloads.last_success,
                problems=tuple(problems),
            )
        else:
            self.log.info("reloaded {path}", path=self._config.path)
            self.state.reloads = ReloadState(
                succeeded=reloads.succeeded + 1, refused=reloads.refused, last_success=self._now()
            )
        self._refresh()
        notify.notify("READY=1")

    def _reload(self) -> list[str]:
        """Everything that can fail comes first, and is undone when it does."""
        try:
            config = self._load(self._config.path)
        except Invalid as invalid:
            return [str(problem) for problem in invalid.problems]
        for key in ("runtime_directory", "state_directory"):
            if getattr(config.host, key) != getattr(self._config.host, key):
                return [f"{config.path}: host.{key}: changes only with a restart"]
        sources = Sources(self._reactor, config, self._changed, self._now, self._sources, self._figures)
        problems = sources.start()
        if problems:
            return problems
        problems = self._sockets.bind_new(self._addresses(config) if sources.usable else [])
        admin = None
        if not problems and config.admin.listen != self._config.admin.listen:
            try:
                admin = admin_server.listen(self._reactor, config.admin, self.state, self.totals)
            except CannotListen as error:
                problems = [f"[admin] listen: {error}"]
                self._sockets.keep_only(self._addresses(self._config))
        if problems:
            sources.stop(self._sources)
            return problems
        # Nothing fails from here on.
        if admin is not None:
            if self._admin is not None:
                self._admin.stopListening()
            self._admin = admin
        for warning in config.warnings:
            self.log.warn("{warning}", warning=warning)
        before = self._sources
        before.stop(sources)
        self._sources = sources
        self._health.change(config.services)
        if sources.consul is not None and sources.consul is not before.consul:
            sources.consul.health(self._health.results.value)
            sources.consul.registration.start()
        if config.log.level != self._config.log.level:
            self._set_log_level(config.log.level)
            self._crew.set_log_level(config.log.level)
        self._config = self.state.config = config
        if self._compile():
            self._crew.tell(self._target())
        self._sockets.keep_only(self._wanted())
        self._crew.resize(config.workers.count)
        return []

    # Stopping

    def stop(self) -> None:
        """SIGTERM or SIGINT: let the workers finish what they have; the second time, leave within a second."""
        if self.state.stopping:
            self.log.warn("stopping at once: what is under way is cut")
            self.status = 1
            self._running = False
            self._crew.drain(0.0)  # while Consul is left the crew still replaces who dies
            self._crew.kill()
            self._reactor.callLater(HARD_STOP, self._finish, False)
            return
        self.state.stopping = True
        notify.notify("STOPPING=1", "STATUS=leaving")
        consul = self._sources.consul
        if consul is None or not self._running:
            self._drain()
            return
        # Callers are to choose other hosts before this one accepts no more.
        self.log.info("leaving Consul")
        consul.leave().addBoth(lambda _: self._drain())

    def _drain(self) -> None:
        if self._finished:
            return  # a second signal came
        self._running = False
        seconds = self._config.limits.drain
        self.log.info("stopping: workers have {seconds:g} s to finish what they have", seconds=seconds)
        notify.notify("STATUS=draining")
        self._health.stop()
        self._sources.stop()
        self._crew.drain(seconds).addCallback(self._finish)
        self._sockets.keep_only(())

    def _finish(self, clean: bool) -> None:
        if self._finished:
            return
        self._finished = True
        if not clean:
            self.status = 1
        if self._refresher is not None and self._refresher.active():
            self._refresher.cancel()
        if self._admin is not None:
            self._admin.stopListening()
            self._admin = None
        self._directory.release(in_order=not self._crew.pids)
        self._reactor.stop()

    # Showing

    def _look_around(self) -> None:
        self._refresher = self._reactor.callLater(REFRESH, self._look_around)
        self._refresh()

    def _look_soon(self) -> None:
        """There is news: at once, unless it comes fast. A look takes milliseconds, and news may come every five."""
        if self._refresher is None or not self._refresher.active():
            return  # it has not begun, or is over
        wait = max(0.0, self._looked + REFRESH_AGAIN - self._reactor.seconds())
        if not wait:
            self._refresh()
        elif self._refresher.getTime() > self._reactor.seconds() + wait:
            self._refresher.cancel()
            self._refresher = self._reactor.callLater(wait, self._look_around)

    def _refresh(self) -> None:
        self._looked = self._reactor.seconds()
        self._showing.show(self._sources, self._compiled)
        if self._sources.consul is not None:
            self._sources.consul.registration.serving(self.state.ready)

    # What the crew reports: see hostproxy.control.crew.Owner

    def crew_changed(self) -> None:
        """Processes came or went."""
        self.state.workers = self._crew.states

    def crew_ready(self) -> None:
        """Every place serves: those who served before us may go."""
        self._crew.dismiss_adopted()
        self._refresh()
        if not self._announced:
            self._announced = True
            self.log.info("ready: {line}", line=self._showing.line)
            notify.notify("READY=1")

    def worker_counted(self, worker: int, export: bytes) -> None:
        """Take a worker's counters."""
        self.totals.merge(worker, export)

    def worker_gone(self, worker: int) -> None:
        """Keep the counters of a worker that has ended."""
        self.totals.retire(worker)

    def socket_received(self, listener: Listener, sock: socket.socket) -> None:
        """A worker that was left behind gave a listening socket."""
        self._take_over.socket_received(listener, sock)

    def service_wanted(self, handle: Handle, service: str) -> None:
        """Requests wait for a service that no worker was told of."""
        consul = self._sources.consul

        def answer(found: bool, problem: str) -> None:
            # One that was found comes with the next snapshot.
            if not found:
                handle.absent(service, problem)

        if consul is None:
            answer(False, "")
        else:
            consul.want(service, answer)

    def services_used(self, services: tuple[str, ...]) -> None:
        """Requests went there."""
        if self._sources.consul is not None:
            self._sources.consul.used(services)

    def worker_handed_over(self, handle: Handle) -> None:
        """It has given all that it had, or has gone."""
        self._take_over.handed_over(handle)


def _raise_descriptor_limit() -> None:
    """Let the workers, who inherit it, have as many descriptors as the system allows: one per connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_standard_streams() -> None:
    """Have descriptors 0 to 2 open: one that is closed would become a socket, and log lines would go into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is this one


def run(config: Config, load: Callable[[str], Config]) -> int:
    """Be the supervisor until a signal ends it. Returns the exit status."""
    from hostproxy.net.reactor import install

    _open_standard_streams()
    gc.set_threshold(*GC_THRESHOLDS)
    reactor = install()
    lines = logs.begin("supervisor", config.log.level)
    supervisor = Supervisor(reactor, config, load, lines.set_level)
    problems = supervisor.prepare()
    if problems:
        for problem in problems:
            sys.stderr.write(f"hostproxy: {problem}\n")
        return 1

    def on_signal(number: signal.Signals, action: Callable[[], None]) -> None:
        signal.signal(number, lambda *_: reactor.callFromThread(action))

    on_signal(signal.SIGTERM, supervisor.stop)
    on_signal(signal.SIGINT, supervisor.stop)
    on_signal(signal.SIGHUP, supervisor.reload)

    def begin() -> None:
        begun = Deferred.fromCoroutine(supervisor.begin())
        begun.addErrback(lambda failure: supervisor.failed(failure))

    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    return supervisor.status
