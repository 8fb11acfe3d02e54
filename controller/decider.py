"""What a host is told when its turn has come: see :mod:`controller.push.distribution`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from controller.api.interfaces import Rollouts
from controller.batched import Batched
from controller.bundles import Bundles
from controller.policy.generations import Version
from controller.push.distribution import Order
from controller.registry.hosts import Report
from controller.registry.registry import Registry
from hostproxy.mesh.bundle import digest_of
from hostproxy.mesh.messages import Confirm, HostReport
from hostproxy.mesh.spiffe import SpiffeId

REPORTS_KEPT = 1.0  # seconds that one reading of all reports serves; a thousand hosts are told in a few


class Decider:
    """Knows what each host has, and what it should have."""

    log = Logger()

    def __init__(
        self,
        registry: Registry,
        rollouts: Rollouts,
        bundles: Bundles,
        trust_domain: str,
        port: int,
        now: Callable[[], float],
        settled: Callable[[Version], Awaitable[bool]],
    ) -> None:
        """``port`` is where hosts take bundles; ``now`` gives Unix seconds.

        ``settled``: whether the bundles of a generation say what all that were made of it said.
        """
        self._registry = registry
        self._rollouts = rollouts
        self._bundles = bundles
        self._trust_domain = trust_domain
        self._port = port
        self._now = now
        self._settled = settled
        self._reports: tuple[float, dict[str, Report]] | None = None
        self._read = Batched(self._look_up)
        self._taken: dict[str, Report] = {}  # since the last reading began
        self._same: dict[str, tuple[Version, str]] = {}  # what hosts have that is as it should be, with its digest
        self._other: dict[str, Version] = {}  # the generation whose content the log has called another
        self._given: dict[str, tuple[Version, str]] = {}  # what they had that was not, when they were given it again

    async def hosts(self) -> Collection[str]:
        """All that are to have policy: enrolled and not denied."""
        denied = {denial.identity for denial in await self._registry.denied.all()}
        hosts = await self._registry.hosts.all()
        for gone in (self._same.keys() | self._other.keys() | self._given.keys()) - hosts.keys():
            self._same.pop(gone, None)
            self._other.pop(gone, None)
            self._given.pop(gone, None)
        return [host for host in hosts if str(SpiffeId.host(self._trust_domain, host)) not in denied]

    async def order(self, host: str) -> Order | None:
        """See :class:`controller.push.distribution.Decider`."""
        seen = (await self._latest()).get(host)
        if seen is None or not seen.address:
            return None  # it has never been heard of, so nobody knows where it is: it will come
        view = await self._rollouts.view()
        wanted = view.wanted(host)
        if wanted is None:
            return None
        report = seen.report
        address = self.address(seen)
        has = Version(report.epoch, report.generation)
        if has < wanted.version or self._again(host, seen, wanted.version):
            if report.refused == (wanted.version.epoch, wanted.version.generation):
                return None  # it has said no, and would again
            bundle = await self._bundles.sealed(host, wanted.version, wanted.confirm_within)
            return Order(address, bundle, None)
        if not report.confirmed and not seen.differs and view.stays(host, report):
            return Order(address, None, Confirm(epoch=has.epoch, generation=has.generation, digest=report.digest))
        # While its wave is judged, the report that it makes every minute is too old.
        return Order(address, None, None) if view.judged(host, seen.at, self._now()) else None

    def address(self, seen: Report) -> str:
        """Where a host takes bundles."""
        if seen.report.listen:
            return seen.report.listen
        return f"[{seen.address}]:{self._port}" if ":" in seen.address else f"{seen.address}:{self._port}"

    def _again(self, host: str, seen: Report, wanted: Version) -> bool:
        """Whether a host that has the generation with other content is to be given it: once, it may refuse it."""
        report = seen.report
        has = Version(report.epoch, report.generation), report.digest
        if not seen.differs or has[0] != wanted or self._given.get(host) == has:
            return False
        self._given[host] = has
        return True

    def reported(self, host: str, report: HostReport) -> None:
        """It answered a bundle."""
        taking = Deferred.fromCoroutine(self.take(host, report))
        taking.addErrback(lambda failure: self.log.error("{host}: {error}", host=host, error=failure.value))

    async def take(self, host: str, report: HostReport, address: str = "") -> Report:
        """Keep what a host says of itself; without ``address`` it was asked, and is where it was before."""
        if not address:
            seen = (await self._latest()).get(host)
            address = seen.address if seen is not None else ""
        at = self._now()
        differs = await self._differs(host, report)
        found = Report(at=at, address=address, report=report, differs=differs)
        await self._registry.reports.take(host, found)
        self._taken[host] = found
        if self._reports is not None:
            self._reports[1][host] = found
        return found

    async def _differs(self, host: str, report: HostReport) -> bool:
        """Whether it has the newest generation with other content than it would be given now."""
        version = Version(report.epoch, report.generation)
        if not report.digest or self._same.get(host) == (version, report.digest):
            return False
        view = await self._rollouts.view()
        wanted = view.wanted(host)
        # Of earlier ones it is not known how long hosts had to confirm them, which the bundle says.
        if wanted is None or view.newest is None or not wanted.version == view.newest.version == version:
            return False
        if digest_of(await self._bundles.sealed(host, version, wanted.confirm_within)) == report.digest:
            self._same[host] = version, report.digest
            return False
        if not await self._settled(version):
            return False
        if self._other.get(host) != version:
            self._other[host] = version
            self.log.error("{host} has generation {version} with other content", host=host, version=version)
        return True

    async def _latest(self) -> dict[str, Report]:
        return self._reports[1] if self._current() and self._reports is not None else await self._read()

    def _current(self) -> bool:
        return self._reports is not None and 0.0 <= self._now() - self._reports[0] < REPORTS_KEPT

    async def _look_up(self) -> dict[str, Report]:
        # Those who asked while the last reading was under way wait for this one, and may have that.
        if self._reports is None or not self._current():
            began = self._now()
            self._taken.clear()
            reports = await self._registry.reports.all()
            # A host that reported for the first time while they were read is not among them.
            self._reports = began, reports | self._taken
        return self._reports[1]
