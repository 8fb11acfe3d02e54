"""What a host is told when its turn has come: see :mod:`controller.push.distribution`."""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from controller.api.interfaces import Rollouts
from controller.bundles import Bundles
from controller.policy.generations import Version
from controller.push.distribution import Order
from controller.registry.hosts import Report
from controller.registry.registry import Registry
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
    ) -> None:
        """``port`` is where hosts take bundles; ``now`` gives Unix seconds."""
        self._registry = registry
        self._rollouts = rollouts
        self._bundles = bundles
        self._trust_domain = trust_domain
        self._port = port
        self._now = now
        self._reports: tuple[float, dict[str, Report]] | None = None
        self._reading = DeferredLock()

    async def hosts(self) -> Collection[str]:
        """All that are to have policy: enrolled and not denied."""
        denied = {denial.identity for denial in await self._registry.denied.all()}
        hosts = await self._registry.hosts.all()
        return [host for host in hosts if str(SpiffeId.host(self._trust_domain, host)) not in denied]

    async def order(self, host: str) -> Order | None:
        """See :class:`controller.push.distribution.Decider`."""
        seen = (await self._latest()).get(host)
        if seen is None or not seen.address:
            return None  # it has never been heard of, so nobody knows where it is: it will come
        wanted = await self._rollouts.wanted(host)
        if wanted is None:
            return None
        report = seen.report
        address = report.listen
        if not address:
            address = f"[{seen.address}]:{self._port}" if ":" in seen.address else f"{seen.address}:{self._port}"
        has = Version(report.epoch, report.generation)
        if has < wanted.version:
            if report.refused == (wanted.version.epoch, wanted.version.generation):
                return None  # it has said no, and would again
            bundle = await self._bundles.sealed(host, wanted.version, wanted.confirm_within)
            return Order(address, bundle, None)
        if not report.confirmed and await self._rollouts.stays(host, report):
            return Order(address, None, Confirm(epoch=has.epoch, generation=has.generation, digest=report.digest))
        # While its wave is judged, the report that it makes every minute is too old.
        return Order(address, None, None) if await self._rollouts.judged(host, seen.at) else None

    def reported(self, host: str, report: HostReport) -> None:
        """It answered a bundle."""
        taking = Deferred.fromCoroutine(self.take(host, report))
        taking.addErrback(lambda failure: self.log.error("{host}: {error}", host=host, error=failure.value))

    async def take(self, host: str, report: HostReport, address: str = "") -> None:
        """Keep what a host says of itself; without ``address`` it was asked, and is where it was before."""
        if not address:
            seen = (await self._latest()).get(host)
            address = seen.address if seen is not None else ""
        found = Report(at=self._now(), address=address, report=report)
        await self._registry.reports.take(host, found)
        if self._reports is not None:
            self._reports[1][host] = found

    async def _latest(self) -> dict[str, Report]:
        # One at a time: all who are told at once would read all reports otherwise.
        await self._reading.acquire()
        try:
            now = self._now()
            if self._reports is None or not 0.0 <= now - self._reports[0] < REPORTS_KEPT:
                self._reports = now, await self._registry.reports.all()
            return self._reports[1]
        finally:
            self._reading.release()
