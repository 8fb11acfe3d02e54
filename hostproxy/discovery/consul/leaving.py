"""Taking the services of this host out of Consul before it stops, in the order in which callers should hear of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as OutOfTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from hostproxy.discovery.consul.definition import OWN
from hostproxy.discovery.consul.writer import Job, Writer

if TYPE_CHECKING:
    from hostproxy.discovery.consul.client import TxConsul

MAINTENANCE = 0.8  # seconds for all of it
DEREGISTRATION = 0.8
LOGGED = 10  # lines about what was not done

log = Logger()


async def leave(
    reactor: Any,
    client: TxConsul,
    idents: Collection[str],
    reason: str,
    wait: float,
    deregistration: Callable[[str], Job],
) -> None:
    """Begin the maintenance of the services with these IDs, and deregister them ``wait`` seconds later.

    Callers are to see the maintenance: that a service has no instance any more they don't believe for a while. For
    hostproxy itself there is only the deregistration. Takes as long as the two bounds and ``wait`` together at most.
    What was not done is logged.
    """
    undone: dict[str, str] = {}
    begin = partial(client.agent.service.maintenance, enable=True, reason=reason)
    first = [Job(f'begin the maintenance of "{ident}"', partial(begin, ident)) for ident in idents if ident != OWN]
    await within(reactor, MAINTENANCE, Writer().do(first, undone))
    if first and wait:
        await deferLater(reactor, wait)
    # Whoever is deregistered needs no maintenance: what counts is this.
    undone = {}
    await within(reactor, DEREGISTRATION, Writer().do(map(deregistration, idents), undone))
    for what, why in islice(undone.items(), LOGGED):
        log.warn("leaving without having done this in Consul: {what}: {why}", what=what, why=why)
    if len(undone) > LOGGED:
        log.warn("and {count} more", count=len(undone) - LOGGED)


async def within(reactor: Any, seconds: float, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work`` for so long, and then cancel it; say whether it was done."""
    try:
        await Deferred.fromCoroutine(work).addTimeout(seconds, reactor)
    except OutOfTime:
        return False
    return True
