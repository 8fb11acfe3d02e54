"""/log-level: shown to everybody, set by few."""

from __future__ import annotations

import json

import pytest
from twisted.internet.task import Clock

from hostproxy.admin.http import Question
from hostproxy.admin.loglevel import LogLevelPage
from hostproxy.control.log_level import LogLevel


class Scene:
    def __init__(self):
        self.clock = Clock()
        self.told = []
        self.page = LogLevelPage(LogLevel(self.clock, "info", self.told.append))

    def ask(self, method=b"POST", query=b"", objection=""):
        answer = self.page.respond(Question(method, b"/log-level", [], [], b"", query, lambda: objection))
        return answer.status, json.loads(answer.body)


@pytest.fixture
def scene():
    return Scene()


def test_it_is_shown(scene):
    assert scene.ask(b"GET", objection="no") == (200, {"level": "info", "configured": "info", "left_seconds": None})


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (b"level=debug&for=10m", 600.0),
        (b"level=debug", 900.0),
        (b"level=debug&for=0", None),
        (b"level=debug&for=0s", None),
        (b"level=debug&for=168h", 604800.0),
    ],
)
def test_it_is_set(scene, query, left):
    assert scene.ask(query=query) == (200, {"level": "debug", "configured": "info", "left_seconds": left})
    assert scene.told == ["debug"]
    if left is not None:
        scene.clock.advance(left)
        assert scene.told == ["debug", "info"]


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (b"", "level is none of debug, info, warn, error"),
        (b"level=trace", "level is none of"),
        (b"level=critical", "level is none of"),
        (b"level=debug&for=10", "for is not a duration"),
        (b"level=debug&for=169h", "for is longer than 168h"),
        (b"level=debug&untl=1m", "no such parameter"),
    ],
)
def test_it_is_not_set(scene, query, problem):
    status, document = scene.ask(query=query)
    assert status == 400
    assert problem in document["error"]
    assert scene.told == []


def test_not_by_everybody(scene):
    assert scene.ask(query=b"level=debug", objection="user 7 may not") == (403, {"error": "user 7 may not"})
    assert scene.told == []
