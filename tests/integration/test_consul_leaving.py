"""A second signal while Consul is being left: the host goes at once, and nothing of it stays behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.consul_hosts import Site, within


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def test_the_second_signal_leaves_no_worker(site: Site) -> None:
    agent = site.consul("server-1", memory=True)
    origin = site.origin(b"one")
    host = site.host("db-1", agent, services={"payments": origin.address}, workers=2, leave="5s")
    site.start(host)
    within(5, lambda: bool(agent.get("/v1/catalog/service/payments")), "payments is not registered")
    host.terminate()
    time.sleep(0.5)
    assert host.process is not None
    assert host.process.poll() is None  # it goes on serving for those who don't know yet
    host.terminate()
    assert host.wait(3) == 1
    within(2, lambda: host.processes() == [], "workers stay behind")
