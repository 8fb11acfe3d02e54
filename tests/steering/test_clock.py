"""A host whose clock is not its controller's: nothing is trusted that should not be, and how far it is off is told."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hostproxy.mesh.spiffe import SpiffeId
from tests.fakes.fake_controller import MESH
from tests.steering.conftest import Scene

DAY = 86400.0
LEAF = SpiffeId(MESH, "controller", "c")


def show(scene: Scene, ago: timedelta) -> None:
    """Have the controller show a certificate of an hour that was made so long ago."""
    controller = scene.controller
    life = timedelta(hours=1)
    controller.chain = controller.issue(LEAF, controller._key, dns="localhost", life=life, ago=ago)


def ahead(scene: Scene) -> float | None:
    assert scene.host is not None
    skew = scene.host.skew
    return skew.ahead if skew is not None else None


def test_clocks_that_agree(scene: Scene) -> None:
    scene.start()
    assert ahead(scene) is None, "nobody has told yet"
    scene.stop()
    scene.ready()
    assert ahead(scene) == 0.0


def test_a_refusal_tells_the_time_as_well(scene: Scene) -> None:
    scene.shift = -100.0
    scene.write_token("another-token-of-20b")
    scene.start()
    scene.problem("does not take the token")
    assert ahead(scene) == pytest.approx(-100.0, abs=2.0)


# The certificate that it shows, looked at by OpenSSL (a joined host), or after the handshake (a host that joins)


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(
    ("ago", "says", "bound"),
    [
        # Made three hours ago for one; made a day from now, and valid from ten minutes before.
        (timedelta(hours=3), "was not renewed, or this host's clock is at least 2 h ahead (clock skew)", 7200.0),
        (timedelta(days=-1), ": this host's clock is at least 23 h behind (clock skew): set it", 600.0 - DAY),
    ],
)
def test_a_certificate_that_does_not_hold_tells_how_far(
    scene: Scene, joined: bool, ago: timedelta, says: str, bound: float
) -> None:
    if joined:
        scene.ready()
    said = len(scene.controller.requests)
    show(scene, ago)
    host = scene.again() if joined else scene.start()
    if joined:
        host._schedule(0.0)
    scene.problem(says)
    assert scene.controller.requests[said:] == [], "nothing is said to it"
    assert ahead(scene) == pytest.approx(bound, abs=5.0)
    assert host.skew is not None
    assert host.skew.least
    scene.controller.certify()
    scene.controller.offer()
    if joined:
        host._schedule(0.0)
    scene.loop.until(lambda: host.usable and not host.state().problems and ahead(scene) == 0.0)


def test_a_stranger_s_certificate_tells_nothing(scene: Scene) -> None:
    scene.ready()
    other = type(scene.controller)(scene.loop.reactor, scene.path / "other")
    scene.controller._key = other._key
    ago, life = timedelta(days=3), timedelta(hours=1)
    scene.controller.chain = other.issue(LEAF, other._key, dns="localhost", life=life, ago=ago)
    host = scene.again()
    host._schedule(0.0)
    assert "clock skew" not in scene.problem("TLS: certificate verify failed")
    assert ahead(scene) is None


# A clock that steps


@pytest.mark.parametrize("shift", [DAY, -DAY])
def test_a_step_shows_at_once_and_is_over_when_it_is_undone(scene: Scene, shift: float) -> None:
    host = scene.ready()
    scene.shift = shift
    assert ahead(scene) == pytest.approx(shift, abs=1.0)
    assert "clock skew" in scene.problem("certificate of host")
    said = len(scene.controller.requests)
    host._schedule(0.0)
    host._certificates._schedule(0.0)
    scene.problem("this host cannot join: the controller at")
    assert len(scene.controller.requests) == said, "it has nothing to ask with, and trusts nobody"
    scene.shift = 0.0
    assert ahead(scene) == 0.0
    scene.ask()
    assert host.state().problems == ()
    assert host.state().connected


def test_a_start_with_a_clock_behind_has_its_own_certificate_for_a_bound(scene: Scene) -> None:
    scene.ready()
    scene.stop()
    scene.token.unlink()
    scene.shift = -DAY
    said = scene.controller.requests.copy()
    scene.start()
    assert "set the clock (clock skew)" in scene.problem("certificate of host: it is valid from")
    scene.loop.until(lambda: ahead(scene) is not None)
    assert ahead(scene) == pytest.approx(600.0 - DAY, abs=5.0)
    assert scene.controller.requests == said
    scene.shift = 0.0
    assert ahead(scene) is None
