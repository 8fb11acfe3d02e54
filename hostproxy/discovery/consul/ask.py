"""Questions to Consul that are answered at once, by whichever server is nearest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from hostproxy.discovery.consul.counters import Counters
from hostproxy.discovery.consul.errors import AgentError
from hostproxy.discovery.consul.transport import Agent, Reply

HEALTH = "/v1/health/service/"  # and the name, which is a DNS label
TIMEOUT = 5.0  # seconds for one answer, its body included


class Unanswered(Exception):
    """There is no answer that can be used. ``str()`` says why."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason  # one of a few words, for counting


class Asker:
    """Asks, and counts what came of it."""

    def __init__(self, agent: Agent, counters: Counters, now: Callable[[], float], datacenter: str) -> None:
        """``datacenter``: Consul's name of the agent's own one; empty: the agent knows."""
        self._agent = agent
        self._counters = counters
        self._now = now
        self._datacenter = datacenter

    def params(self, datacenter: str) -> dict[str, str]:
        """The parameters that choose a datacenter; ``""`` is the own one."""
        datacenter = datacenter or self._datacenter
        return {"dc": datacenter} if datacenter else {}

    def ask(self, path: str, datacenter: str, what: str, timeout: float = TIMEOUT) -> Deferred[Reply]:
        """Get an answer of status 200; the Deferred fails with :class:`Unanswered`, or when it is cancelled."""
        params = {**self.params(datacenter), "stale": ""}
        asking = self._agent.request("GET", path, params, timeout=timeout, what=what)
        return asking.addCallbacks(self._answered, self._failed)

    def unusable(self, reason: str) -> None:
        """Count an answer that was of no use after all."""
        self._counters.error(reason)

    def _answered(self, reply: Reply) -> Reply:
        if reply.status != 200:
            self._counters.error(f"status_{reply.status}")
            text = reply.body[:200].decode("ascii", "backslashreplace").strip()
            raise Unanswered(f"status_{reply.status}", f"Consul answers {reply.status} {text!a}")
        self._counters.last_success = self._now()
        return reply

    def _failed(self, failure: Failure) -> Any:
        error = failure.value
        if isinstance(error, AgentError):
            self._counters.error(error.kind)
            raise Unanswered(error.kind, str(error)) from None
        return failure
