"""A Consul on a Clock: it answers what hostproxy asks, blocks as Consul does, and can be broken in every way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from hostproxy.discovery.consul.errors import AgentError
from hostproxy.discovery.consul.transport import Reply
from tests.discovery.consul.entries import body

HEALTH = "/v1/health/service/"


class Question(NamedTuple):
    """What was asked."""

    path: str
    params: dict[str, str]
    timeout: float
    at: float

    @property
    def service(self) -> str:
        """Of a question about health."""
        return self.path.removeprefix(HEALTH) if self.path.startswith(HEALTH) else ""

    @property
    def blocking(self) -> bool:
        """Whether it waits for a change."""
        return "index" in self.params


class FakeAgent:
    """Stands where the transport to an agent stands."""

    DELAY = 0.001  # seconds that an answer takes

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.services: dict[tuple[str, str], bytes] = {}  # (datacenter, name) -> answer; "" the own one
        self.names: dict[str, Any] | None = None  # instead of those of the services
        self.coordinates: list[Any] = []
        self.index = 10
        self.broken = ""  # kind of AgentError of every answer
        self.status = 200
        self.silent = False  # no answer at all
        self.filtered = False  # the header says that something is missing: everything, or with "partly" some of it
        self.partly = False
        self.no_rights = False  # as 1.8.7 does it: 200, and nothing in it
        self.no_node_rights = False
        self.token_changed: Callable[[], object] = lambda: None
        self.asked: list[Question] = []
        self.under_way: dict[Deferred[Reply], Question] = {}

    def set(self, name: str, *entries: Any, datacenter: str = "") -> None:
        """Have these instances of a service; without any it has been deregistered."""
        self.raw(name, body(*entries), datacenter)

    def raw(self, name: str, data: bytes, datacenter: str = "") -> None:
        """Have this answer about a service."""
        self.services[datacenter, name] = data
        if data == b"[]":
            del self.services[datacenter, name]
        self.index += 1
        self.wake()

    def wake(self) -> None:
        """Answer all who wait."""
        for waiting, question in list(self.under_way.items()):
            if question.blocking:
                self.clock.callLater(self.DELAY, self.answer, waiting)

    def request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        data: bytes = b"",
        *,
        timeout: float,
        persistent: bool = True,
        what: str,
    ) -> Deferred[Reply]:
        """As the transport does."""
        assert method == "GET"
        question = Question(path, dict(params), timeout, self.clock.seconds())
        self.asked.append(question)
        waiting: Deferred[Reply] = Deferred(lambda deferred: self.under_way.pop(deferred, None))
        self.under_way[waiting] = question
        self.clock.callLater(timeout, self.fail, waiting, "timeout")
        if not question.blocking or int(question.params["index"]) < self.index or self.broken:
            self.clock.callLater(self.DELAY, self.answer, waiting)
        return waiting

    def fail(self, waiting: Deferred[Reply], kind: str) -> None:
        """End a request without an answer."""
        if self.under_way.pop(waiting, None) is not None:
            waiting.errback(AgentError(kind, f"the agent does not answer: {kind}"))

    def answer(self, waiting: Deferred[Reply]) -> None:
        """Answer a request now."""
        if self.silent or waiting not in self.under_way:
            return
        if self.broken:
            self.fail(waiting, self.broken)
            return
        question = self.under_way.pop(waiting)
        reply = Reply(status=self.status, body=self.content(question), index=self.index, filtered=self.filtered)
        waiting.callback(reply)

    def content(self, question: Question) -> bytes:
        """The body of an answer."""
        datacenter = question.params.get("dc", "")
        if self.status != 200:
            return b"No cluster leader"
        if question.service:
            hidden = self.no_rights or self.no_node_rights or (self.filtered and not self.partly)
            return b"[]" if hidden else self.services.get((datacenter, question.service), b"[]")
        if question.path == "/v1/coordinate/nodes":
            return json.dumps(self.coordinates).encode()
        assert question.path == "/v1/catalog/services"
        if self.no_rights:
            return b"{}"
        names = {"consul": [], **{name: ["x"] for dc, name in self.services if dc == datacenter}}
        return json.dumps(names if self.names is None else self.names).encode()

    def questions(self, service: str, datacenter: str = "") -> list[Question]:
        """All that were asked about a service."""
        return [q for q in self.asked if q.service == service and q.params.get("dc", "") == datacenter]
