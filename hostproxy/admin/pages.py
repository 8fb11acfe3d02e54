"""The paths of the admin room. Their answers are made off the reactor, at most once a second each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from hostproxy.admin import documents
from hostproxy.admin.documents import Moment
from hostproxy.admin.facts import host_facts
from hostproxy.admin.guard import judge
from hostproxy.admin.http import JSON, Answer, Question
from hostproxy.control.state import SupervisorState
from hostproxy.telemetry.exposition import OPENMETRICS_TYPE, TEXT_TYPE, render
from hostproxy.telemetry.totals import Totals

CACHE_TIME = 1.0  # seconds: workers report once a second, so nothing newer is to be had
# Bytes. A thousand services with ten instances each are 4 MB of /snapshot; beyond this it is a mistake.
ANSWER_SIZE = 64 * 1024 * 1024


class Page(NamedTuple):
    """A path whose answer is worth a thread and a cache."""

    summary: str
    make: Callable[[Moment], Mapping[str, Any]]


PAGES: dict[bytes, Page] = {
    b"/status": Page("everything at a glance; what `hostproxy status` shows", documents.status),
    b"/workers": Page("the worker processes", documents.workers),
    b"/config": Page("conf.toml as it is in force, secrets hidden", documents.config),
    b"/catalog": Page("services and their instances, as discovery has them", documents.catalog),
    b"/snapshot": Page("what the workers decide by, without keys", documents.snapshot),
}
INDEX = {
    "/live": "200 while the process runs",
    "/ready": "200 when traffic can be sent here, else 503 with the reasons",
    "/metrics": "metrics for Prometheus, OpenMetrics when Accept asks for it",
    **{path.decode(): page.summary for path, page in PAGES.items()},
}


class Pages:
    """Answers questions about one SupervisorState."""

    def __init__(
        self, reactor: Any, state: SupervisorState, totals: Totals, bound: str, clock: Callable[[], float]
    ) -> None:
        self._reactor = reactor
        self._state = state
        self._totals = totals
        self._bound = bound  # IP address that the admin port has, "" for a Unix socket
        self._clock = clock
        self._cache: dict[str, _Entry] = {}

    def respond(self, question: Question) -> Deferred[Answer]:
        """Answer one question."""
        refusal = judge(question.method, question.hosts, question.origins, self._bound)
        if refusal is not None:
            return succeed(_json(refusal.status, {"error": refusal.reason}))
        path = question.path
        if path == b"/live":
            return succeed(_json(200, {"live": True}))
        if path == b"/ready":
            document = documents.ready(self._state)
            return succeed(_json(200 if document["ready"] else 503, document))
        if path == b"/":
            index = {"name": "hostproxy", "version": self._state.software, "paths": INDEX}
            return succeed(_json(200, index))
        if path == b"/metrics":
            as_openmetrics = b"application/openmetrics-text" in question.accept
            key = f"/metrics {as_openmetrics}"
            return self._cached(key, partial(_metrics, as_openmetrics=as_openmetrics))
        page = PAGES.get(path)
        if page is None:
            return succeed(_json(404, {"error": "no such path: / lists them"}))
        return self._cached(path.decode(), partial(_document, page.make))

    def _cached(self, key: str, make: Callable[[Moment], Answer]) -> Deferred[Answer]:
        """The answer of at most CACHE_TIME ago; whoever asks while it is made waits for the same."""
        entry = self._cache.get(key)
        now = self._reactor.seconds()
        if entry is None or now - entry.begun >= CACHE_TIME:
            entry = self._cache[key] = _Entry(now)
            moment = Moment(copy.copy(self._state), self._totals.view(), self._clock())
            made = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), make, moment)
            made.addBoth(entry.settle)
        return entry.wait()


class _Entry:
    """An answer that is being made or was."""

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self._result: Answer | Failure | None = None
        self._waiting: list[Deferred[Answer]] = []

    def wait(self) -> Deferred[Answer]:
        answer: Deferred[Answer] = Deferred()
        if self._result is None:
            self._waiting.append(answer)
        else:
            answer.callback(self._result)
        return answer

    def settle(self, result: Answer | Failure) -> None:
        self._result = result
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer.callback(result)


def _metrics(moment: Moment, as_openmetrics: bool) -> Answer:
    page = render(moment.view.sum(), host_facts(moment.state, moment.now), as_openmetrics=as_openmetrics)
    return _bounded(Answer(200, OPENMETRICS_TYPE if as_openmetrics else TEXT_TYPE, page))


def _document(make: Callable[[Moment], Mapping[str, Any]], moment: Moment) -> Answer:
    return _bounded(_json(200, make(moment)))


def _json(status: int, document: Mapping[str, Any]) -> Answer:
    return Answer(status, JSON, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def _bounded(answer: Answer) -> Answer:
    if len(answer.body) <= ANSWER_SIZE:
        return answer
    size = len(answer.body)
    return _json(500, {"error": f"the answer has {size} bytes, more than the {ANSWER_SIZE} that are sent"})
