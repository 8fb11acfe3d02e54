"""The life of the daemon with real processes: starts, deaths, take-overs, reloads and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.origin import Answer, Origin, reply
from tests.integration.host import Host, certificates, eventually, fetch, free_port, replace
from tests.integration.load import Load

MakeHost = Callable[..., Host]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    certificates(directory, "h1", "cart", "payments")
    return directory


@pytest.fixture(scope="module")
def origin() -> Origin:
    return Origin()


def maker(directory: Path, pki: Path, origin: Origin) -> Iterator[MakeHost]:
    """Makes hosts that call their own ``payments`` through their own mesh port."""
    hosts: list[Host] = []

    def make(address: str = origin.address, **options: object) -> Host:
        host = Host(directory / f"host{len(hosts)}", "h1", certificates=pki, **options)  # type: ignore[arg-type]
        hosts.append(host)
        host.conf["service"] = [
            {"name": "cart", "instances": ["127.0.0.1:9"]},
            {"name": "payments", "instances": [address]},
        ]
        host.conf["outbound"]["caller"] = "cart"
        host.add_upstream("payments")
        host.conf["outbound"]["upstream"][0]["caller"] = "cart"
        host.catalog.append({"service": "payments", "host": "h1", "address": address, "mesh": host.mesh})
        host.write()
        return host

    yield make
    for host in hosts:
        for pid in host.processes():  # all at once: draining is tested where it is meant
            os.kill(pid, signal.SIGKILL)
        host.stop()


@pytest.fixture
def make(tmp_path: Path, pki: Path, origin: Origin) -> Iterator[MakeHost]:
    yield from maker(tmp_path, pki, origin)


@pytest.fixture
def fresh(make: MakeHost) -> Host:
    """A host of one test's own."""
    return make().start().wait_ready()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, pki: Path, origin: Origin) -> Iterator[Host]:
    """A host for tests that leave it as they found it."""
    for make in maker(tmp_path_factory.mktemp("shared"), pki, origin):
        yield make().start().wait_ready()


def upstream(host: Host, number: int = 0) -> str:
    address: str = host.conf["outbound"]["upstream"][number]["listen"]
    return address


def status_of(address: str) -> int:
    outcome = fetch(address)
    assert outcome.responses, outcome
    return outcome.responses[0].status


def run_once(host: Host) -> subprocess.CompletedProcess[str]:
    """``hostproxy run`` where it is expected not to start."""
    command = [sys.executable, "-m", "hostproxy", "run", "-c", str(host.directory / "conf.toml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, number)


# Starting and stopping


def test_it_serves_and_leaves_nothing_behind(fresh: Host) -> None:
    assert status_of(upstream(fresh)) == 200
    second = run_once(fresh)
    assert second.returncode == 1
    assert "another hostproxy" in second.stderr
    fresh.terminate()
    assert fresh.wait() == 0
    assert fresh.processes() == []
    assert os.listdir(fresh.directory / "run") == ["hostproxy.lock"]
    with pytest.raises(ConnectionRefusedError):
        fetch(upstream(fresh))
    fresh.start().wait_ready()
    assert status_of(upstream(fresh)) == 200


def test_every_problem_of_the_configuration_is_told_and_nothing_starts(make: MakeHost) -> None:
    host = make()
    host.conf["mesh"]["lisen"] = "x"
    host.conf["workers"]["count"] = -1
    host.write_conf()
    done = run_once(host)
    assert done.returncode == 1
    assert "conf.toml:" in done.stderr
    assert "mesh.lisen" in done.stderr
    assert "workers.count" in done.stderr
    assert os.listdir(host.directory / "run") == []


def test_every_problem_of_catalog_and_policy_is_told(make: MakeHost) -> None:
    host = make()
    (host.directory / "catalog.toml").write_text("[[instance]]\nservice = 3\n")
    (host.directory / "policy.toml").write_text("[defaults]\naccess = 'perhaps'\n")
    done = run_once(host)
    assert done.returncode == 1
    assert "catalog.toml:2" in done.stderr
    assert "policy.toml:2" in done.stderr


def test_a_taken_port_is_told(make: MakeHost) -> None:
    host = make()
    address, _, port = host.mesh.rpartition(":")
    with socket.create_server((address, int(port))):
        done = run_once(host)
    assert done.returncode == 1
    assert f"{host.mesh}: another program" in done.stderr
    assert host.start().wait_ready()


def test_systemd_is_told(make: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        host = make().start()
        said = [manager.recv(1000).decode()]
        while said[-1] != "READY=1":
            said.append(manager.recv(1000).decode())
        assert host.ask("/ready")[0] == 200
        host.reload()
        while not said[-1].startswith("RELOADING=1\nMONOTONIC_USEC="):
            said.append(manager.recv(1000).decode())
        while said[-1] != "READY=1":
            said.append(manager.recv(1000).decode())
        host.terminate()
        while not said[-1].startswith("STOPPING=1"):
            said.append(manager.recv(1000).decode())


# Draining


def slow_origin(seconds: float) -> Origin:
    return Origin(lambda request, connection: Answer(reply(b"slow"), wait=seconds))


def start_request(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)), 10)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    return sock


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_finish(make: MakeHost, number: signal.Signals) -> None:
    origin = slow_origin(0.5)
    host = make(origin.address).start().wait_ready()
    assert host.process is not None
    with start_request(upstream(host)) as sock:
        eventually(lambda: origin.requests)
        if number == signal.SIGINT:
            os.killpg(host.process.pid, number)  # Ctrl-C: the workers get it as well
        else:
            host.terminate()
        answer = sock.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer.lower()
    assert host.wait() == 0


def test_the_deadline_of_draining_is_kept_and_the_second_signal_does_not_wait(make: MakeHost) -> None:
    for signals, least, most in ((1, 0.5, 3.0), (2, 0.0, 1.5)):
        origin = slow_origin(30.0)
        limit = "0.5s" if signals == 1 else "30s"
        host = make(origin.address, limits={"drain": limit}).start().wait_ready()
        with start_request(upstream(host)):
            eventually(lambda origin=origin: origin.connections)
            time.sleep(0.2)
            began = time.monotonic()
            host.terminate()
            if signals == 2:
                time.sleep(0.1)
                host.terminate()
            code = host.wait()
            assert least <= time.monotonic() - began <= most
            assert code == signals - 1
        assert host.processes() == []


# Workers that die


def test_a_killed_worker_is_replaced_and_the_others_never_notice(make: MakeHost) -> None:
    host = make(workers=2).start().wait_ready()
    eventually(lambda: len(host.workers()) == 2)
    eventually(lambda: [w["phase"] for w in host.ask_json("/workers")["workers"]] == ["serving"] * 2)
    for _ in range(20):
        assert status_of(upstream(host)) == 200
    eventually(lambda: host.metric("requests_total", 'direction="outbound"') == 20)
    victim = host.workers()[0]
    kill(victim)
    for _ in range(30):
        assert status_of(upstream(host)) == 200  # new connections are never refused
    eventually(lambda: len(host.workers()) == 2 and victim not in host.workers())
    eventually(lambda: host.metric("requests_total", 'direction="outbound"') == 50)
    workers = eventually(
        lambda: [w for w in host.ask_json("/workers")["workers"] if w["restarts"] and w["phase"] == "serving"]
    )
    assert workers[0]["restarts"] == 1
    assert "killed by SIGKILL" in host.output()
    assert not (host.directory / "run" / f"worker-{victim}.sock").exists()


def test_a_worker_told_to_drain_is_replaced_before_it_leaves(make: MakeHost) -> None:
    origin = slow_origin(1.0)
    host = make(origin.address).start().wait_ready()
    (leaver,) = host.workers()
    with start_request(upstream(host)) as sock:
        eventually(lambda: origin.requests)
        kill(leaver, signal.SIGTERM)
        eventually(lambda: len(host.workers()) == 2)
        assert sock.recv(10_000).startswith(b"HTTP/1.1 200")
    eventually(lambda: leaver not in host.workers())
    assert status_of(upstream(host)) == 200


def test_workers_ignore_the_terminal(host: Host) -> None:
    (worker,) = host.workers()
    kill(worker, signal.SIGINT)
    kill(worker, signal.SIGHUP)
    kill(worker, signal.SIGUSR1)  # prints its stack
    assert status_of(upstream(host)) == 200
    assert host.workers() == [worker]
    assert "doPoll" in host.output()


# A supervisor that dies


def test_nobody_notices_that_the_supervisor_died_and_was_started_again(make: MakeHost) -> None:
    host = make(workers=2).start().wait_ready()
    with Load(upstream(host), clients=2) as old, Load(upstream(host), clients=2) as also:
        assert host.process is not None
        orphans = eventually(lambda: host.workers() if len(host.workers()) == 2 else None)
        eventually(lambda: [w["phase"] for w in host.ask_json("/workers")["workers"]] == ["serving"] * 2)
        counted = host.metric("requests_total", 'direction="outbound"')
        host.process.kill()
        host.wait()
        old.more(100)
        assert host.workers() == orphans
        host.start().wait_ready()
        also.more(100)
        eventually(lambda: not set(orphans) & set(host.workers()), 10.0)
        old.more(100)
        assert len(host.workers()) == 2
        assert host.metric("requests_total", 'direction="outbound"') > counted, "counters went back"
    assert old.failures == []
    assert also.failures == []
    assert "taking over" in host.output()
    host.terminate()
    assert host.wait() == 0


def test_an_orphan_that_nobody_takes_over_serves_until_sigterm(fresh: Host) -> None:
    assert fresh.process is not None
    (orphan,) = fresh.workers()
    fresh.process.kill()
    fresh.wait()
    assert status_of(upstream(fresh)) == 200
    kill(orphan, signal.SIGTERM)
    eventually(lambda: fresh.workers() == [])
    assert os.listdir(fresh.directory / "run") == ["hostproxy.lock"]
    fresh.start().wait_ready()
    assert status_of(upstream(fresh)) == 200


def test_a_take_over_with_other_listeners(fresh: Host) -> None:
    assert fresh.process is not None
    old = upstream(fresh)
    fresh.process.kill()
    fresh.wait()
    fresh.conf["outbound"]["upstream"][0]["listen"] = f"unix:{fresh.directory}/p.sock"
    fresh.write_conf()
    fresh.start().wait_ready()
    eventually(lambda: len(fresh.workers()) == 1)
    assert status_of(upstream(fresh)) == 200
    with pytest.raises(ConnectionRefusedError):
        fetch(old)


def test_a_supervisor_that_dies_while_workers_start(make: MakeHost) -> None:
    host = make().start()
    assert host.process is not None
    eventually(lambda: len(host.processes()) > 1)
    host.process.kill()
    host.wait()
    host.start().wait_ready()
    assert status_of(upstream(host)) == 200
    eventually(lambda: len(host.workers()) == 1)


def test_an_orphan_that_hangs_does_not_stop_the_next_start(make: MakeHost) -> None:
    host = make(workers=2).start().wait_ready()
    assert host.process is not None
    stopped, _ = eventually(lambda: host.workers() if len(host.workers()) == 2 else None)
    eventually(lambda: [w["phase"] for w in host.ask_json("/workers")["workers"]] == ["serving"] * 2)
    kill(stopped, signal.SIGSTOP)
    host.process.kill()
    host.wait()
    host.start().wait_ready()
    assert status_of(upstream(host)) == 200
    kill(stopped, signal.SIGCONT)
    eventually(lambda: stopped not in host.workers())


# Reloading


def reloads(host: Host) -> dict[str, Any]:
    """What /status says about reloads; nothing while the admin address moves."""
    try:
        found: dict[str, Any] = host.ask_json("/status")["reloads"]
    except OSError:
        return {"succeeded": 0, "refused": 0, "problems": []}
    return found


def test_a_reload_takes_everything_new_and_rebinds_nothing(host: Host) -> None:
    succeeded = reloads(host)["succeeded"]
    with Load(upstream(host), clients=2) as load:
        extra = host.add_upstream("payments")
        host.conf["outbound"]["upstream"][1]["caller"] = "host"
        host.conf["workers"]["count"] = 2
        admin, host.admin = host.admin, f"127.0.0.1:{free_port()}"
        host.conf["admin"]["listen"] = host.admin
        host.write_conf()
        host.reload()
        eventually(lambda: reloads(host)["succeeded"] == succeeded + 1)
        eventually(lambda: len(host.workers()) == 2)
        assert status_of(extra) == 200
        with pytest.raises(ConnectionRefusedError):
            fetch(admin)
        load.more(50)
        del host.conf["outbound"]["upstream"][1]
        host.conf["workers"]["count"] = 1
        host.write_conf()
        host.reload()
        eventually(lambda: len(host.workers()) == 1)
        with pytest.raises(ConnectionRefusedError):
            fetch(extra)
        load.more(50)
    assert load.failures == []


def test_a_reload_is_refused_whole(host: Host) -> None:
    refused = reloads(host)["refused"]
    with socket.create_server(("127.0.0.1", 0)) as taken, Load(upstream(host), clients=2) as load:
        free = host.add_upstream("payments")
        host.add_upstream("payments", f"127.0.0.1:{taken.getsockname()[1]}")
        for one in host.conf["outbound"]["upstream"][1:]:
            one["caller"] = "host"
        host.write_conf()
        host.reload()
        eventually(lambda: reloads(host)["refused"] == refused + 1)
        assert "another program" in reloads(host)["problems"][0]
        with pytest.raises(ConnectionRefusedError):
            fetch(free)
        (host.directory / "conf.toml").write_text("[host\n")
        host.reload()
        eventually(lambda: reloads(host)["refused"] == refused + 2)
        load.more(50)
        del host.conf["outbound"]["upstream"][1:]
        host.write_conf()
        host.reload()
        eventually(lambda: reloads(host)["problems"] == [])
    assert load.failures == []


def test_logs_are_opened_again_on_reload(host: Host) -> None:
    log = host.directory / "access.log"
    eventually(lambda: fetch(upstream(host)).responses and log.exists())
    log.rename(host.directory / "access.log.1")
    host.reload()
    eventually(lambda: fetch(upstream(host)).responses and log.exists())


# Sources that change


def test_a_changed_catalog_and_policy_take_effect(host: Host) -> None:
    host.policy["defaults"] = {"access": "deny"}
    host.write_policy()
    eventually(lambda: status_of(upstream(host)) == 403)
    host.policy["service"]["payments"] = {"allow": [{"from": ["cart"]}]}
    host.write_policy()
    eventually(lambda: status_of(upstream(host)) == 200)
    known = host.catalog.copy()
    host.catalog.clear()
    host.write_catalog()
    eventually(lambda: status_of(upstream(host)) == 503)
    host.catalog[:] = known
    host.write_catalog()
    eventually(lambda: status_of(upstream(host)) == 200)


def test_a_bad_file_keeps_the_old_and_is_shown_until_it_is_good(host: Host) -> None:
    replace(host.directory / "policy.toml", "nonsense\n")
    problems = eventually(lambda: host.ask_json("/status")["policy"]["problems"])
    assert "policy.toml:1" in problems[0]
    assert status_of(upstream(host)) == 200
    host.write_policy()
    eventually(lambda: not host.ask_json("/status")["policy"]["problems"])


def test_new_certificates_are_taken_while_requests_flow(host: Host, tmp_path: Path) -> None:
    files = Path(host.conf["identity"]["files"]["directory"])
    expiries = {one["name"]: one["not_after"] for one in host.ask_json("/status")["certificates"]["identities"]}
    certificates(tmp_path, "h1", "cart", "payments", authority=files)
    with Load(upstream(host), clients=2) as load:
        for new in sorted(tmp_path.iterdir()):
            if not new.name.startswith("ca."):
                new.rename(files / new.name)
        eventually(
            lambda: all(
                one["not_after"] > expiries[one["name"]]
                for one in host.ask_json("/status")["certificates"]["identities"]
            )
        )
        load.more(50)
        assert status_of(upstream(host)) == 200
    assert load.failures == []


def test_it_starts_from_what_it_kept(fresh: Host) -> None:
    kept = fresh.directory / "state" / "last-good.msgpack"
    eventually(kept.exists)
    assert b"PRIVATE" not in kept.read_bytes()
    fresh.terminate()
    fresh.wait()
    (fresh.directory / "catalog.toml").unlink()
    replace(fresh.directory / "policy.toml", "nonsense\n")
    fresh.start().wait_ready()
    assert status_of(upstream(fresh)) == 200
    shown = fresh.ask_json("/status")
    assert shown["catalog"]["kept"]
    assert shown["policy"]["kept"]
    assert "catalog.toml" in shown["catalog"]["problems"][0]
    fresh.write_catalog()
    fresh.write_policy()
    eventually(lambda: not fresh.ask_json("/status")["catalog"]["kept"])
    eventually(lambda: not fresh.ask_json("/status")["policy"]["kept"])


def test_a_state_directory_that_cannot_be_written_degrades(make: MakeHost) -> None:
    host = make()
    blocked = host.directory / "blocked"
    blocked.write_text("")
    host.conf["host"]["state_directory"] = str(blocked)
    host.write_conf()
    host.start().wait_ready()
    assert eventually(lambda: "state_directory" in str(host.ask_json("/ready")["degraded"]))
    assert status_of(upstream(host)) == 200
