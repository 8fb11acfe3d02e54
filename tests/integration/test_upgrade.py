"""Successors that take over, and those that may not; restarts whose connections wait."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.client import connect
from tests.fakes.manager import alive, ended
from tests.integration.host import eventually, fetch, free_port
from tests.integration.load import Load
from tests.integration.site_of_upgrades import SCRIPT, Site, listening

# Releases that are no good, and what is said of them.
SYNTAX = "#!{python}\nthis is no Python\n"
CRASHING = SCRIPT.replace("import sys\n", "import sys\nfrom hostproxy.control import daemon\n").replace(
    "sys.exit(main",
    "daemon.pinned = lambda python: '/bin/false'\nsys.exit(main",
)
REFUSING = SCRIPT.replace("import sys\n", "import sys\nfrom hostproxy import config\n").replace(
    "sys.exit(main",
    "from hostproxy.mesh.document import Invalid, Problem\n"
    "def load(path):\n    raise Invalid([Problem(path, 7, 1, 'limits.drain', 'has another form now')])\n"
    "config.load = load\nsys.exit(main",
)
# Stays on trial.
UNDECIDED = SCRIPT.replace("import sys\n", "import sys\nfrom hostproxy.control.succession import Succession\n").replace(
    "sys.exit(main",
    "async def judge(self):\n    self.log.info('judging')\nSuccession.judge = judge\nsys.exit(main",
)
UNITS = Path(__file__).parent.parent.parent / "systemd"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("upgrades"), watchdog=2.0) as site:
        releases = {"syntax": SYNTAX, "crashing": CRASHING, "refusing": REFUSING, "undecided": UNDECIDED}
        for name, script in releases.items():
            site.release(name, script)
        site.start()
        yield site


def test_an_upgrade_and_a_reload_under_load(site: Site) -> None:
    """No request fails, long sessions go on in the old workers, and counters are handed over."""
    with site.sessions(), Load(site.addresses["web"]) as load:
        old = site.host.workers()
        before = site.host.metric("requests_total")
        site.upgrade()
        load.more(100)
        assert site.host.metric("requests_total") >= before
        assert set(old) & set(site.host.workers()), "the sessions' worker is gone"
        site.reload()
    assert load.failures == []
    status = site.host.ask_json("/status")
    assert status["upgrades"]["succeeded"] == 1
    assert status["reloads"]["succeeded"] == 2
    assert status["pid"] == site.manager.main
    assert site.host.metric("upgrades_total", "success") == 1
    eventually(lambda: len(site.host.workers()) == 2, 10, "old workers stay although nothing is left to do")
    assert (site.manager.refused, site.manager.aliens) == ([], [])
    steps = [message for _, message in site.manager.messages if "MAINPID" in message or "READY" in message]
    assert [("MAINPID" in each, "READY" in each) for each in steps[:3]] == [(False, True), (True, False), (False, True)]


def test_an_upgrade_and_another_one_asked_for_meanwhile(site: Site) -> None:
    before = site.manager.main
    command = [str(site.directory / "good" / "bin" / "hostproxy"), "upgrade", "-c", site.conf]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    outputs = [each.communicate(timeout=60)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], outputs
    eventually(lambda: not alive(before), 5)
    assert site.manager.main != before


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ("syntax", "SyntaxError"),
        ("crashing", "its workers die"),
        ("refusing", "has another form now"),
    ],
)
def test_a_release_that_is_no_good(site: Site, release: str, words: str) -> None:
    """The old one never stops, and says why."""
    before, workers = site.manager.main, site.host.workers()
    failed = site.host.ask_json("/status")["upgrades"]["failed"]
    site.switch_code(release)
    try:
        with site.sessions(1), Load(site.addresses["web"]) as load:
            done = site.command("upgrade")
            load.more(50)
    finally:
        site.switch_code("good")
    assert load.failures == []
    assert done.returncode == 1
    assert words in done.stderr
    assert (site.manager.main, site.host.workers()) == (before, workers)
    assert site.host.ask_json("/status")["upgrades"]["failed"] == failed + 1
    eventually(lambda: site.host.metric("upgrades_total", "failed") == failed + 1, 3)  # it is good for a second
    assert site.host.processes() == sorted([before, *workers])
    assert not [name for name in os.listdir(site.host.directory / "run") if name.startswith("trial")]


def test_a_reload_that_is_asked_for_during_an_upgrade_comes_after_it(site: Site) -> None:
    before = site.manager.main
    reloads = site.host.ask_json("/status")["reloads"]["succeeded"]
    os.kill(before, signal.SIGUSR2)
    os.kill(before, signal.SIGHUP)
    eventually(lambda: site.manager.main != before, 30)
    eventually(lambda: site.host.ask_json("/status")["reloads"]["succeeded"] == reloads + 1, 10)


def test_the_watchdog_is_fed_while_every_worker_answers(site: Site) -> None:
    """With WatchdogSec=2 every second; not while one hangs, and again at once when it goes on."""
    since = time.monotonic()
    eventually(lambda: site.manager.said("WATCHDOG", since), 5)
    worker = site.host.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        eventually(lambda: time.monotonic() - site.manager.said("WATCHDOG")[-1][0] > 2.2, 15)
        hungry = time.monotonic()
    finally:
        os.kill(worker, signal.SIGCONT)
    eventually(lambda: site.manager.said("WATCHDOG", hungry), 5)


def test_a_supervisor_that_is_killed_during_a_trial_leaves_its_workers_only(site: Site) -> None:
    """The successor goes with all that it started, and the next supervisor takes over from the workers.

    Who waits for the outcome is told soon.
    """
    main, workers = site.manager.main, site.host.workers()
    site.switch_code("undecided")
    command = [str(site.directory / "good" / "bin" / "hostproxy"), "upgrade", "-c", site.conf]
    asking = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        eventually(lambda: "judging" in site.host.output(), 20)
    finally:
        site.switch_code("good")
    with Load(site.addresses["web"], pause=0.01, patience=30) as load:
        assert len(site.host.processes()) > len(workers) + 2
        os.kill(main, signal.SIGKILL)
        eventually(lambda: site.host.processes() == sorted(workers), 5, "the successor stays")
        assert "was stopped, or died, during the upgrade" in asking.communicate(timeout=30)[0]
        assert asking.returncode == 3
        site.start()
        load.more(20)
    assert load.failures == []
    assert not [name for name in os.listdir(site.host.directory / "run") if name.startswith("trial")]


def test_restarts_lose_no_waiting_connection(site: Site) -> None:
    """Kept descriptors: who connects meanwhile waits, and is answered."""
    assert any(name.startswith("listener-") for name in site.manager.stored)
    with Load(site.addresses["web"], pause=0.01, patience=30) as load:
        site.restart()
        load.more(50)
    assert load.failures == []
    assert [line for _, line in site.manager.said("STOPPING")]


def test_sockets_of_a_unit(tmp_path: Path) -> None:
    """Those that conf.toml wants are used, by address; others are told of and closed.

    At a start the manager decides anew whether accepting waits, for workers that were left behind as well.
    """
    with Site(tmp_path) as site:
        address, stray = site.addresses["web"], f"127.0.0.1:{free_port()}"
        site.manager.units = {"first": listening(address), "second": listening(stray)}
        site.manager.nonblocking = "NonBlocking=yes" in (UNITS / "hostproxy.service").read_text().splitlines()
        site.start()
        with Load(address, pause=0.01, patience=30) as load:
            site.restart()
            load.more(20)
        assert load.failures == []
        ended(site.manager.main, signal.SIGKILL, 5)
        since = time.monotonic()
        site.manager.start()
        site.host._sessions.append(site.manager.main)
        assert [fetch(address).statuses for _ in range(3)] == [[200]] * 3  # of workers that were left behind
        site.manager.wait_ready(since)
        site.host.process = site.manager.process
        assert f"a socket for {stray} was passed to us" in site.host.output()
        assert fetch(address).statuses == [200]
        site.manager.stop()
        assert os.listdir(site.host.directory / "run") == ["hostproxy.lock"]


def test_a_reload_that_is_not_fit_is_not_even_asked_for(site: Site) -> None:
    before = site.host.ask_json("/status")["reloads"]
    good = Path(site.conf).read_text()
    Path(site.conf).write_text(good + "\n[surprise]\n")
    try:
        done = site.command("reload", "--wait", "--upgrade")
    finally:
        Path(site.conf).write_text(good)
    assert done.returncode == 1
    assert "surprise" in done.stderr
    assert site.host.ask_json("/status")["reloads"] == before


def test_a_reload_that_the_daemon_refuses_says_why(site: Site) -> None:
    """The file is fit, but this change takes a restart."""
    good = Path(site.conf).read_text()
    state = site.host.conf["host"]["state_directory"]
    Path(site.conf).write_text(good.replace(state, state + "2"))
    try:
        done = site.command("reload", "--wait")
    finally:
        Path(site.conf).write_text(good)
    assert done.returncode == 1
    assert "host.state_directory: changes only with a restart" in done.stderr
    site.reload()


def test_an_admin_address_that_is_changed(site: Site) -> None:
    """Commands ask the one in use, and follow the daemon to the other, within one process and into a successor."""
    good, old = Path(site.conf).read_text(), site.host.admin
    for words in (["reload", "--wait"], ["upgrade"]):
        new = f"127.0.0.1:{free_port()}"
        Path(site.conf).write_text(good.replace(old, new))
        done = site.command(*words)
        assert done.returncode == 0, (words, done.stderr)
        assert site.command("status", "-o", "json").returncode == 0
        with pytest.raises(ConnectionRefusedError):
            connect(old).close()
    Path(site.conf).write_text(good)
    done = site.command("reload", "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    assert site.host.ask_json("/status")["pid"] == site.manager.main


def test_reload_upgrades_only_where_the_code_is_another(site: Site) -> None:
    """The code of this command is what runs; written otherwise into the lock's file, it is not."""
    before = site.manager.main
    done = site.command("reload", "--wait", "--upgrade")
    assert (done.returncode, site.manager.main) == (0, before), done.stderr
    lock = site.host.directory / "run" / "hostproxy.lock"
    pid, version, code, admin = lock.read_text().splitlines()
    lock.write_text(f"{pid}\n{version}\n{code}-of-yesterday\n")
    done = site.command("reload", "--wait", "--upgrade")
    assert done.returncode == 0, done.stderr
    eventually(lambda: site.manager.main != before, 5)
    assert lock.read_text().splitlines() == [str(site.manager.main), version, code, admin]


def test_commands_without_a_daemon(tmp_path: Path, site: Site) -> None:
    conf = tmp_path / "conf.toml"
    text = Path(site.conf).read_text().replace(str(site.host.directory / "run"), str(tmp_path / "run"))
    conf.write_text(text.replace(site.host.admin, f"127.0.0.1:{free_port()}"))
    script = str(site.directory / "good" / "bin" / "hostproxy")
    for words in (["upgrade"], ["reload"], ["reload", "--wait", "--upgrade"]):
        command = [script, *words, "-c", str(conf)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 3, (words, done.stderr)
        assert done.stderr
