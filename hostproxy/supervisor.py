"""The deciding process: reads what operators wrote, binds the ports, and tells the workers. It carries no traffic.

::

    prepare   lock the runtime directory, read every source       (before the reactor turns)
    begin     take over sockets of workers left behind, bind the rest, open admin, start the crew
    changed   a source has news: compile, tell the crew, keep a copy
    reload    SIGHUP: everything of a new conf.toml, or nothing
    upgrade   SIGUSR2: a successor of the installed code proves itself and takes over, or nothing
    stop      SIGTERM, SIGINT: drain and leave; the second time: leave

When it dies the workers go on, and the next supervisor begins by taking over their sockets. A successor prepares and
begins as it does, but for what its predecessor has until it takes over: see :mod:`hostproxy.control.succession`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from hostproxy.admin import server as admin_server
from hostproxy.admin.loglevel import LogLevelPage
from hostproxy.admin.problems import degraded, readiness
from hostproxy.admin.tap import TapPage
from hostproxy.control import kept as kept_copy
from hostproxy.control import logs, passed, reloading, surroundings
from hostproxy.control.daemon import Daemon
from hostproxy.control.leaving import Leaving
from hostproxy.control.listeners import CannotListen
from hostproxy.control.log_level import LogLevel
from hostproxy.control.notify import Manager
from hostproxy.control.runtime import RuntimeDirectory, Unusable
from hostproxy.control.showing import Showing
from hostproxy.control.state import ReloadState
from hostproxy.control.succession import Succession
from hostproxy.control.takeover import TakeOver
from hostproxy.control.upgrade import command_of_successor, detach
from hostproxy.control.upgrades import Upgrades
from hostproxy.control.watchdog import Watchdog
from hostproxy.mesh import journal

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from hostproxy.admin.pages import Live
    from hostproxy.config import Config
    from hostproxy.control.daemon import AdminPort
    from hostproxy.control.handle import Handle
    from hostproxy.health import Result
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.snapshot import Listener

# Answers of the admin address that are under way when a successor has taken over may be finished (seconds).
LAST_ANSWERS = 0.2


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
        predecessor: socket.socket | None = None,
        inherited: Mapping[str, socket.socket] = MappingProxyType({}),
    ) -> None:
        """``load`` reads a conf.toml again for a reload; ``now`` is the wall clock, for showing.

        ``predecessor`` leads to a supervisor whose place is to be taken; ``inherited`` are the listening sockets that
        this process was born with, by address.
        """
        self.status = 0  # of the process, once the reactor has stopped
        self._reactor = reactor
        self._load = load
        self._set_own_log_level = set_log_level
        self._now = now
        self.manager = Manager(silent=predecessor is not None)
        self.daemon = Daemon(reactor, config, self, self._changed, self._open_admin, self.manager, now)
        self.daemon.log_level = LogLevel(reactor, config.log.level, self._set_log_level)
        self.state = self.daemon.state
        self.daemon.health.results.subscribe(self._checked)
        for address, sock in inherited.items():
            self.daemon.sockets.offer(address, sock)
        self._take_over: TakeOver
        self._showing = Showing(self.daemon, lambda: (readiness(self.state)[1], degraded(self.state)))
        self._watchdog = Watchdog(reactor, self.manager, self.daemon.crew.answering)
        self._succession = Succession(self.daemon, self, predecessor) if predecessor is not None else None
        self._upgrades = Upgrades(self.daemon, self, command_of_successor(sys.argv, sys.orig_argv), os.environ)
        self._compile_due = False
        self._leaving = Leaving(self.daemon, self._left)
        self._announced = False
        self._resigned = False

    @property
    def _config(self) -> Config:
        return self.daemon.config

    # Starting

    def prepare(self) -> list[str]:
        """Do what can be done before the reactor turns. Returns every reason not to start."""
        host, daemon = self._config.host, self.daemon
        if self._succession is None:
            try:
                self.own(RuntimeDirectory(host.runtime_directory))
            except Unusable as unusable:
                return [str(unusable)]
        problems = daemon.sources.start(kept_copy.load(host.state_directory))
        if problems and self._succession is None:
            self.daemon.directory.release(in_order=not self.daemon.directory.left_behind)
        elif problems and self._succession is not None:
            self._succession.refuse(problems)
        return problems

    async def begin(self) -> None:
        """Bind what is to be bound and start the workers; stops the reactor when that cannot be."""
        if self._succession is not None:
            return  # the predecessor says when
        for warning in self._config.warnings:
            self.log.warn("{warning}", warning=warning)
        problems = await self._take_over.bind(self.daemon.wanted())
        if self.state.stopping:
            return
        if not problems:
            try:
                self.daemon.admin = self.daemon.open_admin(self._config)
            except CannotListen as error:
                problems = [str(error)]
        if problems:
            self._give_up(problems)
            return
        self.daemon.running = True
        self.daemon.sockets.keep_only(self.daemon.wanted())
        self._drop_passed()
        self.state.reloads = ReloadState(succeeded=1, last_success=self._now())
        self.daemon.compile()
        self.daemon.crew.start(self.daemon.target(), self._config.workers.count)
        self.daemon.health.start()
        self.daemon.register()
        self._showing.start()

    def _drop_passed(self) -> None:
        for address in self.daemon.drop_passed():
            self.log.warn(
                "a socket for {address} was passed to us, which nothing in {path} listens on: closed",
                address=address,
                path=self._config.path,
            )

    def _open_admin(self, config: Config, sock: socket.socket) -> AdminPort:
        daemon = self.daemon
        live: dict[bytes, Live] = {
            b"/tap": TapPage(self._reactor, daemon.crew.taps),
            b"/log-level": LogLevelPage(daemon.log_level),
        }
        return admin_server.listen(self._reactor, config.admin, self.state, daemon.totals, sock=sock, live=live)

    def _set_log_level(self, level: str) -> None:
        self._set_own_log_level(level)
        self.daemon.crew.set_log_level(level)

    def _give_up(self, problems: list[str]) -> None:
        for problem in problems:
            self.log.error("cannot start: {problem}", problem=problem)
        self.status = 1
        self.daemon.sources.stop()
        if not self.daemon.crew.pids:
            self.daemon.sockets.leave()
        self.daemon.crew.forget()  # workers that were found go on as before
        self.daemon.directory.release(in_order=not self.daemon.directory.left_behind)
        self._reactor.stop()

    def failed(self, failure: Failure) -> None:
        """Starting raised what nobody expected."""
        self.log.failure("starting", failure)
        if self._succession is not None:
            self._succession.refuse([failure.getErrorMessage()])
        else:
            self._give_up([failure.getErrorMessage()])

    # Deciding

    def _changed(self) -> None:
        """A source has news. Several at once are compiled together."""
        if self.daemon.running and not self._compile_due:
            self._compile_due = True
            self._reactor.callLater(0, self._take_news)

    def _take_news(self) -> None:
        self._compile_due = False
        if not self.daemon.running:
            return
        # The first certificate and policy of a host that joins may have come, and with them its listeners.
        problems = self.daemon.sockets.bind_new(self.daemon.wanted())
        if problems and self._succession is not None:
            self._succession.refuse(problems)
        elif problems:
            self._give_up(problems)
        else:
            self._drop_passed()
            self._tell_news()

    def _tell_news(self) -> None:
        if self.daemon.compile():
            assert self.daemon.compiled is not None
            self.log.info("news is taken: snapshot {version}", version=self.daemon.compiled[1].version)
            self.daemon.crew.tell(self.daemon.target())
            self._showing.soon()

    def _checked(self, results: Mapping[tuple[str, str], Result]) -> None:
        """Instances of this host became healthy or unhealthy."""
        if self.daemon.sources.consul is not None:
            self.daemon.sources.consul.health(results)
        self._changed()

    # Reloading

    def reload(self) -> None:
        """SIGHUP: take conf.toml whole or not at all; logs are opened again in either case."""
        daemon = self.daemon
        if not daemon.running or self.state.stopping:
            self.log.warn("SIGHUP came before the start was done, or while stopping: nothing is reloaded")
            return
        daemon.crew.reopen_logs()
        if self._upgrades.reload_later():
            return
        self.manager.reloading()
        reloading.reload(daemon, self._load)
        self._showing.refresh()
        self.manager.tell("READY=1")

    # Upgrading

    def upgrade(self) -> None:
        """SIGUSR2: let a successor of the installed code take over."""
        self._upgrades.begin()

    def go_on(self, reload: bool) -> None:
        """See :class:`hostproxy.control.upgrades.Owner`."""
        if self.state.stopping:
            self._leaving.begin()
            return
        self.manager.tell("READY=1")
        self._changed()
        if reload:
            self.reload()

    def resign(self) -> None:
        """See :class:`hostproxy.control.upgrades.Owner`."""
        self._showing.stop()
        self._resigned = self._leaving.over = True
        if self.state.stopping:
            self._upgrades.stop_successor(self._reactor.stop)
        else:
            self._reactor.callLater(LAST_ANSWERS, self._upgrades.unless_stopping, self._reactor.stop)

    def give_up(self, problems: list[str]) -> None:
        """What was to be taken back cannot be: the service manager starts another, which finds our workers."""
        self._give_up(problems)

    # Being the successor: see hostproxy.control.succession.Owner

    def own(self, directory: RuntimeDirectory) -> None:
        """The runtime directory is ours, and with it the life of a supervisor."""
        self.daemon.directory = directory
        self._take_over = TakeOver(self._reactor, directory, self.daemon.crew, self.daemon.sockets)

    def on_trial(self) -> None:
        """Our workers have been started."""
        self._showing.start()

    def be_main(self, reload: bool) -> None:
        """The predecessor leaves."""
        self._succession = None
        self._announce()
        if self.state.stopping:
            self._leaving.begin()
        elif reload:
            self.reload()

    def not_taken(self) -> None:
        """We are not wanted, or the predecessor has died: leave nothing behind."""
        self.status = 1
        self._leaving.over = True
        self.daemon.crew.drain(0.0)
        self.daemon.crew.kill()
        self._reactor.callLater(LAST_ANSWERS, self._reactor.stop)

    # Stopping

    def stop(self) -> None:
        """SIGTERM or SIGINT: let the workers finish what they have; the second time, leave within a second."""
        if self._resigned:
            self._upgrades.stop_successor(self._reactor.stop)
        if self._leaving.over:
            return
        if self.state.stopping:
            self._upgrades.abandon()
            self._leaving.hurry()
            return
        self.state.stopping = True
        self.manager.tell("STOPPING=1", "STATUS=leaving")
        if self._succession is not None:
            self._succession.stop()
        elif not self._upgrades.stop():  # else we leave when it has been decided who runs
            self._leaving.begin()

    def _left(self, clean: bool) -> None:
        if not clean:
            self.status = 1
        self._showing.stop()

    # What the workers report: see hostproxy.control.reports.Owner

    def crew_ready(self) -> None:
        """Every place serves: those who served before us may go."""
        self._showing.refresh()
        if self._succession is None:
            self.daemon.crew.dismiss_adopted()
            self._announce()

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            self._showing.refresh()
            self.log.info("ready: {line}", line=self._showing.line)
            self.manager.tell("READY=1")
            self._watchdog.start()

    def socket_received(self, listener: Listener, sock: socket.socket) -> None:
        """A worker that was left behind gave a listening socket."""
        self._take_over.socket_received(listener, sock)

    def worker_handed_over(self, handle: Handle) -> None:
        """It has given all that it had, or has gone."""
        self._take_over.handed_over(handle)


def run(config: Config, load: Callable[[str], Config], successor: tuple[int, int] | None = None) -> int:
    """Be the supervisor until a signal ends it. Returns the exit status.

    ``successor``: descriptors of the channel to the supervisor whose place is to be taken, and of the log.
    """
    from hostproxy.net.reactor import install

    predecessor = None
    if successor is not None:
        detach()
        channel, log = successor
        predecessor = socket.socket(fileno=channel)
        os.dup2(log, 2)  # what was printed before is told by the predecessor; what is logged from here on is ours
        os.close(log)
    # Before Twisted's endpoints are imported, by whatever part of us: the import takes them out of the environment.
    inherited = passed.inherited(os.environ)
    surroundings.prepare()
    reactor = install()
    lines = logs.begin("supervisor", config.log.level)
    supervisor = Supervisor(reactor, config, load, lines.set_level, predecessor=predecessor, inherited=inherited)
    supervisor.state.log_dropped = lambda: lines.lost
    problems = supervisor.prepare()
    if problems:
        for problem in problems:
            sys.stderr.write(journal.complaint(f"hostproxy: {problem}"))
        return 1

    def on_signal(number: signal.Signals, action: Callable[[], None]) -> None:
        signal.signal(number, lambda *_: reactor.callFromThread(action))

    on_signal(signal.SIGTERM, supervisor.stop)
    on_signal(signal.SIGINT, supervisor.stop)
    on_signal(signal.SIGHUP, supervisor.reload)
    on_signal(signal.SIGUSR2, supervisor.upgrade)
    # A predecessor blocks them in us until here: see Process.spawn.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP})

    def begin() -> None:
        begun = Deferred.fromCoroutine(supervisor.begin())
        begun.addErrback(lambda failure: supervisor.failed(failure))

    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    return supervisor.status
