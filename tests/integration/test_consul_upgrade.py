"""Upgrades of a host that is registered in Consul: nothing of it is taken out, unless it is stopped meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consul import Consul
from tests.fakes.manager import Manager, alive, ended
from tests.integration.consul_hosts import Site, within
from tests.integration.host import Host
from tests.integration.site_of_upgrades import SCRIPT

# Takes over a second after everything was given to it, and says when that was.
SLOW = SCRIPT.replace("import sys\n", "import sys\nfrom hostproxy.control.succession import Succession\n").replace(
    "sys.exit(main",
    "take = Succession._take\n"
    "def late(self, message, lock):\n"
    "    self.log.info('given')\n"
    "    self._reactor.callLater(1.0, take, self, message, lock)\n"
    "Succession._take = late\n"
    "sys.exit(main",
)
BROKEN = SLOW.replace("import sys\n", "import os, sys\n").replace(
    "self._reactor.callLater(1.0, take, self, message, lock)", "self._reactor.callLater(1.0, os._exit, 1)"
)


class Watched:
    """What an agent has of a host, looked at all the time."""

    def __init__(self, agent: Consul, wanted: set[str]) -> None:
        self.faults: list[str] = []
        self.looks = 0
        self._agent = agent
        self._wanted = wanted
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.03):
            missing = self._wanted - registered(self._agent)
            checks = self._agent.get("/v1/agent/checks").values()
            self.faults += [f"{ident} is missing" for ident in missing]
            self.faults += [f"{each['CheckID']} is {each['Status']}" for each in checks if each["Status"] != "passing"]
            self.looks += 1

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()


class Upgraded:
    """A host beside an agent, under a service manager."""

    def __init__(self, directory: Path) -> None:
        self.site = Site(directory)
        self.agent = self.site.consul("server-1", memory=True)
        origin = self.site.origin(b"one")
        check = {"tcp": True, "interval": "1s"}
        self.host: Host = self.site.host("db-1", self.agent, services={"payments": origin.address}, check=check)
        self.host.write()
        self.script = directory / "hostproxy"
        self.release(SCRIPT)
        command = [str(self.script), "run", "-c", str(self.host.directory / "conf.toml")]
        self.manager = Manager(directory, command, self.host.directory / "output.log", {})

    def release(self, script: str) -> None:
        """Install this code."""
        new = self.script.with_name("new")
        new.write_text(script.format(python=sys.executable))
        new.chmod(0o755)
        new.rename(self.script)

    def start(self) -> set[str]:
        """Start it; what it has registered."""
        self.manager.start()
        self.host._sessions.append(self.manager.main)
        self.host.process = self.manager.process
        self.manager.wait_ready()
        within(10, lambda: self.agent.get("/v1/health/service/payments?passing"), "payments is not registered")
        return registered(self.agent)

    def close(self) -> None:
        ended(self.manager.main, signal.SIGKILL, 5)
        self.host.stop()
        self.manager.close()
        self.site.close()


@pytest.fixture
def upgraded(tmp_path: Path) -> Iterator[Upgraded]:
    made = Upgraded(tmp_path)
    yield made
    made.close()


def registered(agent: Consul) -> set[str]:
    return set(agent.get("/v1/agent/services"))


def test_an_upgrade_deregisters_nothing_and_heartbeats_go_on(upgraded: Upgraded) -> None:
    idents = upgraded.start()
    before = upgraded.manager.main
    assert len(idents) == 2
    with Watched(upgraded.agent, idents) as watched:
        os.kill(before, signal.SIGUSR2)
        within(20, lambda: upgraded.manager.main != before)
        within(5, lambda: not alive(before))
        # Of the new one, beyond those with which it says at once how things are.
        told = upgraded.host.metric("consul_requests_total", "agent_check")
        within(20, lambda: upgraded.host.metric("consul_requests_total", "agent_check") >= told + 2)
    assert watched.faults == []
    assert watched.looks > 20
    assert registered(upgraded.agent) == idents


@pytest.mark.parametrize("release", [SLOW, BROKEN], ids=["successor", "predecessor"])
def test_a_stop_while_everything_is_being_given_leaves_consul(upgraded: Upgraded, release: str) -> None:
    """Whoever it is that runs after that moment leaves in order; the service manager sees the old one end last."""
    upgraded.start()
    before = upgraded.manager.main
    upgraded.release(release)
    os.kill(before, signal.SIGUSR2)
    within(20, lambda: "given" in upgraded.host.output())
    os.kill(before, signal.SIGTERM)
    assert upgraded.manager.process is not None
    assert upgraded.manager.process.wait(20) == 0, upgraded.host.output()
    assert registered(upgraded.agent) == set()
    assert upgraded.host.processes() == []
    assert (upgraded.manager.main != before) == (release is SLOW)
