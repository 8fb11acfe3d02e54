"""What happens in the demo on Consul, while cart goes on calling: an instance goes and comes, and an agent does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from hostproxy.demo.load import Tally
from hostproxy.demo.processes import SiteError
from hostproxy.demo.site import Site, ask

# Seconds of calls that show how it is after something happened.
SHOWN = 1.0
# The same with the agent gone: several of the tries to reach it.
WITHOUT = 2.0


class Event(NamedTuple):
    """Something that happened, and what came of it."""

    text: str
    after: float  # seconds from its cause until shop's hostproxy shows it, which it does once a second
    calls: int  # since then
    failed: int


class Story:
    """Everything that happens, one after the other."""

    def __init__(self, site: Site, tally: Tally, idle: Callable[[], None]) -> None:
        """``idle`` is called again and again while there is nothing else to do: it draws, and takes its time."""
        self.events: list[Event] = []
        self._site = site
        self._tally = tally
        self._idle = idle

    def play(self) -> None:
        """Let it happen. Raises SiteError when something has not the effect that it should have."""
        both = set(self._site.instances)
        first, second = self._site.instances
        self._happens("hostproxy registered payments, and itself, with the agents of its hosts", self._registered, both)
        self._site.end_instance(first)
        self._happens(
            f"{first} ended, and Consul has it as critical: {second} takes all calls",
            lambda: self._health(first) == "critical",
            {second},
        )
        self._site.start_instance(first)
        self._happens(f"{first} came back and takes its share", lambda: self._health(first) == "passing", both)
        self._site.kill_agent("shop")
        self._happens(
            "Consul's agent on shop was killed: calls go on by what was known", self._unreachable, both, WITHOUT
        )
        restarted = time.time()
        self._site.start_agent("shop")
        self._happens("the agent came back and confirms what is known", lambda: self._confirmed() > restarted, both)

    def _happens(self, text: str, shown: Callable[[], bool], takers: set[str], calls_for: float = SHOWN) -> None:
        """Wait until it is ``shown``; from then on exactly ``takers`` are to answer calls, all of them without fail."""
        began = time.monotonic()
        self._site.wait(shown, f'"{text}" did not happen', "shop", self._idle)
        after = time.monotonic() - began
        calls, failed, instances = self._tally.requests, self._tally.failed_count, self._tally.instances.copy()
        end = time.monotonic() + calls_for
        while time.monotonic() < end:
            self._idle()
        taking = set(self._tally.instances - instances)
        self.events.append(Event(text, after, self._tally.requests - calls, self._tally.failed_count - failed))
        if taking != takers:
            raise SiteError(f'"{text}", but calls were taken by: {", ".join(sorted(taking)) or "nobody"}')

    # What shop's hostproxy, and its agent of Consul, say

    def _registered(self) -> bool:
        """Asked of Consul itself."""
        agent = self._site.agents["shop"].http
        wanted = {"payments": len(self._site.instances), "hostproxy": len(self._site.agents)}
        return all(len(ask(agent, f"/v1/health/service/{name}?passing=1")) == wanted[name] for name in wanted)

    def _health(self, name: str) -> str:
        ip, port = self._site.instances[name]
        return next((str(each["health"]) for each in self._site.endpoints() if each["address"] == f"{ip}:{port}"), "")

    def _unreachable(self) -> bool:
        return bool(ask(self._site.admin["shop"], "/discovery")["problem"])

    def _confirmed(self) -> float:
        """When Consul last said what instances payments has."""
        document = ask(self._site.admin["shop"], "/discovery")
        return max(float(each["confirmed"]) for each in document["services"] if each["service"] == "payments")
