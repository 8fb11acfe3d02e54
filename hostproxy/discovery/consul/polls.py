"""Asking in turn, for what has no blocking query, and starting the blocking queries one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from hostproxy.discovery.consul.ask import HEALTH, Asker, Unanswered
from hostproxy.discovery.consul.transport import Reply
from hostproxy.discovery.consul.watched import Watched

RATE = 20.0  # questions a second, at most
FIRST_RATE = 100.0  # the same for services about which nothing is known yet
INTERVAL = 10.0  # seconds between two questions about a service, at least
TOGETHER = 4  # under way at a time: an agent that answers slowly is not asked faster than it answers
LAST_PAUSE = 5.0  # seconds between questions while there are no answers

START_RATE = 200.0  # blocking queries started a second: a restart of many hosts is no burst for Consul's servers


class Polls:
    """Asks about everything that is polled, in turn."""

    log = Logger()

    def __init__(self, reactor: Any, asker: Asker, failed: Callable[[], object]) -> None:
        """``failed`` is called when a question is not answered."""
        self._reactor = reactor
        self._asker = asker
        self._failed = failed
        self._turn: dict[Watched, str] = {}  # and the datacenter; whose turn is next comes first
        self._asking: dict[Watched, Deferred[None]] = {}
        self._failures = 0  # in a row
        self._timer: Any = None

    def change(self, turn: Iterable[tuple[Watched, str]]) -> None:
        """Ask about these from now on, each with its datacenter, ``""`` the own one."""
        wanted = dict(turn)
        # Those that wait already keep their turn. New ones come first, by importance.
        old = {one: wanted[one] for one in self._turn if one in wanted}
        self._turn = {one: datacenter for one, datacenter in wanted.items() if one not in old} | old
        for one in [one for one in self._asking if one not in wanted]:
            self._asking.pop(one).cancel()
        self._cancel()  # its time was that of another
        self._schedule()

    def recovered(self) -> None:
        """The agent answers again."""
        self._failures = 0
        for one in self._turn:
            if one.failing:
                one.asked = None  # not long ago, but in vain
        self._cancel()
        self._schedule()

    def stop(self) -> None:
        """Ask no more."""
        self.change(())

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        if self._timer is not None or not self._turn or len(self._asking) >= TOGETHER:
            return
        first = next(iter(self._turn))
        if first.asked is None:
            delay = 1 / FIRST_RATE
        else:
            delay = max(1 / RATE, first.asked + INTERVAL - self._reactor.seconds())
        if self._failures:
            delay = max(delay, min(LAST_PAUSE, 2.0 ** min(self._failures, 10) / RATE))
        self._timer = self._reactor.callLater(delay, self._ask)

    def _ask(self) -> None:
        self._timer = None
        one = next(iter(self._turn))
        datacenter = self._turn[one] = self._turn.pop(one)  # its next turn is after all others
        one.asked = self._reactor.seconds()
        if one not in self._asking:
            asking: Deferred[Any] = self._asker.ask(HEALTH + one.key.service, datacenter, "health_service")
            self._asking[one] = asking
            asking.addCallback(self._answered, one)
            asking.addErrback(self._unanswered, one)
        self._schedule()

    def _answered(self, reply: Reply, one: Watched) -> None:
        self._failures = 0
        if self._asking.pop(one, None) is not None:
            reason = one.polled(reply)
            if reason:
                self._asker.unusable(reason)
        self._schedule()

    def _unanswered(self, failure: Failure, one: Watched) -> None:
        if self._asking.pop(one, None) is None:
            return  # cancelled
        error = failure.value
        if isinstance(error, Unanswered):
            one.failed(str(error))
        else:
            self.log.failure("Cannot take an answer about {service}.", failure, service=one.key.service)
        self._failures += 1
        self._failed()
        self._schedule()


class Starts:
    """Starts blocking queries at a bounded rate, in the order in which they were added."""

    def __init__(self, reactor: Any, random: Callable[[], float]) -> None:
        self._reactor = reactor
        self._random = random
        self._waiting: dict[Watched, None] = {}
        self._timer: Any = None

    def change(self, waiting: Iterable[Watched]) -> None:
        """These, and no others, are to be started."""
        self._waiting = dict.fromkeys(waiting)
        self._schedule()

    def stop(self) -> None:
        """Start no more."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = self._reactor.callLater((0.5 + self._random()) / START_RATE, self._start)

    def _start(self) -> None:
        self._timer = None
        if self._waiting:
            one = next(iter(self._waiting))
            del self._waiting[one]
            one.start()
        self._schedule()
