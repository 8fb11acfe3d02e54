"""Whether hosts that say to have what this controller never made really have it.

Numbers of generations only count up, so a host that has a later one means that the store is an older one, restored from
a backup: the next generation would have the number of one that hosts have already, with other content. But a host can
say anything. What none can make is a bundle with a later number, signed by the controller's key: so it is asked for the
one that it has, and what it does not show is not believed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger

from controller.policy.generations import Version
from controller.push.pusher import PushFailed
from controller.registry.hosts import Report, ahead
from hostproxy.mesh.bundle import Newest, Refused, open_bundle

AT_A_TIME = 16  # hosts that are asked; one that shows it is enough
PATIENCE = 5.0  # seconds for all of them: who says nothing must not hold up a denial
FOREVER = float("inf")

Fetch = Callable[[str, Report], Awaitable[bytes]]  # the bundle that a host has; raises PushFailed


class Claims(NamedTuple):
    """Hosts that say to have a generation later than the newest, sorted."""

    shown: tuple[str, ...]  # and have shown it
    others: tuple[str, ...]  # nobody knows whether they have

    @property
    def believed(self) -> bool:
        """Whether the store is an older one."""
        return bool(self.shown)


class Evidence:
    """Asked before a generation is made. Asks hosts, so only the leader needs one."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        fetch: Fetch,
        signers: Callable[[], Collection[bytes]],
        trust_domain: str,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        random: Callable[[], float],
    ) -> None:
        """``signers`` are the public keys of this mesh's bundles; ``random`` is from 0 to 1."""
        self._reactor = reactor
        self._fetch = fetch
        self._signers = signers
        self._trust_domain = trust_domain
        self._in_thread = in_thread
        self._random = random
        self._shown: dict[str, Version] = {}  # the latest that each host has shown

    async def look(self, reports: Mapping[str, Report], hosts: Collection[str], newest: Version | None) -> Claims:
        """Who of ``hosts`` has later generations than the newest. Never fails."""
        claimed = sorted(host for host in hosts if ahead(reports.get(host), newest))
        if newest is None or not claimed:
            return Claims((), ())
        self._shown = {host: version for host, version in self._shown.items() if version > newest}
        if not any(host in self._shown for host in claimed):
            # At random: whoever lies cannot arrange to be the only ones who are asked.
            asked = sorted(claimed, key=lambda host: self._random())[:AT_A_TIME]
            asking = [Deferred.fromCoroutine(self._ask(host, reports[host], newest)) for host in asked]
            for each in asking:
                each.addTimeout(PATIENCE, self._reactor)
                each.addErrback(lambda failure: self.log.failure("asking for evidence", failure))
            await DeferredList(asking)
        shown = tuple(host for host in claimed if host in self._shown)
        return Claims(shown, tuple(host for host in claimed if host not in self._shown))

    async def _ask(self, host: str, report: Report, newest: Version) -> None:
        try:
            data = await self._fetch(host, report)
            bundle = await self._in_thread(
                lambda: open_bundle(
                    data,
                    signers=self._signers(),
                    mesh=self._trust_domain,
                    host=host,
                    now=FOREVER,
                    newest=Newest(),
                )
            )
        except (PushFailed, Refused, CancelledError) as error:
            self.log.warn("{host} does not show the generation that it says to have: {error}", host=host, error=error)
            return
        version = Version(*bundle.version)
        if version > newest:
            self.log.error("{host} has shown generation {version}, signed here", host=host, version=version)
            self._shown[host] = version
