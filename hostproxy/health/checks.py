"""Every instance on this host that has a check, asked again and again.

An instance is asked once at a time: ``interval`` after the end of one probe comes the next. :data:`AT_ONCE` bounds how
many begin together. A probe that takes longer than :data:`SLOW` does not count in that any more, so an instance that
hangs delays only itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

import msgspec
from twisted.logger import Logger

from hostproxy.discovery.watch import Watch
from hostproxy.health.judgement import Judgement
from hostproxy.health.probe import SKIPPED, Outcome, Probe, Question
from hostproxy.net.connect import Address

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

    from hostproxy.config_services import Check, LocalService
    from hostproxy.net.reactor import MeshReactor

# Young probes under way at a time. One takes about 0.15 ms of the supervisor in all, so these are 8 ms of work.
AT_ONCE = 50

# Seconds after which a probe is young no more and keeps nobody waiting. Most instances that are well have answered
# by then; of a thousand that hang, each is still asked when it is due.
SLOW = 0.1

# Within so many seconds everything has been asked for the first time, in random order (or within the interval, when
# that is shorter): a thousand checks that begin together would stay together.
FIRST = 2.0

# Seconds between two lines of the log about probes that could not be made.
COMPLAINT = 60.0


class Result(msgspec.Struct, frozen=True):
    """What is known about one instance."""

    healthy: bool
    reason: str  # why it is not; empty when it is
    since: float  # Unix seconds


Key = tuple[str, str]  # service, address of the instance
Results = Mapping[Key, Result]


class Cancellable(Protocol):
    """A probe under way."""

    def cancel(self) -> None:
        """Give up; its outcome is not told."""


Ask = Callable[["MeshReactor", Address, Question, Callable[[Outcome], object]], Cancellable]


class _Instance:
    """One instance and its check."""

    __slots__ = ("address", "check", "counts_as_busy", "judgement", "key", "probe", "question", "timer")

    def __init__(self, key: Key, check: Check, agent: str, healthy: bool | None) -> None:
        service, address = key
        self.key = key
        self.check = check
        self.address = Address.parse(address)
        self.judgement = Judgement(check.healthy, check.unhealthy, healthy)
        self.question = (
            Question.get(check.http, service, agent, check.timeout)
            if check.http
            else Question.connect(check.timeout)
        )
        self.probe: Cancellable | None = None
        self.counts_as_busy = False  # its probe is under way for less than SLOW
        self.timer: DelayedCall | None = None  # until the next probe begins, or until this one is slow


class LocalHealth:
    """Runs the checks of this host's services.

    ``results`` has every instance that has been asked at least once, and is published when one of them becomes
    healthy or unhealthy, or is checked no more. ``counts`` has the number of probes by (service, result), where
    result is of :data:`hostproxy.health.probe.RESULTS`.
    """

    log = Logger()

    def __init__(
        self,
        reactor: MeshReactor,
        services: Iterable[LocalService],
        now: Callable[[], float],
        random: Callable[[], float],
        ask: Ask = Probe,
    ) -> None:
        """``now`` is the wall clock (Unix seconds), ``random`` gives numbers from 0 to 1."""
        self.results: Watch[Results] = Watch({})
        self.counts: dict[tuple[str, str], int] = {}
        self._reactor = reactor
        self._now = now
        self._random = random
        self._ask = ask
        self._agent = f"hostproxy/{version('hostproxy')}-check"
        self._instances: dict[Key, _Instance] = {}
        self._waiting: dict[_Instance, None] = {}  # due, in this order, when others have ended
        self._busy = 0
        self._running = False
        self._complained: float | None = None  # reactor seconds
        self._take(services)

    def start(self) -> None:
        """Begin to ask."""
        self._running = True
        for instance in self._instances.values():
            self._begin(instance)

    def stop(self) -> None:
        """Ask nothing any more; ``results`` stays."""
        self._running = False
        for instance in self._instances.values():
            self._halt(instance)

    def change(self, services: Iterable[LocalService]) -> None:
        """Check these from now on. Where nothing has changed it goes on as if nothing had happened.

        An instance whose check is another now is as healthy as before until that has said otherwise.
        """
        self._take(services)
        gone = [key for key in self.results.value if key not in self._instances]
        checked = {service for service, _ in self._instances}
        for service, outcome in list(self.counts):
            if service not in checked:
                del self.counts[service, outcome]
        if gone:
            self.results.publish({key: result for key, result in self.results.value.items() if key not in gone})

    # Which

    def _take(self, services: Iterable[LocalService]) -> None:
        wanted = dict(_checks(services))
        for key, instance in list(self._instances.items()):
            if wanted.get(key) != instance.check:
                self._halt(instance)
                del self._instances[key]
        for key, check in wanted.items():
            if key not in self._instances:
                known = self.results.value.get(key)
                healthy = known.healthy if known is not None else None
                self._instances[key] = instance = _Instance(key, check, self._agent, healthy)
                if self._running:
                    self._begin(instance)

    # When

    def _begin(self, instance: _Instance) -> None:
        within = min(instance.check.interval, FIRST)
        instance.timer = self._reactor.callLater(self._random() * within, self._due, instance)

    def _halt(self, instance: _Instance) -> None:
        if instance.timer is not None:
            instance.timer.cancel()
            instance.timer = None
        self._waiting.pop(instance, None)
        if instance.probe is not None:
            instance.probe.cancel()
            instance.probe = None
        self._make_room(instance)

    def _due(self, instance: _Instance) -> None:
        instance.timer = None
        self._waiting[instance] = None
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self._busy < AT_ONCE and self._running:
            instance = next(iter(self._waiting))
            del self._waiting[instance]
            self._busy += 1
            instance.counts_as_busy = True
            if instance.check.timeout > SLOW:
                instance.timer = self._reactor.callLater(SLOW, self._is_slow, instance)
            instance.probe = self._ask(
                self._reactor, instance.address, instance.question, partial(self._answered, instance)
            )

    def _is_slow(self, instance: _Instance) -> None:
        instance.timer = None
        self._make_room(instance)

    def _make_room(self, instance: _Instance) -> None:
        if instance.counts_as_busy:
            instance.counts_as_busy = False
            self._busy -= 1
            self._go_on()

    # What

    def _answered(self, instance: _Instance, outcome: Outcome) -> None:
        instance.probe = None
        if instance.timer is not None:
            instance.timer.cancel()
        instance.timer = self._reactor.callLater(instance.check.interval, self._due, instance)
        self._make_room(instance)
        service = instance.key[0]
        self.counts[service, outcome.result] = self.counts.get((service, outcome.result), 0) + 1
        if outcome.result == SKIPPED:
            self._complain(instance, outcome.reason)
        elif instance.judgement.answered(not outcome.reason):
            self._judged(instance, outcome.reason)

    def _judged(self, instance: _Instance, reason: str) -> None:
        service, address = instance.key
        if reason:
            self.log.warn(
                "{service} {address} is unhealthy: {reason}", service=service, address=address, reason=reason
            )
        elif instance.key in self.results.value:
            self.log.info("{service} {address} is healthy again", service=service, address=address)
        result = Result(healthy=not reason, reason=reason, since=self._now())
        self.results.publish({**self.results.value, instance.key: result})

    def _complain(self, instance: _Instance, reason: str) -> None:
        now = self._reactor.seconds()
        if self._complained is None or now - self._complained >= COMPLAINT:
            self._complained = now
            service, address = instance.key
            self.log.warn(
                "{service} {address} could not be asked: {reason}", service=service, address=address, reason=reason
            )


def _checks(services: Iterable[LocalService]) -> Iterator[tuple[Key, Check]]:
    """Yield every instance that is to be checked here."""
    for service in services:
        check = service.check
        if check.wanted and check.run_by == "hostproxy":
            for address in service.instances:
                yield (service.name, address), check
