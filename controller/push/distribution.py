"""Every host gets what it should have: told at once, in parallel and bounded, and again until it has it.

A host is told when there is something new for it. When that fails it is told again, after a pause that grows; a host
that comes back and reports is told at once. Nothing is queued but names of hosts: what a host is told is decided when
its turn has come.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from controller.push.pusher import PushFailed
from hostproxy.mesh.messages import Confirm, HostReport

FIRST_PAUSE = 1.0  # seconds, doubling
LAST_PAUSE = 60.0
# Of those who are told at a time, the share who could not be told the last time. Each of them may take the whole
# timeout again, and with enough of them nobody else would have a turn.
DOUBTFUL = 0.25


class Order(NamedTuple):
    """What a host is to be told now."""

    address: str  # where it takes bundles
    bundle: bytes | None  # a new one
    confirm: Confirm | None  # or that it may stay with what it has; neither: it is asked how it stands


class Decider(Protocol):
    """Who knows what each host should have."""

    def order(self, host: str) -> Awaitable[Order | None]:
        """What to tell ``host`` now; None: nothing, it has everything, or cannot be reached by us."""

    def reported(self, host: str, report: HostReport) -> object:
        """It answered."""


class Sender(Protocol):
    """One request to one host: :class:`~controller.push.pusher.Pusher`."""

    def push(self, host: str, address: str, bundle: bytes) -> Awaitable[HostReport]:
        """Raises :class:`PushFailed`."""

    def confirm(self, host: str, address: str, confirm: Confirm) -> Awaitable[None]:
        """Raises :class:`PushFailed`."""

    def ask(self, host: str, address: str) -> Awaitable[HostReport]:
        """Raises :class:`PushFailed`."""


class Distribution:
    """Works while this controller leads."""

    log = Logger()

    def __init__(
        self, reactor: Any, sender: Sender, decider: Decider, parallel: int, random: Callable[[], float]
    ) -> None:
        """At most ``parallel`` hosts are told at a time; ``random`` gives floats in [0, 1)."""
        self.failures: dict[str, str] = {}  # why a host could not be told the last time
        self._reactor = reactor
        self._sender = sender
        self._decider = decider
        self._parallel = parallel
        self._random = random
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._doubtful: OrderedDict[str, None] = OrderedDict()  # wait too, and could not be told the last time
        self._trying: set[str] = set()  # of the busy, those that were doubtful
        self._most_trying = max(1, int(parallel * DOUBTFUL))
        self._again: set[str] = set()  # being told, and there is news since
        self._busy: set[str] = set()
        self._pauses: dict[str, tuple[float, Any]] = {}  # the last pause, and its timer
        self._running = False

    def start(self) -> None:
        """Tell hosts from now on."""
        self._running = True
        self._turn()

    def stop(self) -> None:
        """Tell nobody any more; what is under way ends by itself."""
        self._running = False
        self._waiting.clear()
        self._doubtful.clear()
        for _, timer in self._pauses.values():
            if timer is not None and timer.active():
                timer.cancel()
        self._pauses.clear()

    def tell(self, hosts: Iterable[str]) -> None:
        """There may be news for these. Whoever waits after a failure is told at once."""
        for host in hosts:
            _, timer = self._pauses.pop(host, (0.0, None))
            if timer is not None and timer.active():
                timer.cancel()
            if host in self._busy:
                self._again.add(host)
            else:
                self._wait(host)
        self._turn()

    def keep(self, hosts: Mapping[str, object]) -> None:
        """Forget about all others."""
        known = (*self._pauses, *self._waiting, *self._doubtful, *self.failures)
        for host in [each for each in known if each not in hosts]:
            _, timer = self._pauses.pop(host, (0.0, None))
            if timer is not None and timer.active():
                timer.cancel()
            self._waiting.pop(host, None)
            self._doubtful.pop(host, None)
            self.failures.pop(host, None)

    @property
    def pending(self) -> int:
        """Hosts that wait, or are being told."""
        return len(self._waiting) + len(self._doubtful) + len(self._busy)

    def _wait(self, host: str) -> None:
        (self._doubtful if host in self.failures else self._waiting)[host] = None

    def _turn(self) -> None:
        while self._running and len(self._busy) < self._parallel:
            if self._waiting:
                host, _ = self._waiting.popitem(last=False)
            elif self._doubtful and len(self._trying) < self._most_trying:
                host, _ = self._doubtful.popitem(last=False)
                self._trying.add(host)
            else:
                return
            self._busy.add(host)
            Deferred.fromCoroutine(self._tell(host))

    async def _tell(self, host: str) -> None:
        """Never fails."""
        try:
            order = await self._decider.order(host)
            if order is None:
                self._well(host)
                return
            if order.bundle is not None:
                report = await self._sender.push(host, order.address, order.bundle)
                self._well(host)
                self._decider.reported(host, report)
            elif order.confirm is not None:
                await self._sender.confirm(host, order.address, order.confirm)
                self._well(host)
            else:
                report = await self._sender.ask(host, order.address)
                self._well(host)
                self._decider.reported(host, report)
        except PushFailed as error:
            self._failed(host, str(error))
        except Exception as error:
            self.log.failure("telling {host}", host=host)
            self._failed(host, f"{type(error).__name__}: {error}")
        finally:
            self._busy.discard(host)
            self._trying.discard(host)
            if host in self._again:
                self._again.discard(host)
                self._wait(host)
            # Not from here: a thousand hosts without news would be a thousand calls deep.
            self._reactor.callLater(0, self._turn)

    def _well(self, host: str) -> None:
        if self.failures.pop(host, ""):
            self.log.info("{host} can be told again", host=host)
        self._pauses.pop(host, None)

    def _failed(self, host: str, problem: str) -> None:
        if self.failures.get(host) != problem:
            self.log.warn("{host} was not told: {problem}", host=host, problem=problem)
        self.failures[host] = problem
        if not self._running:
            return
        last, timer = self._pauses.get(host, (0.0, None))
        if timer is not None and timer.active():
            timer.cancel()  # there was news in the middle of the time before, and that was of no use either
        pause = min(LAST_PAUSE, last * 2 or FIRST_PAUSE)
        # At random between half of it and all: hosts that failed together do not come together again.
        delay = pause * (0.5 + 0.5 * self._random())
        self._pauses[host] = (pause, self._reactor.callLater(delay, self._wait_over, host))

    def _wait_over(self, host: str) -> None:
        self._wait(host)
        self._turn()
