"""One worker as the supervisor sees it: its process, its channel, what it was told and what it said.

At most one update is on its way to a worker. What changes meanwhile is not queued: when the worker has applied
the one, it is told the difference between that and the newest. So a slow worker costs nothing but its own delay.
"""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING, Protocol

from twisted.logger import Logger

from hostproxy.compile import difference
from hostproxy.control import messages
from hostproxy.control.channel import Channel, encode
from hostproxy.control.process import Process, Vitals, vitals
from hostproxy.control.state import ADOPTED, WorkerState
from hostproxy.net.reactor import READ

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twisted.internet.base import DelayedCall

    from hostproxy.net.reactor import MeshReactor
    from hostproxy.snapshot import Listener, Snapshot

# Seconds without an answer, of those in which the worker could have answered, until it is reported, and killed.
SILENT = 10.0
DEAD = 30.0

# Beyond the time that a worker was given to drain: it has closed everything by then and only has to exit (seconds).
GRACE = 1.0


class Target:
    """What all workers shall be like: a snapshot, and the socket of each of its listeners."""

    def __init__(self, snapshot: Snapshot, sockets: Mapping[str, socket.socket]) -> None:
        """``sockets`` holds the listening sockets by listener id."""
        self.snapshot = snapshot
        self.listeners = {listener.id: (listener, sockets[listener.id]) for listener in snapshot.listeners}
        self._frames: dict[int, tuple[type[messages.Message], bytes]] = {}

    def update(self, told: Snapshot | None) -> tuple[type[messages.Message], bytes]:
        """The message, encoded once for all workers, for one that was told ``told`` last."""
        version = told.version if told is not None else 0
        frame = self._frames.get(version)
        if frame is None:
            delta = difference(told, self.snapshot) if told is not None else None
            message = messages.Apply(self.snapshot) if delta is None else messages.Change(delta)
            frame = self._frames[version] = (type(message), encode(message))
        return frame


class Owner(Protocol):
    """Who looks after a worker."""

    def worker_ready(self, handle: Handle) -> None:
        """It has its first snapshot and accepts."""

    def worker_leaving(self, handle: Handle) -> None:
        """It was told by somebody else to drain, and accepts no more."""

    def worker_ended(self, handle: Handle, how: str) -> None:
        """Its process has ended."""

    def worker_counted(self, handle: Handle, export: bytes) -> None:
        """Its counters of now."""

    def worker_saw(self, handle: Handle, message: messages.Seen) -> None:
        """Live requests that somebody watches."""

    def worker_wants(self, handle: Handle, service: str) -> None:
        """Requests wait for a service that is not in the snapshot: to be answered with a target or ``absent``."""

    def worker_used(self, handle: Handle, services: tuple[str, ...]) -> None:
        """It carried traffic to these services in the last minute."""

    def worker_strayed(self, handle: Handle) -> None:
        """It was adopted, and broke the channel before it was told to leave."""

    def worker_handed_over(self, handle: Handle) -> None:
        """It has given all its listening sockets."""

    def socket_received(self, listener: Listener, sock: socket.socket) -> None:
        """One of them."""


class Handle:
    """One worker process."""

    log = Logger()

    def __init__(self, reactor: MeshReactor, sock: socket.socket, state: WorkerState, owner: Owner) -> None:
        """``sock`` is our end of the channel. :attr:`process` is to be set before the reactor turns."""
        self.process: Process
        self.state = state
        self.born = reactor.seconds()
        self.killed = False
        self._reactor = reactor
        self._owner = owner
        self._target: Target | None = None
        self._told: Snapshot | None = None
        self._listening: dict[str, tuple[Listener, socket.socket]] = {}
        self._awaiting = False  # an update is on its way
        self._pings = 0
        self._silence = 0.0
        self._vitals = Vitals("R", 0.0)
        self._hard_stop: DelayedCall | None = None
        self._reason = ""  # why the channel was lost
        self._channel: Channel[messages.Up] = Channel(reactor, sock, messages.Up, self)

    def __str__(self) -> str:
        who = "adopted worker" if self.state.place == ADOPTED else f"worker {self.state.place}"
        return f"{who} (pid {self.state.pid})"

    # To the worker

    def tell(self, target: Target) -> None:
        """Make the worker be like ``target`` as soon as it has done what it was told before.

        One that leaves listens nowhere, but who may use what it has open is decided there as elsewhere.
        """
        self._target = target
        if self._awaiting:
            return
        if self._told is not target.snapshot:
            kind, frame = target.update(self._told)
            self._told = target.snapshot
            self._awaiting = True
            self._channel.send_frame(kind, frame)
        if self.accepting:
            self._tell_listeners(target)

    def _tell_listeners(self, target: Target) -> None:
        wanted = target.listeners
        for name, (listener, sock) in wanted.items():
            known = self._listening.get(name)
            if known is not None:
                if known[0] == listener and known[1] is sock:
                    continue
                self._channel.send(messages.Close(name))
            self._channel.send(messages.Listen(listener), sock.fileno())
        for name in self._listening:
            if name not in wanted:
                self._channel.send(messages.Close(name))
        self._listening = dict(wanted)

    @property
    def silence(self) -> float:
        """Seconds without an answer, of those in which it could have answered."""
        return self._silence

    @property
    def accepting(self) -> bool:
        """Whether it was not asked to leave."""
        return self.state.phase != "draining"

    @property
    def dismissed(self) -> bool:
        """Whether it was told to leave, so that its end is a matter of time."""
        return self._hard_stop is not None

    def ask_for_sockets(self) -> None:
        """Let a worker that was found behind its door hand over what it listens on."""
        self._channel.send(messages.HandOver())

    def absent(self, service: str, problem: str = "") -> None:
        """Answer ``worker_wants``: there is no such service; with a ``problem``, why that can't be said."""
        if not self._comes(service):
            self._channel.send(messages.Absent(service, problem))

    def _comes(self, service: str) -> bool:
        """Whether the worker has a service, or is going to have it as soon as it has applied what is on its way."""
        return self.accepting and self._target is not None and service in self._target.snapshot.services

    def reopen_logs(self) -> None:
        """The access log was rotated."""
        self._channel.send(messages.ReopenLogs())

    def set_log_level(self, level: str) -> None:
        """Log from ``level`` up."""
        self._channel.send(messages.SetLogLevel(level))

    def watch(self, message: messages.Watch | messages.Unwatch) -> None:
        """Somebody wants to see live requests, or no more of them."""
        self._channel.send(message)

    def drain(self, seconds: float) -> None:
        """Let it finish what it has, for at most ``seconds``; a second later it is killed."""
        self.state.phase = "draining"
        self._channel.send(messages.Drain(seconds))
        self._limit(seconds + GRACE)

    def _limit(self, seconds: float, action: Callable[[], None] | None = None) -> None:
        """Do ``action``, or kill it, in ``seconds`` and not at the time set before."""
        if self._hard_stop is not None and self._hard_stop.active():
            self._hard_stop.cancel()
        self._hard_stop = self._reactor.callLater(seconds, action or self.kill)

    def kill(self) -> None:
        """End it now; its connections are reset."""
        self.killed = True
        self.process.signal(signal.SIGKILL)

    def forget(self) -> None:
        """Let it live without us."""
        self._release()
        self.process.forget()

    def abandon(self) -> None:
        """There is no process after all."""
        self._release()

    def tick(self, elapsed: float) -> None:
        """To be called once a second, ``elapsed`` seconds after the last time: see whether it still answers."""
        now = vitals(self.process.pid)
        if now is None:
            return
        # Seconds in which it could have answered: while it ran, or waited for something. A process that is
        # runnable but gets no CPU is not to blame, and neither is one that we did not look at ourselves.
        ran = now.cpu - self._vitals.cpu
        self._silence += min(ran, elapsed) if now.state == "R" else min(elapsed, 2.0)
        self._vitals = now
        self._pings += 1
        self._channel.send(messages.Ping(self._pings))
        if self._silence >= DEAD:
            self.log.error(
                "{worker} has not answered for {silence:.0f} s (state {state}): killing it",
                worker=self,
                silence=self._silence,
                state=now.state,
            )
            self.kill()
        elif self._silence >= SILENT and self.state.phase == "serving":
            self.state.phase = "silent"
            self.state.problem = "does not answer"
            self.log.warn(
                "{worker} has not answered for {silence:.0f} s (state {state}); its stack follows",
                worker=self,
                silence=self._silence,
                state=now.state,
            )
            self.process.signal(signal.SIGUSR1)

    # From the worker

    def message_received(self, message: messages.Up, descriptor: int | None) -> None:
        """See :class:`hostproxy.control.channel.Owner`."""
        self._silence = 0.0
        state = self.state
        if state.phase == "silent":
            state.phase = "serving"
            state.problem = ""
            self.log.info("{worker} answers again", worker=self)
        match message:
            case messages.Telemetry():
                state.description = message.description
                state.reported = self._reactor.seconds()
                self._owner.worker_counted(self, message.export)
            case messages.Pong():
                state.lag = message.lag
            case messages.Applied():
                self._applied(message)
            case messages.Ready():
                if state.phase == "starting":
                    state.phase = "serving"
                self._owner.worker_ready(self)
            case messages.Wanted():
                # Asked while the service was on its way to it: that is the answer.
                if not self._comes(message.service):
                    self._owner.worker_wants(self, message.service)
            case messages.Seen():
                self._owner.worker_saw(self, message)
            case messages.Used():
                self._owner.worker_used(self, message.services)
            case messages.Draining():
                state.phase = "draining"
                self._owner.worker_leaving(self)
            case messages.Drained():
                self._limit(GRACE)
            case messages.Listen():
                if descriptor is not None:
                    self._owner.socket_received(message.listener, socket.socket(fileno=descriptor))
            case messages.HandedOver():
                self._owner.worker_handed_over(self)

    def _applied(self, message: messages.Applied) -> None:
        self._awaiting = False
        self.state.version = message.version
        self.state.problem = message.problem
        if message.problem:
            self.log.error(
                "{worker} goes on with version {version}: {problem}",
                worker=self,
                version=message.version,
                problem=message.problem,
            )
            self._told = None  # the next one has to be whole
            return
        if self._target is not None:
            self.tell(self._target)

    def channel_lost(self, reason: str) -> None:
        """See :class:`hostproxy.control.channel.Owner`. Most often its process is about to end too."""
        self._reason = reason
        if self.accepting:
            self._limit(GRACE, self._cannot_be_led)
        elif self._hard_stop is None:
            self._owner.worker_strayed(self)

    def _cannot_be_led(self) -> None:
        """The process lives on without its channel: something broke the rules. It drains, another takes over."""
        self.log.error("the channel of {worker} broke: {reason}: replacing it", worker=self, reason=self._reason)
        self.state.phase = "draining"
        self.process.signal(signal.SIGTERM)
        self._limit(self._told.limits.drain + GRACE if self._told is not None else GRACE)
        self._owner.worker_leaving(self)

    def process_ended(self, how: str) -> None:
        """Called by :attr:`process`."""
        if self._channel.open:
            self._channel.ready(READ)  # its last words, its last counters among them
        self._release()
        self._owner.worker_ended(self, how)

    def _release(self) -> None:
        if self._hard_stop is not None and self._hard_stop.active():
            self._hard_stop.cancel()
        self._channel.close()
