"""A service that a request names for the first time: asked for at once, bounded in time, rate and number.

Whoever may send requests can make up names without end, so a name that nobody has costs Consul one question a second
at most, and all names together ten. That nobody has a name is remembered; that it could not be looked up is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from hostproxy.discovery.consul.ask import HEALTH, Asker, Unanswered
from hostproxy.discovery.consul.budget import Bucket
from hostproxy.discovery.consul.instances import Malformed, split
from hostproxy.discovery.consul.names import GENUINE, NO_NODE_RIGHTS, Names, explain
from hostproxy.discovery.consul.transport import Reply

RATE, BURST = 10.0, 20  # questions a second
PENDING = 100  # names waited for at a time
WAITING = 1000  # who wait for one name
MEMORY = 1.0  # seconds that a name is known to be nobody's
MEMORIES = 1000
FULL = "as many requests and names as may wait for Consul already"
BUSY = f"so many new names were asked for that this one's turn did not come: {RATE:g} a second have one"
ENDED = "hostproxy does not ask Consul now"

Done = Callable[[bool, str], object]  # whether it is in the catalog; when not, why that can't be said, "" when it can
Replies = list[tuple[str, Reply]]  # with their datacenters


class _Lookup:
    """One name that is being asked for."""

    __slots__ = ("asking", "done", "found", "missing", "problem", "replies", "timer")

    def __init__(self, done: Done, timer: Any) -> None:
        self.done: list[Done] = [done]
        self.timer = timer
        self.asking: list[Deferred[None]] = []
        self.missing = 0  # answers to come
        self.replies: Replies = []
        self.found = False  # an instance is in one of them
        self.problem = ""  # why one of the answers can't be used


class FirstUse:
    """Finds out about names."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        asker: Asker,
        names: Names,
        patience: float,
        datacenters: Callable[[str], Sequence[str]],
        found: Callable[[str, Replies], object],
    ) -> None:
        """``datacenters`` in which to look for a service, ``""`` the own one.

        ``found`` is given the answers when one has instances, and has :meth:`known` called once they are in the
        catalog. ``names`` tells those that have no instances from those that may not be read.
        ``patience`` seconds is the longest that anybody waits.
        """
        self._reactor = reactor
        self._asker = asker
        self._names = names
        self._patience = patience
        self._datacenters = datacenters
        self._found = found
        self._bucket = Bucket(RATE, BURST, reactor.seconds)
        self._lookups: dict[str, _Lookup] = {}
        self._queue: dict[str, None] = {}  # names that wait for a permit
        self._permit: Any = None
        self._nobodys: dict[str, float] = {}  # name -> reactor seconds of its answer, the oldest first

    def look(self, service: str, done: Done) -> None:
        """Have ``done`` called once it is known whether anybody has this name, or that it can't be known."""
        lookup = self._lookups.get(service)
        if lookup is not None:
            if len(lookup.done) < WAITING:
                lookup.done.append(done)
            else:
                self._refuse(done)
        elif self._remembered(service) or not self._patience:
            done(False, "")
        elif len(self._lookups) >= PENDING:
            self._refuse(done)
        else:
            timer = self._reactor.callLater(self._patience, self._late, service)
            self._lookups[service] = _Lookup(done, timer)
            self._queue[service] = None
            self._next()

    def known(self, service: str) -> None:
        """It is in the catalog."""
        self._end(service, True)

    def waiting(self) -> tuple[str, ...]:
        """The names that are being asked for."""
        return tuple(self._lookups)

    def stop(self) -> None:
        """Nobody knows any more."""
        for service in self.waiting():
            self._end(service, False, ENDED)
        if self._permit is not None:
            self._permit.cancel()
            self._permit = None

    def _refuse(self, done: Done) -> None:
        self._asker.unusable("first_use_full")
        done(False, FULL)

    def _remembered(self, service: str) -> bool:
        end = self._reactor.seconds() - MEMORY
        while self._nobodys:
            oldest, since = next(iter(self._nobodys.items()))
            if since > end and len(self._nobodys) <= MEMORIES:
                break
            del self._nobodys[oldest]
        return service in self._nobodys

    def _next(self) -> None:
        """Ask for as many as there are permits."""
        while self._queue and self._permit is None:
            if not self._bucket.take():
                self._permit = self._reactor.callLater(self._bucket.wait(), self._permitted)
                return
            service = next(iter(self._queue))
            del self._queue[service]
            self._ask(service)

    def _permitted(self) -> None:
        self._permit = None
        self._next()

    def _ask(self, service: str) -> None:
        lookup = self._lookups[service]
        left = lookup.timer.getTime() - self._reactor.seconds()
        datacenters = self._datacenters(service)
        lookup.missing = len(datacenters)
        for datacenter in datacenters:
            asking: Deferred[Any] = self._asker.ask(HEALTH + service, datacenter, "health_service", max(0.001, left))
            lookup.asking.append(asking)
            asking.addCallback(self._answered, service, lookup, datacenter)
            asking.addErrback(self._unanswered, service, lookup)

    def _answered(self, reply: Reply, service: str, lookup: _Lookup, datacenter: str) -> None:
        try:
            entries = split(reply.body)
        except Malformed:
            self._asker.unusable("malformed")
            raise Unanswered("malformed", explain("malformed")) from None
        if reply.filtered and not entries:
            self._asker.unusable("filtered")
            raise Unanswered("filtered", explain("filtered"))
        lookup.replies.append((datacenter, reply))
        lookup.found |= bool(entries)
        if entries or self._names.unlisted(service, datacenter):
            self._count(service, lookup)
        else:
            self._names.doubt(service, datacenter, partial(self._decided, service, lookup))

    def _decided(self, service: str, lookup: _Lookup, verdict: str) -> None:
        """The names of all services tell why there is no instance."""
        if self._lookups.get(service) is not lookup:
            return  # patience is over
        if verdict != GENUINE:
            lookup.problem = explain(verdict)
            if verdict != NO_NODE_RIGHTS:
                self._names.look()
        self._count(service, lookup)

    def _unanswered(self, failure: Failure, service: str, lookup: _Lookup) -> None:
        if self._lookups.get(service) is not lookup:
            return  # cancelled
        if not isinstance(failure.value, Unanswered):
            self.log.failure("Cannot take an answer about {service}.", failure, service=service)
        lookup.problem = str(failure.value)
        self._names.look()
        self._count(service, lookup)

    def _count(self, service: str, lookup: _Lookup) -> None:
        lookup.missing -= 1
        if lookup.missing or self._lookups.get(service) is not lookup:
            return
        if lookup.found:
            self._found(service, lookup.replies)  # and known() follows, or the end of patience
        else:
            self._end(service, False, lookup.problem)

    def _late(self, service: str) -> None:
        """Patience is over."""
        if service in self._queue:
            problem = BUSY
        else:
            problem = self._lookups[service].problem or f"no answer of use from Consul within {self._patience:g} s"
        self._end(service, False, problem)

    def _end(self, service: str, known: bool, problem: str = "") -> None:
        lookup = self._lookups.pop(service, None)
        if lookup is None:
            return
        self._queue.pop(service, None)
        if lookup.timer.active():
            lookup.timer.cancel()
        for asking in lookup.asking:
            asking.cancel()  # without effect on those that have ended
        if not known and not problem:
            self._nobodys.pop(service, None)
            self._nobodys[service] = self._reactor.seconds()
        for done in lookup.done:
            done(known, problem)
