"""What is wrong, in sentences."""

from __future__ import annotations

import msgspec
import pytest

from hostproxy.admin.problems import NAMED, degraded, readiness
from hostproxy.control.state import SourceState, WorkerState
from hostproxy.discovery.knowledge import DiscoveryState, ServiceKnowledge
from hostproxy.health import Result
from hostproxy.mesh.clocks import Skew
from tests.admin.states import NOW, make_consul_state, make_state

AGENT = "http://127.0.0.1:8500: connection refused: is Consul's agent running?"


def discovery(state, **changes):
    state.discovery = msgspec.structs.replace(state.discovery, **changes)


def test_not_ready_while_stopping():
    state = make_state()
    state.stopping = True
    ready, reasons = readiness(state)
    assert not ready
    assert "stopping" in reasons[0]


def test_not_ready_names_the_workers_and_what_they_say():
    state = make_state()
    state.workers = (
        WorkerState(place=0, id=1, pid=9, phase="starting"),
        WorkerState(place=1, id=2, phase="waiting", problem="exited with status 1"),
        WorkerState(place=-1, id=3, pid=8, phase="draining", version=3),
    )
    assert readiness(state) == (False, ["worker 0 is starting", "worker 1 is waiting: exited with status 1"])


def test_not_ready_before_any_worker():
    state = make_state()
    state.workers = ()
    assert readiness(state) == (False, ["no worker has been started yet"])


def test_not_ready_when_consul_never_answered_and_nothing_was_kept():
    state = make_consul_state()
    state.catalog = {}
    discovery(state, services=(ServiceKnowledge(service="payments"),), problem=AGENT, since=NOW - 5.0)
    ready, reasons = readiness(state)
    assert not ready
    assert AGENT in reasons[0]


def test_ready_again_with_the_first_answer():
    state = make_consul_state()
    state.catalog = {}
    first = ServiceKnowledge(service="payments", confirmed=NOW)
    discovery(state, services=(first, ServiceKnowledge(service="stock")))
    assert readiness(state) == (True, [])


def test_ready_with_what_was_kept_though_consul_never_answered():
    state = make_consul_state()
    kept = tuple(ServiceKnowledge(service=name, source="kept") for name in ("payments", "stock"))
    discovery(state, services=kept, problem=AGENT, since=NOW - 5.0)
    assert readiness(state) == (True, [])


def test_ready_without_consul_when_nothing_of_it_is_needed():
    state = make_consul_state()
    state.catalog = {}
    discovery(state, services=(), problem=AGENT, since=NOW - 5.0)
    assert readiness(state) == (True, [])


@pytest.mark.parametrize("make", [make_state, make_consul_state])
def test_nothing_is_wrong(make):
    assert degraded(make()) == []


def test_what_does_not_work_is_told_with_its_source():
    state = make_state()
    state.degraded = ("state_directory: cannot be written",)
    state.catalog_source = SourceState(problems=("catalog.toml:4: service: missing",), kept=True)
    state.reloads.problems = ("conf.toml:7: unknown key",)
    assert degraded(state) == [
        "state_directory: cannot be written",
        "catalog: catalog.toml:4: service: missing",
        "catalog: in use is the copy kept in the state directory",
        "reload refused: conf.toml:7: unknown key",
    ]


def test_an_agent_that_does_not_answer_is_one_line():
    state = make_consul_state()
    troubled = [msgspec.structs.replace(each, problem="timeout") for each in state.discovery.services]
    discovery(state, problem=AGENT, since=1_763_667_000.0, services=tuple(troubled))
    state.catalog_source = SourceState(path="http://127.0.0.1:8500", problems=(AGENT,), since=NOW)
    assert degraded(state) == [
        f"discovery: {AGENT} (since 2025-11-20T19:30:00Z); what was known before stays in use"
    ]


def test_another_problem_of_consul_is_told_as_well():
    state = make_consul_state()
    state.catalog_source = SourceState(problems=("token_file: cannot be read",))
    assert degraded(state) == ["catalog: token_file: cannot be read"]


def test_held_and_kept_services_are_named():
    state = make_consul_state()
    held = ServiceKnowledge(service="payments", datacenter="dc1", held=True, confirmed=NOW, problem="emptied")
    kept = tuple(ServiceKnowledge(service=f"s{n}", source="kept") for n in range(NAMED + 3))
    discovery(state, services=(held, *kept))
    assert degraded(state) == [
        "discovery: Consul has no instance any more of payments in dc1; the last ones are kept for a while",
        "discovery: known only from the copy kept in the state directory: s0, s1, s2, s3, s4 and 3 more",
    ]


def test_stale_services_are_named_with_their_last_confirmation():
    state = make_consul_state()
    stale = [ServiceKnowledge(service=f"s{n}", problem="no path to datacenter dc9") for n in range(NAMED + 1)]
    stale[0] = msgspec.structs.replace(stale[0], confirmed=NOW, datacenter="dc9")
    discovery(state, services=tuple(stale))
    lines = degraded(state)
    assert lines[0] == (
        "discovery: s0 in dc9: no path to datacenter dc9 (last confirmed 2025-11-20T19:30:00Z)"
    )
    assert lines[1] == "discovery: s1: no path to datacenter dc9 (never confirmed)"
    assert lines[NAMED:] == ["discovery: 1 more services have a problem: see hostproxy services"]


def test_registration_and_local_health():
    state = make_consul_state()
    state.registration = "the ACL token does not allow it"
    state.health = {
        ("cart", f"127.0.0.1:{9000 + n}"): Result(healthy=n == 0, reason="" if n == 0 else "503", since=NOW)
        for n in range(NAMED + 3)
    }
    first, *unhealthy, more = degraded(state)
    assert first == "registration: the ACL token does not allow it"
    assert unhealthy[0] == "service cart: 127.0.0.1:9001 is unhealthy: 503 (since 2025-11-20T19:30:00Z)"
    assert len(unhealthy) == NAMED
    assert more == "service: 2 more instances here are unhealthy"


def test_a_file_needs_no_knowledge():
    state = make_state()
    state.discovery = DiscoveryState()
    assert degraded(state) == []


def test_a_clock_that_is_wrong():
    state = make_state()
    state.skews = {"controller": Skew(59.0), "consul": Skew(-59.0)}
    assert degraded(state) == []
    state.skews = {"controller": Skew(-85800.0, least=True), "consul": Skew(300.0)}
    assert degraded(state) == [
        "clock: this host's is at least 23 h behind that of controller (clock skew); set the one that is wrong",
        "clock: this host's is 5 min ahead of that of consul (clock skew); set the one that is wrong",
    ]
