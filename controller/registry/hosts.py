"""Hosts that have enrolled, and what each reported last."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from controller.policy.generations import Version
from controller.registry.records import Record, Refused, change, decode, read, read_all
from controller.store import Store, Unavailable
from hostproxy.mesh import spiffe
from hostproxy.mesh.messages import Figures, HostReport

KEYS = 4  # a host has two while it renews, and another when an answer got lost
REPORT_KEPT = 300.0  # seconds after which a report is stored again although nothing in it changed
_HOSTS = "hosts/"
_REPORTS = "reports/"


class Leaf(Record, frozen=True):
    """A certificate that was issued."""

    serial: str  # hexadecimal
    fingerprint: str  # SHA-256 of the certificate, hexadecimal
    key: str  # SHA-256 of its public key, hexadecimal
    not_after: float  # Unix seconds


class Host(Record, frozen=True):
    """A host that has enrolled."""

    name: str
    enrolled: float  # Unix seconds, the last time; certificates from before that are not taken any more
    times: int = 1  # how often it has enrolled
    token: str = ""  # id of the token that it enrolled with
    leaf: Leaf | None = None  # its own last certificate
    keys: tuple[str, ...] = ()  # SHA-256 of the keys in its own last certificates since it enrolled: others are not it


class Report(Record, frozen=True):
    """What a host said of itself."""

    at: float  # Unix seconds, by the controller's clock
    address: str  # where it came from
    report: HostReport
    differs: bool = False  # it has the generation that it should, with other content than this mesh's controllers make


class Hosts:
    """All hosts."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now

    async def get(self, name: str) -> Host | None:
        """One; None when it has not enrolled."""
        return await read(self._store, _key(name), Host)

    async def all(self) -> dict[str, Host]:
        """All, by name."""
        return await read_all(self._store, _HOSTS, Host)

    async def enrol(self, name: str, *, token: str, again: bool) -> Host:
        """Take it in. Of two that come under one name, the second is :class:`Refused` unless ``again`` allows it."""
        now = self._now()

        def enrolled(known: Host | None) -> Host:
            if known is not None and not again:
                raise taken(known)
            return Host(name=name, enrolled=now, times=known.times + 1 if known is not None else 1, token=token)

        host = await change(self._store, _key(name), Host, enrolled)
        assert host is not None
        return host

    async def issued(self, name: str, leaf: Leaf, times: int) -> None:
        """Note the last certificate of a host's own, before it is given. Raises :class:`Refused`.

        ``times`` is how often the host that asked for it had enrolled: who has enrolled since is another machine.
        """

        def noted(known: Host | None) -> Host:
            if known is None:
                raise Refused("unknown-host", f"{name} has not enrolled")
            if known.times != times:
                raise Refused("stale", f"{name} has enrolled again meanwhile")
            return msgspec.structs.replace(known, leaf=leaf, keys=(*known.keys, leaf.key)[-KEYS:])

        await change(self._store, _key(name), Host, noted)

    async def forget(self, name: str) -> None:
        """It is no host of the mesh any more, and may enrol as a new one. Raises :class:`Refused`."""
        if await self.get(name) is None:
            raise Refused("unknown-host", f"{name} has not enrolled")
        await self._store.delete(_key(name))
        await self._store.delete(_REPORTS + name)


class Reports:
    """The last report of each host: the newest here, and in the store when something in it changed."""

    log = Logger()

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unreadable: dict[str, int] = {}  # versions in the store that the log has told of
        self._latest: dict[str, Report] = {}
        self._stored: dict[str, Report] = {}

    async def take(self, host: str, report: Report) -> None:
        """Keep one, of a host that has enrolled."""
        self._latest[host] = report
        stored = self._stored.get(host)
        # Where the clock was set back, the stored one would be taken for the newer until it has caught up.
        if stored is not None and _same(stored, report) and 0.0 <= report.at - stored.at < REPORT_KEPT:
            return
        await self._store.put(_REPORTS + host_name(host), msgspec.json.encode(report), None)
        self._stored[host] = report

    async def all(self) -> dict[str, Report]:
        """The newest of each host, those that other controllers took as well."""
        found = await self._readable()
        for host, report in self._latest.items():
            if host in found and found[host].at < report.at:
                found[host] = report
        # Hosts that were forgotten are not in the store.
        self._latest = {host: report for host, report in self._latest.items() if host in found}
        self._stored = {host: report for host, report in self._stored.items() if host in found}
        return found

    async def _readable(self) -> dict[str, Report]:
        """Those in the store. What cannot be read is none: the host reports again, and all others count meanwhile."""
        found, unreadable = {}, {}
        for key, entry in (await self._store.list(_REPORTS)).items():
            host = key.removeprefix(_REPORTS)
            try:
                found[host] = decode(key, entry, Report)
            except Unavailable as error:
                unreadable[host] = entry.version
                if self._unreadable.get(host) != entry.version:
                    self.log.error("{error}", error=error)
        self._unreadable = unreadable
        return found


def ahead(report: Report | None, newest: Version | None) -> bool:
    """Whether a host says to have what this controller never made: the store is an older one, or the host lies."""
    if report is None or newest is None:
        return False
    return Version(report.report.epoch, report.report.generation) > newest


def taken(host: Host) -> Refused:
    """There is a host of this name."""
    return Refused("enrolled", f"{host.name} has enrolled already: for a new machine, create a token with --reenrol")


def host_name(name: str) -> str:
    """Return the name of a host. Raises :class:`Refused`."""
    try:
        spiffe.check_host(name)
    except spiffe.InvalidName as error:
        raise Refused("name", str(error)) from None
    return name


def _key(name: str) -> str:
    return _HOSTS + host_name(name)


def _same(one: Report, other: Report) -> bool:
    """Whether nothing changed that anybody decides by: figures do all the time, and certificates are renewed."""
    plain = [
        msgspec.structs.replace(each.report, figures=Figures(), certificates={})
        for each in (one, other)
    ]
    return plain[0] == plain[1] and (one.address, one.differs) == (other.address, other.differs)
