"""The paths of the admin room. Their answers are made off the reactor, at most once a second each."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl

from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from hostproxy import decision
from hostproxy.admin import documents, services, traffic
from hostproxy.admin.encode import encode
from hostproxy.admin.facts import host_facts
from hostproxy.admin.guard import METHODS, judge
from hostproxy.admin.http import JSON, Answer, Question
from hostproxy.admin.moment import Moment, take
from hostproxy.admin.why import why
from hostproxy.control.state import SupervisorState
from hostproxy.mesh import names
from hostproxy.mesh.units import Wrong
from hostproxy.telemetry.exposition import OPENMETRICS_TYPE, TEXT_TYPE, render
from hostproxy.telemetry.totals import Totals

CACHE_TIME = 1.0  # seconds: workers report once a second, so nothing newer is to be had
ANSWERS = 32  # kept: as many different questions as anybody has at a time
# Bytes. Two thousand services with twenty instances each are 20 MB of /catalog; beyond this it is a mistake.
ANSWER_SIZE = 64 * 1024 * 1024


class Page(NamedTuple):
    """A path whose answer is worth a thread and a cache."""

    summary: str
    make: Callable[..., Mapping[str, Any]]  # of a Moment, and the parameters by name
    parameters: Mapping[str, Callable[[str], str]] = {}  # of its query, with what checks a value
    several: Mapping[str, int] = {}  # those that may be given more than once, and how often


class Live(Protocol):
    """A path that is answered at once, and may change something."""

    @property
    def summary(self) -> str:
        """For the index."""

    @property
    def methods(self) -> Sequence[bytes]:
        """That it takes."""

    def respond(self, question: Question) -> Answer:
        """Answer a question that the guard has let pass."""


PAGES: dict[bytes, Page] = {
    b"/status": Page("everything at a glance; what `hostproxy status` shows", documents.status),
    b"/workers": Page("the worker processes", documents.workers),
    b"/config": Page("conf.toml as it is in force, secrets hidden", documents.config),
    b"/catalog": Page(
        "services and their instances, and which are used; ?service=NAME of one, &subset=NAME of a part of it",
        services.catalog,
        {"service": names.service, "subset": names.subset},
    ),
    b"/why": Page(
        "what would happen to a call, and why: ?from=SERVICE&method=METHOD&url=http://SERVICE/PATH&header=LINE",
        why,
        dict.fromkeys(("from", "method", "url", "header"), str),
        {"header": decision.HEADERS},
    ),
    b"/discovery": Page("how the catalog is known, and since when", services.discovery),
    b"/traffic": Page("what was counted since the start, by direction, caller and service", traffic.traffic),
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
        self,
        reactor: Any,
        state: SupervisorState,
        totals: Totals,
        bound: str,
        clock: Callable[[], float],
        live: Mapping[bytes, Live] = {},
    ) -> None:
        self._reactor = reactor
        self._state = state
        self._totals = totals
        self._bound = bound  # IP address that the admin port has, "" for a Unix socket
        self._clock = clock
        self._live = live
        self._cache: dict[Hashable, _Entry] = {}  # the oldest first

    def respond(self, question: Question) -> Deferred[Answer]:
        """Answer one question."""
        path = question.path
        live = self._live.get(path)
        methods = live.methods if live is not None else METHODS
        refusal = judge(question.method, question.hosts, question.origins, self._bound, methods)
        if refusal is not None:
            answer = _json(refusal.status, {"error": refusal.reason})
            return succeed(answer._replace(methods=b", ".join(methods).decode()))
        if live is not None:
            return succeed(live.respond(question))
        if path == b"/live":
            return succeed(_json(200, {"live": True}))
        if path == b"/ready":
            document = documents.ready(self._state)
            return succeed(_json(200 if document["ready"] else 503, document))
        if path == b"/":
            paths = {**INDEX, **{name.decode(): each.summary for name, each in self._live.items()}}
            index = {"name": "hostproxy", "version": self._state.software, "paths": paths}
            return succeed(_json(200, index))
        if path == b"/metrics":
            as_openmetrics = b"application/openmetrics-text" in question.accept
            return self._cached((path, str(as_openmetrics)), partial(_metrics, as_openmetrics=as_openmetrics))
        page = PAGES.get(path)
        if page is None:
            return succeed(_json(404, {"error": "no such path: / lists them"}))
        try:
            parameters = _parameters(question.query, page) if page.parameters else {}
        except ValueError as problem:
            return succeed(_json(400, {"error": str(problem)}))
        return self._cached((path, *sorted(parameters.items())), partial(_document, page.make, parameters))

    def _cached(self, key: Hashable, make: Callable[[Moment], Answer]) -> Deferred[Answer]:
        """The answer of at most CACHE_TIME ago; whoever asks while it is made waits for the same."""
        now = self._reactor.seconds()
        old = [other for other, entry in self._cache.items() if now - entry.begun >= CACHE_TIME]
        for other in old:
            del self._cache[other]
        entry = self._cache.get(key)
        if entry is None:
            if len(self._cache) >= ANSWERS:
                del self._cache[next(iter(self._cache))]
            entry = self._cache[key] = _Entry(now)
            moment = take(self._state, self._totals, self._clock())
            made = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), make, moment)
            made.addBoth(entry.settle)
        return entry.wait()


def _parameters(query: bytes, page: Page) -> dict[str, str | tuple[str, ...]]:
    """What a query says, checked; those that may be given more than once as tuples. Raises ValueError."""
    found: dict[str, list[str]] = {}
    most = len(page.parameters) + sum(page.several.values())
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=most):
        check = page.parameters.get(name)
        if check is None:
            raise ValueError(f"no such parameter: there are {', '.join(page.parameters)}")
        if name in found and name not in page.several:
            raise ValueError(f"{name} is given twice")
        try:
            found.setdefault(name, []).append(check(value))
        except Wrong as wrong:
            raise ValueError(f"{name} {wrong}") from None
    return {name: tuple(values) if name in page.several else values[0] for name, values in found.items()}


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


def _document(make: Callable[..., Mapping[str, Any]], parameters: Mapping[str, Any], moment: Moment) -> Answer:
    try:
        document = make(moment, **parameters)
    except Wrong as wrong:
        return _json(400, {"error": str(wrong)})
    return _bounded(_json(200, document))


def _json(status: int, document: Mapping[str, Any]) -> Answer:
    return Answer(status, JSON, encode(document))


def _bounded(answer: Answer) -> Answer:
    if len(answer.body) <= ANSWER_SIZE:
        return answer
    size = len(answer.body)
    return _json(500, {"error": f"the answer has {size} bytes, more than the {ANSWER_SIZE} that are sent"})
