"""A worker in every place: started, replaced when it dies, drained when it is no longer wanted."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from hostproxy.control import channel
from hostproxy.control.door import remove_door
from hostproxy.control.handle import Handle
from hostproxy.control.process import Process
from hostproxy.control.state import ADOPTED, WorkerState
from hostproxy.control.taps import Taps

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

    from hostproxy.control import messages
    from hostproxy.control.handle import Target
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.snapshot import Listener

# A worker that lived shorter than this died of its beginning, and its successor will too (seconds).
YOUNG = 10.0
# Wait before the next try then, doubling (seconds): soon enough for a passing cause, rare enough for a lasting one.
FIRST_DELAY = 0.1
LAST_DELAY = 5.0

# Seconds between looks at every worker.
LOOK = 1.0


class Owner(Protocol):
    """Who the crew works for."""

    def crew_changed(self) -> None:
        """Processes came or went, or changed their phase."""

    def crew_ready(self) -> None:
        """Every place has a worker that serves. Called each time that becomes true."""

    def worker_counted(self, worker: int, export: bytes) -> None:
        """The newest counters of a process."""

    def worker_gone(self, worker: int) -> None:
        """A process has ended: its counters are final."""

    def service_wanted(self, handle: Handle, service: str) -> None:
        """Requests to a worker wait for a service that it was not told of.

        The answer is a target with the service, for all workers, or ``handle.absent(service)``.
        """

    def services_used(self, services: tuple[str, ...]) -> None:
        """A worker carried traffic to these services in the last minute."""

    def socket_received(self, listener: Listener, sock: socket.socket) -> None:
        """A worker that was adopted handed over a listening socket."""

    def worker_handed_over(self, handle: Handle) -> None:
        """It was the last one; also called when that worker ended before it had."""


class _Place:
    """One of the ``[workers] count`` places."""

    __slots__ = ("delay", "handle", "restarts", "timer")

    def __init__(self) -> None:
        self.handle: Handle | None = None
        self.restarts = 0
        self.delay = 0.0  # back-off before the next start; 0: at once
        self.timer: DelayedCall | None = None


class Crew:
    """All workers of a supervisor."""

    log = Logger()

    def __init__(
        self,
        reactor: MeshReactor,
        command: Callable[[int, int], Sequence[str]],
        directory: str,
        owner: Owner,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``command(place, descriptor)`` is the command line of a worker, ``directory`` where its door is.

        ``now`` is the wall clock, for showing.
        """
        self.taps = Taps(reactor, self._tell_of_tap)
        self._reactor = reactor
        self._command = command
        self._directory = directory
        self._owner = owner
        self._now = now
        self._places: list[_Place] = []
        self._leaving: list[Handle] = []  # asked to drain, and adopted ones
        self._target: Target | None = None
        self._serial = 0
        self._clean = True  # no process had to be killed to end the draining
        self._gone: Deferred[bool] | None = None  # fires when the last process has ended
        self._looked = 0.0
        self._look: DelayedCall | None = None

    @property
    def states(self) -> tuple[WorkerState, ...]:
        """Every process and every empty place."""
        found = [
            place.handle.state
            if place.handle is not None
            else WorkerState(place=number, id=0, phase="waiting", restarts=place.restarts)
            for number, place in enumerate(self._places)
        ]
        found.extend(handle.state for handle in self._leaving)
        return tuple(found)

    @property
    def pids(self) -> set[int]:
        """The living processes."""
        return {state.pid for state in self.states if state.pid}

    @property
    def complete(self) -> bool:
        """Whether every place has a worker that serves."""
        return all(
            place.handle is not None and place.handle.state.phase in ("serving", "silent") for place in self._places
        )

    @property
    def restarts(self) -> int:
        """How many processes had to be replaced."""
        return sum(place.restarts for place in self._places)

    # What the supervisor wants

    def start(self, target: Target, count: int) -> None:
        """Fill ``count`` places with workers that are like ``target``."""
        self._target = target
        self._looked = self._reactor.seconds()
        self._look = self._reactor.callLater(LOOK, self._tick)
        self.resize(count)

    def resize(self, count: int) -> None:
        """Have ``count`` places from now on; the workers of places given up drain."""
        while len(self._places) > count:
            self._vacate(self._places.pop())
        while len(self._places) < count:
            place = _Place()
            self._places.append(place)
            self._fill(place)

    def _vacate(self, place: _Place) -> None:
        if place.timer is not None and place.timer.active():
            place.timer.cancel()
        if place.handle is not None:
            self._leaving.append(place.handle)
            place.handle.drain(self._drain_time())

    def _drain_time(self) -> float:
        return self._target.snapshot.limits.drain if self._target is not None else 0.0

    def tell(self, target: Target) -> None:
        """Make all workers be like ``target``."""
        self._target = target
        for handle in self._handles():
            # One that was adopted is led by nobody until it is told to leave.
            if handle.state.place != ADOPTED or handle.dismissed:
                handle.tell(target)

    def reopen_logs(self) -> None:
        """Let all workers open their access logs again."""
        for handle in self._handles():
            handle.reopen_logs()

    def set_log_level(self, level: str) -> None:
        """Let all workers log from ``level`` up."""
        for handle in self._handles():
            handle.set_log_level(level)

    def _tell_of_tap(self, message: messages.Watch | messages.Unwatch) -> list[int]:
        handles = [handle for handle in self._handles() if handle.state.place != ADOPTED]
        for handle in handles:
            handle.watch(message)
        return [handle.state.id for handle in handles]

    def adopt(self, pid: int, sock: socket.socket) -> Handle | None:
        """Take in a worker that was found behind its door and ask for its sockets; None when it has gone."""
        self._serial += 1
        state = WorkerState(place=ADOPTED, id=self._serial, pid=pid, phase="draining", since=self._now())
        handle = Handle(self._reactor, sock, state, self)
        try:
            handle.process = Process(self._reactor, pid, handle.process_ended)
        except ProcessLookupError:
            handle.abandon()
            return None
        self._leaving.append(handle)
        handle.ask_for_sockets()
        return handle

    def answering(self, seconds: float) -> bool:
        """Whether a worker serves, and every one that fills a place has answered within ``seconds``."""
        handles = [place.handle for place in self._places if place.handle is not None]
        return any(handle.state.phase == "serving" for handle in handles) and all(
            handle.silence <= seconds for handle in handles
        )

    def dismiss_adopted(self) -> None:
        """Let the workers that were adopted drain and leave: others have taken over."""
        for handle in self._leaving:
            if handle.state.place == ADOPTED and not handle.dismissed:
                handle.drain(self._drain_time())

    def drain(self, seconds: float) -> Deferred[bool]:
        """Let all finish what they have. Fires when the last process has ended: True if none had to be killed."""
        if self._gone is None:
            self._gone = Deferred()
            self._clean = True
        for place in self._places:
            if place.timer is not None and place.timer.active():
                place.timer.cancel()
            if place.handle is not None:
                self._leaving.append(place.handle)
        self._places.clear()
        for handle in self._leaving:
            handle.drain(seconds)
        self._check_gone()
        return self._gone

    def dismiss(self, seconds: float) -> None:
        """Let all finish what they have within ``seconds``, without us."""
        for handle in self._handles():
            if not handle.dismissed:
                handle.drain(seconds)
        self.forget()

    def kill(self) -> None:
        """End all processes now."""
        for handle in self._handles():
            handle.kill()

    def forget(self) -> None:
        """Let all processes live without us: they keep serving with what they have."""
        self._stop_looking()
        for place in self._places:
            if place.timer is not None and place.timer.active():
                place.timer.cancel()
        for handle in self._handles():
            handle.forget()

    # Inside

    def _handles(self) -> list[Handle]:
        return [place.handle for place in self._places if place.handle is not None] + self._leaving

    def _fill(self, place: _Place) -> None:
        """Start a worker in ``place``."""
        assert self._target is not None
        number = self._places.index(place)
        self._serial += 1
        ours, theirs = channel.pair()
        state = WorkerState(place=number, id=self._serial, since=self._now(), restarts=place.restarts)
        handle = Handle(self._reactor, ours, state, self)
        try:
            command = self._command(number, theirs.fileno())
            handle.process = Process.spawn(self._reactor, command, [theirs.fileno()], handle.process_ended)
        except OSError as error:  # out of processes, memory or descriptors
            self.log.error("cannot start worker {place}: {error}", place=number, error=error)
            handle.abandon()
            self._replace(place, young=True)
            return
        finally:
            theirs.close()
        state.pid = handle.process.pid
        place.handle = handle
        handle.tell(self._target)
        for message in self.taps.for_new():
            handle.watch(message)
        self._owner.crew_changed()

    def _replace(self, place: _Place, young: bool) -> None:
        place.handle = None
        place.restarts += 1
        self._owner.crew_changed()
        place.delay = min(LAST_DELAY, 2 * place.delay or FIRST_DELAY) if young else 0.0
        if place.delay:
            place.timer = self._reactor.callLater(place.delay, self._fill, place)
        else:
            self._fill(place)

    def _place_of(self, handle: Handle) -> _Place | None:
        return next((place for place in self._places if place.handle is handle), None)

    def _stop_looking(self) -> None:
        if self._look is not None and self._look.active():
            self._look.cancel()

    def _tick(self) -> None:
        self._look = self._reactor.callLater(LOOK, self._tick)
        now = self._reactor.seconds()
        elapsed, self._looked = now - self._looked, now
        for handle in self._handles():
            handle.tick(elapsed)

    def _check_gone(self) -> None:
        if self._gone is not None and not self._gone.called and not self._handles():
            self._stop_looking()
            self._gone.callback(self._clean)

    # What the workers report: see hostproxy.control.handle.Owner

    def worker_ready(self, handle: Handle) -> None:
        """A place is filled."""
        self.log.info("{worker} serves with version {version}", worker=handle, version=handle.state.version)
        if self.complete and self._place_of(handle) is not None:
            self._owner.crew_ready()

    def worker_leaving(self, handle: Handle) -> None:
        """Somebody told it to drain: another takes its place at once, and it finishes what it has."""
        place = self._place_of(handle)
        if place is not None:
            self._leaving.append(handle)
            self._replace(place, young=False)

    def worker_ended(self, handle: Handle, how: str) -> None:
        """Its process has ended: replace it if its place is still there."""
        remove_door(self._directory, handle.state.pid)
        self.taps.gone(handle.state.id)
        self._owner.worker_gone(handle.state.id)
        place = self._place_of(handle)
        if place is not None:
            lived = self._reactor.seconds() - handle.born
            self.log.error("{worker} died: {how}: replacing it", worker=handle, how=how)
            self._replace(place, young=lived < YOUNG)
            return
        self._leaving.remove(handle)
        self._owner.crew_changed()
        self._clean = self._clean and not handle.killed
        self.log.info("{worker} has left: {how}", worker=handle, how=how)
        if handle.state.place == ADOPTED:
            self._owner.worker_handed_over(handle)
        self._check_gone()

    def worker_strayed(self, handle: Handle) -> None:
        """It was adopted and wants to be left alone: it may be found again."""
        self._leaving.remove(handle)
        handle.forget()
        self._owner.worker_gone(handle.state.id)
        self._owner.worker_handed_over(handle)

    def worker_counted(self, handle: Handle, export: bytes) -> None:
        """Pass its counters on."""
        self._owner.worker_counted(handle.state.id, export)

    def worker_saw(self, handle: Handle, message: messages.Seen) -> None:
        """Pass it on to who watches."""
        self.taps.seen(handle.state.id, message)

    def worker_wants(self, handle: Handle, service: str) -> None:
        """Pass it on."""
        self._owner.service_wanted(handle, service)

    def worker_used(self, handle: Handle, services: tuple[str, ...]) -> None:
        """Pass it on."""
        self._owner.services_used(services)

    def worker_handed_over(self, handle: Handle) -> None:
        """Pass it on."""
        self._owner.worker_handed_over(handle)

    def socket_received(self, listener: Listener, sock: socket.socket) -> None:
        """Pass it on."""
        self._owner.socket_received(listener, sock)
