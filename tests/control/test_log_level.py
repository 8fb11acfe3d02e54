"""The level of the log: conf.toml's, or another for a while."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from hostproxy.control.log_level import LogLevel


class Scene:
    def __init__(self) -> None:
        self.clock = Clock()
        self.told: list[str] = []
        self.level = LogLevel(self.clock, "info", self.told.append)  # type: ignore[arg-type]

    def state(self) -> tuple[str, str, float | None]:
        return self.level.level, self.level.configured, self.level.left


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_it_is_conf_toml_s_at_first(scene: Scene) -> None:
    assert scene.state() == ("info", "info", None)
    assert scene.told == []


def test_another_one_for_a_while(scene: Scene) -> None:
    scene.level.set("debug", 60.0)
    scene.clock.advance(20.0)
    assert scene.state() == ("debug", "info", 40.0)
    scene.clock.advance(40.0)
    assert scene.state() == ("info", "info", None)
    assert scene.told == ["debug", "info"]


def test_another_one_without_an_end(scene: Scene) -> None:
    scene.level.set("error", 60.0)
    scene.level.set("debug", 0.0)
    scene.clock.advance(1e6)
    assert scene.state() == ("debug", "info", None)
    assert scene.clock.getDelayedCalls() == []


def test_the_last_one_counts(scene: Scene) -> None:
    scene.level.set("debug", 60.0)
    scene.clock.advance(50.0)
    scene.level.set("debug", 60.0)
    scene.clock.advance(50.0)
    assert scene.state() == ("debug", "info", 10.0)
    assert scene.told == ["debug"]


@pytest.mark.parametrize("configured", ["info", "warn"])
def test_a_reload_ends_it(scene: Scene, configured: str) -> None:
    scene.level.set("debug", 60.0)
    scene.level.configure(configured)
    assert scene.state() == (configured, configured, None)
    assert scene.told == ["debug", configured]
    assert scene.clock.getDelayedCalls() == []


def test_a_reload_that_changes_nothing_tells_nobody(scene: Scene) -> None:
    scene.level.configure("info")
    assert scene.told == []


def test_leaving(scene: Scene) -> None:
    scene.level.set("debug", 0.0)
    scene.level.restore()
    assert scene.told == ["debug", "info"]
