"""Fixtures of the tests with real processes, and the logs of those processes beside a failure."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.origin import Answer, Origin, reply
from tests.integration.controller_site import Controller
from tests.integration.host import Host
from tests.integration.mesh import TOPOLOGIES, Mesh, Service


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        for host in Host.alive:
            report.sections.append((f"hostproxy {host.name} ({host.directory})", host.output()))
        for controller in Controller.alive:
            report.sections.append((f"hostproxy-controller ({controller.directory})", controller.output()))


@pytest.fixture(scope="session", autouse=True)
def no_process_left_behind() -> Iterator[None]:
    """A run that is told to end ends what it started: workers outlive their supervisor by design."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)
    for host in list(Host.alive):
        host.stop()
    for controller in list(Controller.alive):
        controller.kill()


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Two running hosts."""
    mesh = Mesh(tmp_path_factory.mktemp("mesh"))
    try:
        yield mesh.start()
    finally:
        mesh.stop()


@pytest.fixture(params=TOPOLOGIES)
def topology(request: pytest.FixtureRequest) -> str:
    """Each of the two ways."""
    name: str = request.param
    return name


def fresh(origin: Origin) -> None:
    """An origin that answers 200 and remembers nothing."""
    origin.disconnect()
    time.sleep(0.01)  # until no proxy has a connection of an earlier test in its pool
    origin.forget()
    origin.handle = None
    origin.respond = lambda request, connection: Answer(reply())


@pytest.fixture
def http(mesh: Mesh, topology: str) -> Service:
    """An HTTP service over each topology, its origin answering 200 until told otherwise."""
    service = mesh.services[f"{topology}-http"]
    fresh(service.origin)
    return service


@pytest.fixture
def tcp(mesh: Mesh, topology: str) -> Service:
    """A TCP service over each topology."""
    service = mesh.services[f"{topology}-tcp"]
    fresh(service.origin)
    return service
