"""The supervisor's state as metrics."""

from __future__ import annotations

import msgspec

from hostproxy.admin import facts as room
from hostproxy.admin.facts import OTHER, host_facts
from hostproxy.control.state import SourceState, WorkerState
from hostproxy.discovery.knowledge import ServiceKnowledge
from hostproxy.health import Result
from hostproxy.mesh.clocks import Skew
from hostproxy.steering.state import SteeringState
from hostproxy.telemetry.exposition import ControllerFacts, WorkerFacts
from tests.admin.states import NOW, make_catalog, make_consul_state, make_state


def test_a_host_that_works():
    facts = host_facts(make_state(), NOW)
    assert facts.build[0] == "0.1.0"
    assert facts.workers == (WorkerFacts(0, True, 1, 0.0004), WorkerFacts(1, True, 0, 0.0))
    assert facts.endpoints == {"payments": {"passing": 2, "warning": 0, "critical": 0, "maintenance": 0}}
    assert (facts.consul, facts.confirmed, facts.health, facts.probes) == (None, {}, {}, {})
    assert facts.catalog_age == 30.0
    assert facts.certificates == {
        "spiffe://example.org/host/web-1": NOW + 86400.0 * 30,
        "spiffe://example.org/service/cart": NOW + 3600.0,
    }
    assert facts.problems == {"catalog": 0, "policy": 0, "certificates": 0, "registration": 0}
    assert (facts.reload_successful, facts.reload_success) == (True, NOW - 60.0)
    assert facts.reloads == {"success": 2, "refused": 1}



def test_a_host_with_a_controller():
    state = make_state()
    assert host_facts(state, NOW).controller is None
    state.steering = SteeringState(url="https://c.example:15008", last_contact=NOW - 5.0, epoch=2, generation=8)
    assert host_facts(state, NOW).controller == ControllerFacts(last_contact=NOW - 5.0, epoch=2, generation=8)


def test_clocks():
    state = make_state()
    assert host_facts(state, NOW).skews == {}
    state.skews = {"controller": Skew(-86400.0, least=True), "consul": Skew(0.0)}
    assert host_facts(state, NOW).skews == {"controller": -86400.0, "consul": 0.0}


def test_a_host_that_has_just_started():
    state = make_state()
    state.snapshot = None
    state.catalog = {}
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
    state.registration = "the agent does not answer"
    facts = host_facts(state, NOW)
    assert facts.workers == (WorkerFacts(0, False, 3, 0.0),)
    assert facts.problems["policy"] == 2
    assert facts.problems["registration"] == 1
    assert facts.reload_successful is False


def test_a_clock_that_was_set_back_gives_no_negative_age():
    assert host_facts(make_state(), NOW - 1000.0).catalog_age == 0.0


def test_consul():
    state = make_consul_state()
    assert state.consul is not None
    state.consul.request("health_service", "200")
    state.consul.error("timeout")
    state.consul.index_resets = 1
    state.consul.suppressed_empty = 2
    state.consul.refused_instances = 3
    state.consul.deferred_updates = 4
    state.consul.last_success = NOW
    facts = host_facts(state, NOW)
    assert facts.consul is not None
    assert facts.consul.requests == {("health_service", "200"): 1}
    assert facts.consul.errors == {"timeout": 1}
    assert (facts.consul.index_resets, facts.consul.suppressed_empty) == (1, 2)
    assert (facts.consul.refused_instances, facts.consul.deferred_updates) == (3, 4)
    assert (facts.consul.last_success, facts.consul.watches) == (NOW, 2)
    assert facts.confirmed == {
        ("payments", "dc1"): NOW - 4.0,
        ("payments", "dc2"): NOW - 10.0,
        ("stock", "dc1"): 0.0,
    }
    assert facts.endpoints["payments"] == {"passing": 2, "warning": 1, "critical": 1, "maintenance": 0}
    assert set(facts.endpoints["stock"].values()) == {0}


def test_local_health():
    state = make_consul_state()
    state.health = {
        ("cart", "127.0.0.1:9000"): Result(healthy=True, reason="", since=NOW),
        ("cart", "127.0.0.1:9001"): Result(healthy=False, reason="503", since=NOW),
    }
    facts = host_facts(state, NOW)
    assert facts.health == {("cart", "127.0.0.1:9000"): True, ("cart", "127.0.0.1:9001"): False}
    assert facts.probes == {("cart", "healthy"): 50}


def test_destinations_without_bound_are_added_up(monkeypatch):
    monkeypatch.setattr(room, "SERIES", 3)
    state = make_consul_state()
    state.catalog = make_catalog(services=5)
    state.snapshot = None
    wanted = {"service-1": "traffic", "service-4": "upstream"}
    state.discovery = msgspec.structs.replace(
        state.discovery,
        services=tuple(
            ServiceKnowledge(service=name, wanted_by=wanted.get(name, "policy"), confirmed=NOW - age)
            for age, name in enumerate(state.catalog)
        ),
    )
    facts = host_facts(state, NOW)
    assert list(facts.endpoints) == ["service-4", "payments", OTHER]
    assert facts.endpoints[OTHER]["passing"] == 6
    assert facts.confirmed == {
        ("service-4", ""): NOW - 4.0,
        ("payments", ""): NOW,
        (OTHER, OTHER): NOW - 3.0,  # the oldest of what is left
    }
