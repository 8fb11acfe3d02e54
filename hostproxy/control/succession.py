"""Taking over from a supervisor that runs: see :mod:`hostproxy.control.handover` and the other side, ``upgrade``.

While it is on trial a successor changes nothing that the other one uses: its workers listen on sockets in the runtime
directory that only this user reaches, it keeps no copies, and it says nothing to Consul or the service manager.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from hostproxy.control import handover, probe
from hostproxy.control.channel import Channel
from hostproxy.control.door import knock, lives, trial_path
from hostproxy.control.listeners import bind
from hostproxy.control.runtime import RuntimeDirectory
from hostproxy.control.state import ReloadState, UpgradeState

if TYPE_CHECKING:
    from hostproxy.control.daemon import Daemon
    from hostproxy.snapshot import Snapshot

# Seconds between looks for workers of the predecessor that have not been found yet.
KNOCK = 0.1
# Seconds between looks at whether the trial is passed.
LOOK = 0.05
# So many workers may die before it is failed.
DEATHS = 3


class Owner(Protocol):
    """The supervisor that is the successor."""

    def own(self, directory: RuntimeDirectory) -> None:
        """The runtime directory is ours."""

    def on_trial(self) -> None:
        """Workers have been started, for the trial."""

    def be_main(self, reload: bool) -> None:
        """The predecessor leaves. ``reload``: it was asked to, and did not."""

    def not_taken(self) -> None:
        """Leave without a trace."""


class Succession:
    """Our side of it."""

    log = Logger()

    def __init__(self, daemon: Daemon, owner: Owner, sock: socket.socket) -> None:
        """``sock`` is our end of the channel."""
        self._daemon = daemon
        self._owner = owner
        self._reactor = daemon.reactor
        self._begin: handover.Begin | None = None
        self._passed = False  # the trial
        self._done = False
        self._left: handover.Take | None = None
        self._paths: dict[str, str] = {}  # of private sockets by listener id
        self._sockets: dict[str, socket.socket] = {}
        self._channel: Channel[handover.ToSuccessor] = Channel(
            daemon.reactor, sock, handover.ToSuccessor, self, with_descriptor=handover.WITH_DESCRIPTOR
        )
        self._channel.send(handover.Hello(software=daemon.state.software, pid=os.getpid()))

    # What the supervisor wants

    def refuse(self, problems: list[str]) -> None:
        """It cannot be."""
        self._channel.send(handover.Failed(problems=tuple(problems)))

    def private(self, snapshot: Snapshot) -> dict[str, socket.socket]:
        """Sockets for the trial by listener id, in the runtime directory. Raises CannotListen."""
        directory, pid = self._daemon.config.host.runtime_directory, os.getpid()
        for listener in snapshot.listeners:
            if listener.id not in self._sockets:
                path = trial_path(directory, pid, len(self._paths))
                self._sockets[listener.id] = bind(f"unix:{path}")
                self._paths[listener.id] = path
        return self._sockets

    def stop(self) -> None:
        """SIGTERM. Who has taken over waits to be the main process, which is a matter of moments, and then leaves."""
        if self._left is None:
            self.end("stopped meanwhile")

    def tidy(self) -> None:
        """Take the private sockets away."""
        for path in self._paths.values():
            try:
                os.unlink(path)
            except OSError:
                pass  # somebody tidied up before us
        self._paths.clear()
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    async def judge(self) -> None:
        """Wait until this host is served at least as well as by the predecessor, see that it answers, and say so.

        The predecessor limits the time.
        """
        assert self._begin is not None
        daemon = self._daemon
        while not daemon.crew.complete or (self._begin.ready and not daemon.state.ready):
            await self._pause(LOOK)
            if daemon.crew.restarts >= DEATHS:
                self.refuse(["its workers die: see the log"])
                return
        assert daemon.compiled is not None
        snapshot = daemon.compiled[1]
        reactor: Any = self._reactor  # Twisted's reactors have few annotations
        problem = await deferToThreadPool(reactor, reactor.getThreadPool(), probe.examine, snapshot, dict(self._paths))
        if problem:
            self.refuse([problem])
        elif not self._passed:
            self._passed = True
            self._channel.send(handover.Healthy())

    async def _pause(self, seconds: float) -> None:
        pause: Deferred[None] = Deferred()
        self._reactor.callLater(seconds, pause.callback, None)
        await pause

    # From the predecessor: see hostproxy.control.channel.Owner

    def message_received(self, message: handover.ToSuccessor, descriptor: int | None) -> None:
        """Go a step further."""
        match message:
            case handover.Passed():
                assert descriptor is not None
                self._daemon.sockets.offer(message.address, socket.socket(fileno=descriptor))
            case handover.Begin():
                self._begin = message
                self._try(message)
            case handover.Take():
                assert descriptor is not None
                self._take(message, descriptor)
            case handover.Main():
                self._done = True
                assert self._left is not None
                found = Deferred.fromCoroutine(self._find(self._left))
                found.addErrback(lambda failure: self.log.failure("looking for workers", failure))
                self._complete(message.reload)

    def channel_lost(self, reason: str) -> None:
        """It has left, after all was done; else it has died, or wants us no more."""
        if not self._done:
            self.end(reason)

    def end(self, reason: str) -> None:
        """Be no successor after all: the predecessor goes on, or another finds its workers."""
        if not self._done:
            self._done = True
            self.log.error("not taking over: {reason}", reason=reason)
            self.tidy()
            self._owner.not_taken()

    def _try(self, begin: handover.Begin) -> None:
        """Serve, but out of the way of the predecessor."""
        daemon = self._daemon
        config = daemon.config
        for key in ("runtime_directory", "state_directory"):
            if getattr(config.host, key) != getattr(begin, key):
                self.refuse([f"{config.path}: host.{key}: changes only with a restart"])
                return
        problems = daemon.sockets.bind_new(daemon.wanted())
        if problems:
            self.refuse(problems)
            return
        daemon.running = True
        daemon.private = self.private
        daemon.compile()
        daemon.crew.start(daemon.target(), config.workers.count)
        daemon.health.start()
        self._owner.on_trial()
        Deferred.fromCoroutine(self.judge()).addErrback(lambda failure: self.refuse([failure.getErrorMessage()]))

    def _serve(self, lock: int) -> None:
        """Accept on the real sockets, and do what only one may do."""
        daemon = self._daemon
        self._owner.own(RuntimeDirectory.received(daemon.config.host.runtime_directory, lock))
        daemon.private = None
        daemon.crew.tell(daemon.target())
        self.tidy()
        daemon.admin = daemon.open_admin(daemon.config)
        daemon.keep()
        daemon.register()

    def _complete(self, reload: bool) -> None:
        """Be the main process."""
        daemon = self._daemon
        daemon.manager.silent = False
        daemon.sockets.keep()
        for address in daemon.drop_passed():
            self.log.info("{address} is not listened on any more", address=address)
        self._owner.be_main(reload)

    def _take(self, take: handover.Take, lock: int) -> None:
        self._left = take
        state = self._daemon.state
        self._count(0, take.counters)
        self._daemon.totals.retire(0)
        for pid, export in take.workers.items():
            self._count(-pid, export)
        state.reloads = ReloadState(
            succeeded=take.reloads.succeeded, refused=take.reloads.failed, last_success=take.reloads.last_success
        )
        state.upgrades = UpgradeState(
            succeeded=take.upgrades.succeeded + 1, failed=take.upgrades.failed, last_success=self._daemon.now()
        )
        self._serve(lock)
        self._channel.send(handover.Taken())

    def _count(self, worker: int, export: bytes) -> None:
        """Take over a counter: a process id that is not one of ours is negative here."""
        if not export:
            return
        try:
            self._daemon.totals.merge(worker, export)
        except ValueError as error:
            self.log.warn("counters of the supervisor before begin anew: {error}", error=error)

    async def _find(self, take: handover.Take) -> None:
        """Watch the predecessor's workers while they drain. Their channels were closed before, so all let us in."""
        crew, totals = self._daemon.crew, self._daemon.totals
        missing = dict(take.workers)
        deadline = self._reactor.seconds() + take.drain
        while missing and self._reactor.seconds() < deadline:
            await self._pause(KNOCK)
            for pid in [pid for pid in missing if not lives(pid)]:
                totals.retire(-pid)
                del missing[pid]
            for pid, sock in knock(self._daemon.config.host.runtime_directory, crew.pids):
                handle = crew.adopt(pid, sock) if pid in missing else None
                if handle is None:
                    sock.close()
                    continue
                totals.forget(-pid)
                self._count(handle.state.id, missing[pid])
                handle.drain(max(1.0, deadline - self._reactor.seconds()))
                del missing[pid]
        for pid in missing:
            totals.retire(-pid)


