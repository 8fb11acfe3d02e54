"""Requests that name a service for the first time: they wait while the supervisor looks it up.

The supervisor is asked once for each name, whoever else comes to wait for it. It answers with a change of the snapshot
that brings the service, and the requests begin as if they had just come; or it says that there is none. How long a
request waits, how many may and for how many names is bounded, and a request that can't wait is refused at once. Only
requests that would be refused otherwise come here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from hostproxy.exchange.replies import Refusal
from hostproxy.net.deadlines import NEVER

if TYPE_CHECKING:
    from hostproxy.exchange.exchange import Exchange
    from hostproxy.tables import Tables

# Each holds a client's connection, and at most two reads of a request's body.
MAX_REQUESTS = 1000
# Clients make names up; each costs Consul a query.
MAX_NAMES = 100
# Seconds for which a name that nobody knows is not asked for again, however often a client repeats it.
ABSENT_FOR = 1.0
MAX_ABSENT = 1000

Ask = Callable[[str], bool]


class Waiting:
    """All requests of a worker that wait for news of their service."""

    def __init__(self, tables: Tables, ask: Ask) -> None:
        """``ask(service)`` asks the supervisor; it says whether there is one."""
        self.seconds = 0.0  # for which a request waits; 0: none does
        self._tables = tables
        self._ask = ask
        self._lookups: dict[str, _Lookup] = {}  # by service
        self._requests = 0
        self._absent: dict[str, tuple[float, str]] = {}  # by service: until when, and why it could not be looked up
        self._closed = ""  # why nothing may wait any more

    def __len__(self) -> int:
        return self._requests

    def wait(self, exchange: Exchange) -> None:
        """No service has the name that the request came for: find out, or refuse it."""
        tables = self._tables
        service = tables.names.candidate(exchange.head.host) if self.seconds else None
        if service is None or tables.names.service(service.encode()) is not None:
            # It can't be a name, or its service is known and has no such subset.
            exchange.refuse(_nobody(exchange))
            return
        absent = self._absent.get(service)
        if absent is not None:
            until, problem = absent
            if exchange.started < until:
                exchange.refuse(_unknown(service, problem) if problem else _nobody(exchange))
                return
            del self._absent[service]
        if self._closed:
            exchange.refuse(_unknown(service, self._closed))
            return
        lookup = self._lookups.get(service)
        if self._requests >= MAX_REQUESTS or (lookup is None and len(self._lookups) >= MAX_NAMES):
            text = (
                f"service {service} is not known here yet, and as many requests wait for such services already "
                f"as may: {self._requests}, for {len(self._lookups)} services"
            )
            exchange.refuse(Refusal(503, "OM", "destination_unavailable", text))
            return
        if lookup is None:
            if not self._ask(service):
                exchange.refuse(_unknown(service, "hostproxy's supervisor is away"))
                return
            lookup = self._lookups[service] = _Lookup(self, service)
            tables.dialling.deadlines.set(lookup, exchange.started + self.seconds)
        lookup.exchanges[exchange] = None
        self._requests += 1
        exchange.waiting = _Parked(lookup, exchange)

    # What ends it

    def look(self) -> None:
        """The tables have changed: begin what waited for a service that is there now."""
        names = self._tables.names
        for lookup in list(self._lookups.values()):
            if names.service(lookup.service.encode()) is not None:
                for exchange in self._freed(lookup):
                    exchange.path.begin(exchange)

    def absent(self, service: str, problem: str) -> None:
        """The supervisor says that there is no such service, or, with a ``problem``, why it can't know."""
        lookup = self._lookups.get(service)
        if lookup is None:
            return  # nobody waits any more
        if len(self._absent) >= MAX_ABSENT:
            self._absent.clear()
        self._absent[service] = (self._tables.dialling.reactor.seconds() + ABSENT_FOR, problem)
        for exchange in self._freed(lookup):
            exchange.refuse(_unknown(service, problem) if problem else _nobody(exchange))

    def give_up(self, why: str) -> None:
        """No answer will come to those who wait now."""
        for lookup in list(self._lookups.values()):
            for exchange in self._freed(lookup):
                exchange.refuse(_unknown(lookup.service, why))

    def close(self, why: str) -> None:
        """From now on nothing may wait."""
        self._closed = why
        self.give_up(why)

    def overdue(self, lookup: _Lookup, now: float) -> None:
        """Requests have waited long enough. All wait equally long, so the first to come is the first to go."""
        while lookup.exchanges:
            exchange = next(iter(lookup.exchanges))
            due = exchange.started + self.seconds
            if due > now:
                self._tables.dialling.deadlines.set(lookup, due)
                return
            text = f"it was not found within the {self.seconds:g} s of [discovery.consul] first_use"
            exchange.refuse(_unknown(lookup.service, text))

    def left(self, lookup: _Lookup, exchange: Exchange) -> None:
        """A request does not wait any more."""
        del lookup.exchanges[exchange]
        self._requests -= 1
        if not lookup.exchanges:
            self._forget(lookup)

    def _freed(self, lookup: _Lookup) -> Iterator[Exchange]:
        """Those who waited, one by one: what is done with one may bring a connection's next request here."""
        self._forget(lookup)
        while lookup.exchanges:
            exchange = next(iter(lookup.exchanges))
            del lookup.exchanges[exchange]
            self._requests -= 1
            exchange.waiting = None
            yield exchange

    def _forget(self, lookup: _Lookup) -> None:
        if self._lookups.get(lookup.service) is lookup:
            del self._lookups[lookup.service]
        self._tables.dialling.deadlines.forget(lookup)


class _Lookup:
    """A service that the supervisor was asked for, and the requests for it, in the order in which they came."""

    __slots__ = ("_waiting", "deadline", "exchanges", "service", "slot")

    def __init__(self, waiting: Waiting, service: str) -> None:
        self._waiting = waiting
        self.service = service
        self.exchanges: dict[Exchange, None] = {}
        self.deadline = NEVER
        self.slot = 0

    def left(self, exchange: Exchange) -> None:
        self._waiting.left(self, exchange)

    def expired(self, now: float) -> None:
        """See :class:`hostproxy.net.deadlines.Expiring`."""
        self._waiting.overdue(self, now)


class _Parked:
    """One request's place among those that wait: see :class:`hostproxy.exchange.exchange.Wait`."""

    __slots__ = ("_exchange", "_lookup")

    def __init__(self, lookup: _Lookup, exchange: Exchange) -> None:
        self._lookup = lookup
        self._exchange = exchange

    def forget(self) -> None:
        self._lookup.left(self._exchange)


def _nobody(exchange: Exchange) -> Refusal:
    name = exchange.head.host.decode("latin-1")
    return Refusal(404, "NR", "destination_not_found", f"no service is named {name!r}")


def _unknown(service: str, why: str) -> Refusal:
    """Whether there is such a service nobody can say now; that is no reason to say that there is none."""
    text = f"service {service} is not known here yet: {why}"
    return Refusal(503, "NC", "destination_unavailable", text)
