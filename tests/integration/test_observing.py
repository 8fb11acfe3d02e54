"""``hostproxy tap``, ``top`` and ``log-level`` on real hosts under real traffic."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.client import connect
from tests.integration.host import Host, eventually, fetch
from tests.integration.load import Load
from tests.integration.mesh import Pair

WAIT = 20.0  # seconds for a command


def command(*words: str, timeout: float = WAIT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hostproxy", *words], capture_output=True, text=True, timeout=timeout, check=False
    )


class Tap:
    """``hostproxy tap`` while it runs."""

    def __init__(self, host: Host, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hostproxy", "tap", "--admin", host.admin, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.begun = self.process.stderr.readline()
        assert self.begun.startswith("watching "), self.begun + self.process.stderr.read()

    def end(self) -> tuple[int, str, str]:
        """Its status, what it printed, and what it said besides."""
        output, errors = self.process.communicate(timeout=WAIT)
        return self.process.returncode, output, errors

    def records(self) -> list[dict[str, Any]]:
        """What it printed as JSON, but for what is about the watching."""
        _, output, _ = self.end()
        events = [json.loads(line) for line in output.splitlines()]
        return [event for event in events if event["event"] in ("request", "open", "close")]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=WAIT)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """cart on alpha calls web on beta, and may not everything; db is TCP."""
    pair = Pair(tmp_path_factory.mktemp("observing"))
    pair.alpha.conf["log"]["level"] = "warn"
    pair.database = pair.alpha.add_upstream("db", caller="cart")  # type: ignore[attr-defined]
    pair.alpha.catalog.append({"service": "db", "host": "legacy", "address": pair.origins[1].address})
    pair.alpha.policy["service"]["db"] = {"protocol": "tcp", "permissive": True}
    pair.beta.policy["service"]["web"] = {"deny": [{"from": ["cart"], "paths": ["/secret*"]}]}
    pair.alpha.write()
    pair.beta.write()
    try:
        yield pair.start()
    finally:
        pair.stop()


def test_both_hosts_see_a_request_and_nobody_its_secrets(pair: Pair) -> None:
    taps = [Tap(host, "--count", "1", "--headers", "-o", "json") for host in (pair.alpha, pair.beta)]
    assert taps[0].begun == "watching 2 workers; Ctrl-C ends it\n"
    fetch(
        pair.address,
        "/orders/7?customer=s3cret&c2VjcmV0",
        b"Authorization: Bearer s3cret",
        b"Cookie: id=s3cret",
        b"X-Api-Key: s3cret",
        b"Accept: text/plain",
    )
    identifiers = set()
    for tap, direction in zip(taps, ("outbound", "inbound"), strict=True):
        status, output, _ = tap.end()
        assert status == 0
        assert "s3cret" not in output
        assert "c2VjcmV0" not in output
        record = json.loads(output.splitlines()[-1])
        assert (record["event"], record["dir"], record["source"], record["dest"]) == (
            "request",
            direction,
            "cart",
            "web",
        )
        assert (record["method"], record["path"], record["status"]) == ("GET", "/orders/7?customer=*&*", 200)
        fields = dict(record["request_headers"])
        assert (fields["Authorization"], fields["Cookie"], fields["X-Api-Key"]) == ("*", "*", "*")
        assert fields["Accept"] == "text/plain"
        assert 0 < record["ttfb_ms"] <= record["dur_ms"]
        assert record["bytes_out"] == 1
        identifiers.add(record["request_id"])
    assert len(identifiers) == 1


def test_filters_and_what_was_denied(pair: Pair) -> None:
    denied = Tap(pair.beta, "--denied", "--count", "1", "-o", "json")
    refused = Tap(pair.alpha, "--status", "403", "--count", "1", "-o", "json")
    under = Tap(pair.beta, "--path", "/under/", "--service", "web", "--caller", "cart", "--count", "2", "-o", "json")
    nothing = Tap(pair.beta, "--slower", "1m", "--duration", "2s")
    text = Tap(pair.beta, "--status", "4xx", "--count", "1")
    for path in ("/a", "/under/1", "/secret/1?a=b", "/b", "/under/2"):
        fetch(pair.address, path)
    (record,) = denied.records()
    assert (record["path"], record["status"], record["flags"]) == ("/secret/1?a=*", 403, "UAEX")
    assert "policy.toml" in record["rule"]
    assert [record["path"] for record in refused.records()] == ["/secret/1?a=*"]
    assert sorted(record["path"] for record in under.records()) == ["/under/1", "/under/2"]
    assert nothing.end()[:2] == (1, "")
    _, line, _ = text.end()
    assert "  in   cart -> web  GET /secret/1?a=*  403 UAEX  (" in line
    assert "policy.toml" in line


def test_tcp_connections(pair: Pair) -> None:
    tap = Tap(pair.alpha, "--tcp", "--count", "2", "-o", "json")
    sock = connect(pair.database)  # type: ignore[attr-defined]
    sock.sendall(b"GET / HTTP/1.1\r\nHost: db\r\n\r\n")
    assert sock.recv(65536)
    fetch(pair.address)  # no TCP connection
    sock.close()
    opened, closed = tap.records()
    assert (opened["event"], closed["event"]) == ("open", "close")
    assert (closed["dest"], closed["bytes_in"]) == ("db", 28)
    assert opened["upstream"] == closed["upstream"] == pair.origins[1].address


def test_a_pipe_that_is_closed_and_ctrl_c_end_it(pair: Pair) -> None:
    tap = Tap(pair.alpha)
    tap.process.send_signal(signal.SIGINT)
    assert tap.end() == (0, "", "")
    tap = Tap(pair.alpha)
    assert tap.process.stdout is not None
    tap.process.stdout.close()
    fetch(pair.address)
    assert tap.process.wait(WAIT) == 0
    assert tap.process.stderr is not None
    assert tap.process.stderr.read() == ""
    tap.process.stderr.close()


def test_workers_that_are_started_meanwhile_are_watched_too(pair: Pair) -> None:
    tap = Tap(pair.alpha, "--count", "1", "-o", "json")
    before = pair.alpha.workers()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(
        lambda: [worker["phase"] for worker in pair.alpha.ask_json("/workers")["workers"]] == ["serving"] * 2
        and not set(before) & set(pair.alpha.workers()),
        WAIT,
    )
    assert fetch(pair.address, "/later").statuses == [200]
    assert [record["path"] for record in tap.records()] == ["/later"]


def test_who_does_not_read_slows_nobody_and_is_told_what_he_missed(pair: Pair) -> None:
    stuck = Tap(pair.alpha, "--headers", "-o", "json", "--duration", "40s")
    reading = Tap(pair.alpha, "-o", "json", "--path", "/none", "--duration", "40s")
    padding = b"Accept: " + b"x" * 240
    many = [padding] * 60  # 15 KB of a record each: the queue is soon full
    stuck.process.send_signal(signal.SIGSTOP)
    try:
        slowest = 0.0
        for _ in range(250):
            time.sleep(0.005)  # as fast as workers tell of it: then it is the supervisor that has no room for it
            before = time.monotonic()
            assert fetch(pair.address, "/", *many).statuses == [200]
            slowest = max(slowest, time.monotonic() - before)
        assert slowest < 3.0
        fetch(pair.address, "/none")
        assert reading.process.stdout is not None
        lines = iter(reading.process.stdout.readline, "")
        assert next(line for line in lines if '"request"' in line)
    finally:
        stuck.process.send_signal(signal.SIGCONT)
    assert stuck.process.stdout is not None
    seen = told = 0
    for line in stuck.process.stdout:
        event = json.loads(line)
        seen += event["event"] == "request"
        if event["event"] == "dropped":
            told += event["records"]
        if told and seen + told >= 250:
            break
    assert told > 0
    stuck.kill()
    reading.kill()
    assert seen + told >= 250


def test_a_ninth_is_refused_and_there_is_room_when_one_has_gone(pair: Pair) -> None:
    taps = [Tap(pair.beta, "--service", "none") for _ in range(8)]
    done = command("tap", "--admin", pair.beta.admin)
    assert done.returncode == 1
    assert "8 watch already" in done.stderr
    for tap in taps:
        tap.kill()
    eventually(lambda: command("tap", "--admin", pair.beta.admin, "--duration", "100ms").returncode == 1)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("tap", "--status", "999"), "is no status"),
        (("tap", "--slower", "5"), "is not a duration"),
        (("tap", "--tcp", "--method", "GET"), "no TCP connection has them"),
        (("tap", "--duration", "5"), "--duration 5: is not a duration"),
        (("top", "--interval", "1ms"), "is not between 200ms and 1h"),
        (("log-level", "--for", "5m"), "--for is for a LEVEL"),
        (("log-level", "debug", "--for", "5"), "for is not a duration"),
    ],
)
def test_wrong_usage(pair: Pair, words: tuple[str, ...], problem: str) -> None:
    done = command(*words, "--admin", pair.alpha.admin)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr


def test_nobody_there() -> None:
    for words in (("tap",), ("top", "--once"), ("log-level",), ("log-level", "debug")):
        done = command(*words, "--admin", "127.0.0.1:1")
        assert done.returncode == 3
        assert "127.0.0.1:1: nobody listens" in done.stderr


def test_top_agrees_with_the_load(pair: Pair) -> None:
    load = Load(pair.address, clients=3, pause=0.01)
    stop = threading.Event()

    def deny() -> None:
        while not stop.is_set():
            fetch(pair.address, "/secret")
            time.sleep(0.02)

    denying = threading.Thread(target=deny)
    with load, contextlib.ExitStack() as stack:
        denying.start()
        stack.callback(denying.join)
        stack.callback(stop.set)
        before, began = load.done, time.monotonic()
        done = command("top", "--once", "--interval", "3s", "-o", "json", "--admin", pair.beta.admin)
        rate = (load.done - before) / (time.monotonic() - began)
        table = command("top", "--once", "--sort", "errors", "--admin", pair.beta.admin)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (row,) = [row for row in document["requests"] if row["service"] == "web"]
    assert (row["direction"], row["caller"], row["success"]) == ("inbound", "cart", 1.0)
    assert 2.0 <= document["seconds"] <= 6.0
    assert row["denied"] > 0
    assert row["requests"] - row["denied"] == pytest.approx(rate, rel=0.4)
    assert 0 < row["p50"] <= row["p95"] <= row["p99"]
    assert document["total"]["requests"] == pytest.approx(row["requests"])
    assert table.returncode == 0
    cells = [line.split() for line in table.stdout.splitlines()]
    assert ["in", "cart", "web"] in [line[:3] for line in cells]
    assert "\x1b" not in table.stdout


def test_top_on_a_terminal_redraws_until_ctrl_c(pair: Pair) -> None:
    ours, theirs = pty.openpty()
    top = subprocess.Popen(
        [sys.executable, "-m", "hostproxy", "top", "--interval", "500ms", "--admin", pair.alpha.admin],
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    received = b""

    def read_until(condition: Callable[[], bool]) -> None:
        nonlocal received
        deadline = time.monotonic() + WAIT
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, received[-500:]
            if select.select([ours], [], [], left)[0]:
                received += os.read(ours, 65536)

    read_until(lambda: received.count(b"\x1b[J") >= 2)
    top.send_signal(signal.SIGINT)
    read_until(lambda: received.endswith(b"\x1b[?25h"))
    assert top.wait(WAIT) == 0
    os.close(ours)
    assert top.stderr is not None
    assert top.stderr.read() == b""
    top.stderr.close()
    assert b"alpha" in received
    assert received.count(b"\x1b[2J") == 1


def levels(host: Host, level: str) -> set[str]:
    """The processes that have written lines of a level."""
    lines = (host.directory / "output.log").read_text().splitlines()
    return {words[1].partition("[")[0] for line in lines if len(words := line.split()) > 2 and words[2] == level}


def shown(host: Host) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(command("log-level", "-o", "json", "--admin", host.admin).stdout)
    return document


def test_the_level_of_the_log_is_set_for_a_while_and_in_workers_that_come_later(pair: Pair) -> None:
    alpha = pair.alpha
    done = command("log-level", "info", "--for", "0", "--admin", alpha.admin)
    assert (done.returncode, done.stdout) == (
        0,
        "info until reload, upgrade or restart, then warn again, as in conf.toml\n",
    )
    os.kill(alpha.workers()[0], signal.SIGKILL)
    eventually(lambda: "supervisor" in levels(alpha, "info"), WAIT)
    eventually(lambda: any(b"--log-level=info" in cmdline for cmdline in cmdlines(alpha)), WAIT)
    alpha.wait_ready()
    done = command("log-level", "debug", "--for", "1s", "--admin", alpha.admin)
    assert done.stdout == "debug for another 1s, then warn again, as in conf.toml\n"
    eventually(lambda: shown(alpha) == {"level": "warn", "configured": "warn", "left_seconds": None}, WAIT)


def cmdlines(host: Host) -> list[bytes]:
    found = []
    for pid in host.workers():
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    return found


def test_a_reload_takes_the_level_back_and_one_that_is_refused_does_not(pair: Pair) -> None:
    alpha = pair.alpha
    assert command("log-level", "debug", "--admin", alpha.admin).returncode == 0
    path = alpha.directory / "conf.toml"
    good = path.read_text()
    path.write_text("nonsense")
    alpha.reload()
    eventually(lambda: alpha.ask_json("/status")["reloads"]["refused"], WAIT)
    assert shown(alpha)["level"] == "debug"
    path.write_text(good)
    alpha.reload()
    eventually(lambda: shown(alpha)["level"] == "warn", WAIT)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_of_the_host_may_look_but_not_this(pair: Pair) -> None:
    script = (  # imports first: he may not be let in where Python is installed
        "import encodings.idna, importlib.metadata, os, sys; from hostproxy.__main__ import main;"
        "import hostproxy.cli.tap, hostproxy.cli.top, hostproxy.cli.log_level;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(main())"
    )
    for words, status in ((("tap",), 1), (("log-level", "debug"), 1), (("log-level",), 0), (("top", "--once"), 0)):
        done = subprocess.run(
            [sys.executable, "-c", script, *words, "--admin", pair.alpha.admin],
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert ("user 65534 may not: try as root" in done.stderr) is (status == 1)


def test_who_watches_is_told_when_the_daemon_leaves(pair: Pair) -> None:
    tap = Tap(pair.beta)
    pair.beta.stop()
    status, _, errors = tap.end()
    assert status == 4
    assert "the daemon has ended it" in errors
