"""Which service runs on which host, as Consul's catalog says.

An instance belongs to the host that its metadata names (``registered_by``, which hostproxy writes), and without that to
the host that its node is called like. Its address says nothing: many hosts may share one, and anybody can write it.

Whoever may write a service in Consul says by that which hosts get its certificates. So the catalog is worth as much as
Consul's ACLs are: one without them is not believed, unless the configuration says that it is to be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from controller.store import Unavailable
from controller.store.client import Client, Reply, decoded

OWNER = "registered_by"  # in the metadata of what hostproxy registers: the name of its host
KEPT = 5.0  # seconds that an answer serves: the hosts of one service often start together
ACL_KEPT = 300.0  # seconds until Consul is asked anew whether it has ACLs
MOST_KEPT = 1000  # answers
MOST_GRANTED = 100_000  # pairs of host and service that are remembered for when Consul is away
ANSWER_SIZE = 16 * 1024 * 1024  # bytes; an instance has about 1 KiB

_OFF = b"ACL support disabled"


class Unknown(Exception):
    """Consul cannot be asked, or is not believed; the text says why."""


class Catalog(Protocol):
    """Somebody besides the operators who says what runs where."""

    async def runs(self, service: str, host: str) -> bool:
        """Whether the service runs on the host. Raises :class:`Unknown`."""

    async def names(self) -> tuple[str, ...]:
        """Every service that there is. Raises :class:`Unknown`."""

    def close(self) -> Deferred[None]:
        """Ask no more."""


class _Instance(msgspec.Struct, frozen=True, rename="pascal"):
    node: str
    service_meta: dict[str, str] | None = None


class ConsulCatalog:
    """A :class:`Catalog` over one agent of Consul, and the datacenter that it is in."""

    log = Logger()

    def __init__(self, client: Client, clock: Callable[[], float], outage: float, without_acl: bool) -> None:
        """``outage``: seconds for which the last yes serves a host that renews while Consul does not answer.

        ``clock`` gives seconds that never go back; ``without_acl`` believes a Consul in which everybody may write.
        """
        self._client = client
        self._clock = clock
        self._outage = outage
        self._without_acl = without_acl
        self._kept: OrderedDict[str, tuple[float, frozenset[str]]] = OrderedDict()
        self._granted: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._believed = float("-inf")  # until when it is known that Consul has ACLs
        self._problem = ""

    async def runs(self, service: str, host: str) -> bool:
        """See :class:`Catalog`."""
        pair = host, service
        try:
            found = host in await self._hosts(service)
        except Unavailable as error:
            self._say(str(error))
            granted = self._granted.get(pair)
            # A first certificate waits for Consul. A host that has had one would lose its traffic by waiting.
            if granted is None or self._clock() - granted > self._outage:
                raise Unknown(f"Consul's catalog cannot be asked: {error}") from None
            return True
        self._say("")
        self._granted.pop(pair, None)
        if found:
            self._granted[pair] = self._clock()
            if len(self._granted) > MOST_GRANTED:
                self._granted.popitem(last=False)
        return found

    async def names(self) -> tuple[str, ...]:
        """See :class:`Catalog`."""
        try:
            await self._believe()
            found = decoded(await self._ask("/v1/catalog/services", {}), dict[str, Any])
        except Unavailable as error:
            self._say(str(error))
            raise Unknown(f"Consul's catalog cannot be asked: {error}") from None
        return tuple(found)

    def close(self) -> Deferred[None]:
        """See :class:`Catalog`."""
        return self._client.close()

    async def _hosts(self, service: str) -> frozenset[str]:
        await self._believe()
        known = self._kept.get(service)
        if known is not None and self._clock() - known[0] < KEPT:
            return known[1]
        asked = self._clock()
        reply = await self._ask(f"/v1/catalog/service/{service}", {"consistent": ""})
        found = frozenset(_host(instance) for instance in decoded(reply, list[_Instance]))
        self._kept[service] = asked, found
        self._kept.move_to_end(service)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return found

    async def _believe(self) -> None:
        """Raises :class:`Unknown` where everybody could say that everything runs everywhere."""
        if self._without_acl or self._clock() < self._believed:
            return
        reply = await self._client.request("GET", "/v1/acl/token/self")
        if _OFF in reply.body:
            text = "Consul has no ACLs, so any host could get any certificate: enable them, or set without_acl"
            self._say(text)
            raise Unknown(text)
        if reply.status != 200:
            raise _refused(reply)
        self._believed = self._clock() + ACL_KEPT

    async def _ask(self, path: str, params: dict[str, str]) -> Reply:
        reply = await self._client.request("GET", path, params, limit=ANSWER_SIZE)
        if reply.status != 200:
            raise _refused(reply)
        return reply

    def _say(self, problem: str) -> None:
        """Log what is wrong once, and that it is well again."""
        if problem and problem != self._problem:
            self.log.error("[registry.consul]: {problem}", problem=problem)
        elif self._problem and not problem:
            self.log.info("[registry.consul]: Consul's catalog answers again")
        self._problem = problem


def _host(instance: _Instance) -> str:
    # Consul takes two nodes whose names differ in case for one.
    return (instance.service_meta or {}).get(OWNER) or instance.node.lower()


def _refused(reply: Reply) -> Unavailable:
    text = reply.body[:200].decode("ascii", "backslashreplace").strip()
    hint = "; the token needs service and node read" if reply.status in (401, 403) else ""
    return Unavailable(f"it answers {reply.status} {text!a}{hint}")
