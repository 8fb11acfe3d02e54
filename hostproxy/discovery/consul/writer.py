"""Requests that change something at the agent, or ask what it has: few at a time, and with errors said in words."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from consul.exceptions import ACLPermissionDenied, ConsulException
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.python.failure import Failure

from hostproxy.discovery.consul.errors import AgentError

T = TypeVar("T")

PARALLEL = 4  # requests at a time
FAILURES = (AgentError, ConsulException)  # what a request of py-consul's over our transport fails with

# 1.8.7 answers 500 with the first of these, with ACLs with one of the next two; newer ones answer 404 with the last.
_UNKNOWN = re.compile(r"does not have associated TTL|unknown (?:check|service)|no service registered", re.I)


class Job(NamedTuple):
    """One thing to do."""

    what: str  # 'register "hostproxy-web-9001"'
    request: Callable[[], Deferred[Any]]


class Writer:
    """A bounded number of requests at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._gate = DeferredSemaphore(PARALLEL)
        self._closed = False

    async def ask(self, request: Callable[[], Deferred[T]]) -> T:
        """Make a request when it is its turn. Raises what that raises, and CancelledError when closed meanwhile."""
        await self._gate.acquire()
        try:
            if self._closed:
                raise CancelledError
            return await request()
        finally:
            self._gate.release()

    async def do(self, jobs: Iterable[Job], undone: dict[str, str]) -> None:
        """Do them all; those that are not done, yet or for good, are in ``undone`` with the reason.

        When the agent cannot be reached, the rest of them is not tried.
        """
        waiting = deque(jobs)
        undone.update((job.what, "there was no time") for job in waiting)

        async def lane() -> None:
            while waiting:
                job = waiting.popleft()
                try:
                    await self.ask(job.request)
                except AgentError as error:
                    undone.update((each.what, str(error)) for each in (job, *waiting))
                    waiting.clear()
                except ConsulException as error:
                    if not is_unknown(error):
                        undone[job.what] = explain(error)
                        continue
                    del undone[job.what]  # there is nothing that it could be done to
                else:
                    del undone[job.what]

        lanes = [Deferred.fromCoroutine(lane()) for _ in range(PARALLEL)]
        for _, outcome in await DeferredList(lanes, consumeErrors=True):
            if isinstance(outcome, Failure):
                outcome.raiseException()  # cancelled, or closed

    def close(self) -> None:
        """Make no more requests. Those under way go on."""
        self._closed = True

    async def idle(self) -> None:
        """Wait until no request is under way. For after :meth:`close`: none can be made from then on."""
        for _ in range(PARALLEL):
            await self._gate.acquire()


def is_unknown(error: Exception) -> bool:
    """Say whether the agent does not know the service or check that it was asked to do something with."""
    return _UNKNOWN.search(str(error)) is not None


def explain(error: Exception) -> str:
    """Return one of :data:`FAILURES` in words that say what to do."""
    text = str(error)[:300]
    if isinstance(error, AgentError):
        return text
    if isinstance(error, ACLPermissionDenied):
        if "ACL not found" in text:
            return f"Consul does not know the ACL token ({text}); put one that is in force into the token file"
        return f"the ACL token does not allow it ({text}); give its policy this right"
    return f"the agent answered {text}"
