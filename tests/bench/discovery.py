"""Changes in Consul: how soon they take traffic, and for how long they keep the supervisor from anything else.

hostproxy alone: the others follow Consul through programs beside them, if at all. Consul is the stub of
tests/fakes, a process on the load's core, because a real one would be busy for minutes with 40,000 instances.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from tests.bench import load, origin
from tests.bench.cases import Case
from tests.bench.load import Workload
from tests.bench.measure import memory
from tests.bench.peers.site import CLIENT, TARGET
from tests.bench.processes import Failed, Program, wait_until
from tests.bench.report import OURS
from tests.bench.rounds import MIB, Outcome, Plan, blamed
from tests.bench.stage import Stage
from tests.fakes.consul_stub import ConsulStub

# A subset of the target with nothing in it but the instance that is changed. It has a port of its own, so that the
# first request after the change tells, and the target as a whole has all its instances all the same.
_SUBSET = "moving"
_MOVING = "moving"  # the ID of that instance
_START = 60.0  # seconds until everything is watched: 200 blocking queries are started a second
_SETTLE = 11.0  # seconds after which the next change is written to disk at once, as the first one was
_EVERY = 0.005  # seconds between two questions to the supervisor
_WINDOW = 2.0  # seconds in which it is asked: within them all work that a change makes is done
_TIME = 10.0  # seconds within which a change has to take traffic
_NEWS = re.compile(r"^(\S+)Z supervisor\S+ info \S+ news is taken", re.MULTILINE)


def run(case: Case, stage: Stage, plan: Plan) -> list[Outcome]:
    """Measure one case."""
    outcome = Outcome(OURS)
    with blamed(outcome), ConsulStub() as consul, _running(case, stage, consul) as host:
        for _ in range(max(plan.rounds // 2, 2)):
            time.sleep(_SETTLE)
            stall, waited = host.stall()
            outcome.add(stall_ms=stall * 1e3, waited_ms=waited * 1e3)
            time.sleep(1.5)  # changes that come faster than one a second are put off
            told, effect = host.effect()
            outcome.add(told_ms=told * 1e3, effect_ms=effect * 1e3)
        used = memory([host.program.pid])
        outcome.add(pss_mib=used.proportional / MIB, peak_mib=used.peak_resident / MIB)
    return [outcome]


class _Host:
    """hostproxy at work on the stub."""

    def __init__(self, stage: Stage, consul: ConsulStub, program: Program, listen: str, admin: str) -> None:
        self.program = program
        self._consul = consul
        self._addresses = origin.ADDRESSES[:2]
        self._listen, self._admin = _split(listen), _split(admin)

    def stall(self) -> tuple[float, float]:
        """Move the instance; the longest time (seconds) that the supervisor left a small question unanswered.

        And how much of it the supervisor was runnable without a CPU, which it shares with the worker and whatever
        else the machine does. What began and ended between two questions is not seen: a stall may have been up to
        5 ms longer.
        """
        longest = 0.0, 0.0
        with socket.create_connection(self._admin, timeout=_TIME) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            question = f"GET /live HTTP/1.1\r\nHost: {self._admin[0]}:{self._admin[1]}\r\n\r\n".encode()
            begin = time.perf_counter()
            # Not by a thread of this process, which would have to share the interpreter with the questions.
            control = self._begin_move()
            while (asked := time.perf_counter()) < begin + _WINDOW:
                waited = self._waited()
                load.exchange(connection, question)
                took = time.perf_counter() - asked
                longest = max(longest, (took, self._waited() - waited))
                time.sleep(max(0.0, _EVERY - took))
            control()
        return longest

    def _waited(self) -> float:
        """Seconds that the thread of the supervisor's reactor was runnable and had no CPU, since it began."""
        pid = self.program.pid
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9

    def effect(self) -> tuple[float, float]:
        """Move the instance; seconds until the worker is told, and until a request arrives where it now is."""
        request = load.request_bytes(Workload(origin.WHO_PATH, 0), 1)
        wanted = self._addresses[1]
        begun, start = time.time(), time.perf_counter()
        self._begin_move()()
        with socket.create_connection(self._listen, timeout=_TIME) as connection:
            while load.exchange(connection, request).decode() != wanted:
                if time.perf_counter() - start > _TIME:
                    raise Failed(f"no request reached {wanted} within {_TIME:g} s")
        effect = time.perf_counter() - start
        # To the millisecond. It is logged right before the worker is told.
        told = [moment for moment in moments(self.program.log) if moment > begun - 0.001]
        if len(told) != 1:
            raise Failed(f"one change was {len(told)} times news for the supervisor")
        return told[0] - begun, effect

    def _begin_move(self) -> Callable[[], None]:
        """Tell the stub; returns what waits until it has obeyed."""
        self._addresses = self._addresses[::-1]
        body = json.dumps({"address": self._addresses[0]}).encode()
        connection = socket.create_connection(("127.0.0.1", self._consul.port), timeout=_TIME)
        head = f"PATCH /_stub/service/{TARGET}/{_MOVING} HTTP/1.1\r\nHost: stub\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

        def finish() -> None:
            with connection:
                if not connection.recv(65536).startswith(b"HTTP/1.1 200 "):
                    raise Failed("the stub of Consul did not take a change")

        return finish


@contextmanager
def _running(case: Case, stage: Stage, consul: ConsulStub) -> Iterator[_Host]:
    """Fill the stub, and start hostproxy with a watch for every service."""
    directory = stage.processes.directory / case.name
    directory.mkdir()
    admin, listen = (f"127.0.1.1:{stage.ports.take()}" for _ in range(2))
    consul.fill(case.services - 1, case.instances)
    consul.set(TARGET, *_instances(case.instances - 1), _moving(stage.origin_port))
    names = [TARGET, *(f"service-{number}" for number in range(case.services - 1))]
    policy: dict[str, Any] = {name: {"timeout": "5s"} for name in names}
    policy[TARGET] |= {"permissive": True, "subset": {_SUBSET: {"version": _SUBSET}}}
    conf = directory / "conf.toml"
    conf.write_text(tomli_w.dumps(_configuration(stage, directory, consul, len(names), listen, admin)))
    (directory / "policy.toml").write_text(tomli_w.dumps({"defaults": {"access": "allow"}, "service": policy}))
    command = (sys.executable, "-m", "hostproxy", "run", "-c", str(conf))
    program = stage.processes.start(OURS, command, stage.proxy_core, directory / "output.log")
    try:
        watched = lambda: consul.state()["blocked"] >= case.services  # noqa: E731
        wait_until(watched, [program], f"a watch for each of {case.services} services", _START)
        wait_until(lambda: origin.accepts(*_split(listen)), [program], f"{OURS} on {listen}")
        yield _Host(stage, consul, program, listen, admin)
    finally:
        stage.processes.stop(program)


def _configuration(
    stage: Stage, directory: Path, consul: ConsulStub, watches: int, listen: str, admin: str
) -> dict[str, Any]:
    certificates = stage.certificates
    return {
        "host": {
            "name": "a",
            "address": "127.0.1.1",
            "state_directory": str(directory / "state"),
            "runtime_directory": str(directory / "run"),
        },
        "mesh": {"trust_domain": certificates.trust_domain, "listen": f"127.0.1.1:{stage.ports.take()}"},
        "outbound": {"listen": "", "upstream": [{"service": TARGET, "subset": _SUBSET, "listen": listen}]},
        "service": [{"name": CLIENT, "instances": ["127.0.1.1:9"]}],
        "discovery": {
            "backend": "consul",
            "consul": {
                "address": consul.address,
                "watches": watches,
                "register": False,
                "allow": ["127.0.0.0/8"],
            },
        },
        "identity": {
            "mode": "files",
            "files": {"ca": str(certificates.authority), "directory": str(certificates.hosts / "a")},
        },
        "policy": {"path": str(directory / "policy.toml")},
        "admin": {"listen": admin},
        "workers": {"count": 1},
    }


def _instances(count: int) -> Iterator[dict[str, Any]]:
    """Instances behind mesh ports, as ConsulStub.fill makes them, at addresses where nothing is."""
    for number in range(count):
        address = f"10.200.{number >> 8}.{number & 255}"
        yield {
            "id": f"{TARGET}-{number}",
            "node": f"node-{number}",
            "address": address,
            "port": 9000,
            "tags": ["v1"],
            "meta": {"mesh_port": "15443", "version": "1", "zone": f"zone-{number % 3}"},
            "status": "passing",
            "node_address": address,
        }


def _moving(port: int) -> dict[str, Any]:
    return {
        "id": _MOVING,
        "node": "node-moving",
        "address": origin.ADDRESSES[0],
        "port": port,
        "meta": {"version": _SUBSET},
        "status": "passing",
    }


def moments(log: Path) -> list[float]:
    """When the supervisor had news for its workers: Unix seconds."""
    return [
        datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for text in _NEWS.findall(log.read_text())
    ]


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
