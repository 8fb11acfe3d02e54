"""An answer of ``/v1/health/service/NAME`` becomes instances: of all checks the worst holds, bad entries are left out.

Everything is fetched and judged here instead of asking Consul for what passes: whoever selects has to know the
others as well, to say why they are not used and to decide when too few are left to be picky.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from sys import intern
from typing import Annotated, NamedTuple

import msgspec

from hostproxy.discovery.catalog import CRITICAL, HEALTH, MAINTENANCE, PASSING, WARNING, Instance
from hostproxy.discovery.consul.refusals import Reachable, Refusal, Refused
from hostproxy.mesh import addresses
from hostproxy.mesh.units import Wrong

MOST = 10_000  # instances of one answer that are used
SLICE = 64  # entries converted at a time, about a millisecond

# Of one instance. Consul itself allows 64 pairs of metadata, keys of 128 and values of 512 characters.
TAGS, TAG_SIZE = 64, 255
META, KEY_SIZE, VALUE_SIZE = 64, 128, 512

# Consul takes nearly anything as the name of a node; this much is safe to show and to sort.
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_PORT = re.compile(r"[1-9][0-9]{0,4}")

_NODE_MAINTENANCE = "_node_maintenance"
_SERVICE_MAINTENANCE = "_service_maintenance"  # and a colon and the ID of the instance
_STATUS = {PASSING: PASSING, WARNING: WARNING, CRITICAL: CRITICAL}
_SEVERITY = {health: severity for severity, health in enumerate(HEALTH)}

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Weight = Annotated[int, msgspec.Meta(ge=0, le=65535)]  # Consul's own limit


class _Where(msgspec.Struct, rename="pascal"):
    address: str = ""
    port: Port = 0


class _Node(msgspec.Struct, rename="pascal"):
    node: str
    address: str = ""
    tagged_addresses: dict[str, str] | None = None
    meta: dict[str, str] | None = None


class _Weights(msgspec.Struct, rename="pascal"):
    passing: Weight = 1
    warning: Weight = 1


class _Service(msgspec.Struct, rename="pascal"):
    id: str = msgspec.field(name="ID", default="")
    tags: list[str] | None = None
    address: str = ""
    tagged_addresses: dict[str, _Where] | None = None
    meta: dict[str, str] | None = None
    port: Port = 0
    weights: _Weights | None = None


class _Check(msgspec.Struct, rename="pascal"):
    status: str
    check_id: str = msgspec.field(name="CheckID", default="")
    name: str = ""


class _Entry(msgspec.Struct, rename="pascal"):
    node: _Node
    service: _Service
    checks: list[_Check] | None = None


_entries = msgspec.json.Decoder(list[msgspec.Raw])
_entry = msgspec.json.Decoder(_Entry)


class Malformed(Exception):
    """A body is not the answer of Consul to what was asked."""


class Source(NamedTuple):
    """What was asked."""

    service: str
    datacenter: str  # as [host] datacenter and policy call it
    remote: bool  # it is another datacenter than this host's


class Answer(NamedTuple):
    """What an answer has come to."""

    instances: tuple[Instance, ...]  # sorted by host and address
    refused: Counter[str]  # entries left out, by reason
    refusals: tuple[Refusal, ...]  # the first of them


NOTHING = Answer((), Counter(), ())


def split(body: bytes) -> list[msgspec.Raw]:
    """Return the entries of a body, not yet read. Raises :class:`Malformed`."""
    try:
        return _entries.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from None


class Conversion:
    """Turns the entries of one answer into instances, some at a time."""

    REFUSALS = 10  # told one by one

    def __init__(
        self, entries: Sequence[msgspec.Raw], source: Source, reachable: Reachable, before: Sequence[Instance]
    ) -> None:
        """``before``: the instances of the answer before this one; those that are the same stay the same objects."""
        self._entries = entries
        self._source = source
        self._reachable = reachable
        self._before = {(one.host, one.address): one for one in before}
        self._found: dict[tuple[str, str], Instance] = {}
        self._refused: Counter[str] = Counter()
        self._refusals: list[Refusal] = []
        self._tuples: dict[tuple[object, ...], tuple[object, ...]] = {}  # equal tags and metadata are kept once
        self._done = 0
        if len(entries) > MOST:
            self._refuse("too_many", f"only the first {MOST} of {len(entries)} instances are used", len(entries) - MOST)

    def step(self) -> bool:
        """Convert the next entries; say whether that was the last of them."""
        end = min(self._done + SLICE, len(self._entries), MOST)
        for index in range(self._done, end):
            self._take(self._entries[index])
        self._done = end
        return end == min(len(self._entries), MOST)

    def steps(self) -> Iterator[None]:
        """Convert the rest, with a pause between the steps."""
        while not self.step():
            yield
        yield  # what is done with all of them is a step for itself

    @property
    def malformed(self) -> bool:
        """Whether nothing so far was an instance at all."""
        return 0 < self._done == self._refused["malformed"]

    def answer(self) -> Answer:
        """What has come of it. Only after the last step."""
        found = tuple(sorted(self._found.values(), key=_order))
        return Answer(found, self._refused, tuple(self._refusals))

    def _refuse(self, reason: str, text: str, count: int = 1) -> None:
        self._refused[reason] += count
        if len(self._refusals) < self.REFUSALS:
            self._refusals.append(Refusal(reason, f"{self._source.service}: {text}"))

    def _take(self, raw: msgspec.Raw) -> None:
        try:
            entry = _entry.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            self._refuse("malformed", str(error)[:200])
            return
        try:
            instance = self._instance(entry)
        except Refused as error:
            self._refuse(error.reason, f"{entry.service.id[:80]!a} on {entry.node.node[:80]!a}: {error}")
            return
        # A host that was set up again under another name leaves its old node, with the same addresses, behind.
        where = (instance.host if addresses.is_unix(instance.address) else "", instance.address)
        known = self._found.get(where)
        if known is None or _SEVERITY[instance.health] < _SEVERITY[known.health]:
            self._found[where] = instance
        if known is not None:
            self._refuse("duplicate", f"{instance.address} is registered on {known.host} and {instance.host}")

    def _instance(self, entry: _Entry) -> Instance:
        node, service = entry.node, entry.service
        if not _NODE.fullmatch(node.node):
            raise Refused("host", "the name of the node is not letters, digits and ._- only")
        address, mesh = self._place(entry)
        meta = service.meta or {}
        health, reason = judge(entry.checks or ())
        weights = service.weights or _Weights()
        instance = Instance(
            service=intern(self._source.service),
            host=intern(node.node),
            address=address,
            mesh=intern(mesh),  # of every instance on that host
            datacenter=intern(self._source.datacenter),
            zone=intern(_shown(meta.get("zone") or (node.meta or {}).get("zone", ""))),
            version=intern(_shown(meta.get("version", ""))),
            tags=self._tags(service.tags or ()),
            weight=weights.warning if health == WARNING else weights.passing,
            meta=self._meta(meta),
            health=health,
            reason=intern(reason),
        )
        before = self._before.get((instance.host, instance.address))
        return before if before == instance else instance

    def _place(self, entry: _Entry) -> tuple[str, str]:
        """Where it listens, and the mesh port of its host."""
        node, service = entry.node, entry.service
        text, port = service.address or node.address, service.port
        if self._source.remote:  # what other datacenters reach, by Consul's own order (translate_wan_addrs)
            wide = (service.tagged_addresses or {}).get("wan")
            if wide is not None and wide.address:
                text, port = wide.address, wide.port or port
            elif not service.address:
                text = (node.tagged_addresses or {}).get("wan") or node.address
        ip = self._reachable.ip(text)
        meta = service.meta or {}
        mesh_port = meta.get("mesh_port", "")
        mesh = ""
        if mesh_port:
            # Not taken for a host without a hostproxy, to which policy may permit plain text.
            if not _PORT.fullmatch(mesh_port) or int(mesh_port) > 65535:
                raise Refused("mesh_port", f"mesh_port in its metadata is no port: {mesh_port[:20]!a}")
            mesh = self._reachable.port(ip, int(mesh_port))
        path = meta.get("socket", "")
        if path and mesh:  # without hostproxy there, the path would be one on this host
            try:
                return addresses.reachable(addresses.UNIX + path), mesh
            except Wrong as error:
                raise Refused("socket", f"socket in its metadata {error}") from None
        if not port:
            raise Refused("no_port", "it is registered without a port")
        return self._reachable.port(ip, port), mesh

    def _tags(self, tags: Sequence[str]) -> tuple[str, ...]:
        kept = tuple(intern(tag) for tag in tags[:TAGS] if tag and _shown(tag, TAG_SIZE))
        if len(kept) < len(tags):
            self._trimmed(len(tags) - len(kept), "tags")
        return self._tuples.setdefault(kept, kept)  # type: ignore[return-value]

    def _meta(self, meta: dict[str, str]) -> tuple[tuple[str, str], ...]:
        kept = []
        for key in sorted(meta)[:META]:
            if len(key) <= KEY_SIZE and len(meta[key]) <= VALUE_SIZE and (key + meta[key]).isprintable():
                pair = (intern(key), intern(meta[key]))
                kept.append(self._tuples.setdefault(pair, pair))
        if len(kept) < len(meta):
            self._trimmed(len(meta) - len(kept), "pairs of metadata")
        pairs = tuple(kept)
        return self._tuples.setdefault(pairs, pairs)  # type: ignore[return-value]

    def _trimmed(self, count: int, what: str) -> None:
        # The instance is used all the same.
        self._refuse("trimmed", f"{count} {what} of an instance are too many, too long or not printable", count)


def judge(checks: Sequence[_Check]) -> tuple[str, str]:
    """Return the health that the worst of the checks gives, and the name of that check; ``""`` when all pass.

    Raises :class:`Refused`. The output of the check is no part of it: that changes all the time.
    """
    worst, reason = PASSING, ""
    for check in checks:
        if check.check_id == _NODE_MAINTENANCE or check.check_id.partition(":")[0] == _SERVICE_MAINTENANCE:
            health: str | None = MAINTENANCE
        else:
            health = _STATUS.get(check.status)
        if health is None:
            raise Refused("malformed", f"its check {check.name[:80]!a} has the unknown status {check.status[:20]!a}")
        if _SEVERITY[health] > _SEVERITY[worst]:
            worst, reason = health, _shown(check.name, VALUE_SIZE) or check.check_id[:80]
    return worst, reason


def _shown(text: str, most: int = 128) -> str:
    """The text if it can be shown, else nothing."""
    return text if len(text) <= most and text.isprintable() else ""


def _order(instance: Instance) -> tuple[str, str]:
    return instance.host, instance.address
