from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from hostproxy.identity.peer import EXPIRED, PEER_CLOSED, WRONG_PURPOSE, PeerRefused
from hostproxy.identity.refusals import QUIET, Refusals


class Scene:
    """A log, and the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.refusals = Refusals(lambda: self.now)

    def take(self, event: LogEvent) -> None:
        self.lines.append(formatEvent(event))


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    globalLogPublisher.addObserver(scene.take)
    yield scene
    globalLogPublisher.removeObserver(scene.take)


def test_a_line_says_who_why_and_what_to_do(scene: Scene) -> None:
    scene.refusals.note("server", "10.0.0.7", EXPIRED)
    scene.refusals.note("client", "web.dc1.mesh.test at 10.0.0.8:1", WRONG_PURPOSE, PeerRefused(WRONG_PURPOSE, "no x"))
    first, second = scene.lines
    assert first.startswith("TLS handshake from 10.0.0.7 failed: expired; renew the peer's certificate")
    assert "clock skew" in first
    assert second == "TLS handshake with web.dc1.mesh.test at 10.0.0.8:1 failed: wrong-purpose; no x"


def test_what_the_other_side_refuses_is_told_as_well(scene: Scene) -> None:
    scene.refusals.note("client", "web at 10.0.0.8:1", "alert-certificate-expired")
    assert scene.lines[0].endswith("alert-certificate-expired; the other side refused us, and its log says why")


def test_many_make_one_line_a_minute_that_counts_them(scene: Scene) -> None:
    for number in range(1000):
        scene.refusals.note("server", f"10.0.0.{number}", EXPIRED)
    assert len(scene.lines) == 1
    scene.refusals.note("client", "", EXPIRED)
    assert len(scene.lines) == 2, "the other side is another matter"
    scene.now = QUIET
    scene.refusals.note("server", "10.0.0.9", EXPIRED)
    assert scene.lines[2].endswith("(999 more like it since the last such line)")


def test_who_just_goes_away_is_not_worth_a_line(scene: Scene) -> None:
    scene.refusals.note("server", "10.0.0.7", PEER_CLOSED)
    assert scene.lines == []
