"""Measuring a case: all proxies run at once and take their rounds in turn, A B C D A B C D ..."""

from __future__ import annotations

import math
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.bench import idle, load, origin, pump
from tests.bench.cases import IDLE_CONNECTIONS, ORDINARY, UPDATE_INSTANCES, Case
from tests.bench.load import Workload
from tests.bench.measure import Spread
from tests.bench.peers.peer import Peer, Work
from tests.bench.peers.site import TARGET, Services
from tests.bench.processes import Failed
from tests.bench.stage import Stage

DIRECT = "direct"  # no proxy: what the paced client and the origin take by themselves
MIB = 1 << 20
_SETTLE = 0.5  # seconds before the memory of a proxy at rest is read
_WINDOW = 1.0  # seconds over which the CPU of a proxy at rest is taken
_UPDATE_TIME = 10.0  # seconds within which a changed endpoint has to take traffic


@dataclass(slots=True)
class Outcome:
    """What one proxy did in one case: samples by name of figure, one for each round."""

    proxy: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    absent: str = ""
    failure: str = ""

    def add(self, **figures: float) -> None:
        for name, value in figures.items():
            self.samples.setdefault(name, []).append(value)

    def spread(self, figure: str) -> Spread | None:
        return Spread.of(self.samples[figure]) if self.samples.get(figure) else None


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long."""

    rounds: int
    seconds: int  # of one round of a main case; the others take half

    def seconds_of(self, case: Case) -> int:
        return self.seconds if case.main else math.ceil(self.seconds / 2)

    @property
    def short(self) -> float:
        """Seconds of a round at a fixed rate, and of a relay: their figures settle sooner."""
        return self.seconds * 0.6


Step = Callable[[Work, Outcome], None]


def run(case: Case, peers: Sequence[Peer], stage: Stage, plan: Plan) -> list[Outcome]:
    """Measure one case. A proxy that fails once is out of it, with the reason; the others go on."""
    outcomes = {peer.name: Outcome(peer.name) for peer in peers}
    for peer in peers:
        outcomes[peer.name].absent = peer.absent(case.protocol)
    present = [peer for peer in peers if not outcomes[peer.name].absent]
    if case.kind == "idle":
        for peer in present:
            with blamed(outcomes[peer.name]):
                _idle(case, peer, stage, outcomes[peer.name])
        return list(outcomes.values())
    works: list[Work] = []
    try:
        for peer in present:
            with blamed(outcomes[peer.name]):
                works.append(stage.start(peer, case))
        for step, rounds in _steps(case, stage, plan):
            for _ in range(rounds):
                for work in works:
                    outcome = outcomes[work.peer.name]
                    if not outcome.failure:
                        with blamed(outcome):
                            step(work, outcome)
        if case.paced:
            outcomes[DIRECT] = _direct(case, stage, plan)
    finally:
        for work in works:
            work.stop()
    return list(outcomes.values())


@contextmanager
def blamed(outcome: Outcome) -> Iterator[None]:
    """Note a failure as this proxy's."""
    try:
        yield
    except (Failed, OSError, subprocess.TimeoutExpired) as error:
        outcome.failure = f"{type(error).__name__}: {error}"


def _steps(case: Case, stage: Stage, plan: Plan) -> list[tuple[Step, int]]:
    """What to measure, and in how many rounds."""
    seconds = plan.seconds_of(case)
    if case.kind == "tcp":
        return [(_relay(plan.short), plan.rounds)]
    if case.kind == "update":
        rounds = max(plan.rounds // 2, 1)
        return [(_takes_effect(stage), rounds), (_update_cost(stage), rounds)]
    steps = [(_full_load(case, stage, seconds), plan.rounds)]
    if case.paced:
        steps.append((_paced(case, plan.short), plan.rounds))
    return steps


def _full_load(case: Case, stage: Stage, seconds: int) -> Step:
    def step(work: Work, outcome: Outcome) -> None:
        before = work.cpu()
        seen = load.wrk(*work.client, case.workload, seconds, stage.load_core)
        used = work.cpu() - before
        memory = work.memory()
        outcome.add(
            cpu_us=used / 1e3 / seen.requests,
            rate=seen.rate,
            busy_percent=used / 1e7 / seen.seconds,
            p50_ms=seen.p50 * 1e3,
            p99_ms=seen.p99 * 1e3,
            pss_mib=memory.proportional / MIB,
            peak_mib=memory.peak_resident / MIB,
        )

    return step


def _paced(case: Case, seconds: float) -> Step:
    def step(work: Work, outcome: Outcome) -> None:
        before = work.cpu()
        seen = load.paced(*work.client, case.workload, seconds)
        used = work.cpu() - before
        outcome.add(
            paced_cpu_us=used / 1e3 / seen.requests,
            paced_p50_ms=seen.p50 * 1e3,
            paced_p99_ms=seen.p99 * 1e3,
        )

    return step


def _direct(case: Case, stage: Stage, plan: Plan) -> Outcome:
    """The paced client at the origin itself, for the latency that a proxy adds."""
    outcome = Outcome(DIRECT)
    for _ in range(plan.rounds):
        with blamed(outcome):
            seen = load.paced(origin.ADDRESSES[0], stage.origin_port, case.workload, plan.short)
            outcome.add(paced_p50_ms=seen.p50 * 1e3, paced_p99_ms=seen.p99 * 1e3)
    return outcome


def _relay(seconds: float) -> Step:
    def step(work: Work, outcome: Outcome) -> None:
        before = work.cpu()
        count, elapsed = pump.receive(*work.client, seconds)
        used = work.cpu() - before
        memory = work.memory()
        outcome.add(
            cpu_s_per_gb=used / count,  # nanoseconds per byte, which is seconds per 10^9 bytes
            gb_per_second=count / 1e9 / elapsed,
            busy_percent=used / 1e7 / elapsed,
            pss_mib=memory.proportional / MIB,
            peak_mib=memory.peak_resident / MIB,
        )

    return step


def _idle(case: Case, peer: Peer, stage: Stage, outcome: Outcome) -> None:
    """One round with a proxy just started: memory that was used before would be used again."""
    count = min(IDLE_CONNECTIONS, stage.descriptors // 2 - 100)  # a proxy may need two for each
    work = stage.start(peer, case)
    try:
        time.sleep(_SETTLE)
        before = work.memory()
        with idle.held(*work.client, ORDINARY, count) as connections:
            time.sleep(_SETTLE)
            after = work.memory()
            used = work.cpu()
            time.sleep(_WINDOW)
            used = work.cpu() - used
            idle.check_alive(connections, ORDINARY)
        outcome.add(
            connections=count,
            bytes_each=(after.proportional - before.proportional) / count,
            pss_mib=after.proportional / MIB,
            peak_mib=after.peak_resident / MIB,
            idle_cpu_ms=used / 1e6 / _WINDOW,
        )
    finally:
        work.stop()


def _moved(stage: Stage, work: Work) -> Services:
    """One instance of the target moved to the spare address, or back from it."""
    home = work.site.services[TARGET]
    moved = (*home[:-1], f"{origin.ADDRESSES[UPDATE_INSTANCES]}:{stage.origin_port}")
    return {**work.services, TARGET: home if work.services[TARGET] == moved else moved}


def _takes_effect(stage: Stage) -> Step:
    """Time from the change until a request arrives where the changed endpoint now is.

    Requests follow each other as fast as they are answered, each on a connection of its own, because nginx
    closes idle ones when it reloads. The endpoint is one of ten, so that about ten requests after the
    change has been made the first of them is seen there.
    """
    request = load.request_bytes(Workload(origin.WHO_PATH, 0), 1)

    def seen(work: Work) -> str:
        with socket.create_connection(work.client, timeout=5) as connection:
            return load.exchange(connection, request).decode()

    def step(work: Work, outcome: Outcome) -> None:
        services = _moved(stage, work)
        wanted = services[TARGET][-1].rpartition(":")[0]
        start = time.perf_counter()
        work.change(services)
        while seen(work) != wanted:
            if time.perf_counter() - start > _UPDATE_TIME:
                raise Failed(f"no request reached {wanted} within {_UPDATE_TIME:g} s")
        outcome.add(effect_ms=(time.perf_counter() - start) * 1e3)

    return step


def _update_cost(stage: Stage) -> Step:
    """CPU that an update takes, without traffic, less what the proxy uses when nothing happens."""

    def step(work: Work, outcome: Outcome) -> None:
        start = work.cpu()
        time.sleep(_WINDOW)
        middle = work.cpu()
        work.change(_moved(stage, work))
        time.sleep(2 * _WINDOW)
        used = (work.cpu() - middle) - 2 * (middle - start)
        memory = work.memory()
        outcome.add(
            update_cpu_ms=max(used, 0) / 1e6,
            pss_mib=memory.proportional / MIB,
            peak_mib=memory.peak_resident / MIB,
        )

    return step
