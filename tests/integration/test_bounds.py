"""Time and number: slow heads, idle connections, slow handshakes, and too few descriptors."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.cases import HOST, get, post
from tests.fakes.client import connect, converse
from tests.fakes.origin import Answer, Connection, Origin, reply
from tests.integration import needs
from tests.integration.host import Host, eventually, fetch
from tests.integration.load import Load
from tests.integration.mesh import ALPHA, Mesh, single
from tests.stopwatch import Stopwatch

SHORT = {
    "head_time": "500ms",
    "idle": "700ms",
    "stream_idle": "600ms",
    "handshake": "500ms",
    "tunnel_idle": "600ms",
    "upstream_idle": "300ms",
}


@pytest.fixture(scope="module")
def hurried(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, str, Origin]]:
    """A host with short limits."""
    directory = tmp_path_factory.mktemp("hurried")
    with Origin() as origin:
        host, address = single(directory, mesh.certificates[ALPHA], [origin], limits=SHORT)
        with host.start().wait_ready():
            yield host, address, origin


@pytest.fixture
def patient(hurried: tuple[Host, str, Origin]) -> tuple[Host, str, Origin]:
    hurried[2].forget()
    hurried[2].handle = None
    hurried[2].respond = lambda request, connection: Answer(reply())
    return hurried


def time_to_end(sock: socket.socket, every: float = 0.0, piece: bytes = b"") -> tuple[Stopwatch, bytes]:
    """How long it takes until the proxy ends the connection while ``piece`` is sent again and again; what it said."""
    waiting = Stopwatch()
    said = b""
    sock.settimeout(every or 5)
    while waiting.seconds < 5:
        try:
            part = sock.recv(4096)
            if not part:
                break
            said += part
        except TimeoutError:
            with contextlib.suppress(OSError):
                sock.sendall(piece)
        except OSError:
            break
    waiting.stop()
    return waiting, said


@pytest.mark.parametrize(
    ("start", "piece"),
    [(b"GET /aaa", b"a"), (b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", b"X-Slow: a\r\n"), (b"G", b"")],
    ids=["line", "fields", "silence"],
)
def test_slow_head(patient: tuple[Host, str, Origin], start: bytes, piece: bytes) -> None:
    """The whole head has its time, however many bytes drip in."""
    with connect(patient[1]) as sock:
        sock.sendall(start)
        waited, said = time_to_end(sock, 0.05, piece)
    assert waited.elapsed > 0.4
    assert waited.seconds < 1.5
    assert said == b"" or said.startswith(b"HTTP/1.1 408 ")
    assert patient[2].requests == []


def test_idle_connection_is_closed_quietly(patient: tuple[Host, str, Origin]) -> None:
    with connect(patient[1]) as sock:
        assert converse(sock, get()).statuses == [200]
        waited, said = time_to_end(sock)
    assert waited.elapsed > 0.5
    assert waited.seconds < 1.6
    assert said == b""


def test_connection_that_never_speaks(patient: tuple[Host, str, Origin]) -> None:
    with connect(patient[1]) as sock:
        waited, _ = time_to_end(sock)
    assert waited.seconds < 1.6


def test_stalled_upload(patient: tuple[Host, str, Origin]) -> None:
    with connect(patient[1]) as sock:
        sock.sendall(post(b"Content-Length: 100", body=b"half"))
        waited, said = time_to_end(sock)
    assert waited.elapsed > 0.4
    assert waited.seconds < 1.6
    assert said == b"" or said.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 504 "))


def test_origin_that_never_answers(patient: tuple[Host, str, Origin]) -> None:
    gone = threading.Event()

    def handle(connection: Connection) -> None:
        try:
            while connection.sock.recv(4096):
                pass
        finally:
            gone.set()

    patient[2].handle = handle
    outcome = fetch(patient[1])
    assert outcome.statuses == [504]
    assert gone.wait(2)  # the origin is not left waiting either


def test_origin_that_stops_in_the_middle(patient: tuple[Host, str, Origin]) -> None:
    patient[2].respond = lambda request, connection: Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    outcome = fetch(patient[1])
    assert outcome.responses == []
    assert outcome.ended in ("end", "reset")


def test_steady_drip_is_no_idling(patient: tuple[Host, str, Origin]) -> None:

    def handle(connection: Connection) -> None:
        connection.sock.recv(4096)
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        for _ in range(5):
            time.sleep(0.25)
            connection.sock.sendall(b".")

    patient[2].handle = handle
    outcome = fetch(patient[1])
    assert outcome.statuses == [200]
    assert outcome.responses[0].body == b"....."


def test_unused_connections_to_the_origin_are_closed(patient: tuple[Host, str, Origin]) -> None:
    assert fetch(patient[1]).statuses == [200]
    connection = patient[2].connections[-1]
    eventually(lambda: connection.ended is not None, 3, "the pooled connection stays open")


def test_handshake_that_stalls(patient: tuple[Host, str, Origin]) -> None:
    from tests.fakes.corpus.pipelines import CLIENT_HELLO

    for start in (b"", CLIENT_HELLO[:50]):
        with connect(patient[0].mesh) as sock:
            sock.sendall(start)
            waited, _ = time_to_end(sock)
        assert waited.seconds < 1.6


def test_many_slow_heads_leave_others_alone(patient: tuple[Host, str, Origin]) -> None:
    slow = [connect(patient[1]) for _ in range(300)]
    try:
        for sock in slow:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        asking = Stopwatch()
        for _ in range(20):
            assert fetch(patient[1]).statuses == [200]
        assert asking.seconds < 1
        for sock in slow:
            assert time_to_end(sock)[0].seconds < 2
    finally:
        for sock in slow:
            sock.close()


def test_descriptors_run_out(mesh: Mesh, tmp_path: Path) -> None:
    """prlimit --nofile=256: live connections go on, the admin port answers, all is well again within a second."""
    prlimit = needs.program("prlimit")
    with Origin() as origin:
        host, address = single(tmp_path, mesh.certificates[ALPHA], [origin])
        with host.start(prlimit, "--nofile=256:256").wait_ready():
            kept = connect(address)
            assert converse(kept, get()).statuses == [200]
            flood = []
            for _ in range(400):
                with contextlib.suppress(OSError):
                    flood.append(connect(address, 1))
            worker = host.workers()[0]
            spent = cpu_seconds(worker)
            time.sleep(0.5)
            assert cpu_seconds(worker) - spent < 0.25, "the worker spins"
            assert converse(kept, get()).statuses == [200]
            assert host.ask("/live")[0] == 200
            for sock in flood:
                sock.close()
            eventually(lambda: _works(address), 1.5, "no connection gets through after the flood")
            assert host.workers() == [worker]
            with Load(address) as load:
                load.more(100)
            assert load.failures == []
            kept.close()


def _works(address: str) -> bool:
    try:
        return fetch(address, timeout=0.5).statuses == [200]
    except OSError:
        return False


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0
