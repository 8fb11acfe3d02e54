from __future__ import annotations

import math
from typing import Any

import pytest
from twisted.internet.task import Clock

from hostproxy.discovery.consul.ask import Asker
from hostproxy.discovery.consul.coordinates import LAST_BAND, Coordinates, _Coordinate, band, distance
from hostproxy.discovery.consul.counters import Counters
from hostproxy.discovery.consul.slices import Slices
from tests.discovery.consul.fake_agent import FakeAgent


def node(name: str, *vec: float, height: float = 0.0, adjustment: float = 0.0, segment: str = "") -> dict[str, Any]:
    coordinate = {"Vec": list(vec), "Error": 0.1, "Adjustment": adjustment, "Height": height}
    return {"Node": name, "Segment": segment, "Coord": coordinate}


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.agent = FakeAgent(self.clock)
        self.counters = Counters()
        asker = Asker(self.agent, self.counters, lambda: 0.0, "")  # type: ignore[arg-type]
        self.coordinates = Coordinates(self.clock, asker, "here", Slices(self.clock), lambda: 0.5)
        self.published: list[dict[str, int]] = []
        self.coordinates.bands.subscribe(lambda bands: self.published.append(dict(bands)))

    def minute(self) -> None:
        for _ in range(600):
            self.clock.advance(0.1)

    @property
    def bands(self) -> dict[str, int]:
        return dict(self.coordinates.bands.value)


def test_the_distance_is_that_of_consuls_documentation() -> None:
    def between(one: tuple[Any, ...], other: tuple[Any, ...]) -> float:
        return distance(_Coordinate(*one), _Coordinate(*other))

    assert between(([0.0, 0.0], 0.0), ([0.003, 0.004], 0.0)) == pytest.approx(0.005)
    assert between(([0.0, 0.0], 0.001), ([0.003, 0.004], 0.002)) == pytest.approx(0.008)
    assert between(([0.0, 0.0], 0.001, 0.0005), ([0.003, 0.004], 0.002, -0.001)) == pytest.approx(0.0075)
    # An adjustment that would make it negative is left out.
    assert between(([0.0], 0.001, -0.01), ([0.0], 0.001, -0.01)) == pytest.approx(0.002)
    assert between(([0.0], 0.0), ([0.0, 0.0], 0.0)) == math.inf


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (0.0, 0), (0.999, 0), (1.0, 1), (1.999, 1), (2.0, 2), (3.9, 2), (4.0, 3), (100, 7), (1000, 10),
        (2047, 11), (2048, 12), (1e9, LAST_BAND), (math.inf, LAST_BAND),
    ],
)  # fmt: skip
def test_bands_double(milliseconds: float, expected: int) -> None:
    assert band(milliseconds / 1000) == expected


def test_a_band_is_left_only_by_an_estimate_clearly_outside() -> None:
    assert [band(ms / 1000, 1) for ms in (0.74, 0.76, 1.5, 2.49, 2.51)] == [0, 1, 1, 1, 2]
    assert [band(ms / 1000, 0) for ms in (0.0, 1.2, 1.26)] == [0, 0, 1]
    assert [band(ms / 1000, LAST_BAND) for ms in (1537, 1535, 1e9)] == [LAST_BAND, 11, LAST_BAND]


def test_hosts_get_bands_once_somebody_wants_them() -> None:
    world = World()
    world.agent.coordinates = [node("here", 0, 0), node("near", 0.0005, 0), node("far", 0.03, 0.04)]
    world.minute()
    assert not world.agent.asked
    world.coordinates.start()
    world.minute()
    assert world.bands == {"here": 0, "near": 0, "far": 6}
    assert world.coordinates.round_trips == pytest.approx({"here": 0.0, "near": 0.0005, "far": 0.05})
    # Estimates move all the time, which publishes nothing until one is clearly another.
    world.agent.coordinates[1] = node("near", 0.0011, 0)
    world.minute()
    assert len(world.published) == 1
    assert world.coordinates.round_trips["near"] == pytest.approx(0.0011)
    world.agent.coordinates[1] = node("near", 0.0019, 0)
    world.minute()
    assert world.bands["near"] == 1
    assert 3 <= len(world.agent.asked) <= 4
    world.coordinates.stop()
    world.minute()
    assert len(world.agent.asked) <= 4
    assert world.bands["near"] == 1
    assert not world.clock.getDelayedCalls() or all(
        "fail" in str(call.func) for call in world.clock.getDelayedCalls()
    )


def test_what_cannot_be_used_is_left_out() -> None:
    world = World()
    world.agent.coordinates = [
        node("here", 0, 0),
        node("good", 0.01, 0),
        node("inside", 0.001, 0, segment="alpha"),
        node("huge", 1.7e308, 1.7e308),
        node("broken", None, 0),  # type: ignore[arg-type]
        node("below", 0, 0, height=-1),
        node("other", *[0.0] * 8),
        {"Node": "none"},
        7,
    ]
    world.coordinates.start()
    world.minute()
    assert world.bands == {"here": 0, "good": 4}
    assert world.counters.errors["coordinate"] >= 3


@pytest.mark.parametrize("fault", ["unknown", "malformed", "refused"])
def test_without_an_answer_the_last_bands_stay(fault: str) -> None:
    world = World()
    world.agent.coordinates = [node("here", 0, 0), node("far", 0.03, 0.04)]
    world.coordinates.start()
    world.minute()
    if fault == "unknown":
        world.agent.coordinates.pop(0)
    elif fault == "malformed":
        world.agent.coordinates = {}  # type: ignore[assignment]
    else:
        world.agent.broken = "refused"
    world.minute()
    assert world.bands == {"here": 0, "far": 6}
    assert world.coordinates.problem
    world.agent.broken = ""
    world.agent.coordinates = [node("here", 0, 0), node("far", 0.003, 0.004)]
    world.minute()
    assert world.bands == {"here": 0, "far": 3}
    assert world.coordinates.problem == ""
