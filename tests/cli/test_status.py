"""``hostproxy status`` against a real admin address, and against what is none."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import threading

import pytest

from hostproxy.__main__ import main
from hostproxy.admin.server import listen
from hostproxy.cli import status
from hostproxy.config import Admin
from hostproxy.control.state import SourceState, WorkerState
from tests.admin.conftest import ReactorThread
from tests.admin.states import NOW, make_state


@pytest.fixture(scope="module")
def loop():
    running = ReactorThread()
    yield running
    running.stop()


@pytest.fixture
def daemon(loop):
    """Open admin addresses over states; returns the address as text."""
    ports = []

    def serve(state=None, address="127.0.0.1:0"):
        state = state or make_state()
        ports.append(loop.run(listen, loop.reactor, Admin(listen=address), state, state.totals, lambda: NOW))
        return ports[-1].address

    yield serve
    for port in ports:
        loop.run(port.stopListening)


def answer_once(reply, close=True):
    """A server that is not hostproxy: reads a request and sends ``reply``. Returns its address and a way to end it."""
    server = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve():
        client, _ = server.accept()
        with client:
            client.recv(65536)
            client.sendall(reply)
            if not close:
                ended.wait(5.0)
        server.close()

    thread = threading.Thread(target=serve)
    thread.start()

    def end():
        ended.set()
        thread.join(5.0)

    return f"127.0.0.1:{server.getsockname()[1]}", end


def free_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_host_that_is_ready(daemon, capsys):
    assert main(["status", "--admin", daemon()]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines()]
    assert text.startswith(
        "web-1 (10.0.0.11, dc1/rack-3, example.org)  hostproxy 0.1.0  pid 4711  up 3m20s  ready\n"
    )
    assert ["0", "4712", "serving", "1m40s", "1", "6", "410", "4.1", "0.4", "ms"] in rows
    assert ["proxy", "127.0.0.1:15001", "-", "cart"] in rows
    assert ["payments", "2", "0", "400", "3", "1", "0", "0", "0"] in rows
    assert ["cart", "0", "1", "0", "0", "0", "10", "0", "0"] in rows
    assert "/etc/hostproxy/catalog.toml" in text
    assert "default: deny" in text
    assert "first to end: spiffe://example.org/service/cart ends in 1h" in text
    assert "\x1b" not in text


def test_a_host_that_is_not_ready(daemon, capsys):
    state = make_state()
    state.workers = (WorkerState(place=0, id=1, phase="waiting", restarts=4, problem="exited with status 1"),)
    assert main(["status", "--admin", daemon(state)]) == 1
    text = capsys.readouterr().out
    assert "NOT READY" in text
    assert "not ready: worker 0 is waiting: exited with status 1" in text


def test_what_does_not_work_is_shown_though_ready(daemon, capsys):
    state = make_state()
    state.policy_source = SourceState(path="/p.toml", problems=("p.toml:3: bad\x1b[31m",), since=NOW)
    assert main(["status", "--admin", daemon(state)]) == 0
    text = capsys.readouterr().out
    assert "degraded: policy: p.toml:3: bad?[31m" in text
    assert "never read" in text


def test_a_host_that_has_just_started(daemon, capsys):
    state = make_state()
    state.snapshot, state.policy, state.workers, state.listeners, state.identities = None, None, (), (), ()
    state.catalog_source = SourceState()
    assert main(["status", "--admin", daemon(state)]) == 1
    text = capsys.readouterr().out
    assert "no worker has been started yet" in text
    assert "not configured" in text


def test_an_expired_certificate(daemon, capsys):
    state = make_state()
    state.identities[1].not_after = NOW - 1.0
    main(["status", "--admin", daemon(state)])
    assert "HAS EXPIRED" in capsys.readouterr().out


def test_json_is_one_object_with_stable_keys(daemon, capsys):
    assert main(["status", "--admin", daemon(), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {
        *("host", "version", "pid", "uptime_seconds", "ready", "reasons", "degraded", "workers", "listeners"),
        *("services", "catalog", "policy", "certificates", "reloads"),
    }


def test_over_a_unix_socket(daemon, tmp_path, capsys):
    address = daemon(address=f"unix:{tmp_path}/admin.sock")
    assert main(["status", "--admin", address]) == 0
    assert capsys.readouterr().out.startswith("web-1 ")


def test_over_ipv6(daemon, capsys):
    assert main(["status", "--admin", daemon(address="[::1]:0")]) == 0


def test_the_address_is_read_from_conf_toml(daemon, tmp_path, capsys):
    conf = tmp_path / "conf.toml"
    conf.write_text(
        '[host]\nname = "web-1"\naddress = "10.0.0.11"\n[mesh]\ntrust_domain = "example.org"\n'
        f'[admin]\nlisten = "{daemon()}"\n'
    )
    assert main(["status", "-c", str(conf)]) == 0


def test_a_conf_toml_that_was_broken_since_still_names_the_address(daemon, tmp_path, capsys):
    conf = tmp_path / "conf.toml"
    conf.write_text(f'[hots]\nname = "web-1"\n[admin]\nlisten = "{daemon()}"\n')
    assert main(["status", "-c", str(conf)]) == 0


def test_a_file_that_is_no_toml_is_wrong_usage(tmp_path, capsys):
    conf = tmp_path / "conf.toml"
    conf.write_text("[[[")
    assert main(["status", "-c", str(conf)]) == 2
    error = capsys.readouterr().err
    assert str(conf) in error
    assert "--admin" in error


@pytest.mark.parametrize(
    "address", ["nonsense", "127.0.0.1", "127.0.0.1:99999", "localhost:15000", "unix:relative"]
)
def test_an_address_that_is_none_is_wrong_usage(address, capsys):
    assert main(["status", "--admin", address]) == 2
    assert address in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--timeout", "0"], ["--timeout", "soon"], ["-o", "xml"], ["-c", "x", "--admin", "127.0.0.1:1"]],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["status", *arguments])
    assert ended.value.code == 2


def test_nobody_listens(capsys):
    assert main(["status", "--admin", free_address()]) == 3
    output = capsys.readouterr()
    assert output.out == ""
    assert "is hostproxy running" in output.err


def test_no_such_unix_socket(tmp_path, capsys):
    assert main(["status", "--admin", f"unix:{tmp_path}/admin.sock"]) == 3
    assert "is hostproxy running" in capsys.readouterr().err


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{",
        b'HTTP/1.1 500 No\r\nContent-Length: 18\r\n\r\n{"error": "broken"}',
    ],
)
def test_an_answer_that_is_none_of_hostproxys(reply, capsys):
    address, end = answer_once(reply)
    try:
        assert main(["status", "--admin", address]) == 3
    finally:
        end()
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(address)


def test_no_answer_in_time(capsys):
    address, end = answer_once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", close=False)
    try:
        assert main(["status", "--admin", address, "--timeout", "0.2"]) == 3
    finally:
        end()
    assert "within 0.2 s" in capsys.readouterr().err


def test_twisted_is_never_imported(daemon):
    code = (
        "import sys; from hostproxy.__main__ import main; "
        "status = main(sys.argv[1:]); assert 'twisted' not in sys.modules; sys.exit(status)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "status", "--admin", daemon()],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("", True), ("1", False)])
def test_a_terminal_gets_colour_unless_told_otherwise(daemon, no_color, coloured):
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    if no_color is not None:
        environment["NO_COLOR"] = no_color
    ours, theirs = pty.openpty()
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "hostproxy", "status", "--admin", daemon()],
            stdout=theirs,
            env=environment,
            timeout=20,
            check=False,
        )
        assert ran.returncode == 0
        assert (b"\x1b[32mready\x1b[0m" in os.read(ours, 65536)) == coloured
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.9, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (125, "2m5s"),
        (3600, "1h"),
        (3605, "1h"),
        (90061, "1d1h"),
        (86400 * 400, "400d"),
    ],
)
def test_spans(seconds, text):
    assert status.span(seconds) == text
