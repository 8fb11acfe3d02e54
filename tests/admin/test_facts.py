"""The supervisor's state as metrics."""

from __future__ import annotations

from hostproxy.admin.facts import host_facts
from hostproxy.control.state import SourceState, WorkerState
from hostproxy.telemetry.exposition import WorkerFacts
from tests.admin.states import NOW, make_state


def test_a_host_that_works():
    facts = host_facts(make_state(), NOW)
    assert facts.build[0] == "0.1.0"
    assert facts.workers == (WorkerFacts(0, True, 1, 0.0004), WorkerFacts(1, True, 0, 0.0))
    assert facts.endpoints == {"payments": 2}
    assert facts.catalog_age == 30.0
    assert facts.certificates == {
        "spiffe://example.org/host/web-1": NOW + 86400.0 * 30,
        "spiffe://example.org/service/cart": NOW + 3600.0,
    }
    assert facts.problems == {"catalog": 0, "policy": 0, "certificates": 0}
    assert (facts.reload_successful, facts.reload_success) == (True, NOW - 60.0)
    assert facts.reloads == {"success": 2, "refused": 1}


def test_a_host_that_has_just_started():
    state = make_state()
    state.snapshot = None
    state.catalog_source = SourceState()
    facts = host_facts(state, NOW)
    assert facts.endpoints == {}
    assert facts.catalog_age is None


def test_troubles():
    state = make_state()
    state.workers = (
        WorkerState(place=0, id=13, phase="waiting", restarts=3),
        WorkerState(place=-1, id=12, pid=1, phase="draining"),  # of the supervisor before
    )
    state.policy_source = SourceState(problems=("policy.toml:3: a", "policy.toml:9: b"))
    state.reloads.problems = ("conf.toml:1: x",)
    facts = host_facts(state, NOW)
    assert facts.workers == (WorkerFacts(0, False, 3, 0.0),)
    assert facts.problems["policy"] == 2
    assert facts.reload_successful is False


def test_a_clock_that_was_set_back_gives_no_negative_age():
    assert host_facts(make_state(), NOW - 1000.0).catalog_age == 0.0
