"""Consul as the supervisor uses it: one agent, the catalog that it gives, and what is registered with it.

It outlives reloads of conf.toml that say the same about Consul, and with it the watches and what they know. The
package ``consul`` is imported here, and this module only where the backend is Consul: it takes a tenth of a second.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING

from twisted.internet.defer import succeed

from hostproxy.control.state import SourceState
from hostproxy.discovery.consul.client import Agent, TxConsul
from hostproxy.discovery.consul.counters import Counters
from hostproxy.discovery.consul.discovery import ConsulDiscovery
from hostproxy.discovery.consul.registration import Registration
from hostproxy.discovery.consul.token import Token
from hostproxy.mesh import addresses
from hostproxy.mesh.clocks import Comparison

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from hostproxy.config import Config
    from hostproxy.discovery.catalog import Catalog
    from hostproxy.discovery.knowledge import DiscoveryState
    from hostproxy.discovery.watch import Watch
    from hostproxy.health import Result
    from hostproxy.mesh.policy import Policy
    from hostproxy.net.reactor import MeshReactor


class ConsulSource:
    """The catalog, from Consul; and this host's services, in Consul."""

    def __init__(self, reactor: MeshReactor, config: Config, now: Callable[[], float] = time.time) -> None:
        """``now`` is the wall clock, for showing, and to compare it with that of the agent."""
        self.counters = Counters()
        self.clock = Comparison(now, reactor.seconds)
        self._config = config
        self._now = now
        self._started = False
        consul = config.discovery.consul
        self.token = Token(consul, os.environ, reactor.seconds)
        self._agent = Agent(reactor, consul, self.token, self.counters, self.clock)
        self._discovery = ConsulDiscovery(
            reactor, consul, config.host, self._agent, self.counters, own_addresses(config), random.random, now
        )
        _, mesh_port = addresses.split(config.mesh.listen)
        self.registration = Registration(
            reactor,
            consul,
            config.host,
            mesh_port,
            version_of("hostproxy"),
            config.services,
            TxConsul(self._agent, ""),
            self.counters,
            random.random,
            self.token,
        )
        self._discovery.recovered = self.registration.retry

    @property
    def watch(self) -> Watch[Catalog]:
        """The catalog."""
        return self._discovery.catalog

    @property
    def address(self) -> str:
        """Of the agent."""
        return self._config.discovery.consul.address

    @property
    def bands(self) -> Watch[Mapping[str, int]]:
        """How far other hosts are."""
        return self._discovery.bands

    @property
    def registers(self) -> bool:
        """Whether services of this host are registered."""
        return self._config.discovery.consul.register

    def serves(self, config: Config) -> bool:
        """Whether ``config`` asks for the same, so that this one can go on."""
        mine = self._config
        return (
            config.discovery == mine.discovery
            and config.host == mine.host
            and config.mesh == mine.mesh
            and config.admin == mine.admin
            and config.outbound.listen == mine.outbound.listen
        )

    def start(self, kept: Catalog | None = None, saved: float = 0.0) -> tuple[str, ...]:
        """Begin to watch, with what was ``kept`` (at ``saved``, Unix seconds) until it is confirmed. Never fails."""
        self._started = True
        self._discovery.start(kept or {}, saved)
        return ()

    def take(self, config: Config) -> None:
        """A reload that this one :meth:`serves`."""
        self._config = config
        self.registration.change(config.services)

    def need(self, policy: Policy) -> None:
        """Watch what configuration and ``policy`` name."""
        rules = policy.services
        self._discovery.need(
            {upstream.service for upstream in self._config.outbound.upstreams},
            rules.keys(),
            {name: each.failover for name, each in rules.items() if each.failover},
            any(each.prefer == "round-trip" for each in rules.values()),
        )

    def want(self, service: str, done: Callable[[bool, str], object]) -> None:
        """Look up a service that traffic names for the first time: ``done(found, why it could not be looked up)``."""
        self._discovery.want(service, done)

    def used(self, services: Iterable[str]) -> None:
        """Traffic went there."""
        self._discovery.used(services)

    def health(self, results: Mapping[tuple[str, str], Result]) -> None:
        """Local instances were checked."""
        self.registration.health(results)

    def known(self) -> DiscoveryState:
        """How it knows what it knows."""
        return self._discovery.state()

    def state(self, known: DiscoveryState) -> SourceState:
        """How it stands now, in short."""
        confirmed = [each.confirmed for each in known.services if each.confirmed]
        problems = [each for each in (known.problem, self.token.problem, self._agent.problem) if each]
        return SourceState(
            path=known.source,
            loaded=max(confirmed, default=0.0),
            problems=tuple(problems),
            since=known.since,
            kept=any(each.source == "kept" for each in known.services),
        )

    def leave(self) -> Deferred[None]:
        """Take this host's services out of Consul, once callers had ``leave`` seconds to choose others; never fails."""
        return self.registration.leave(self._config.discovery.consul.leave) if self._started else succeed(None)

    def stop(self) -> None:
        """Ask and tell no more."""
        self.registration.stop()
        self._discovery.stop()
        self._agent.close()


def own_addresses(config: Config) -> set[str]:
    """Where this host listens for its own apps and operators: no instance may be there, whatever Consul says."""
    own = set()
    for address in (config.admin.listen, config.outbound.listen, *(each.listen for each in config.outbound.upstreams)):
        own.add(address)
        if address and not addresses.is_unix(address):
            ip, port = addresses.split(address)
            if ip in addresses.ANY:
                local = f"[{config.host.address}]" if ":" in config.host.address else config.host.address
                own |= {f"{local}:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"}
    return own
