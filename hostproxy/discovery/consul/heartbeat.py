"""Telling Consul how the instances are: at once when that changes, and often enough that no TTL ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hostproxy.discovery.consul.definition import Check, Definition
from hostproxy.discovery.consul.repeated import Repeated
from hostproxy.discovery.consul.writer import FAILURES, Writer, explain, is_unknown

if TYPE_CHECKING:
    from hostproxy.discovery.consul.client import TxConsul

BEATS = 3  # reports in a TTL: two of them may be lost
FIRST_RETRY = 0.25  # seconds
JITTER = 0.2  # the share of the time between two beats by which they come earlier, so that many do not come together
SPREAD = 1.0  # seconds over which the first reports of many checks are spread


class Report(NamedTuple):
    """How an instance is."""

    passing: bool
    note: str  # the reason, for people

    @property
    def status(self) -> str:
        """As Consul says it."""
        return "passing" if self.passing else "critical"


class Heartbeats:
    """All TTL checks that are registered."""

    def __init__(
        self,
        reactor: Any,
        client: TxConsul,
        writer: Writer,
        random: Callable[[], float],
        report: Callable[[Definition], Report | None],
        forgotten: Callable[[], object],
    ) -> None:
        """``report`` says how an instance is, None: not known. ``forgotten`` is for a check that the agent lacks.

        ``random`` gives floats in [0, 1).
        """
        self._reactor = reactor
        self._client = client
        self._writer = writer
        self._random = random
        self._report = report
        self._forgotten = forgotten
        self._beats: dict[str, Heartbeat] = {}  # by ID of the service
        self._over = False

    @property
    def problem(self) -> str:
        """Why a report did not arrive; "" when the last of each did."""
        return next((beat.problem for beat in self._beats.values() if beat.problem), "")

    def begin(self, definition: Definition) -> None:
        """Report the health of an instance that is registered like this from now on, when that is our task."""
        if self._over or definition.check is None or not definition.check.ttl:
            return
        beat = self._beats.get(definition.id)
        if beat is None:
            beat = self._beats[definition.id] = Heartbeat(self._reactor, definition, self._send, self._random)
        else:
            beat.definition = definition
        beat.tell(self._report(definition), SPREAD)

    def again(self, ident: str) -> None:
        """Report at once, also what is no news: the service was registered anew."""
        if ident in self._beats:
            self._beats[ident].again()

    def keep(self, desired: Mapping[str, Definition]) -> None:
        """End those of checks that are not wanted any more. One that is to change goes on until that is done."""
        for ident, beat in list(self._beats.items()):
            check = desired[ident].check if ident in desired else None
            if check is None or not check.ttl:
                beat.stop()
                del self._beats[ident]

    def tell(self) -> None:
        """Report what is news."""
        for beat in self._beats.values():
            beat.tell(self._report(beat.definition))

    def halt(self) -> None:
        """Report nothing more. What is under way may arrive."""
        self._over = True
        for beat in self._beats.values():
            beat.halt()

    def stop(self) -> None:
        """End at once."""
        self._over = True
        for beat in self._beats.values():
            beat.stop()

    async def _send(self, check: Check, report: Report) -> str:
        """Return why a report did not arrive; "" also when the agent has to be told of the check first."""
        call = self._client.agent.check.ttl_pass if report.passing else self._client.agent.check.ttl_fail
        try:
            known = await self._writer.ask(partial(call, check.id, report.note))
        except FAILURES as error:
            if not is_unknown(error):
                return f'cannot report "{check.id}": {explain(error)}'
            known = False
        if not known:
            self._forgotten()
        return ""


class Heartbeat:
    """Reports one of them. Nothing is sent until there is something to say."""

    def __init__(
        self,
        reactor: Any,
        definition: Definition,
        send: Callable[[Check, Report], Awaitable[str]],
        random: Callable[[], float],
    ) -> None:
        """``send(check, report)`` does not fail: it gives why the report did not arrive, or ""."""
        self.definition = definition  # has a TTL check
        self.problem = ""  # why the last report did not arrive
        self._send = send
        self._random = random
        self._report: Report | None = None
        self._failures = 0
        self._beats = Repeated(reactor, self._beat)

    def tell(self, report: Report | None, within: float = 0.0) -> None:
        """Report this within so many seconds, if it is news. None is not known: Consul keeps what it has."""
        if report is not None and report != self._report:
            self._report = report
            self.again(within)

    def again(self, within: float = 0.0) -> None:
        """Report the same again: the agent may have forgotten it."""
        if self._report is not None:
            self._failures = 0
            self._beats.soon(within * self._random())

    def halt(self) -> None:
        """Send nothing more. A report under way may arrive."""
        self._beats.halt()

    def stop(self) -> None:
        """Send nothing more, and end a report under way."""
        self._beats.stop()

    async def _beat(self) -> float | None:
        report, check = self._report, self.definition.check
        if report is None or check is None:
            return None
        self.problem = await self._send(check, report)
        period = check.ttl / BEATS
        if not self.problem:
            self._failures = 0
            return period * (1 - JITTER * self._random())
        # Soon, because it may be news; never more often than when all is well once that has not helped.
        delay = min(FIRST_RETRY * 2.0 ** min(self._failures, 20), period)
        self._failures += 1
        return delay * (1 - JITTER * self._random())
