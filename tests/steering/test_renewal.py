"""When certificates are renewed: by a clock that no step moves, and calmly."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.task import Clock

from controller.authority.authority import Authority
from controller.authority.requests import public_key
from hostproxy.mesh.messages import CertificateRequest, Issued
from hostproxy.mesh.spiffe import SpiffeId
from hostproxy.steering import certificates
from hostproxy.steering.controller import Declined, Unreachable
from hostproxy.steering.keeper import Keeper
from hostproxy.steering.record import Disk, Record
from hostproxy.steering.renewal import Certificates
from tests.fakes.fake_controller import HOST, MESH

HOUR = 3600.0
START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC).timestamp()


class Scene:
    """A host with two services, a clock for its timers and one for its wall, and a controller that counts."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.step = 0.0  # of the wall clock
        self.asked: list[str] = []
        self.failing: Exception | None = None
        self.lost = 0
        self.authority = Authority.create(str(path / "authority"), MESH, b"x" * 32, self.moment())
        self.path = path
        self.start()

    def start(self) -> None:
        disk = Disk(str(self.path / "state"))
        self.keeper = Keeper(disk, execute)
        self.keeper.start()
        if self.keeper.record.value is None:
            record = Record(trust_domain=MESH, host=HOST, roots=self.authority.roots, signers=(b"k" * 32,))
            self.keeper.change(lambda _: record)
        outbound = SimpleNamespace(caller="cart", listen="x", upstreams=())
        config: Any = SimpleNamespace(
            mesh=SimpleNamespace(trust_domain=MESH),
            host=SimpleNamespace(name=HOST),
            services=(SimpleNamespace(name="cart"), SimpleNamespace(name="web")),
            outbound=outbound,
        )
        stub: Any = self
        self.certificates = Certificates(
            self.clock, config, stub, self.keeper, disk, self.losing, lambda: 0.5, self.now, execute
        )
        self.certificates.start()

    def join(self) -> None:
        key = certificates.new_key()
        answer = self.issue("host", certificates.request(key))
        roots = certificates.roots_of(self.authority.roots)
        wanted = SpiffeId.host(MESH, HOST)
        held = certificates.issued(answer, key, "host", wanted, roots, self.now())
        self.certificates.take("host", held)
        self.run(5)

    def losing(self) -> None:
        self.lost += 1

    def now(self) -> float:
        return START + self.clock.seconds() + self.step

    def moment(self) -> datetime:
        return datetime.fromtimestamp(START + self.clock.seconds(), UTC)

    def issue(self, name: str, csr: str) -> str:
        who = certificates.wanted_identity(MESH, HOST, name)
        key = public_key(csr.encode())
        return self.authority.issue(key, who, now=self.moment(), life=timedelta(hours=12)).decode()

    def certificate(self, request: CertificateRequest, trust: object, identity: object) -> Deferred[Issued]:
        self.asked.append(request.name)
        if self.failing is not None:
            return fail(self.failing)
        return succeed(Issued(certificate=self.issue(request.name, request.csr), roots=self.authority.roots))

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1.0)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    scene = Scene(tmp_path)
    scene.join()
    assert scene.asked == ["cart", "web"], "each of them once, and at once"
    scene.asked.clear()
    return scene


def test_renewal_is_at_half_of_life(scene: Scene) -> None:
    scene.run(5 * HOUR)
    assert scene.asked == []
    scene.run(HOUR)
    assert sorted(scene.asked) == ["cart", "host", "web"]


@pytest.mark.parametrize("step", [-86400.0, -300.0, 300.0, 3 * HOUR])
def test_steps_of_the_wall_clock_make_no_storm(scene: Scene, step: float) -> None:
    scene.step = step
    scene.run(6 * HOUR)
    assert len(scene.asked) <= 6, "twice each at the most"


def test_a_step_over_the_end_of_all_is_said_and_waits(scene: Scene) -> None:
    scene.step = 86400.0
    scene.run(600)
    assert scene.asked == []
    assert scene.lost <= 12
    assert any("its clock is wrong" in each for each in scene.certificates.problems())
    scene.step = 0.0
    scene.run(60)
    assert scene.certificates.problems() == ()


def test_a_controller_that_is_gone_is_asked_calmly(scene: Scene) -> None:
    scene.failing = Unreachable("gone")
    scene.run(6 * HOUR)
    asked = len(scene.asked)
    scene.run(600)
    assert 5 <= len(scene.asked) - asked <= 40, "for all names together: the others wait for the first"
    assert all("gone" in each for each in scene.certificates.problems())
    assert len(scene.certificates.problems()) >= 1
    assert sorted(scene.certificates.identities.value.by_name) == ["cart", "host", "web"]
    scene.failing = None
    scene.run(120)
    assert scene.certificates.problems() == ()


def test_a_name_that_is_refused_is_asked_for_more_and_more_seldom(scene: Scene) -> None:
    scene.failing = Declined(403, "no")
    scene.run(6 * HOUR)
    scene.asked.clear()
    scene.run(3000)
    assert all(10 <= scene.asked.count(name) <= 30 for name in ("cart", "host", "web"))


def test_what_was_kept_is_renewed_in_time(scene: Scene) -> None:
    scene.run(4 * HOUR)
    scene.certificates.stop()
    before = scene.certificates.identities.value.by_name
    for name in before:
        path = scene.path / "state/identity" / f"{name}.pem"
        os.utime(path, (START, START))
    scene.start()
    assert scene.certificates.identities.value.by_name == before
    scene.run(HOUR)
    assert scene.asked == []
    scene.run(HOUR)
    assert sorted(set(scene.asked)) == ["cart", "host", "web"]


def test_an_older_certificate_is_not_taken(scene: Scene) -> None:
    scene.moment = lambda: datetime.fromtimestamp(START - 60, UTC)  # type: ignore[method-assign]
    scene.run(6 * HOUR)
    assert any("older than the one in use" in each for each in scene.certificates.problems())
