"""Bundles of hosts: the same for the same, other for others, and no more of them than fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller import bundles
from controller.bundles import Bundles
from controller.policy.generations import Unknown, Version
from hostproxy.mesh.bundle import Newest, open_bundle
from tests.controller.conftest import DOMAIN, NOON, Scene
from tests.controller.test_generations import done


def test_whoever_seals_it_and_whenever_it_is_the_same(scene: Scene, directory: Path) -> None:
    scene.apply()
    one = done(scene.parts.bundles.sealed("h1", Version(1, 1), 0.0))
    other = Scene(directory, scene.store)
    other.clock.advance(100_000)
    assert done(other.parts.bundles.sealed("h1", Version(1, 1), 0.0)) == one
    bundle = open_bundle(
        one, signers=scene.parts.signing.signers, mesh=DOMAIN, host="h1", now=NOON, newest=Newest()
    )
    assert bundle.manifest.issued == NOON
    assert bundle.manifest.expires == NOON + 7 * 86400


def test_hosts_and_confirmations_make_a_difference(scene: Scene) -> None:
    scene.apply()
    made = [
        done(scene.parts.bundles.sealed(host, Version(1, 1), within))
        for host, within in (("h1", 0.0), ("h2", 0.0), ("h1", 30.0))
    ]
    assert len(set(made)) == 3


def test_a_generation_that_is_not_there(scene: Scene) -> None:
    scene.apply()
    for version in (Version(1, 2), Version(2, 1)):
        with pytest.raises(Unknown):
            done(scene.parts.bundles.sealed("h1", version, 0.0))


def test_it_is_sealed_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.apply()
    sealed = done(scene.parts.bundles.sealed("h1", Version(1, 1), 0.0))
    monkeypatch.setattr(bundles, "seal", None)
    assert done(scene.parts.bundles.sealed("h1", Version(1, 1), 0.0)) is sealed


def test_only_so_many_bytes_are_kept(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.apply({"a.toml": "#" + "x" * 10_000 + "\n"})
    monkeypatch.setattr(bundles, "SEALED_KEPT", 50_000)
    found: Bundles = scene.parts.bundles
    for number in range(20):
        done(found.sealed(f"h{number}", Version(1, 1), 0.0))
    assert len(found._sealed) == 4
    assert found._size == sum(map(len, found._sealed.values())) <= 50_000
