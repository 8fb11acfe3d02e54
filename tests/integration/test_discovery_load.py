"""Much news from Consul, seen from a running daemon: an instance that flaps, ten thousand of them."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.bench.measure import cpu_time
from tests.integration.consul_hosts import answer, call, within
from tests.integration.scripted import Scene
from tests.integration.scripted import scene as running

STALL = 0.05  # seconds
SECONDS = 5.0  # of flapping


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running(tmp_path_factory.mktemp("load"), ("flap", "large", "small")) as scene:
        yield scene


def test_an_instance_flaps_ten_times_a_second(scene: Scene) -> None:
    """Fault fi-c14: bounded updates and CPU; the other instance keeps its connections."""
    scene.watch("flap", "a", "b")
    time.sleep(2.5)  # /workers is as old as a second; and until changes are quick again
    assert scene.host.process is not None
    supervisor = scene.host.process.pid
    steady = scene.origins["a"]
    accepted, version = steady.accepted, scene.version()
    scene.consul.flap("flap", "b", 10)
    begin, used = time.monotonic(), cpu_time([supervisor])
    seen = set()
    while time.monotonic() < begin + SECONDS:
        seen.add(answer(scene.host, "flap"))
        time.sleep(0.05)
    share = (cpu_time([supervisor]) - used) / 1e9 / (time.monotonic() - begin)
    scene.consul.flap("flap", "b", 0)
    assert seen == {b"a", b"b"}
    assert steady.accepted == accepted
    time.sleep(1.1)
    assert 2 <= scene.version() - version <= SECONDS + 3
    assert share < 0.05
    scene.consul.change("flap", "b", status="critical")
    within(6, lambda: all(answer(scene.host, "flap") == b"a" for _ in range(10)))


def delayed(pid: int) -> float:
    """Seconds in which threads of a process could have run and had no processor."""
    found = 0.0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):  # it has just ended
            found += int(path.read_text().split()[1]) / 1e9
    return found


class Waiting:
    """Asks for the same thing every 5 ms over one connection, and notes the longest time without an answer.

    That the machine had something else to do, and let process ``pid`` or the tests' own wait for it, is left out.
    """

    def __init__(self, address: str, target: str, name: str, pid: int) -> None:
        host, _, port = address.rpartition(":")
        self.longest = 0.0
        self._pids = (pid, os.getpid())
        self._sock = socket.create_connection((host, int(port)), 5)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = f"GET {target} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()

    def ask(self) -> None:
        before = sum(map(delayed, self._pids))
        begin = time.perf_counter()
        self._sock.sendall(self._request)
        assert self._sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        seconds = time.perf_counter() - begin
        self.longest = max(self.longest, seconds - (sum(map(delayed, self._pids)) - before))

    def close(self) -> None:
        self._sock.close()


def stalls(scene: Scene, number: int) -> tuple[float, float]:
    """How long supervisor and worker are held up by an answer with ten thousand instances (seconds)."""
    with ExitStack() as stack:
        [pid] = scene.host.workers()
        worker = stack.enter_context(closing(Waiting(scene.host.proxy, "http://small/", "small", pid)))
        assert scene.host.process is not None
        pid = scene.host.process.pid
        supervisor = stack.enter_context(closing(Waiting(scene.host.admin, "/live", scene.host.admin, pid)))
        change = threading.Thread(
            target=scene.consul.change, args=("large", "t0"), kwargs={"port": 9000 + number}
        )
        change.start()
        begin = time.monotonic()
        while time.monotonic() < begin + 2:
            supervisor.ask()
            worker.ask()
            time.sleep(0.005)
        change.join()
        return supervisor.longest, worker.longest


def test_ten_thousand_instances_in_one_answer(scene: Scene) -> None:
    """Fault fi-c16."""
    scene.watch("small", "a")
    scene.consul.set("large", *_many())
    within(10, lambda: scene.host.metric("endpoints", 'destination="large"', 'state="passing"') == 10_000)
    # The worker makes endpoints only for whom somebody calls. Nothing is at these addresses.
    call(scene.host, "large", timeout=0.5)
    # With other work on the machine, one of them may be slow for reasons of its own.
    found: list[tuple[float, float]] = []
    while not found or (max(found[-1]) >= STALL and len(found) < 3):
        found.append(stalls(scene, len(found)))
    assert max(found[-1]) < STALL, found
    catalog: dict[str, Any] = scene.host.ask_json("/catalog?service=large")["services"]["large"]
    assert len(catalog["instances"]) == 10_000
    assert any(one["address"] == f"10.0.0.0:{8999 + len(found)}" for one in catalog["instances"])


def _many() -> Iterator[dict[str, Any]]:
    for number in range(10_000):
        address = f"10.0.{number >> 8}.{number & 255}"
        yield {"id": f"t{number}", "node": f"n{number}", "address": address, "port": 80, "status": "passing"}
