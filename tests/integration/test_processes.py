"""Processes that end: drained, killed, taken over."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from tests.fakes.cases import get
from tests.fakes.client import Outcome, connect, converse
from tests.fakes.origin import Answer, Connection, Origin, reply
from tests.fakes.reader import Received
from tests.integration.host import STOP, Host, eventually, fetch
from tests.integration.load import Load
from tests.integration.mesh import ALPHA, Mesh, Pair, single
from tests.stopwatch import Stopwatch

CREW = 4


def slow(request: Received, connection: Connection) -> Answer:
    """Half a second for /slow."""
    return Answer(reply(b"s" * 1000), wait=0.5) if request.target == b"/slow" else Answer(reply(request.target))


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(slow) as origin:
        yield origin


def start(mesh: Mesh, directory: Path, origin: Origin, workers: int = 2, **limits: str) -> tuple[Host, str]:
    host, address = single(directory, mesh.certificates[ALPHA], [origin], workers=workers, limits=limits)
    host.start().wait_ready()
    return host, address


class Requests:
    """Slow requests, each on a connection of its own, sent at once."""

    def __init__(self, address: str, count: int, target: bytes = b"/slow") -> None:
        self.socks = [connect(address, 10) for _ in range(count)]
        for sock in self.socks:
            sock.sendall(get(target))

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for sock in self.socks:
            sock.close()

    def outcomes(self, until_end: bool = False) -> list[Outcome]:
        found = []
        for sock in self.socks:
            found.append(converse(sock, b"", until_end=until_end, timeout=10))
            sock.close()
        return found


def test_drain_finishes_what_is_under_way(mesh: Mesh, tmp_path: Path, origin: Origin) -> None:
    """fi-p01."""
    host, address = start(mesh, tmp_path, origin)
    with host, contextlib.ExitStack() as stack:
        idle = stack.enter_context(connect(address))
        assert converse(idle, get()).statuses == [200]
        origin.forget()
        requests = stack.enter_context(Requests(address, 100))
        origin.wait_for_requests(50)
        host.terminate()
        ending = Stopwatch()
        eventually(lambda: refuses(address), 2, "it still accepts")
        outcomes = requests.outcomes(until_end=True)
        assert [o.statuses for o in outcomes] == [[200]] * 100
        assert all(len(o.responses[0].body) == 1000 for o in outcomes)
        assert all(o.responses[0].values(b"connection") == [b"close"] for o in outcomes)
        assert host.wait() == 0
        assert ending.seconds < 6
        idle.settimeout(5)
        assert idle.recv(100) == b""
        assert host.processes() == []


def refuses(address: str) -> bool:
    try:
        connect(address, 1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def test_drain_through_two_hosts(tmp_path: Path) -> None:
    """Either end of a mutual TLS connection drains: nothing under way is lost."""
    pair = Pair(tmp_path)
    try:
        pair.start()
        origin = pair.origins[0]
        origin.respond = slow
        for host in (pair.beta, pair.alpha):
            origin.forget()
            with Requests(pair.address, 30) as requests:
                origin.wait_for_requests(30)
                host.terminate()
                assert [o.statuses for o in requests.outcomes()] == [[200]] * 30
                assert host.wait() == 0
            if host is pair.beta:
                pair.beta.start().wait_ready()
                eventually(lambda: fetch(pair.address).statuses == [200], 3, "the peer that came back is not used")
    finally:
        pair.stop()


def test_drain_with_traffic_going_on(mesh: Mesh, tmp_path: Path, origin: Origin) -> None:
    """Keep-alive clients are told to close and leave; none sees a broken answer."""
    host, address = start(mesh, tmp_path, origin)
    with host:
        outcomes: list[Outcome] = []

        def client() -> None:
            with connect(address) as sock:
                while True:
                    outcome = converse(sock, get())
                    outcomes.append(outcome)
                    if outcome.statuses != [200] or outcome.responses[0].values(b"connection") == [b"close"]:
                        return

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(outcomes) > 20)
        host.terminate()
        for thread in threads:
            thread.join(10)
        assert host.wait() == 0
    assert [o for o in outcomes if o.statuses != [200]] == []


def test_second_sigterm_ends_at_once(mesh: Mesh, tmp_path: Path, origin: Origin) -> None:
    """fi-p02."""
    origin.respond = lambda request, connection: (
        Answer(reply(), wait=20.0) if request.target == b"/slow" else Answer(reply())
    )
    host, address = start(mesh, tmp_path, origin)
    with host, Requests(address, 5) as requests:
        origin.wait_for_requests(5)
        host.terminate()
        eventually(lambda: refuses(address), 2)
        host.terminate()
        ending = Stopwatch()
        host.wait()
        assert ending.seconds < 1.5
        assert all(o.responses == [] for o in requests.outcomes())
        assert host.processes() == []


def test_drain_deadline(mesh: Mesh, tmp_path: Path, origin: Origin) -> None:
    origin.respond = lambda request, connection: (
        Answer(reply(), wait=20.0) if request.target == b"/slow" else Answer(reply())
    )
    host, address = start(mesh, tmp_path, origin, drain="500ms")
    with host, Requests(address, 5) as requests:
        origin.wait_for_requests(5)
        ending = Stopwatch()
        host.terminate()
        assert host.wait() == 0  # cutting at the deadline is what was asked for
        assert ending.elapsed > 0.4
        assert ending.seconds < 3
        assert all(o.responses == [] for o in requests.outcomes())


@pytest.fixture(scope="module")
def crew(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, str]]:
    """A host with four workers, of which tests kill some."""
    with Origin(slow) as origin:
        host, address = start(mesh, tmp_path_factory.mktemp("crew"), origin, workers=CREW)
        with host:
            # Ready is a host with its first worker; until the others serve, that one gets every connection.
            eventually(lambda: all_serve(host))
            yield host, address


def all_serve(host: Host, dead: Collection[int] = ()) -> bool:
    """Whether all workers serve, and the supervisor has noticed who is dead."""
    workers = host.ask_json("/workers")["workers"]
    return [w["phase"] for w in workers] == ["serving"] * CREW and not {w["pid"] for w in workers} & set(dead)


def connections_by_worker(host: Host, total: int) -> dict[int, int]:
    """Client connections of each worker by its process id, once they add up to ``total``."""

    def counted() -> dict[int, int] | None:
        counts = {w["pid"]: w["description"].get("connections", 0) for w in host.ask_json("/workers")["workers"]}
        return counts if sum(counts.values()) == total else None

    found: dict[int, int] = eventually(counted, 5, "the workers do not report their connections")
    return found


def test_a_burst_of_connections_is_spread_over_the_workers(crew: tuple[Host, str]) -> None:
    host, address = crew
    running = min(CREW, os.cpu_count() or 1)
    bursts: list[dict[int, int]] = []

    def spread() -> bool:
        """Whether many take part. An even share is 50.

        The kernel wakes the worker that waited longest, but who runs first takes what is there: as many workers as
        there are cores take part, and none takes nearly all. Where the cores have something else to do, fewer run.
        """
        total = 200 + len(bursts)  # another number each time, or the last burst's counts would be taken for these
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connect(address)) for _ in range(total)]
            for sock in socks:
                assert converse(sock, get()).statuses == [200]
            counts = connections_by_worker(host, total)
        bursts.append(counts)
        assert len(counts) == CREW
        taking = sum(count > 0 for count in counts.values())
        return taking >= running and (running == 1 or max(counts.values()) <= 0.9 * total)

    eventually(spread, 2, "one worker takes all connections")


def test_killed_worker_is_replaced_and_costs_only_its_own(crew: tuple[Host, str]) -> None:
    host, address = crew
    with contextlib.ExitStack() as stack:
        before = set(host.workers())
        assert len(before) == CREW
        socks = [stack.enter_context(connect(address)) for _ in range(60)]
        for sock in socks:
            assert converse(sock, get()).statuses == [200]
        counts = connections_by_worker(host, 60)
        victim = max(counts, key=lambda pid: counts[pid])
        os.kill(victim, signal.SIGKILL)
        lost = 0
        for sock in socks:
            try:
                outcome = converse(sock, get())
                assert outcome.ended != "timeout"
                lost += outcome.statuses != [200]
            except OSError:
                lost += 1
        assert lost == counts[victim]
    now = eventually(lambda: len(host.workers()) == CREW and set(host.workers()), 3, "the worker is not replaced")
    assert now & before == before - {victim}
    with Load(address) as load:
        load.more(100)
    assert load.failures == []
    assert host.ask("/ready")[0] == 200


def test_new_connections_survive_the_death_of_a_worker(crew: tuple[Host, str]) -> None:
    """Only its own connections are lost: connecting anew works all the time."""
    host, address = crew
    failures = []
    for round_number in range(3):
        os.kill(host.workers()[0], signal.SIGKILL)
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            try:
                outcome = fetch(address)
            except OSError as error:
                failures.append(f"{round_number}: {error!r}")
                continue
            if outcome.statuses != [200]:
                failures.append(f"{round_number}: {outcome}")
        eventually(lambda: len(host.workers()) == CREW, 3)
    # The request that the worker had just then is its own; no others are.
    assert len(failures) <= 3, failures


def test_counters_survive_a_worker(crew: tuple[Host, str]) -> None:
    host, address = crew

    def count() -> float:
        return host.metric("requests_total", 'method="DELETE"')

    for _ in range(10):
        fetch(address, method="DELETE")
    eventually(lambda: count() == 10, 4)
    killed = host.workers()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: all_serve(host, killed), 10, "the workers never come back")
    fetch(address, method="DELETE")
    eventually(lambda: count() == 11, 4)


def test_worker_that_dies_again_and_again_is_started_with_patience(crew: tuple[Host, str]) -> None:
    host, address = crew
    before = set(host.workers())
    killed = [min(before)]
    os.kill(killed[0], signal.SIGKILL)
    killing = Stopwatch()
    while killing.elapsed < 0.6:
        for pid in set(host.workers()) - before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if pid not in killed:
                killed.append(pid)
    assert host.process is not None
    assert host.process.poll() is None
    # At once if it had lived long, and then after 0.1, 0.2 and 0.4 s. Without patience it would be dozens.
    assert len(killed) <= 5
    eventually(lambda: all_serve(host, killed), 10, "the worker never comes back")
    assert fetch(address).statuses == [200]


def test_killed_supervisor_costs_nothing_that_flows(mesh: Mesh, tmp_path: Path, origin: Origin) -> None:
    """Workers go on; a new supervisor takes over without a refused connection, and its changes reach every worker."""
    host, address = start(mesh, tmp_path, origin)
    with host, Origin(lambda request, connection: Answer(reply(b"other"))) as other:
        workers = host.workers()
        with Load(address) as load, Requests(address, 10) as requests:
            assert host.process is not None
            host.process.kill()
            host.process.wait(5)
            load.more(200)
            assert host.workers() == workers
            assert [o.statuses for o in requests.outcomes()] == [[200]] * 10
            with Connects(address) as connects:
                host.start().wait_ready()
                load.more(200)
            assert len(connects.results) > 20
            assert all(connects.results)
        assert load.failures == []
        eventually(lambda: len(host.workers()) == 2, 10, "workers of two supervisors are there")
        host.catalog[0]["address"] = other.address
        host.write_catalog()

        def moved() -> bool:
            outcomes = [fetch(address) for _ in range(6)]
            return all(o.statuses == [200] and o.responses[0].body == b"other" for o in outcomes)

        eventually(moved, 4, "a worker still decides by the old catalog")
    assert host.processes() == []


class Connects:
    """Connects again and again, and keeps whether it could."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.results: list[bool] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            try:
                connect(self.address, 1).close()
                self.results.append(True)
            except OSError:
                self.results.append(False)

    def __enter__(self) -> Connects:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()


def test_second_daemon_does_not_start(crew: tuple[Host, str]) -> None:
    """The same conf.toml twice: the second says so and leaves, the first notices nothing."""
    host, address = crew
    with Load(address) as load:
        first = host.process
        host.start()
        second = host.process
        assert second is not None
        try:
            assert second.wait(STOP) == 1
        finally:
            host.process = first
        assert "Traceback" not in host.output()
        load.more(50)
    assert load.failures == []


def test_stopped_and_continued(mesh: Mesh, tmp_path: Path, origin: Origin) -> None:
    """fi-p12: what waited is answered, not timed out."""
    host, address = start(mesh, tmp_path, origin, workers=1, head_time="1s", idle="1s", stream_idle="1s")
    with host:
        kept = connect(address)
        assert converse(kept, get()).statuses == [200]
        worker = host.workers()[0]
        os.kill(worker, signal.SIGSTOP)
        try:
            kept.sendall(get(b"/waiting"))
            time.sleep(1.5)
        finally:
            os.kill(worker, signal.SIGCONT)
        outcome = converse(kept, b"")
        assert outcome.statuses == [200]
        assert outcome.responses[0].body == b"/waiting"
        kept.close()
