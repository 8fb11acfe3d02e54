"""What a host is told when its turn has come."""

from __future__ import annotations

from typing import Any

from controller.policy.generations import Version
from controller.push.distribution import Order
from hostproxy.mesh.bundle import digest_of
from hostproxy.mesh.messages import HostReport
from tests.controller.conftest import POLICY, Scene
from tests.controller.test_generations import done

OTHER = {"payments.toml": POLICY["payments.toml"] + 'methods = ["GET"]\n'}


def order(scene: Scene, host: str = "web-1") -> Order | None:
    scene.clock.advance(2)
    return done(scene.parts.decider.order(host))


def bundle(found: Order | None) -> Any:
    return found is not None and found.bundle is not None


def test_who_was_never_heard_of_is_waited_for(scene: Scene) -> None:
    scene.host()
    scene.apply()
    assert order(scene) is None
    assert order(scene, "nobody") is None


def test_who_is_behind_is_told_where_it_reported_from(scene: Scene) -> None:
    peer = scene.host(address="10.0.0.7")
    scene.report(peer, 0, 0, state="none")
    assert order(scene) is None  # there is no policy
    scene.apply()
    found = order(scene)
    assert found is not None
    assert found.address == "10.0.0.7:15009"
    assert found.bundle == scene.expect(200, "GET", "/v1/bundle", peer=peer)
    scene.report(peer, 1)
    assert order(scene) is None


def test_who_says_where_it_listens_is_told_there(scene: Scene) -> None:
    peer = scene.host(address="10.0.0.7")
    scene.apply()
    scene.report(peer, 0, 0, state="none", listen="10.9.0.7:25009")
    found = order(scene)
    assert found is not None
    assert found.address == "10.9.0.7:25009"


def test_an_address_of_ipv6(scene: Scene) -> None:
    peer = scene.host(address="fd00::7")
    scene.apply()
    scene.report(peer, 0, 0, state="none")
    found = order(scene)
    assert found is not None
    assert found.address == "[fd00::7]:15009"


def test_who_said_no_is_not_asked_again_until_there_is_another(scene: Scene) -> None:
    peer = scene.host()
    scene.apply()
    scene.report(peer, 0, 0, state="refused", refused=(1, 1), problems=("it is no good",))
    assert order(scene) is None
    scene.apply(OTHER)
    assert bundle(order(scene))


def test_who_is_ahead_is_left_alone(scene: Scene) -> None:
    peer = scene.host()
    scene.apply()
    scene.report(peer, 9)
    assert order(scene) is None


def test_who_may_stay_is_told_so_once_its_wave_is_over(scene: Scene) -> None:
    peers = {name: scene.host(name, f"10.0.0.{index}") for index, name in enumerate(("h1", "h2"), 1)}
    scene.apply()
    for peer in peers.values():
        scene.report(peer, 1)
    scene.apply(OTHER, plan={"waves": ["1", "100%"], "hold": 30.0})
    (early,) = [name for name in peers if bundle(order(scene, name))]
    digest = digest_of(done(scene.parts.bundles.sealed(early, Version(1, 2), 270.0)))
    scene.report(peers[early], 2, confirmed=False, digest=digest)
    assert order(scene, early) is None
    scene.clock.advance(30)
    scene.report(peers[early], 2, confirmed=False, digest=digest)
    found = order(scene, early)
    assert found is not None
    assert found.confirm is not None
    assert (found.confirm.epoch, found.confirm.generation, found.confirm.digest) == (1, 2, digest)
    assert all(bundle(order(scene, name)) for name in peers if name != early)


def test_what_it_answers_counts_as_a_report(scene: Scene) -> None:
    peer = scene.host(address="10.0.0.7")
    scene.apply()
    scene.report(peer, 0, 0, state="none")
    scene.parts.decider.reported("web-1", HostReport(software="1", epoch=1, generation=1, state="applied"))
    (row,) = scene.expect(200, "GET", "/v1/hosts")["hosts"]
    assert (row["state"], row["address"]) == ("SYNCED", "10.0.0.7")


def test_who_is_denied_is_not_to_have_policy(scene: Scene) -> None:
    scene.host("h1")
    scene.host("h2")
    scene.expect(200, "POST", "/v1/hosts/h1/deny", {})
    assert list(done(scene.parts.decider.hosts())) == ["h2"]
