"""Handing over to a successor: a supervisor of the code that is installed now, which has proved that it works.

::

    quiet    nothing more is written to the state directory by what the successor is going to write there
    trial    the successor runs, with workers of its own behind private sockets; we go on as ever, but for news from
             the controller, which go to the successor
    giving   everything is the successor's; we still could go on
    done     it has taken over: our workers drain, and we leave

Whatever goes wrong before the last step ends the successor, with everything that it started, and we go on. Our workers
have never stopped accepting until then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from hostproxy.control import channel, handover
from hostproxy.control.channel import Channel
from hostproxy.control.door import tidy
from hostproxy.control.process import Process, kill_group
from hostproxy.control.watchdog import for_successor
from hostproxy.net.reactor import READ

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall
    from twisted.python.failure import Failure

    from hostproxy.control.daemon import Daemon
    from hostproxy.net.reactor import MeshReactor

# Seconds until the successor must be healthy, and until it must have taken over from then on.
TRIAL = 30.0
GIVING = 10.0
# Seconds that writes under way may take; a disk that hangs longer loses what a crash would lose.
QUIET = 2.0
LOOK = 0.02
# How much of what the successor printed is told again (bytes).
PRINTED = 4000

# How what was started ends when it has let go of the successor: see detach.
DETACHED = "exit status 0"

OPTION = "--successor="  # of hostproxy run


class Owner(Protocol):
    """Whose upgrade it is."""

    def upgrade_gives(self) -> int:
        """Let go of everything that only one may have. Returns the descriptor of the lock."""

    def upgrade_failed(self, reason: str, given: bool) -> None:
        """The successor has ended, or there never was one. ``given``: everything is to be taken back."""

    def upgrade_taken(self, successor: Upgrade) -> None:
        """It has taken over."""


class Upgrade:
    """One upgrade, from the request on."""

    log = Logger()

    def __init__(self, daemon: Daemon, owner: Owner, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """``command`` starts a supervisor of the installed code."""
        self.reload = False  # was asked for meanwhile
        self.given = False
        self.taken = False
        self._daemon = daemon
        self._owner = owner
        self._command = command
        self._environment = environment
        self._reactor = daemon.reactor
        self._started: Process | None = None  # becomes the successor, or starts it and ends
        self._process: Process | None = None  # the successor
        self._channel: Channel[handover.ToPredecessor] | None = None
        self._printed: Printed | None = None
        self._reason = ""
        self._timer: DelayedCall | None = None
        self._failed = self._told = False

    @property
    def pid(self) -> int:
        """Of the successor; 0 before there is one."""
        return self._process.pid if self._process is not None else 0

    def begin(self) -> None:
        """Start the successor."""
        self._daemon.sources.pause()
        self._step(self._try())

    def _step(self, step: Coroutine[Deferred[None], None, None]) -> None:
        Deferred.fromCoroutine(step).addErrback(self._raised)

    def _raised(self, failure: Failure) -> None:
        self.log.failure("upgrading", failure)
        self.fail(failure.getErrorMessage())

    async def _try(self) -> None:
        await quiet(self._reactor, lambda: False)
        if not self._failed:
            self._spawn()

    def _spawn(self) -> None:
        ours, theirs = channel.pair()
        read, write = os.pipe()
        log = os.dup(2)
        command = [*self._command, f"{OPTION}{theirs.fileno()},{log}"]
        self._channel = Channel(
            self._reactor, ours, handover.ToPredecessor, self, with_descriptor=handover.WITH_DESCRIPTOR
        )
        self._printed = Printed(self._reactor, read, self.log)
        self._limit(TRIAL, f"it was not healthy within {TRIAL:g} s")
        try:
            self._started = Process.spawn(
                self._reactor,
                command,
                [theirs.fileno(), log],
                self._started_ended,
                output=write,
                environment=for_successor(self._environment, os.getpid()),
                group=0,
            )
        except OSError as error:
            self.fail(f"{command[0]}: {error.strerror}")
            return
        finally:
            theirs.close()
            os.close(write)
            os.close(log)
        self.log.info("upgrading: {command} is on trial", command=" ".join(command))

    def _limit(self, seconds: float, reason: str) -> None:
        self._unlimit()
        self._timer = self._reactor.callLater(seconds, self.fail, reason)

    def _unlimit(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    # Ending it

    def fail(self, reason: str) -> None:
        """End it, and the successor with all that it started. The owner is told once that has gone."""
        if self._failed or self.taken:
            return
        self._failed = True
        self._reason = reason
        self._unlimit()
        if self._channel is not None:
            self._channel.close()
        if self._started is not None:
            kill_group(self._started.pid)
        running = self._process or self._started
        if running is None or not running.running:
            self._reactor.callLater(0, self._tell)

    def _started_ended(self, how: str) -> None:
        """What was started has."""
        assert self._channel is not None
        if not self._failed and self._channel.open:
            self._channel.ready(READ)  # it may have greeted, or said why not
        waited_for = self._process is None and not self._failed and how == DETACHED and self._channel.open
        if not waited_for and self._process in (None, self._started):
            self._ended(how)

    def _ended(self, how: str) -> None:
        """The successor has."""
        assert self._channel is not None
        if not self._failed and self._channel.open:
            self._channel.ready(READ)  # it may have said why
        if not self._failed:
            self._failed = True
            self._reason = f"the new supervisor ended: {how}"
            self._unlimit()
            self._channel.close()
        assert self._started is not None
        kill_group(self._started.pid)
        self._tell()

    def _tell(self) -> None:
        if self._told:
            return
        self._told = True
        tidy(self._daemon.config.host.runtime_directory)
        reason = self._reason
        if self._printed is not None:
            self._printed.close()
            if self._printed.text:
                reason = f"{reason}\n{self._printed.text}"
        self._owner.upgrade_failed(reason, self.given)

    # From the successor: see hostproxy.control.channel.Owner

    def channel_lost(self, reason: str) -> None:
        """Most often its end is about to be reported, with more to say."""
        if self.taken:
            return
        self._limit(1.0, f"its channel broke: {reason}")

    def message_received(self, message: handover.ToPredecessor, descriptor: int | None) -> None:
        """Go a step further."""
        assert self._channel is not None
        match message:
            case handover.Hello():
                self._greet(message)
            case handover.Failed():
                self.fail("; ".join(message.problems) or "it did not say why")
            case handover.Healthy():
                self._limit(GIVING, f"it did not take over within {GIVING:g} s")
                self._step(self._give())
            case handover.Taken():
                self.taken = True
                self._unlimit()
                self._owner.upgrade_taken(self)

    def _greet(self, hello: handover.Hello) -> None:
        if hello.protocol != handover.PROTOCOL:
            self.fail(
                f"hostproxy {hello.software} cannot take over from {self._daemon.state.software} while that runs:"
                " systemctl restart hostproxy"
            )
            return
        assert self._channel is not None
        assert self._started is not None
        try:
            known = hello.pid in (0, self._started.pid)
            self._process = self._started if known else Process(self._reactor, hello.pid, self._ended)
        except ProcessLookupError:
            self.fail("the new supervisor ended")
            return
        self.log.info("the new supervisor is process {pid}", pid=self.pid)
        for address, sock in self._daemon.sockets.items():
            self._channel.send(handover.Passed(address=address), sock.fileno())
        host = self._daemon.config.host
        self._channel.send(
            handover.Begin(
                runtime_directory=host.runtime_directory,
                state_directory=host.state_directory,
                ready=self._daemon.state.ready,
            )
        )

    async def _give(self) -> None:
        daemon = self._daemon
        self.given = True
        lock = self._owner.upgrade_gives()
        await quiet(self._reactor, lambda: daemon.keeper.writing)
        if self._failed:
            return
        assert self._channel is not None
        view, states = daemon.totals.view(), daemon.crew.states
        encode = msgspec.msgpack.encode
        reloads, upgrades = daemon.state.reloads, daemon.state.upgrades
        take = handover.Take(
            counters=encode(view.dead),
            workers={each.pid: encode(view.workers[each.id]) if each.id in view.workers else b"" for each in states
                     if each.pid},
            drain=daemon.config.limits.drain,
            reloads=handover.Outcomes(reloads.succeeded, reloads.refused, reloads.last_success),
            upgrades=handover.Outcomes(upgrades.succeeded, upgrades.failed, upgrades.last_success),
        )  # fmt: skip
        self._channel.send(take, lock)

    def leave(self) -> None:
        """Let the successor be the main process. It lives on without us."""
        assert self._channel is not None
        assert self._process is not None
        self._daemon.manager.tell(f"MAINPID={self.pid}")
        self._channel.send(handover.Main(reload=self.reload))
        self._process.forget()
        if self._printed is not None:
            self._printed.close()


class Printed:
    """What a process writes before it has a log: written to ours, and the end of it kept."""

    def __init__(self, reactor: MeshReactor, descriptor: int, log: Logger) -> None:
        os.set_blocking(descriptor, False)
        self.fd = descriptor
        self._reactor = reactor
        self._log = log
        self._content = b""
        self._open = True
        reactor.watch(self, READ)

    @property
    def text(self) -> str:
        """The end of what it wrote."""
        return self._content.decode(errors="replace").strip()

    def ready(self, events: int) -> None:
        """See :class:`hostproxy.net.reactor.Watched`."""
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return
        if not data:
            self._release()
            return
        self._log.warn("the new supervisor: {text}", text=data.decode(errors="replace").rstrip())
        self._content = (self._content + data)[-PRINTED:]

    def fault(self, error: BaseException) -> None:
        """See :class:`hostproxy.net.reactor.Watched`."""

    def close(self) -> None:
        """Take what is there, and no more."""
        if self._open:
            self.ready(READ)
        if self._open:
            self._release()

    def _release(self) -> None:
        self._open = False
        self._reactor.unwatch(self)
        os.close(self.fd)


async def quiet(reactor: MeshReactor, busy: Callable[[], bool]) -> None:
    """Wait until nothing is done in threads and ``busy()`` is false, but not for ever."""
    deadline = reactor.seconds() + QUIET
    while (busy() or reactor.getThreadPool().working) and reactor.seconds() < deadline:
        pause: Deferred[None] = Deferred()
        reactor.callLater(LOOK, pause.callback, None)
        await pause


def detach() -> None:
    """Go on in a child, whose parent is process 1 from now on: for a successor, before it has any threads.

    The service manager waits only for its own children to end when it stops a service; others it kills at once.
    """
    if os.fork():
        os._exit(0)


def command_of_successor(arguments: Sequence[str], original: Sequence[str]) -> list[str]:
    """How this process was started, so that a link that was switched leads to the new code.

    A script names its interpreter in its first line: starting the one that runs us would run new code on old packages.
    ``arguments`` is sys.argv, ``original`` sys.orig_argv.
    """
    script = os.path.abspath(arguments[0])
    if os.path.basename(script) != "__main__.py" and os.access(script, os.X_OK):
        command = [script, *arguments[1:]]
    else:
        command = [sys.executable, *original[1:]]
    # We may be a successor ourselves.
    return [word for word in command if not word.startswith(OPTION)]


def pinned(executable: str) -> str:
    """The interpreter, in a directory that no link leads to: workers are of our code, whatever is installed by now."""
    directory, name = os.path.split(executable)
    return os.path.join(os.path.realpath(directory), name)
