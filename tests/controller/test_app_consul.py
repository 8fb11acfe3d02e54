"""Two controllers on one Consul: one leads, both serve, and nothing is lost with either."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.consul import Consul, running
from tests.controller.conftest import POLICY, Process, csr, free_port, initialise

OTHER = {"payments.toml": POLICY["payments.toml"] + 'methods = ["GET"]\n'}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    with running(tmp_path_factory.mktemp("consul"), memory=True) as agent:
        yield agent


@pytest.fixture
def pair(tmp_path: Path, agent: Consul) -> Iterator[list[Process]]:
    first = tmp_path / "c1"
    assert initialise(first, 25008).returncode == 0
    shutil.copytree(first, tmp_path / "c2")
    processes = []
    for number in (1, 2):
        port = free_port()
        path = tmp_path / f"c{number}" / "controller.toml"
        text = path.read_text().replace("25008", str(port)).replace("controller-1", f"controller-{number}")
        store = f'backend = "consul"\nconsul_address = "http://{agent.ip}:{agent.port}"\nconsul_prefix = "mesh"'
        path.write_text(text.replace('backend = "sqlite"', store))
        processes.append(Process(path.parent, port))
    try:
        processes[0].start()
        processes[1].start(leading=False)
        yield processes
    finally:
        for each in processes:
            each.kill()


def enrolling(leader: Process, host: str) -> str:
    """A token for a host."""
    status, made = leader.local("POST", "/v1/tokens", {"host": host})
    assert status == 201
    token: str = made["token"]
    return token


def enrol(process: Process, host: str, token: str) -> int:
    """The status of the answer to a host that comes with this token and a key of its own."""
    status: int = process.https("POST", "/v1/enrol", {"host": host, "token": token, "csr": csr()})[0]
    return status


def test_one_leads_and_both_serve(pair: list[Process]) -> None:
    leader, other = pair
    status, found = leader.local("POST", "/v1/policy", {"files": POLICY})
    assert status == 201, found
    status, found = other.local("POST", "/v1/policy", {"files": OTHER})
    assert status == 503
    assert "controller-1" in found["error"]
    assert other.local("GET", "/v1/policy")[1]["generations"][0]["generation"] == 1
    # A token of one is good with the other, and once with both.
    for number in range(10):
        token = enrolling(leader, f"h{number}")
        with ThreadPoolExecutor(2) as both:
            answers = list(both.map(lambda process: enrol(process, f"h{number}", token), pair))  # noqa: B023
        assert sorted(answers) == [200, 403]
        # Whoever refuses five in a row from one address slows that down; a right token makes it good again.
        loser = pair[answers.index(403)]
        assert enrol(loser, f"good-{number}", enrolling(leader, f"good-{number}")) == 200
    # The leader is killed while it leads: the other takes over, and knows all that was answered.
    leader.process.kill()
    leader.process.wait(10)
    deadline = time.monotonic() + 60
    while not other.local("GET", "/v1/status")[1]["leading"]:
        assert time.monotonic() < deadline, other.log
        time.sleep(0.2)
    status, found = other.local("POST", "/v1/policy", {"files": OTHER})
    assert (status, found["generation"]) == (201, 2)
    assert len(other.local("GET", "/v1/hosts")[1]["hosts"]) == 20
    leader.start(leading=False)
    assert leader.local("GET", "/v1/status")[1]["leader"] == "controller-2"
    assert "Traceback" not in leader.log + other.log
