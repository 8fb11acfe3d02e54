"""The services of this host, and hostproxy itself, made known to the agent of Consul on it.

What should be registered follows from conf.toml; what is registered, the agent says; only the difference is written.
The two are compared at the start, after a change, every minute, and at once when the agent turns out to have forgotten
a check. So an agent that comes back empty is told everything, and one that forgot nothing is told nothing.

Nothing is registered before the workers serve for the first time: callers would be sent here too early. What an
earlier hostproxy left in Consul stays meanwhile, and so does the status of its checks for as long as their TTL lasts:
a restart is nothing that callers notice. An instance whose health nobody has asked for yet keeps the status that
Consul has for it, and is critical when it is new there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from consul.exceptions import ConsulException
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from hostproxy.discovery.consul.definition import Definition, definitions, note
from hostproxy.discovery.consul.difference import Actual, Plan, ours, plan, read, status_so_far, taken
from hostproxy.discovery.consul.heartbeat import Heartbeats, Report
from hostproxy.discovery.consul.leaving import leave, within
from hostproxy.discovery.consul.repeated import Repeated
from hostproxy.discovery.consul.writer import FAILURES, Job, Writer, explain

if TYPE_CHECKING:
    from hostproxy.config import Host
    from hostproxy.config_discovery import ConsulConfig
    from hostproxy.config_services import LocalService
    from hostproxy.discovery.consul.client import TxConsul
    from hostproxy.discovery.consul.counters import Counters
    from hostproxy.health import Result

INTERVAL = 60.0  # seconds between comparisons
FIRST_RETRY = 0.25  # seconds, doubling
LAST_RETRY = 30.0
REST = 1.0  # seconds from one comparison to another that a forgotten check asks for
ENDING = 0.4  # seconds that what is under way may take when leaving

READY = Report(True, "the workers serve")
NOT_READY = Report(False, "the workers are not ready")


class Registration:
    """Keeps Consul told. Nothing here fails: ``problem`` says what could not be done."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: ConsulConfig,
        host: Host,
        mesh_port: int,
        software: str,
        services: Iterable[LocalService],
        client: TxConsul,
        counters: Counters,
        random: Callable[[], float],
        token: Callable[[], str] = lambda: "",
    ) -> None:
        """``software`` is our own version; ``random`` gives floats in [0, 1); ``token`` is what requests are made with.

        The agent goes on using, for each service, the token that it was registered with: once that is revoked,
        nothing that is reported reaches the catalog any more. So with another token everything is registered again.
        """
        self._reactor = reactor
        self._config = config
        self._host = host
        self._mesh_port = mesh_port
        self._software = software
        self._client = client
        self._counters = counters
        self._random = random
        self._token = token
        self._reason = f"hostproxy on {host.name} is stopping"  # for maintenance; known again after a restart
        self._desired: dict[str, Definition] = {}
        self._taken: dict[str, str] = {}  # IDs that we want and others have
        self._registered: set[str] = set()  # IDs of ours that the agent has, as far as we know
        self._results: Mapping[tuple[str, str], Result] = {}
        self._started = self._left = False
        self._ready: bool | None = None  # None: never yet
        self._registered_with: dict[str, str] = {}  # the token, by ID
        self._using = ""  # the token of the comparison under way
        self._failures = 0  # comparisons in a row that ended with a problem
        self._looked = 0.0  # when the last one began or ended
        self._problem = ""
        self._writer = Writer()
        self._rounds = Repeated(reactor, self._round)
        self._beats = Heartbeats(reactor, client, self._writer, random, self._report, self._forgotten)
        self._leaving: Deferred[None] | None = None
        self._want(services)

    @property
    def problem(self) -> str:
        """Why not everything is registered, or reported, as it should be; "" when it is."""
        if self._desired and self._ready is None:
            return "nothing is registered before this host is ready"
        return self._problem or self._beats.problem

    @property
    def registered(self) -> tuple[str, ...]:
        """The IDs that the agent has from us, as far as we know."""
        return tuple(sorted(self._registered))

    # What the supervisor says

    def start(self) -> None:
        """Begin, once the workers serve."""
        self._started = True
        self._soon()

    def change(self, services: Iterable[LocalService]) -> None:
        """Take other services, after a reload."""
        self._want(services)
        self._beats.keep(self._desired)
        self._soon()

    def health(self, results: Mapping[tuple[str, str], Result]) -> None:
        """Take how the local instances are, by service and instance address."""
        self._results = results
        self._beats.tell()

    def serving(self, ready: bool) -> None:
        """Take whether the workers serve."""
        if ready == self._ready or (self._ready is None and not ready):
            return  # no news, or not yet: what Consul has from before the restart may hold for as long as its TTL
        first, self._ready = self._ready is None, ready
        if first:
            self._soon()
        self._beats.tell()

    def leave(self, wait: float = 0.0) -> Deferred[None]:
        """Put the services into maintenance, and ``wait`` seconds later deregister them and hostproxy itself.

        It fires within ``wait`` and 2 s, done or not, and does not fail. From the call on nothing is registered or
        reported. A second call does nothing.
        """
        if self._left:
            return succeed(None)
        self._halt()
        self._leaving = Deferred.fromCoroutine(self._leave(wait))
        return self._leaving.addErrback(self._not_left)

    def stop(self) -> None:
        """End at once, leaving included. What is registered stays."""
        self._halt()
        self._cancel()
        if self._leaving is not None:
            self._leaving.cancel()

    # What should be

    def _want(self, services: Iterable[LocalService]) -> None:
        if self._config.register:
            self._desired = definitions(services, self._host, self._mesh_port, self._software)

    def _report(self, definition: Definition) -> Report | None:
        """How an instance, or hostproxy itself, is; None: not known."""
        if not definition.instance:
            return READY if self._ready else NOT_READY
        result = self._results.get((definition.service, definition.instance))
        if result is None:
            return None
        return Report(result.healthy, "healthy" if result.healthy else note(result.reason))

    def _status(self, definition: Definition, actual: Actual) -> str:
        """How it is to be registered."""
        report = self._report(definition) if definition.check is not None and definition.check.ttl else None
        return status_so_far(definition, actual) if report is None else report.status

    # Bringing it about

    def _soon(self, delay: float = 0.0) -> None:
        if self._started and self._ready is not None:
            self._rounds.soon(delay)

    async def _round(self) -> float | None:
        """Compare and write. Returns the seconds until the next time; None when nothing is left to watch over."""
        self._looked = self._reactor.seconds()
        problem = await self._reconcile()
        self._looked = self._reactor.seconds()
        if problem and problem != self._problem:
            self.log.warn("not everything is registered in Consul: {problem}", problem=problem)
        elif self._problem and not problem:
            self.log.info("everything is registered in Consul again")
        self._problem = problem
        if problem:
            delay = min(FIRST_RETRY * 2.0 ** min(self._failures, 20), LAST_RETRY)
            self._failures += 1
            return delay * (1 - 0.5 * self._random())
        self._failures = 0
        return INTERVAL * (1 - 0.2 * self._random()) if self._desired else None

    async def _reconcile(self) -> str:
        """Do it once. Returns the first problem, "" for none."""
        agent = self._client.agent
        try:
            token = self._token()
            services = await self._writer.ask(agent.services)
            actual = read(services, await self._writer.ask(agent.checks))
        except FAILURES as error:
            return explain(error)
        except msgspec.ValidationError as error:
            self._counters.error("malformed")
            return f"this is no answer of an agent of Consul: {error}"
        self._registered = set(ours(actual, self._host))
        self._taken = taken(self._desired, actual, self._host)
        desired = {ident: each for ident, each in self._desired.items() if ident not in self._taken}
        again = any(self._registered_with.get(ident, token) != token for ident in desired)
        self._using = token
        todo = plan(desired, actual, self._host, self._reason, again)
        for definition in desired.values():
            if definition.check is not None and definition.check.id in actual.checks:
                self._beats.begin(definition)
        undone: dict[str, str] = {}
        await self._writer.do(self._jobs(todo, actual), undone)
        # Afterwards, so that an instance that has moved is there twice rather than not at all.
        await self._writer.do([self._deregistration(ident) for ident in todo.remove], undone)
        if not undone:
            self._registered_with = dict.fromkeys(desired, token)
        undone |= {f'register "{ident}"': f"{who} has it at this agent" for ident, who in self._taken.items()}
        return next((f"cannot {what}: {why}" for what, why in undone.items()), "")

    def _jobs(self, todo: Plan, actual: Actual) -> Iterator[Job]:
        agent = self._client.agent
        for definition in todo.register:
            yield Job(f'register "{definition.id}"', partial(self._register, definition, actual))
        for ident in todo.lift:
            yield Job(f'end the maintenance of "{ident}"', partial(agent.service.maintenance, ident, False))
        for ident in todo.drop:
            yield Job(f'remove the check "{ident}"', partial(agent.check.deregister, ident))

    def _register(self, definition: Definition, actual: Actual) -> Deferred[None]:
        status = self._status(definition, actual)
        # Without replace-existing-checks, which would also end the maintenance that an operator began.
        registering: Deferred[bool] = self._client.agent.service.register(**definition.arguments(status))
        return registering.addCallback(self._is_registered, definition)

    def _is_registered(self, taken: bool, definition: Definition) -> None:
        if not taken:
            raise ConsulException("404, where registrations should be taken")
        self.log.info("registered {id} in Consul", id=definition.id)
        self._registered.add(definition.id)
        self._registered_with[definition.id] = self._using
        if self._desired.get(definition.id) == definition:  # else it was changed meanwhile
            self._beats.begin(definition)
        # At once: a check that the agent had already keeps the status that it had, whatever was registered.
        self._beats.again(definition.id)

    def _deregistration(self, ident: str) -> Job:
        def is_deregistered(_: object) -> None:
            self.log.info("deregistered {id} in Consul", id=ident)
            self._registered.discard(ident)

        def deregister() -> Deferred[None]:
            deregistering: Deferred[bool] = self._client.agent.service.deregister(ident)
            return deregistering.addCallback(is_deregistered)

        return Job(f'deregister "{ident}"', deregister)

    def retry(self) -> None:
        """Consul answers again: what could not be done need not wait for its next turn."""
        if self._failures:
            self._soon(REST * self._random())

    def _forgotten(self) -> None:
        """The agent does not know a check that it should: compare, soon."""
        self._counters.error("forgotten")
        if not self._failures:  # else that is done again anyway, and not more often
            rested = self._reactor.seconds() - self._looked >= REST
            self._soon(0.0 if rested else REST)

    # Leaving

    def _halt(self) -> None:
        """Begin nothing new."""
        self._left = True
        self._rounds.halt()
        self._beats.halt()
        self._writer.close()

    def _cancel(self) -> None:
        """End what is under way."""
        self._rounds.stop()
        self._beats.stop()

    async def _leave(self, wait: float) -> None:
        # A registration may be under way: it has to be over before it is taken back.
        if not await within(self._reactor, ENDING, self._writer.idle()):
            self._cancel()
        # What an earlier hostproxy left, and nobody has looked at yet, is in the first of them.
        idents = dict.fromkeys(ident for ident in (*self._desired, *self._registered) if ident not in self._taken)
        await leave(self._reactor, self._client, idents, self._reason, wait, self._deregistration)

    def _not_left(self, failure: Failure) -> None:
        if not isinstance(failure.value, CancelledError):
            self.log.failure("Could not leave Consul.", failure)
