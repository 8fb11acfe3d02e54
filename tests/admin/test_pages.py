"""Paths and their answers, on a reactor whose threads and clock are driven by hand."""

from __future__ import annotations

import json

import pytest
from twisted.python.failure import Failure

from hostproxy.admin import pages as room
from hostproxy.admin.http import Question
from hostproxy.admin.pages import INDEX, Pages
from tests.admin.states import NOW, make_consul_state, make_state


class Threads:
    """A thread pool whose work waits until it is told to run."""

    def __init__(self):
        self.work = []

    def callInThreadWithCallback(self, done, function, *arguments, **keywords):
        self.work.append((done, function, arguments, keywords))

    def run(self):
        work, self.work = self.work, []
        for done, function, arguments, keywords in work:
            try:
                result, good = function(*arguments, **keywords), True
            except Exception:
                result, good = Failure(), False
            done(good, result)


class Reactor:
    """What Pages asks of a reactor."""

    def __init__(self):
        self.threads = Threads()
        self.time = 1000.0

    def getThreadPool(self):
        return self.threads

    def callFromThread(self, function, *arguments, **keywords):
        function(*arguments, **keywords)

    def seconds(self):
        return self.time


@pytest.fixture
def reactor():
    return Reactor()


@pytest.fixture
def state():
    return make_state()


@pytest.fixture
def pages(reactor, state):
    return Pages(reactor, state, state.totals, "127.0.0.1", lambda: NOW)


def ask(path, method=b"GET", hosts=(b"localhost",), origins=(), accept=b"", query=b""):
    return Question(method, path, list(hosts), list(origins), accept, query)


def answered(deferred):
    results = []
    deferred.addBoth(results.append)
    return results


def test_live_and_ready_do_not_wait_for_a_thread(pages, reactor, state):
    assert answered(pages.respond(ask(b"/live")))[0].status == 200
    assert answered(pages.respond(ask(b"/ready")))[0].status == 200
    state.stopping = True
    assert answered(pages.respond(ask(b"/ready")))[0].status == 503
    assert answered(pages.respond(ask(b"/live")))[0].status == 200
    assert reactor.threads.work == []


NEEDED = {b"/why": b"from=cart&url=http://payments/"}


@pytest.mark.parametrize("path", [path.encode() for path in INDEX])
def test_every_path_of_the_index_answers(pages, reactor, path):
    results = answered(pages.respond(ask(path, query=NEEDED.get(path, b""))))
    reactor.threads.run()
    assert results[0].status == 200
    assert results[0].body


def test_the_index_lists_the_paths(pages):
    document = json.loads(answered(pages.respond(ask(b"/")))[0].body)
    assert document["version"] == "0.1.0"
    assert set(document["paths"]) == {
        "/live",
        "/ready",
        "/metrics",
        "/status",
        "/workers",
        "/config",
        "/catalog",
        "/discovery",
        "/why",
        "/snapshot",
        "/traffic",
    }


@pytest.mark.parametrize(
    "path", [b"/nothing", b"/live/", b"//live", b"/../live", b"", b"http://localhost/live", b"*"]
)
def test_other_paths_are_not_found(pages, path):
    answer = answered(pages.respond(ask(path)))[0]
    assert answer.status == 404
    assert "error" in json.loads(answer.body)


def test_strangers_get_no_answer(pages, reactor):
    answer = answered(pages.respond(ask(b"/snapshot", hosts=[b"evil.example"])))[0]
    assert answer.status == 403
    assert "evil" not in answer.body.decode()
    assert reactor.threads.work == []


def test_who_asks_meanwhile_waits_for_the_same_answer(pages, reactor):
    first = answered(pages.respond(ask(b"/metrics")))
    second = answered(pages.respond(ask(b"/metrics")))
    assert len(reactor.threads.work) == 1
    assert first == second == []
    reactor.threads.run()
    assert first[0] is second[0]


def test_an_answer_lasts_a_second(pages, reactor):
    first = answered(pages.respond(ask(b"/workers")))
    reactor.threads.run()
    reactor.time += 0.99
    assert answered(pages.respond(ask(b"/workers"))) == first
    assert reactor.threads.work == []
    reactor.time += 0.02
    assert answered(pages.respond(ask(b"/workers"))) == []
    assert len(reactor.threads.work) == 1


def test_the_two_formats_of_metrics_are_kept_apart(pages, reactor):
    text = answered(pages.respond(ask(b"/metrics", accept=b"text/plain")))
    openmetrics = answered(
        pages.respond(ask(b"/metrics", accept=b"application/openmetrics-text;version=1.0.0,text/plain;q=0.5"))
    )
    reactor.threads.run()
    assert text[0].content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert openmetrics[0].content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics[0].body.endswith(b"# EOF\n")
    assert b"# EOF" not in text[0].body


def test_an_answer_shows_one_moment(pages, reactor, state):
    results = answered(pages.respond(ask(b"/status")))
    state.software = "9.9.9"
    state.workers = ()
    reactor.threads.run()
    document = json.loads(results[0].body)
    assert document["version"] == "0.1.0"
    assert len(document["workers"]) == 2


def test_a_fault_reaches_everybody_who_waits_and_is_tried_again(pages, reactor, monkeypatch):
    def break_down(moment):
        raise RuntimeError("a fault in a document")

    monkeypatch.setitem(room.PAGES, b"/status", room.Page("", break_down))
    first, second = answered(pages.respond(ask(b"/status"))), answered(pages.respond(ask(b"/status")))
    reactor.threads.run()
    assert first[0].check(RuntimeError)
    assert second[0].check(RuntimeError)
    monkeypatch.undo()
    reactor.time += 1.0
    third = answered(pages.respond(ask(b"/status")))
    reactor.threads.run()
    assert third[0].status == 200


def test_an_answer_without_bound_is_not_sent(pages, reactor, monkeypatch):
    monkeypatch.setattr(room, "ANSWER_SIZE", 100)
    results = answered(pages.respond(ask(b"/snapshot")))
    reactor.threads.run()
    assert results[0].status == 500
    assert "more than the 100" in json.loads(results[0].body)["error"]


def test_one_service_of_the_catalog(pages, reactor):
    whole = answered(pages.respond(ask(b"/catalog")))
    one = answered(pages.respond(ask(b"/catalog", query=b"service=cart")))
    reactor.threads.run()
    assert list(json.loads(whole[0].body)["services"]) == ["payments"]
    assert list(json.loads(one[0].body)["services"]) == ["cart"]


def test_a_subset_of_a_service(pages, reactor):
    results = answered(pages.respond(ask(b"/catalog", query=b"subset=v2&service=payments")))
    reactor.threads.run()
    assert json.loads(results[0].body)["services"]["payments"]["subset"] == "v2"


@pytest.mark.parametrize(
    ("query", "part"),
    [
        (b"name=payments", "service, subset"),
        (b"service=payments&service=cart", "twice"),
        (b"service=", "name of a service"),
        (b"service=no%20such", "name of a service"),
        (b"service=pay\xff", "name of a service"),
        (b"service=payments&subset=V2", "subset"),
        (b"service=payments&subset=v2&x=1", "Max number"),
    ],
)
def test_a_query_that_is_wrong(pages, reactor, query, part):
    answer = answered(pages.respond(ask(b"/catalog", query=query)))[0]
    assert answer.status == 400
    assert part in json.loads(answer.body)["error"]
    assert reactor.threads.work == []


def test_pages_without_parameters_look_at_no_query(pages, reactor):
    results = answered(pages.respond(ask(b"/status", query=b"x=1&x=%zz")))
    reactor.threads.run()
    assert results[0].status == 200


def test_only_so_many_answers_are_kept(pages, reactor, monkeypatch):
    monkeypatch.setattr(room, "ANSWERS", 3)
    results = [
        answered(pages.respond(ask(b"/catalog", query=b"service=s%d" % number))) for number in range(5)
    ]
    reactor.threads.run()
    assert [list(json.loads(each[0].body)["services"]) for each in results] == [[f"s{n}"] for n in range(5)]
    assert len(pages._cache) == 3


def test_an_answer_is_not_kept_longer_than_it_is_given(pages, reactor):
    answered(pages.respond(ask(b"/catalog")))
    reactor.threads.run()
    reactor.time += 1.0
    answered(pages.respond(ask(b"/metrics")))
    assert len(pages._cache) == 1


def test_what_is_counted_meanwhile_is_of_another_moment(reactor):
    state = make_consul_state()
    pages = Pages(reactor, state, state.totals, "127.0.0.1", lambda: NOW)
    results = answered(pages.respond(ask(b"/metrics")))
    state.consul.request("health_service", "200")
    state.health_counts[("cart", "healthy")] = 51
    reactor.threads.run()
    assert b'hostproxy_health_probes_total{result="healthy",service="cart"} 50.0' in results[0].body
    assert b"health_service" not in results[0].body
