"""Which service runs on which host, as Consul's catalog says.

An instance belongs to the host that its metadata names (``registered_by``, which hostproxy writes), and without that to
the host that its node is called like. Its address says nothing: many hosts may share one, and anybody can write it.

Whoever may write a service in Consul says by that which hosts get its certificates. So the catalog is worth as much as
Consul's ACLs are: one without them, or about a service that may be written without a token, is not believed, unless the
configuration says that it is to be.

A token without rights gets an empty answer, not an error. So a no is believed only where the token may see that it is
one: anything else is like Consul being away.
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
MOST_PROBLEMS = 100  # services whose problem is remembered
PROBLEM_KEPT = 3600.0  # seconds that a problem is shown; a host that lacks a certificate asks each minute
ANSWER_SIZE = 16 * 1024 * 1024  # bytes; an instance has about 1 KiB

_OFF = b"ACL support disabled"
_ANYBODY = "anonymous"  # the token of those who send none; sent by name, the agent puts no default in its place
_NO_ACLS = "Consul has no ACLs, so any host could get any certificate: enable them, or set without_acl"
_WRITABLE = (
    "anybody may write the service {service} in Consul without a token, so any host could get its certificate: set"
    ' default_policy = "deny" and take the right from the anonymous token, or set without_acl'
)
_BLIND = "the token may not read {what}: it needs service and node read"


class Unknown(Exception):
    """Consul cannot be asked, or is not believed; the text says why."""


class _Blind(Unavailable):
    """The token may not see what was asked for."""


class Catalog(Protocol):
    """Somebody besides the operators who says what runs where."""

    @property
    def problem(self) -> str:
        """Why it cannot be asked or is not believed; "" when it is well."""

    async def runs(self, service: str, host: str) -> bool:
        """Whether the service runs on the host. Raises :class:`Unknown`."""

    async def names(self) -> tuple[str, ...]:
        """Every service that there is. Raises :class:`Unknown`."""

    def close(self) -> Deferred[None]:
        """Ask no more."""


class _Instance(msgspec.Struct, frozen=True, rename="pascal"):
    node: str
    service_meta: dict[str, str] | None = None


class _Right(msgspec.Struct, frozen=True, rename="pascal"):
    resource: str
    segment: str
    access: str


class _Answer(_Right, frozen=True, rename="pascal"):
    allow: bool


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
        self._believed: OrderedDict[str, float] = OrderedDict()  # until when not everybody may write it; "": has ACLs
        self._problems: OrderedDict[str, tuple[float, str]] = OrderedDict()  # by service; "": Consul itself

    @property
    def problem(self) -> str:
        """See :class:`Catalog`."""
        texts = [text for at, text in self._problems.values() if self._clock() - at < PROBLEM_KEPT]
        more = f"; and {len(texts) - 1} more services have problems" if len(texts) > 1 else ""
        return texts[-1] + more if texts else ""

    async def runs(self, service: str, host: str) -> bool:
        """See :class:`Catalog`."""
        pair = host, service
        try:
            found = host in await self._hosts(service)
            if not found:
                await self._sees(service, host)
        except Unavailable as error:
            if isinstance(error, _Blind):
                self._kept.pop(service, None)
            self._say(service if isinstance(error, _Blind) else "", str(error))
            granted = self._granted.get(pair)
            # A first certificate waits for Consul. A host that has had one would lose its traffic by waiting.
            if granted is None or self._clock() - granted > self._outage:
                raise Unknown(f"Consul's catalog cannot be asked: {error}") from None
            return True
        self._well(service)
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
            reply = await self._ask("/v1/catalog/services", {})
            found = decoded(reply, dict[str, Any])
            if reply.filtered or "consul" not in found:  # which every Consul has
                raise Unavailable(_BLIND.format(what="all services"))
        except Unavailable as error:
            self._say("", str(error))
            raise Unknown(f"Consul's catalog cannot be asked: {error}") from None
        return tuple(found)

    def close(self) -> Deferred[None]:
        """See :class:`Catalog`."""
        return self._client.close()

    async def _hosts(self, service: str) -> frozenset[str]:
        await self._believe()
        await self._guarded(service)
        known = self._kept.get(service)
        if known is not None and self._clock() - known[0] < KEPT:
            return known[1]
        asked = self._clock()
        reply = await self._ask(f"/v1/catalog/service/{service}", {"consistent": ""})
        found = frozenset(_host(instance) for instance in decoded(reply, list[_Instance]))
        if reply.filtered:
            raise _Blind(_BLIND.format(what=f"all of the service {service}"))
        self._kept[service] = asked, found
        self._kept.move_to_end(service)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return found

    async def _believe(self) -> None:
        """Raises :class:`Unknown` where everybody could say that everything runs everywhere."""
        if self._without_acl or self._clock() < self._believed.get("", 0.0):
            return
        reply = await self._client.request("GET", "/v1/acl/token/self")
        if _OFF in reply.body:
            self._say("", _NO_ACLS)
            raise Unknown(_NO_ACLS)
        if reply.status != 200:
            raise _refused(reply)
        self._believe_for_a_while("")

    async def _guarded(self, service: str) -> None:
        """Raises :class:`Unknown` where everybody could say that this service runs everywhere."""
        if self._without_acl or self._clock() < self._believed.get(service, 0.0):
            return
        (writable,) = await self._may(_ANYBODY, [_Right("service", service, "write")])
        if writable:
            text = _WRITABLE.format(service=service)
            self._say(service, text)
            raise Unknown(text)
        self._believe_for_a_while(service)

    def _believe_for_a_while(self, what: str) -> None:
        self._believed[what] = self._clock() + ACL_KEPT
        self._believed.move_to_end(what)
        if len(self._believed) > MOST_KEPT:
            self._believed.popitem(last=False)

    async def _sees(self, service: str, host: str) -> None:
        """Raises :class:`_Blind` where the token may not see the service, or the node that has the host's name."""
        rights = [_Right("service", service, "read"), _Right("node", host, "read")]
        for right, allowed in zip(rights, await self._may(None, rights), strict=True):
            if not allowed:
                raise _Blind(_BLIND.format(what=f"the {right.resource} {right.segment}"))

    async def _may(self, token: str | None, rights: list[_Right]) -> list[bool]:
        """What a token is allowed, without doing it."""
        body = msgspec.json.encode(rights)
        reply = await self._client.request("POST", "/v1/internal/acl/authorize", body=body, token=token)
        if self._without_acl and _OFF in reply.body:
            return [True] * len(rights)
        if reply.status != 200:
            raise _refused(reply)
        answers = decoded(reply, list[_Answer])
        if [(each.resource, each.segment, each.access) for each in answers] != [
            (each.resource, each.segment, each.access) for each in rights
        ]:
            raise Unavailable("an answer of Consul about rights that is to another question")
        return [each.allow for each in answers]

    async def _ask(self, path: str, params: dict[str, str]) -> Reply:
        reply = await self._client.request("GET", path, params, limit=ANSWER_SIZE)
        if reply.status != 200:
            raise _refused(reply)
        return reply

    def _say(self, about: str, problem: str) -> None:
        """Log what is wrong with a service, or with Consul itself (""), once."""
        at, known = self._problems.get(about, (0.0, ""))
        if known != problem or self._clock() - at >= PROBLEM_KEPT:
            self.log.error("[registry.consul]: {problem}", problem=problem)
        self._problems[about] = self._clock(), problem
        self._problems.move_to_end(about)
        if len(self._problems) > MOST_PROBLEMS:
            self._problems.popitem(last=False)

    def _well(self, service: str) -> None:
        """Consul has answered about a service. Log that it is well again."""
        for about in ("", service):
            if self._problems.pop(about, None) is not None:
                what = f"about the service {about} again" if about else "again"
                self.log.info("[registry.consul]: Consul's catalog answers {what}", what=what)


def _host(instance: _Instance) -> str:
    # Consul takes two nodes whose names differ in case for one.
    return (instance.service_meta or {}).get(OWNER) or instance.node.lower()


def _refused(reply: Reply) -> Unavailable:
    text = reply.body[:200].decode("ascii", "backslashreplace").strip()
    hint = "; the token needs service and node read" if reply.status in (401, 403) else ""
    return Unavailable(f"it answers {reply.status} {text!a}{hint}")
