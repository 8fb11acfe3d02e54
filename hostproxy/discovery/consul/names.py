"""Every name that Consul has: shown to people, and asked when a service seems to have no instances.

With ACLs, a token that may not read something gets an answer in which that is missing, and before version 1.11
nothing says so. The names tell: Consul always has at least one service, itself, and a service whose last instance
was deregistered has no name any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from hostproxy.discovery.consul.ask import Asker, Unanswered
from hostproxy.discovery.consul.transport import Reply

PATH = "/v1/catalog/services"
INTERVAL = 60.0  # seconds
MOST = 10_000  # names that are shown
NAME_SIZE = 253
SIZE = 2 * 1024 * 1024  # bytes of an answer; 10,000 names with tags have half of it
RETRY, LAST_RETRY = 1.0, 15.0  # seconds until the next try while there is no answer, doubling
# Not doubling while nobody is at the address of the agent, who is on this host: so that all is well again within two
# seconds after it was started, and no server of Consul hears of it.
NOBODY = ("refused", "reset")
# Nor for the first errors that it answers, however long there was nobody before: servers elect a leader within a few
# seconds, and whoever waits longer then knows of it late.
PATIENCE = 10
COLLECT = 0.05  # seconds in which doubts about several services become one question
PAUSE = 1.0  # seconds between the questions about doubts

# Why a service seems to have no instances.
GENUINE = "genuine"  # it has none
NO_RIGHTS = "no_rights"  # the token sees no service at all
NO_NODE_RIGHTS = "no_node_rights"  # the token sees the service, and no node that it runs on
UNKNOWN = "unknown"  # there was no answer to that

# The service that every Consul has: its servers. Some tokens may not see it, but none that could suddenly can't,
# unless it lost rights.
CONSUL = "consul"

_names = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Names:
    """The names of the own datacenter, asked every minute, and doubts about any datacenter.

    Because it asks regularly, it is also what knows whether the agent answers.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        asker: Asker,
        random: Callable[[], float],
        now: Callable[[], float],
        recovered: Callable[[bool], object],
        appeared: Callable[[frozenset[str]], object],
    ) -> None:
        """``recovered`` is called when there is an answer again; with whether the token had no rights before.

        ``appeared`` is called with the names that the answer before did not have.
        """
        self.all: tuple[str, ...] = ()
        self.problem = ""  # why there is no usable answer
        self.since = 0.0  # Unix seconds
        self._reactor = reactor
        self._asker = asker
        self._random = random
        self._now = now
        self._recovered = recovered
        self._appeared = appeared
        self._answered = False  # ever
        self._no_rights = False  # the last answer was that of a token without rights; a failure since is no answer
        self._running = False
        self._tries = 0  # in vain
        self._errors = 0  # those of them that somebody answered, in a row
        self._asked: float | None = None  # reactor seconds
        self._timer: Any = None
        self._asking: Deferred[None] | None = None
        self._doubts: dict[str, _Doubts] = {}  # by datacenter, "" the own one

    def start(self) -> None:
        """Ask from now on."""
        self._running = True
        self._schedule(self._random())

    def stop(self) -> None:
        """Ask no more."""
        self._running = False
        self._cancel()
        if self._asking is not None:
            self._asking.cancel()
        for doubts in self._doubts.values():
            doubts.stop()

    def look(self) -> None:
        """Somebody else got no answer: find out whether it is the agent. Not more often than the retries."""
        if self._asking is None and not self._tries and self._timer is not None:
            self._cancel()
            last = self._asked if self._asked is not None else self._reactor.seconds()
            self._schedule(max(0.0, last + RETRY - self._reactor.seconds()))

    def doubt(self, service: str, datacenter: str, done: Callable[[str], object]) -> None:
        """Find out why a service has no instances: ``done`` gets one of the words above, with a newer answer."""
        doubts = self._doubts.get(datacenter)
        if doubts is None:
            doubts = self._doubts[datacenter] = _Doubts(self._reactor, self._asker, datacenter)
        if not datacenter and CONSUL in self.all:
            doubts.seen_consul = True
        doubts.add(service, done)

    def unlisted(self, service: str, datacenter: str) -> bool:
        """Whether the last names suffice to say that a service has no instances, without a question for it alone."""
        return not datacenter and self._answered and not self._no_rights and service not in self.all

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self, delay: float) -> None:
        self._timer = self._reactor.callLater(delay, self._ask)

    def _ask(self) -> None:
        self._timer = None
        self._asked = self._reactor.seconds()
        asking: Deferred[Any] = self._asker.ask(PATH, "", "catalog_services").addCallback(self._take)
        self._asking = asking
        asking.addCallbacks(lambda _: self._good(), self._bad)

    def _take(self, reply: Reply) -> None:
        names = read(reply, self._asker)
        if not names or (CONSUL in self.all and CONSUL not in names):
            self._asker.unusable(NO_RIGHTS)
            self._no_rights = True
            raise Unanswered(NO_RIGHTS, explain(NO_RIGHTS))
        shown = (name for name in names if len(name) <= NAME_SIZE and name.isprintable())
        before, self.all = self.all, tuple(sorted(shown)[:MOST])
        if before and before != self.all:
            self._appeared(frozenset(self.all) - frozenset(before))

    def _good(self) -> None:
        self._asking = None
        if not self._running:
            return
        problem, no_rights = self.problem, self._no_rights
        self.problem, self.since, self._tries, self._errors = "", 0.0, 0, 0
        self._answered, self._no_rights = True, False
        self._schedule(INTERVAL * (0.9 + 0.2 * self._random()))
        if problem:
            self.log.info("Consul answers again")
            self._recovered(no_rights)

    def _bad(self, failure: Failure) -> None:
        self._asking = None
        error = failure.value
        if not self._running:
            return
        if not isinstance(error, Unanswered):
            self.log.failure("Cannot take the names of services.", failure)
        if not self.problem:
            self.since = self._now()
        if self.problem != str(error):
            self.problem = str(error)
            self.log.error("nothing new from Consul, the last known instances stay: {problem}", problem=self.problem)
        nobody = isinstance(error, Unanswered) and error.reason in NOBODY
        self._errors = 0 if nobody else self._errors + 1
        delay = min(LAST_RETRY, RETRY * 2.0 ** min(max(0, self._errors - PATIENCE), 10))
        self._tries += 1
        self._schedule(delay * (0.5 + 0.5 * self._random()))


class _Doubts:
    """The services of one datacenter that seem to have no instances, and the question about them."""

    def __init__(self, reactor: Any, asker: Asker, datacenter: str) -> None:
        self._reactor = reactor
        self._asker = asker
        self._datacenter = datacenter
        self._waiting: dict[tuple[str, Callable[[str], object]], None] = {}  # service, and who is told
        self._last = reactor.seconds() - PAUSE
        self._timer: Any = None
        self._asking: Deferred[None] | None = None
        self.seen_consul = False

    def add(self, service: str, done: Callable[[str], object]) -> None:
        self._waiting[service, done] = None
        self._schedule()

    def stop(self) -> None:
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asking is not None:
            self._asking.cancel()

    def _schedule(self) -> None:
        # An answer under way may be older than the doubt.
        if self._timer is None and self._asking is None and self._waiting:
            delay = max(COLLECT, self._last + PAUSE - self._reactor.seconds())
            self._timer = self._reactor.callLater(delay, self._ask)

    def _ask(self) -> None:
        self._timer = None
        self._last = self._reactor.seconds()
        waiting, self._waiting = self._waiting, {}
        asking: Deferred[Any] = self._asker.ask(PATH, self._datacenter, "catalog_services")
        asking.addCallback(lambda reply: read(reply, self._asker))
        self._asking = asking
        asking.addCallbacks(lambda names: self._decide(waiting, names), lambda failure: self._decide(waiting, None))

    def _decide(
        self, waiting: dict[tuple[str, Callable[[str], object]], None], names: dict[str, msgspec.Raw] | None
    ) -> None:
        self._asking = None
        self.seen_consul = self.seen_consul or (names is not None and CONSUL in names)
        for service, done in waiting:
            if names is None:
                done(UNKNOWN)
            elif not names or (self.seen_consul and CONSUL not in names):
                done(NO_RIGHTS)
            else:
                done(NO_NODE_RIGHTS if service in names else GENUINE)
        self._schedule()


def read(reply: Reply, asker: Asker) -> dict[str, msgspec.Raw]:
    """Return the names of an answer. Raises :class:`Unanswered`."""
    if len(reply.body) > SIZE:
        asker.unusable("too_large")
        raise Unanswered("too_large", f"the names of all services have more than {SIZE} bytes")
    try:
        return _names.decode(reply.body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        asker.unusable("malformed")
        raise Unanswered("malformed", f"what answers is not Consul: {error}") from None


EXPLANATIONS = {
    NO_RIGHTS: "the ACL token may not read services: give it service_prefix read",
    NO_NODE_RIGHTS: "the ACL token may not read the nodes: give it node_prefix read",
    UNKNOWN: "Consul gives no instance, and does not say which services there are",
    "filtered": "the ACL token may not read all of it: give it service_prefix and node_prefix read",
    "no_leader": "Consul has no leader, so this may be old",
    "emptied": "no instance, which is being looked into",
    "malformed": "the answer is not what Consul answers: is another program at the address of the agent?",
}


def explain(reason: str) -> str:
    """What an operator is told about a reason."""
    return EXPLANATIONS.get(reason, reason)
