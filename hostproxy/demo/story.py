"""What happens in the demo while cart goes on calling: policy changes; on Consul instances and agents go and come."""

from __future__ import annotations

import http.client
import re
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from hostproxy.demo.controller import NAME
from hostproxy.demo.load import CALL_TIMEOUT, Tally
from hostproxy.demo.processes import SiteError
from hostproxy.demo.site import HOSTS, PAID, REFUND, SERVICES, Site, ask

# Seconds of calls that show how it is after something happened.
SHOWN = 1.0
# The same where nothing should have changed.
CALM = 0.4
# The same with the agent gone: several of the tries to reach it.
WITHOUT = 2.0
# How a change of policy is rolled out: to one host, then to all, each to be well for a while. Other work on the machine
# of the demo may make one host slower than the other.
WAVES = ("--waves", "1,100%", "--hold", "1s", "--p99-floor", "5s")

# The end of what a caller is told: "...: no rule allows it (mesh.toml:2: [defaults] access) (UAEX)".
_RULE = re.compile(r": ([^:]+ \([\w.-]+\.toml:\d+: [^()]+\)) \([A-Z]+\)$")


class Event(NamedTuple):
    """Something that happened, and what came of it."""

    text: str
    after: float  # seconds from its cause until it is shown
    calls: int  # since then
    failed: int


class Answer(NamedTuple):
    """What one call brought."""

    status: int
    body: str


class Story:
    """Some things that happen, one after the other."""

    def __init__(self, site: Site, tally: Tally, idle: Callable[[], None]) -> None:
        """``idle`` is called again and again while there is nothing else to do: it draws, and takes its time."""
        self.events: list[Event] = []
        self._site = site
        self._tally = tally
        self._idle = idle

    @abstractmethod
    def play(self) -> None:
        """Let it happen. Raises SiteError when something has not the effect that it should have."""

    def _happens(
        self,
        text: str,
        shown: Callable[[], bool],
        takers: set[str],
        calls_for: float = SHOWN,
        process: str = "shop",
    ) -> None:
        """Wait until it is ``shown``; from then on exactly ``takers`` are to answer calls, all of them without fail."""
        began = time.monotonic()
        self._site.wait(shown, f'"{text}" did not happen', process, self._idle)
        after = time.monotonic() - began
        calls, failed, instances = self._tally.requests, self._tally.failed_count, self._tally.instances.copy()
        end = time.monotonic() + calls_for
        while time.monotonic() < end:
            self._idle()
        taking = set(self._tally.instances - instances)
        self.events.append(Event(text, after, self._tally.requests - calls, self._tally.failed_count - failed))
        if taking != takers:
            raise SiteError(f'"{text}", but calls were taken by: {", ".join(sorted(taking)) or "nobody"}')


class PolicyStory(Story):
    """A call that policy denies, and a change in waves that allows it."""

    def play(self) -> None:
        """See :meth:`Story.play`."""
        self._policy("shop and vault have joined, each by a token of its own, as cart and as payments", self._joined)
        denied = self._call(REFUND)
        rule = _RULE.search(denied.body)
        if denied.status != 403 or rule is None:
            raise SiteError(f"POST {REFUND} should be denied, with the line of the policy that does it, but: {denied}")
        self._policy(f"POST {REFUND} is denied: {rule[1]}", lambda: self._call(PAID).status == 200)
        generation = self._site.apply_policy(PAID, REFUND, options=WAVES)
        first, last = (", ".join(wave) for wave in self._rollout()["waves"])
        self._policy(f"policy that allows it, generation {generation}, has come to {first}", lambda: self._tried(first))
        self._policy(
            f"{first} went on well, so it has come to {last} as well: POST {REFUND} is answered",
            lambda: self._done() and self._call(REFUND).status == 200,
        )

    def _policy(self, text: str, shown: Callable[[], bool]) -> None:
        """Something that must not make a difference to the calls under way."""
        self._happens(text, shown, set(self._site.instances), CALM, NAME)

    def _call(self, path: str) -> Answer:
        """One call of cart's beside the others."""
        connection = http.client.HTTPConnection(*self._site.upstream, timeout=CALL_TIMEOUT)
        try:
            connection.request("POST", path, body=b'{"amount": 42}')
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(errors="replace").strip())
        finally:
            connection.close()

    # What the controller says

    def _joined(self) -> bool:
        """Whether each host has reported the certificates of its service, and policy."""
        reports = {host: self._site.controller.get(f"/v1/hosts/{host}")["host"] for host in HOSTS}
        return all(
            row["state"] == "SYNCED" and set(row["report"]["certificates"]) == {"host", SERVICES[host]}
            for host, row in reports.items()
        )

    def _rollout(self) -> Any:
        """The one under way. Raises SiteError when it was stopped."""
        rollout = self._site.controller.get("/v1/rollout")["rollout"]
        if rollout["phase"] == "stopped":
            raise SiteError(f"the rollout was stopped: {rollout['reason']}")
        return rollout

    def _generations(self) -> dict[str, int]:
        """What each host has reported to have."""
        rows = self._site.controller.get("/v1/hosts")["hosts"]
        return {row["name"]: row["generation"] for row in rows if row["state"] == "SYNCED"}

    def _tried(self, host: str) -> bool:
        return self._generations().get(host) == int(self._rollout()["version"]["generation"])

    def _done(self) -> bool:
        rollout = self._rollout()
        generation = int(rollout["version"]["generation"])
        return bool(rollout["phase"] == "done") and self._generations() == dict.fromkeys(HOSTS, generation)


class ConsulStory(Story):
    """An instance and an agent that go and come back."""

    def play(self) -> None:
        """See :meth:`Story.play`."""
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
