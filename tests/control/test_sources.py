"""Catalog, policy and certificates from real files. Reading again after the start is tested with the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from hostproxy.config import Config, Discovery, IdentityConfig, PolicyConfig
from hostproxy.control.kept import Kept
from hostproxy.control.sources import Sources
from hostproxy.control.state import SourceState, SupervisorState
from hostproxy.discovery.catalog import Instance
from hostproxy.mesh.policy import Policy
from hostproxy.telemetry.totals import Totals
from tests.control.conftest import TurnedReactor
from tests.integration.host import TRUST_DOMAIN, certificates, replace
from tests.test_compile import config

CATALOG = '[[instance]]\nservice = "payments"\nhost = "h2"\naddress = "10.0.0.2:9000"\n'
INSTANCE = Instance("payments", "h2", "10.0.0.2:9000")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    certificates(directory, "h1", "cart")
    return directory


class Scene:
    """Files and the sources that read them."""

    def __init__(self, reactor: TurnedReactor, directory: Path, pki: Path) -> None:
        self.reactor = reactor
        self.catalog = directory / "catalog.toml"
        self.policy = directory / "policy.toml"
        self.catalog.write_text(CATALOG)
        self.policy.write_text('[defaults]\naccess = "deny"\n')
        self.pki = pki
        self.changes = 0
        self.time = 100.0
        self.sources: Sources | None = None

    def config(self, **changes: Any) -> Config:
        base = config()
        return config(
            **{
                "mesh": msgspec.structs.replace(base.mesh, trust_domain=TRUST_DOMAIN),
                "discovery": Discovery(file_path=str(self.catalog)),
                "policy": PolicyConfig(path=str(self.policy)),
                "identity": IdentityConfig(authorities_path=str(self.pki / "ca.pem"), directory=str(self.pki)),
                **changes,
            }
        )

    def changed(self) -> None:
        self.changes += 1

    def start(self, kept: Kept | None = None, **changes: Any) -> tuple[Sources, list[str]]:
        self.sources = Sources(self.reactor, self.config(**changes), self.changed, lambda: self.time)
        return self.sources, self.sources.start(kept)

    def kept(self, **changes: Any) -> Kept:
        fields: dict[str, Any] = {
            "saved": 50.0,
            "catalog_path": str(self.catalog),
            "catalog": {"payments": (INSTANCE,)},
            "policy_path": str(self.policy),
            "policy": Policy(default_access="allow", default_source="old:1"),
        }
        return Kept(**{**fields, **changes})


def states(sources: Sources) -> tuple[SourceState, SourceState, SourceState]:
    """Catalog, policy, certificates."""
    state = SupervisorState(software="1", pid=1, started=0.0, config=sources.config, totals=Totals())
    sources.show(state)
    return state.catalog_source, state.policy_source, state.identity_source


@pytest.fixture
def scene(reactor: TurnedReactor, tmp_path: Path, pki: Path) -> Any:
    scene = Scene(reactor, tmp_path, pki)
    yield scene
    if scene.sources is not None:
        scene.sources.stop()
    reactor.turns()


def test_what_is_in_force_after_the_start(scene: Scene) -> None:
    sources, problems = scene.start()
    assert problems == []
    inputs = sources.inputs
    assert inputs.catalog == {"payments": (INSTANCE,)}
    assert inputs.policy.default_access == "deny"
    assert sorted(inputs.identities.by_name) == ["cart", "host"]
    assert [state.loaded for state in states(sources)] == [100.0] * 3
    assert scene.changes == 0, "the start is no news"


def test_everything_wrong_with_everything_is_told_at_once(scene: Scene) -> None:
    scene.catalog.write_text("[[instance]]\nservice = 1\n")
    scene.policy.unlink()
    missing = IdentityConfig(authorities_path="/nowhere/ca.pem", directory="/nowhere")
    _, problems = scene.start(identity=missing)
    text = "\n".join(problems)
    assert "catalog.toml:2" in text
    assert "policy.toml: cannot be read" in text
    assert "/nowhere/ca.pem" in text
    assert "/nowhere/cart.key" in text
    assert scene.reactor.getDelayedCalls() == [], "something is still watched"


def test_without_catalog_and_policy(scene: Scene) -> None:
    sources, problems = scene.start(discovery=Discovery(), policy=PolicyConfig())
    assert problems == []
    assert sources.inputs.catalog == {}
    assert sources.inputs.policy is sources.inputs.policy, "every look would be news"
    assert [state.path for state in states(sources)[:2]] == ["", ""]


def test_what_was_kept_stands_in_until_the_file_is_good(scene: Scene) -> None:
    scene.catalog.write_text("nonsense\n")
    sources, problems = scene.start(scene.kept())
    assert problems == []
    assert sources.inputs.catalog == {"payments": (INSTANCE,)}
    assert sources.inputs.policy.default_access == "deny", "a good file was not taken"
    state = states(sources)[0]
    assert (state.kept, state.loaded, state.since) == (True, 50.0, 100.0)
    assert "catalog.toml:1" in state.problems[0]
    scene.time = 200.0
    replace(scene.catalog, "[[nonsense\n")
    scene.reactor.until(lambda: "[[" not in states(sources)[0].problems[0])
    assert states(sources)[0].since == 100.0
    replace(scene.catalog, CATALOG.replace("9000", "9001"))
    scene.reactor.until(lambda: scene.changes)
    assert sources.inputs.catalog["payments"][0].address == "10.0.0.2:9001"
    state = states(sources)[0]
    assert (state.kept, state.loaded, state.problems, state.since) == (False, 200.0, (), 0.0)


@pytest.mark.parametrize("change", [{"catalog_path": "/other.toml"}, None])
def test_what_was_kept_of_another_file_is_not_taken(scene: Scene, change: dict[str, str] | None) -> None:
    scene.catalog.unlink()
    _, problems = scene.start(scene.kept(**change) if change is not None else None)
    assert len(problems) == 1
    assert "catalog.toml" in problems[0]
