"""A process watched through its descriptor (pidfd): its end, signals that cannot hit another, its vital signs.

A pidfd becomes readable when the process ends, also for processes that are not our children, which is what
workers taken over from a dead supervisor are. No SIGCHLD handler is needed.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hostproxy.net.reactor import READ

if TYPE_CHECKING:
    from hostproxy.net.reactor import MeshReactor

_TICKS = os.sysconf("SC_CLK_TCK")


class Vitals(NamedTuple):
    """What the kernel says about a process."""

    state: str  # R runnable, S waiting, D waiting for a device, T stopped, Z dead: proc(5)
    cpu: float  # seconds of CPU it has used


def vitals(pid: int) -> Vitals | None:
    """The vital signs of ``pid``; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            content = file.read()
    except OSError:
        return None
    fields = content[content.rindex(b")") + 2 :].split()  # the name before may hold anything
    return Vitals(fields[0].decode(), (int(fields[11]) + int(fields[12])) / _TICKS)


class Process:
    """A running process. ``ended`` is called once, with what to tell the operator ("exit status 1")."""

    def __init__(
        self,
        reactor: MeshReactor,
        pid: int,
        ended: Callable[[str], None],
        child: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """Watch ``pid``. Raises ProcessLookupError when it has gone already."""
        self.pid = pid
        self.running = True
        self._reactor = reactor
        self._ended = ended
        self._child = child
        self.fd = os.pidfd_open(pid)
        reactor.watch(self, READ)

    @classmethod
    def spawn(
        cls,
        reactor: MeshReactor,
        command: Sequence[str],
        descriptors: Sequence[int],
        ended: Callable[[str], None],
        output: int | None = None,
        environment: Mapping[str, str] | None = None,
        group: int | None = None,
    ) -> Process:
        """Start ``command`` with our standard streams and ``descriptors``, and no other descriptor of ours.

        ``output`` is its standard error output instead of ours; ``group`` 0 gives it a process group of its own.

        SIGINT and SIGHUP are blocked in it from its first instruction: a Ctrl-C goes to the whole process group,
        and before the program has said that it ignores them they would end it.
        """
        held = {signal.SIGINT, signal.SIGHUP}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
        try:
            child = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stderr=output,
                pass_fds=descriptors,
                env=environment,
                process_group=group,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return cls(reactor, child.pid, ended, child)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self.running:
            try:
                signal.pidfd_send_signal(self.fd, number)
            except ProcessLookupError:
                pass  # its end is about to be reported

    def forget(self) -> None:
        """Stop watching a process that lives on."""
        if self.running:
            self._release()

    # The reactor's side

    def ready(self, events: int) -> None:
        """See :class:`hostproxy.net.reactor.Watched`: the process has ended."""
        status = None
        if self._child is not None:
            status = self._child.wait()
        self._release()
        self._ended(_describe(status))

    def fault(self, error: BaseException) -> None:
        """See :class:`hostproxy.net.reactor.Watched`: the end was released before it was reported."""

    def _release(self) -> None:
        self.running = False
        self._reactor.unwatch(self)
        os.close(self.fd)
        if self._child is not None and self._child.returncode is None:
            self._child.returncode = 0  # it outlives us on purpose: no warning about it


def kill_group(group: int) -> None:
    """End all of a process group. Nobody else can have its number while one of it lives."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing is left


def _describe(status: int | None) -> str:
    if status is None:
        return "ended"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"
