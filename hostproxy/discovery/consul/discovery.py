"""The catalog out of Consul: what is needed is watched, whatever comes is composed, and nothing is lost to a fault."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hostproxy.config_discovery import ConsulConfig
from hostproxy.discovery.catalog import Catalog, Instance
from hostproxy.discovery.consul.ask import HEALTH, Asker
from hostproxy.discovery.consul.budget import TRAFFIC, Key, Needs, Traffic, plan
from hostproxy.discovery.consul.composition import Composition
from hostproxy.discovery.consul.coordinates import Coordinates
from hostproxy.discovery.consul.counters import Counters
from hostproxy.discovery.consul.firstuse import ENDED, FirstUse, Replies
from hostproxy.discovery.consul.names import EXPLANATIONS, Names
from hostproxy.discovery.consul.polls import Polls, Starts
from hostproxy.discovery.consul.query import BlockingQuery
from hostproxy.discovery.consul.refusals import Reachable, Told
from hostproxy.discovery.consul.slices import Slices
from hostproxy.discovery.consul.transport import Agent
from hostproxy.discovery.consul.watched import Around, Watched
from hostproxy.discovery.knowledge import DiscoveryState
from hostproxy.mesh import names
from hostproxy.mesh.units import Wrong

if TYPE_CHECKING:
    from hostproxy.config import Host

EXPIRE = 60.0  # seconds between looks for services that nobody has used for long


class ConsulDiscovery:
    """Knows from Consul where services run.

    Order of calls: :meth:`need`, :meth:`start`, and then any. With Consul gone the last known catalog stays in force.
    """

    def __init__(
        self,
        reactor: Any,
        config: ConsulConfig,
        host: Host,
        agent: Agent,
        counters: Counters,
        own_addresses: Container[str],
        random: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        """``own_addresses``: ports of hostproxy on this host that no service can be at, as ``ip:port``.

        ``random`` gives numbers from 0 to 1, ``now`` Unix seconds.
        """
        self._composition = Composition(reactor, self._instances, self._published)
        self.catalog = self._composition.catalog
        self.recovered: Callable[[], object] = lambda: None  # called when Consul answers again after an outage
        agent.token_changed = self._rights_changed
        self._reactor = reactor
        self._config = config
        self._own = host.datacenter
        self._agent = agent
        self._counters = counters
        self._random = random
        self._needs = Needs()
        self._traffic = Traffic(reactor.seconds)
        self._watched: dict[Key, Watched] = {}
        self._watches: tuple[Watched, ...] = ()  # those with a blocking query, the most important first
        self._kept: dict[Key, tuple[Instance, ...]] = {}  # from disk, not taken over yet
        self._saved = 0.0
        self._running = False
        self._plan_call: Any = None
        self._expire_call: Any = None
        asker = Asker(agent, counters, now, config.datacenter)
        self._asker = asker
        self._slices = Slices(reactor)
        self._names = Names(reactor, asker, random, now, self._recovered, self._appeared)
        self._coordinates = Coordinates(reactor, asker, config.node or host.name, self._slices, random)
        self.bands = self._coordinates.bands
        self._polls = Polls(reactor, asker, self._names.look)
        self._starts = Starts(reactor, random)
        self._first_use = FirstUse(
            reactor, asker, self._names, config.first_use, self._datacenters, self._found
        )
        self._around = Around(
            reactor=reactor,
            now=now,
            hold_empty=config.hold_empty,
            slices=self._slices,
            reachable=Reachable(config.allow, own_addresses),
            names=self._names,
            counters=counters,
            refused=Told().tell,
            changed=lambda watched: self._composition.change(watched.key.service),
        )

    def start(self, kept: Catalog, saved: float) -> None:
        """Begin with the catalog ``kept`` on disk, from ``saved`` (Unix seconds), and ask Consul from now on."""
        self._running = True
        self._saved = saved
        for service, instances in kept.items():
            by_datacenter: dict[str, list[Instance]] = {self._own: []}
            for instance in instances:
                by_datacenter.setdefault(instance.datacenter, []).append(instance)
            for datacenter, some in by_datacenter.items():
                self._kept[Key(service, datacenter)] = tuple(some)
        # Those that are neither an upstream nor in policy are known only because somebody used them.
        named = {*self._needs.upstreams, *self._needs.policy}
        self._traffic.use(service for service in kept if service not in named)
        self._plan()
        self._composition.publish()
        self._names.start()
        self._expire_call = self._reactor.callLater(EXPIRE, self._expire)

    def stop(self) -> None:
        """Ask no more; the catalog stays as it is."""
        self._running = False
        for call in (self._plan_call, self._expire_call):
            if call is not None and call.active():
                call.cancel()
        self._composition.stop()
        self._first_use.stop()
        self._starts.stop()
        self._polls.stop()
        for watched in self._watched.values():
            watched.stop()
        self._names.stop()
        self._coordinates.stop()
        self._slices.stop()

    def need(
        self,
        upstreams: Collection[str],
        policy: Collection[str],
        failover: Mapping[str, tuple[str, ...]],
        coordinates: bool,
    ) -> None:
        """Say what configuration and policy name, instead of what they named before.

        ``failover``: for a service, other datacenters in which it is looked for too. ``coordinates``: somebody wants
        :attr:`bands`.
        """
        own = {self._own, self._config.datacenter}
        others = {service: tuple(one for one in dcs if one not in own) for service, dcs in failover.items()}
        self._needs = Needs(tuple(upstreams), (), tuple(policy), others)
        if coordinates:
            self._coordinates.start()
        else:
            self._coordinates.stop()
        if self._running:
            self._plan()

    def want(self, service: str, done: Callable[[bool, str], object]) -> None:
        """Find out about a service that a request names for the first time.

        ``done(True, "")`` is called once the catalog has it, ``done(False, "")`` when nobody knows it, and
        ``done(False, problem)`` when it could not be looked up; at the latest after ``first_use`` seconds.
        """
        try:
            names.service(service)
        except Wrong:
            done(False, "")
            return
        if service in self.catalog.value:
            self.used((service,))
            done(True, "")
        elif self._running:
            self._first_use.look(service, done)
        else:
            done(False, ENDED)

    def used(self, services: Iterable[str]) -> None:
        """Say that requests went to these services lately."""
        known = self.catalog.value
        if self._traffic.use(service for service in services if service in known) and self._running:
            self._plan_soon()

    def state(self) -> DiscoveryState:
        """Everything that an operator may want to know."""
        return DiscoveryState(
            backend="consul",
            source=self._config.address,
            services=tuple(self._watched[key].state() for key in sorted(self._watched)),
            names=self._names.all,
            watches=len(self._watches),
            round_trips=self._coordinates.round_trips,
            problem=self._names.problem,
            since=self._names.since,
        )

    # What is asked about

    def _plan_soon(self) -> None:
        if self._plan_call is None:
            self._plan_call = self._reactor.callLater(0, self._plan)

    def _plan(self) -> None:
        """Divide the budget, and begin and end what follows from it."""
        if self._plan_call is not None and self._plan_call.active():
            self._plan_call.cancel()
        self._plan_call = None
        running = {key for key, watched in self._watched.items() if watched.query is not None}
        wanted = self._needs._replace(traffic=self._traffic.services()).keys(self._own)
        planned = plan(wanted, running, self._config.watches)
        for key in [key for key in self._watched if key not in planned.watched and key not in planned.polled]:
            self._forget(key)
        for key, why in {**planned.watched, **planned.polled}.items():
            self._watch(key).why = why
        for key in running & planned.polled.keys():
            self._watched[key].unwatch()
        for key in planned.watched.keys() - running:
            self._watched[key].query = self._query(self._watched[key])
        self._watches = tuple(self._watched[key] for key in planned.watched)
        self._start_watches()
        self._polls.change((self._watched[key], self._elsewhere(key)) for key in planned.polled)

    def _start_watches(self) -> None:
        """Start what is not started, and have those ask again that wait after a failure, or with other rights."""
        self._starts.change(
            one
            for one in self._watches
            if one.query is not None and (one.query.error or one.outdated or not one.started)
        )

    def _rights_changed(self) -> None:
        """No query that is waiting would hear of what the token may read now: Consul wakes none for that."""
        for one in self._watches:
            one.outdated = True
        self._start_watches()

    def _appeared(self, services: frozenset[str]) -> None:
        """A watch that has nothing of these may have asked when the token could read less."""
        for one in self._watches:
            if one.key.datacenter == self._own and one.key.service in services and not one.instances:
                one.outdated = True
        self._start_watches()

    def _recovered(self, had_no_rights: bool) -> None:
        if had_no_rights:
            self._rights_changed()
        else:
            self._start_watches()
        self._polls.recovered()
        self.recovered()

    def _expire(self) -> None:
        self._expire_call = self._reactor.callLater(EXPIRE, self._expire)
        if self._traffic.expire():
            self._plan()

    def _watch(self, key: Key) -> Watched:
        watched = self._watched.get(key)
        if watched is None:
            kept = self._kept.pop(key, None)
            watched = Watched(key, key.datacenter != self._own, kept, self._saved, self._around)
            self._watched[key] = watched
            if kept is not None:
                self._composition.change(key.service)
        return watched

    def _forget(self, key: Key) -> None:
        self._watched.pop(key).stop()
        self._composition.change(key.service)

    def _query(self, watched: Watched) -> BlockingQuery:
        return BlockingQuery(
            self._reactor,
            self._agent,
            HEALTH + watched.key.service,
            self._asker.params(self._elsewhere(watched.key)),
            "health_service",
            wait=self._config.wait,
            stale_limit=self._config.stale_limit,
            random=self._random,
            counters=self._counters,
            take=watched.take,
            failed=self._unanswered,
        )

    def _unanswered(self, text: str) -> None:
        if text not in EXPLANATIONS:  # not an answer that was refused
            self._names.look()

    def _elsewhere(self, key: Key) -> str:
        """The datacenter to ask, ``""`` for the own one."""
        return "" if key.datacenter == self._own else key.datacenter

    # First use

    def _datacenters(self, service: str) -> Sequence[str]:
        return "", *self._needs.failover.get(service, ())

    def _found(self, service: str, replies: Replies) -> None:
        self._traffic.use((service,))
        for datacenter, reply in replies:
            watched = self._watch(Key(service, datacenter or self._own))
            watched.why = watched.why or TRAFFIC
            reason = watched.take(reply)
            if reason:
                self._asker.unusable(reason)
        self._plan_soon()

    # Composition

    def _published(self) -> None:
        known = self.catalog.value
        for service in self._first_use.waiting():
            if service in known:
                self._first_use.known(service)

    def _instances(self, service: str) -> tuple[Instance, ...] | None:
        """All instances of a service, None when nothing is known about it."""
        own = self._watched.get(Key(service, self._own))
        if own is None or own.instances is None:
            # Until then, the others would take all of the traffic.
            return None
        others = [
            watched.instances
            for datacenter in self._needs.failover.get(service, ())
            if (watched := self._watched.get(Key(service, datacenter))) is not None and watched.instances
        ]
        if not others:
            return own.instances
        return tuple(sorted((*own.instances, *(one for some in others for one in some)), key=_order))


def _order(instance: Instance) -> tuple[str, str, str]:
    return instance.datacenter, instance.host, instance.address
