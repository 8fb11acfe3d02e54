"""Hosts that say to have what this controller never made: believed when they show it, and not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from controller.policy.generations import Version
from controller.push.pusher import PushFailed
from controller.store import Entry
from hostproxy.mesh.bundle import digest_of
from tests.controller.conftest import POLICY, Scene
from tests.controller.test_generations import done

OTHER = {"payments.toml": POLICY["payments.toml"] + 'methods = ["GET"]\n'}


class Hosts:
    """What hosts show when they are asked for their bundle."""

    def __init__(self, scene: Scene) -> None:
        self.has: dict[str, Any] = {}  # octets, an error, or a Deferred
        self.asked: list[str] = []
        scene.controller.pusher.bundle = self._bundle  # type: ignore[method-assign]

    async def _bundle(self, host: str, address: str) -> bytes:
        self.asked.append(host)
        found = self.has.get(host, PushFailed("nobody listens there"))
        if isinstance(found, Exception):
            raise found
        return await found if isinstance(found, Deferred) else found  # type: ignore[no-any-return]


@pytest.fixture
def hosts(scene: Scene) -> Hosts:
    return Hosts(scene)


def row(scene: Scene, name: str = "web-1") -> Any:
    return next(each for each in scene.expect(200, "GET", "/v1/hosts")["hosts"] if each["name"] == name)


def backup(scene: Scene) -> dict[str, Entry]:
    return dict(scene.store.entries)


def restored(scene: Scene, directory: Path, entries: dict[str, Entry]) -> Scene:
    """The controller after its store was replaced by an older copy."""
    scene.store.entries = dict(entries)
    return Scene(directory, scene.store)


def test_who_lies_keeps_policy_from_nobody(scene: Scene, hosts: Hosts) -> None:
    scene.host("honest", "10.0.0.2")
    peer = scene.host()
    scene.apply()
    scene.report(peer, 900)
    answer = scene.expect(201, "POST", "/v1/policy", {"files": OTHER})
    assert answer["generation"] == 2
    (warning,) = [each for each in answer["warnings"] if "web-1" in each]
    assert "not shown" in warning
    assert hosts.asked == ["web-1"]
    assert row(scene)["state"] == "ERROR"
    assert "never made" in row(scene)["problems"][0]
    # Nor a denial, for which a generation is made too.
    assert scene.expect(200, "POST", "/v1/hosts/honest/deny", {})["generation"]["generation"] == 3


@pytest.mark.parametrize("what", ["old", "of another", "garbage", "forged"])
def test_what_a_liar_can_show_is_not_enough(scene: Scene, hosts: Hosts, directory: Path, what: str) -> None:
    peer = scene.host()
    scene.apply()
    genuine = done(scene.parts.bundles.sealed("web-1", Version(1, 1), 0.0))
    hosts.has["web-1"] = {
        "old": genuine,
        "of another": done(scene.parts.bundles.sealed("web-2", Version(1, 1), 0.0)),
        "garbage": b"\0" * 1000,
        "forged": genuine[:-1] + bytes([genuine[-1] ^ 1]),
    }[what]
    scene.report(peer, 2)
    assert scene.expect(201, "POST", "/v1/policy", {"files": OTHER})["generation"] == 2


def test_who_does_not_answer_holds_nothing_up_for_long(scene: Scene, hosts: Hosts) -> None:
    peer = scene.host()
    scene.apply()
    scene.report(peer, 900)
    hosts.has["web-1"] = Deferred()
    asked = scene.begin("POST", "/v1/policy", {"files": OTHER})
    assert asked == []
    scene.clock.advance(5)
    (reply,) = asked
    assert reply.answer.status == 201


def test_a_store_from_a_backup_is_known_by_what_hosts_show(scene: Scene, directory: Path) -> None:
    peer = scene.host()
    liar = scene.host("liar", "10.0.0.9")
    scene.apply()
    entries = backup(scene)
    scene.apply(OTHER)
    later = done(scene.parts.bundles.sealed("web-1", Version(1, 2), 0.0))
    scene = restored(scene, directory, entries)
    hosts = Hosts(scene)
    hosts.has["web-1"] = later
    scene.report(peer, 2)
    scene.report(liar, 900)
    problem = scene.expect(409, "POST", "/v1/policy", {"files": OTHER})["error"]
    assert "raise-epoch" in problem
    assert "web-1" in problem
    # What was shown once need not be shown again, and nothing else makes a generation either.
    hosts.has.clear()
    scene.expect(409, "POST", "/v1/policy/1/rollback", {})
    answer = scene.expect(200, "POST", "/v1/hosts/liar/deny", {})
    assert answer["generation"] is None
    assert "raise-epoch" in answer["problem"]
    assert "raise-epoch" in scene.expect(200, "GET", "/v1/status")["problem"]
    assert scene.expect(201, "POST", "/v1/policy/epoch")["epoch"] == 2
    assert scene.expect(201, "POST", "/v1/policy", {"files": OTHER})["generation"] == 3
    assert scene.expect(200, "GET", "/v1/status")["problem"] == ""


def test_what_has_to_be_told_waits_until_the_epoch_is_raised(scene: Scene, directory: Path) -> None:
    peer = scene.host()
    scene.apply()
    entries = backup(scene)
    scene.apply(OTHER)
    later = done(scene.parts.bundles.sealed("web-1", Version(1, 2), 0.0))
    scene = restored(scene, directory, entries)
    Hosts(scene).has["web-1"] = later
    scene.report(peer, 2)
    scene.clock.advance(4 * 86400)  # half of the bundles' life
    scene.controller._take_care()
    status = scene.expect(200, "GET", "/v1/status")
    assert status["generation"]["generation"] == 1
    assert "raise-epoch" in status["problem"]


# The generation that it should have, with other content


def sealed(scene: Scene, host: str, generation: int, within: float = 0.0) -> str:
    return digest_of(done(scene.parts.bundles.sealed(host, Version(1, generation), within)))


def test_other_content_under_the_same_number_is_an_error_and_is_given_again_once(scene: Scene) -> None:
    peer = scene.host()
    scene.apply()
    scene.report(peer, 1, digest=sealed(scene, "web-1", 1))
    assert row(scene)["state"] == "SYNCED"
    scene.report(peer, 1, digest="f" * 64)
    assert row(scene)["state"] == "ERROR"
    assert "other content" in row(scene)["problems"][0]
    order = done(scene.parts.decider.order("web-1"))
    assert order is None  # the report has had it told already: the first order was its
    scene.report(peer, 1, digest=sealed(scene, "web-1", 1))
    assert row(scene)["state"] == "SYNCED"


def test_it_is_given_again_where_it_listens(scene: Scene) -> None:
    pushed: list[tuple[str, str]] = []

    async def push(host: str, address: str, bundle: bytes) -> Any:
        pushed.append((host, digest_of(bundle)))
        raise PushFailed("it answers 409")

    scene.controller.pusher.push = push  # type: ignore[method-assign]
    peer = scene.host()
    scene.apply()
    for _ in range(3):
        scene.report(peer, 1, digest="f" * 64)
        scene.clock.advance(60)
    assert pushed == [("web-1", sealed(scene, "web-1", 1))]


def test_bundles_that_could_have_come_out_otherwise_are_not_compared(scene: Scene) -> None:
    peer = scene.host()
    scene.host("web-2", "10.0.0.2")
    scene.apply()
    before = sealed(scene, "web-1", 1)
    scene.apply(OTHER, plan={"waves": ["1", "100%"], "hold": 30.0})
    for within in (0.0, 270.0):
        # Whichever wave it is in: the one before, or the new one while it may still go back.
        wanted = done(scene.controller.rollouts.view()).wanted("web-1")
        assert wanted is not None
        number = wanted.version.generation
        digest = before if number == 1 else sealed(scene, "web-1", 2, wanted.confirm_within)
        scene.report(peer, number, digest=digest, confirmed=number == 1)
        assert row(scene)["state"] == "SYNCED", within


def test_another_life_of_bundles_is_another_generation(scene: Scene, directory: Path) -> None:
    peer = scene.host()
    scene.apply()
    scene.report(peer, 1, digest=sealed(scene, "web-1", 1))
    scene.parts.bundles.life /= 2
    scene.parts.bundles.trust_changed()
    scene.report(peer, 1, digest=sealed(scene, "web-1", 1) + "x")
    assert row(scene)["state"] == "SYNCED"
    scene.controller._take_care()
    assert scene.expect(200, "GET", "/v1/status")["generation"]["generation"] == 2


def test_a_denial_by_another_controller_is_in_every_bundle_of_its_generation(scene: Scene, directory: Path) -> None:
    scene.host()
    scene.apply()
    other = Scene(directory, scene.store)
    done(other.parts.bundles.sealed("web-2", Version(1, 1), 0.0))  # it has read who is denied just now
    scene.expect(200, "POST", "/v1/hosts/web-1/deny", {})
    assert sealed(other, "web-2", 2) == sealed(scene, "web-2", 2)


def test_who_is_denied_without_being_known_is_told_apart(scene: Scene) -> None:
    scene.host()
    scene.apply()
    scene.expect(200, "PUT", "/v1/services/cart/hosts/web-1")
    known = {
        path: scene.expect(200, "POST", f"/v1/{path}/deny", {})["known"]
        for path in ("hosts/web-1", "hosts/web-9", "services/cart", "services/payments", "services/paymets")
    }
    assert [path for path, found in known.items() if not found] == ["hosts/web-9", "services/paymets"]


def test_what_is_applied_while_a_host_reports_is_in_the_answer_or_it_is_known_by_then(scene: Scene) -> None:
    peer = scene.host()
    applied: list[Any] = []

    def apply(key: str) -> None:
        # When the report is about to be kept: whoever is told now does not include this host.
        if key.startswith("reports/") and not applied:
            applied.append(None)
            scene.apply()

    scene.store.before_put = apply
    assert scene.report(peer, 0, 0, state="none")["generation"] == 1
