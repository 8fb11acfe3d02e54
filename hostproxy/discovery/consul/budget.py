"""How much Consul is asked: which services get a blocking query, which are asked in turn, and how fast.

A blocking query occupies a connection to the agent all the time, and an agent allows 200 of them for each address
(``limits.http_max_conns_per_client``), which other programs of this host have to share.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping
from typing import NamedTuple

UPSTREAM, TRAFFIC, POLICY = "upstream", "traffic", "policy"  # why a service is wanted; the first that holds


class Key(NamedTuple):
    """What one query asks about."""

    service: str
    datacenter: str  # as [host] datacenter and policy call it


class Needs(NamedTuple):
    """Which services are of interest, in the order in which they come first."""

    upstreams: Collection[str] = ()
    traffic: Collection[str] = ()  # the last used first
    policy: Collection[str] = ()
    failover: Mapping[str, tuple[str, ...]] = {}  # service -> other datacenters

    def keys(self, own: str) -> dict[Key, str]:
        """Everything of interest and why, the most important first: the own datacenter before the others."""
        keys: dict[Key, str] = {}
        for services, why in ((self.upstreams, UPSTREAM), (self.traffic, TRAFFIC), (self.policy, POLICY)):
            for service in services:
                keys.setdefault(Key(service, own), why)
            for service in services:
                for datacenter in self.failover.get(service, ()):
                    keys.setdefault(Key(service, datacenter), why)
        return keys


class Plan(NamedTuple):
    """How what is of interest gets known. In both the most important comes first."""

    watched: dict[Key, str]  # by a blocking query each
    polled: dict[Key, str]  # asked in turn


def plan(wanted: Mapping[Key, str], running: Container[Key], limit: int) -> Plan:
    """Divide ``limit`` blocking queries. What only policy names is not asked about beyond them: nobody uses it yet.

    Among those wanted for the same reason, queries that are running stay: a change costs only what is new.
    """
    watched: dict[Key, str] = {}
    for reason in (UPSTREAM, TRAFFIC, POLICY):
        keys = [key for key, why in wanted.items() if why == reason]
        keys.sort(key=lambda key: key not in running)  # keeps the order otherwise
        watched.update(dict.fromkeys(keys[: limit - len(watched)], reason))
    polled = {key: why for key, why in wanted.items() if key not in watched and why != POLICY}
    return Plan({key: why for key, why in wanted.items() if key in watched}, polled)


class Bucket:
    """Permits at ``rate`` a second, and up to ``burst`` of them saved."""

    def __init__(self, rate: float, burst: int, seconds: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._seconds = seconds
        self._permits = float(burst)
        self._since = seconds()

    def take(self) -> bool:
        """Take a permit if there is one."""
        now = self._seconds()
        self._permits = min(self._burst, self._permits + (now - self._since) * self._rate)
        self._since = now
        # A sum of many small parts may miss a whole one by a rounding error.
        if self._permits < 1 - 1e-9:
            return False
        self._permits -= 1
        return True

    def wait(self) -> float:
        """Seconds until there is a permit. Right after a :meth:`take` that found none."""
        return max(0.0, 1 - self._permits) / self._rate


class Traffic:
    """The services that requests went to, up to an hour after the last one."""

    KEEP = 3600.0  # seconds: what is called every half an hour is not a surprise each time
    MOST = 1000

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._used: dict[str, float] = {}  # in the order of use

    def use(self, services: Iterable[str]) -> bool:
        """Note their use; say whether one is new, or an old one had to give way."""
        new = False
        now = self._seconds()
        for service in services:
            new |= self._used.pop(service, None) is None
            self._used[service] = now
        for service in list(self._used)[: max(0, len(self._used) - self.MOST)]:
            del self._used[service]
        return new

    def expire(self) -> bool:
        """Forget those that were not used for long; say whether there was one."""
        limit = self._seconds() - self.KEEP
        old = [service for service, last in self._used.items() if last <= limit]
        for service in old:
            del self._used[service]
        return bool(old)

    def services(self) -> list[str]:
        """All of them, the last used first."""
        return list(reversed(self._used))
