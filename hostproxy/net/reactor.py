"""The reactor of every hostproxy process: Twisted's epoll reactor with three changes.

1. Its clock is monotonic. ``ReactorBase.seconds`` is the wall clock: a clock step would fire or freeze every timer.
2. Sockets of the data path register with :meth:`MeshReactor.watch` and get their events by one method call,
   without the logging context, the half-close protocol and the two sets that ``addReader`` keeps. Everything
   else (admin, signals, threads, timers) uses Twisted's ordinary interfaces on the same loop.
3. ``now`` holds the time at which the current batch of events was picked up, so that code on the path
   need not ask the clock for every event.
"""

from __future__ import annotations

import errno
import time
from select import EPOLLIN, EPOLLOUT
from typing import Protocol

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.logger import Logger

READ = EPOLLIN
WRITE = EPOLLOUT

# Events taken from the kernel at once. A batch bounds how long a timer, or what is posted, can be late: 64 events of
# about 15 us are a millisecond.
BATCH = 64


class Watched(Protocol):
    """What can be watched. ``fd`` must not change between ``watch`` and ``unwatch``."""

    fd: int

    def ready(self, events: int) -> None:
        """Handle epoll ``events``; called by the loop, must not block."""

    def fault(self, error: BaseException) -> None:
        """``ready`` raised: release everything. Called by the loop after it has logged the error."""


class Posting(Protocol):
    """What can send at the end of a batch of events."""

    def send_posted(self) -> None:
        """Send what is waiting for it."""

    def fault(self, error: BaseException) -> None:
        """``send_posted`` raised: release everything."""


class MeshReactor(EPollReactor):
    """Twisted's epoll reactor, see the module's docstring."""

    log = Logger()

    def __init__(self) -> None:
        self.now = time.monotonic()
        self._watched: dict[int, Watched] = {}
        self._posted: list[Posting] = []  # have something to send at the end of the batch
        self._fresh: dict[int, Watched] = {}  # watched since the current batch of events was picked up
        super().__init__()

    seconds = staticmethod(time.monotonic)

    def watch(self, watched: Watched, events: int) -> None:
        """Report ``events`` of ``watched.fd``; errors and hang-ups are always reported.

        From the next batch of events on: the current one may still hold an event of a descriptor of the same
        number, closed a moment ago, that would be taken for one of this.
        """
        self._poller.register(watched.fd, events)
        self._fresh[watched.fd] = watched

    def rewatch(self, watched: Watched, events: int) -> None:
        """Change the events of a watched descriptor; 0 leaves only errors and hang-ups."""
        self._poller.modify(watched.fd, events)

    def unwatch(self, watched: Watched) -> None:
        """Forget ``watched``. Must come before its descriptor is closed."""
        fd = watched.fd
        if self._watched.pop(fd, None) is not None or self._fresh.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events and hand them out: data path first by direct call, the rest as Twisted does."""
        if self._posted:
            self._send_posted()
        watched = self._watched
        if self._fresh:
            watched.update(self._fresh)
            self._fresh.clear()
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, BATCH)
        except OSError as error:
            if error.errno == errno.EINTR:
                return
            raise
        self.now = time.monotonic()
        index = 0
        while index < len(events):
            target: Watched | None = None
            try:
                # The try stands outside the loop: in Python 3.11 it is free until something is raised.
                for fd, event in events[index:] if index else events:
                    index += 1
                    target = watched.get(fd)
                    if target is not None:
                        target.ready(event)
                    else:
                        selectable = self._selectables.get(fd)
                        if selectable is not None:
                            self._doReadOrWrite(selectable, fd, event)
            except Exception as error:
                self.log.failure("handling an event of {target!r}", target=target)
                if target is not None:
                    try:
                        target.fault(error)
                    except Exception:
                        self.log.failure("releasing {target!r} after an error", target=target)
        if self._posted:
            self._send_posted()

    def post(self, posting: Posting) -> None:
        """Call ``posting.send_posted()`` once the current batch of events has been handled.

        A send wakes the process at the other end. Sends that follow each other closely find it awake already: on a
        busy machine that is a quarter of what a request costs.
        """
        self._posted.append(posting)

    def _send_posted(self) -> None:
        posted, self._posted = self._posted, []
        for posting in posted:
            try:
                posting.send_posted()
            except Exception as error:
                self.log.failure("sending from {posting!r}", posting=posting)
                posting.fault(error)

    doIteration = doPoll  # noqa: N815  # Twisted's name


def install() -> MeshReactor:
    """Make this the process's reactor. To be called once, before anything imports Twisted's global one."""
    reactor = MeshReactor()
    installReactor(reactor)
    return reactor
