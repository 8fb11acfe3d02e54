"""Consul is killed, or frozen, for a quarter of a minute: traffic goes on, hosts start, and all of it heals.

The outage happens once, with everything at the same time; the tests look at what was seen.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.consul import Consul
from tests.integration.consul_hosts import Site, answer, call, command, knowledge, site, upstream, within
from tests.integration.host import Host
from tests.integration.load import Load
from tests.stopwatch import Stopwatch

LASTS = 15.0  # seconds
SOON = 2.0  # seconds for what is promised to be there soon
PLAIN = {"service": {"payments": {"permissive": True}, "late": {"permissive": True}}}


@dataclass
class Outage:
    """What was seen. Times are seconds."""

    requests: dict[str, int] = field(default_factory=dict)  # answered meanwhile, by host
    failures: list[str] = field(default_factory=list)
    shown: dict[str, dict[str, Any]] = field(default_factory=dict)  # /discovery near the end, by host
    status: tuple[int, str] = (0, "")  # of "hostproxy status"
    metrics: dict[str, float] = field(default_factory=dict)
    restarted: float = 0.0  # until a restarted host answered
    kept: dict[str, Any] = field(default_factory=dict)  # how it knew the service
    first_ready: int = 0  # /ready of a host that started for the first time
    first_answer: int = 0
    first_answered: float = 0.0
    first_healed: float = 0.0  # after Consul was back
    healed: dict[str, float] = field(default_factory=dict)  # by host: a new service was used
    problems: dict[str, str] = field(default_factory=dict)  # afterwards


def find(host: Host) -> None:
    within(5, lambda: answer(host, "payments") == b"one", "payments is not found")


def kill(host: Host) -> None:
    """All of it at once, as when the machine reboots."""
    for pid in host.processes():
        os.kill(pid, signal.SIGKILL)
    assert host.process is not None
    host.process.wait(5)


def out(site: Site) -> Outage:
    seen = Outage()
    killed, frozen = site.consul("killed", wait=False), site.consul("frozen", wait=False)
    origins = [site.origin(b"one"), site.origin(b"two")]
    for consul in (killed, frozen):
        consul.wait_for_leader()
    callee = site.host("db-1", killed, services={"payments": origins[0].address}, check={"http": "/"})
    mesh = site.caller("web-1", killed, "payments")
    again = site.caller("web-2", killed, "payments")
    fresh = site.caller("web-3", killed, "payments")
    beside = site.caller("web-4", frozen, "payments", wait="1s")
    for host in (mesh, again, fresh, beside):
        host.policy["service"] = PLAIN["service"]
    frozen.register("payments", "127.0.0.1", origins[0].port)
    began = time.monotonic()
    site.start(callee, mesh, again, beside)
    for host in (mesh, again, beside):
        find(host)

    with ExitStack() as stack:
        loads = {host.name: stack.enter_context(Load(upstream(host), pause=0.02)) for host in (mesh, beside)}
        killed.kill()
        frozen.pause(True)
        lost = time.monotonic()

        fresh.write()
        fresh.start()
        within(5, lambda: fresh.processes() and reachable(fresh), "no answer on the admin port")
        seen.first_ready = fresh.ask("/ready")[0]
        within(5, lambda: workers_serve(fresh), "the workers do not serve")
        asked = Stopwatch()
        seen.first_answer = call(fresh, "payments").statuses[0]
        seen.first_answered = asked.seconds

        # The catalog is kept once in ten seconds.
        time.sleep(max(0.0, began + 13.5 - time.monotonic()))
        kill(again)
        restart = Stopwatch()
        again.start()
        within(10, lambda: reachable(again) and answer(again, "payments") == b"one", "it does not serve from disk")
        seen.restarted = restart.seconds
        seen.kept = within(2, lambda: knowledge(again, "payments"))

        time.sleep(max(0.0, lost + LASTS - time.monotonic()))
        seen.shown = {host.name: host.ask_json("/discovery") for host in (mesh, beside)}
        seen.status = command(mesh, "status")
        seen.metrics = mesh.metrics()
        before = {name: load.done for name, load in loads.items()}

        frozen.pause(False)
        killed.start(wait=False)
        heal(frozen, beside, origins[1].port, seen)
        killed.wait_for_leader()
        returned = Stopwatch()
        within(20, lambda: fresh.ask("/ready")[0] == 200, "it does not become ready")
        seen.first_healed = returned.seconds
        for host in (mesh, again, fresh):
            heal(killed, host, origins[1].port, seen)
        for load in loads.values():
            load.more(20)
        time.sleep(1)
        for host in (mesh, again, fresh, beside):
            seen.problems[host.name] = host.ask_json("/discovery")["problem"]
    for name, load in loads.items():
        seen.requests[name] = before[name]
        seen.failures += [f"{name}: {failure}" for failure in load.failures]
    return seen


def heal(consul: Consul, host: Host, port: int, seen: Outage) -> None:
    """Somebody registers a service; how long until it is used?"""
    name = f"late-{host.name}"

    def register() -> bool:
        consul.register("late", "127.0.0.1", port, ID=name)
        return True

    consul.until(register, "cannot register")
    registered = Stopwatch()
    within(20, lambda: answer(host, "late") == b"two", f"{host.name} does not find what is new")
    seen.healed[host.name] = registered.seconds


def reachable(host: Host) -> bool:
    try:
        return bool(host.ask("/ready"))
    except OSError:
        return False


def workers_serve(host: Host) -> bool:
    try:
        return bool(call(host, "payments").statuses)
    except OSError:
        return False


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    directory: Path = tmp_path_factory.mktemp("outage")
    with site(directory) as made:
        yield out(made)


def test_no_request_fails_while_consul_is_away(outage: Outage) -> None:
    """fi-c01 and fi-c08: one agent is killed, the other accepts and says nothing."""
    assert outage.failures == []
    assert min(outage.requests.values()) > 1000


def test_the_silence_of_a_dead_agent_is_shown(outage: Outage) -> None:
    shown = outage.shown["web-1"]
    assert "refused" in shown["problem"].lower()
    assert shown["since"] > time.time() - 120
    [service] = [each for each in shown["services"] if each["service"] == "payments"]
    assert service["age_seconds"] > LASTS - 2
    assert service["problem"]
    assert "refused" in outage.status[1].lower()
    age = time.time() - outage.metrics["hostproxy_consul_last_success_timestamp_seconds"]
    assert age > LASTS - 2
    errors = {key: value for key, value in outage.metrics.items() if "consul_watch_errors_total" in key and value}
    assert any("refused" in key for key in errors), errors


def test_the_silence_of_a_frozen_agent_is_shown(outage: Outage) -> None:
    """fi-c09: a question is given up 5 s after the time that it may take."""
    shown = outage.shown["web-4"]
    [service] = [each for each in shown["services"] if each["service"] == "payments"]
    assert shown["problem"] or service["problem"]
    assert service["age_seconds"] > LASTS - 4


def test_a_restart_without_consul_serves_from_disk(outage: Outage) -> None:
    """fi-c02."""
    assert outage.restarted < SOON
    assert outage.kept["source"] == "kept"


def test_a_first_start_without_consul_is_up_and_not_ready(outage: Outage) -> None:
    """fi-c03."""
    assert outage.first_ready == 503
    assert outage.first_answer == 503
    assert outage.first_answered < 0.5
    assert outage.first_healed < SOON


def test_everything_heals(outage: Outage) -> None:
    assert set(outage.healed) == {"web-1", "web-2", "web-3", "web-4"}
    assert max(outage.healed.values()) < SOON, outage.healed
    assert not any(outage.problems.values()), outage.problems
