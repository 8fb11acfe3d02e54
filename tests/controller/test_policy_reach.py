"""Routes that no request takes: what is said to be covered is, by the very code that chooses routes."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.policy.reach import covers, unreached
from hostproxy.mesh.policy_tables import ROUTES
from hostproxy.mesh.routes import Match, Route
from hostproxy.route.table import RouteTable
from tests.stopwatch import Stopwatch


def joined(segments: str, most: int) -> list[str]:
    return ["/" + "/".join(some) for count in range(1, most + 1) for some in product(segments.split(","), repeat=count)]


# Everything that can be said of paths with these segments, one of them empty.
PATHS = joined(",a,ab", 3)
TEMPLATES = [text + end for text in joined(",a,{x}", 3) for end in ("", "/*") if "{x}" in text]
PLACES: list[dict[str, Any]] = [
    {},
    *({"path": path} for path in PATHS),
    *({"path_prefix": path} for path in PATHS),
    *({"path_template": template} for template in TEMPLATES),
]
REQUESTED = ["*", *joined(",a,ab,abc", 4)]

METHODS = st.lists(st.sampled_from(["GET", "POST"]), unique=True, max_size=2).map(tuple)
WANTED = st.sampled_from(["*", "a*", "ab*", "a", "ab", "b"])
CONDITIONS = st.dictionaries(st.sampled_from(["x", "y"]), WANTED, max_size=2).map(lambda some: tuple(some.items()))
MATCHES = st.builds(
    lambda place, methods, headers, query: Match(**place, methods=methods, headers=headers, query=query),
    st.sampled_from([{}, {"path": "/a"}, {"path_prefix": "/"}]),
    METHODS,
    CONDITIONS,
    CONDITIONS,
)
VALUES = st.lists(st.tuples(st.sampled_from(["x", "y"]), st.sampled_from(["", "a", "ab", "abc", "b"])), max_size=3)


def matches(match: Match, method: str, path: str, query: list[tuple[str, str]], fields: list[tuple[str, str]]) -> bool:
    target = path + ("?" + "&".join(f"{name}={value}" for name, value in query) if query else "")
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return RouteTable([Route(match)]).find(method.encode(), target.encode(), lines.encode()) == 0


def test_what_is_covered_by_path_is_taken() -> None:
    taken = {}
    for place in PLACES:
        table = RouteTable([Route(Match(**place))])
        taken[Match(**place)] = {path for path in REQUESTED if table.find(b"GET", path.encode(), b"") == 0}
    wrong = [
        (wide, narrow)
        for wide, by_wide in taken.items()
        for narrow, by_narrow in taken.items()
        if covers(wide, narrow) and not by_narrow <= by_wide
    ]
    assert not wrong


@given(MATCHES, MATCHES, st.sampled_from(["GET", "POST"]), st.sampled_from(["/a", "/b", "*"]), VALUES, VALUES)
@settings(max_examples=400)
def test_what_is_covered_is_taken(
    wide: Match, narrow: Match, method: str, path: str, query: list[tuple[str, str]], fields: list[tuple[str, str]]
) -> None:
    if covers(wide, narrow) and matches(narrow, method, path, query, fields):
        assert matches(wide, method, path, query, fields)


@given(MATCHES)
def test_everything_covers_itself_and_is_covered_by_a_route_without_match(match: Match) -> None:
    assert covers(match, match)
    assert covers(Match(), match)


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ({"path_prefix": "/a/"}, {"path": "/a/b"}, True),
        ({"path_prefix": "/a/"}, {"path": "/a"}, False),
        ({"path_prefix": "/a/"}, {"path_prefix": "/a/b"}, True),
        ({"path_prefix": "/a/b"}, {"path_prefix": "/a/"}, False),
        ({"path_prefix": "/a/"}, {"path_template": "/a/{id}"}, True),
        ({"path_prefix": "/a/"}, {"path_template": "/{id}/a"}, False),
        ({"path_prefix": "/"}, {}, False),  # OPTIONS * has no path
        ({"path": "/a"}, {"path_prefix": "/a"}, False),
        ({"path_template": "/a/{id}"}, {"path": "/a/1"}, True),
        ({"path_template": "/a/{id}"}, {"path": "/a/"}, False),
        ({"path_template": "/a/{id}"}, {"path": "/a/1/b"}, False),
        ({"path_template": "/a/{id}"}, {"path_prefix": "/a/1"}, False),
        ({"path_template": "/a/{id}"}, {"path_template": "/a/{other}"}, True),
        ({"path_template": "/a/{id}"}, {"path_template": "/{b}/1"}, False),
        ({"path_template": "/{a}/{b}"}, {"path_template": "/a/{b}"}, True),
        ({"path_template": "/a/{id}/*"}, {"path": "/a/1/"}, True),
        ({"path_template": "/a/{id}/*"}, {"path": "/a/1"}, False),
        ({"path_template": "/a/{id}/*"}, {"path_prefix": "/a/1/"}, True),
        ({"path_template": "/a/{id}/*"}, {"path_prefix": "/a/1"}, False),
        ({"path_template": "/a/{id}/*"}, {"path_template": "/a/{x}/b/*"}, True),
        ({"path_template": "/a/{id}/*"}, {"path_template": "/a/{x}/*"}, True),
        ({"path_template": "/a/{id}/{b}"}, {"path_template": "/a/{x}/*"}, False),
        ({"path_template": "/a/{id}"}, {"path_template": "/a/{x}/*"}, False),
        ({"methods": ("GET", "HEAD")}, {"methods": ("GET",)}, True),
        ({"methods": ("GET",)}, {}, False),
        ({"methods": ("GET",)}, {"methods": ("GET", "POST")}, False),
        ({"headers": (("x", "*"),)}, {"headers": (("x", "a*"), ("y", "1"))}, True),
        ({"headers": (("x", "a*"),)}, {"headers": (("x", "ab"),)}, True),
        ({"headers": (("x", "ab"),)}, {"headers": (("x", "a*"),)}, False),
        ({"query": (("x", "ab*"),)}, {"query": (("x", "a*"),)}, False),
        ({"query": (("x", "a*"),)}, {"headers": (("x", "a*"),)}, False),
    ],
)
def test_what_covers_what(wide: dict[str, Any], narrow: dict[str, Any], covered: bool) -> None:
    assert covers(Match(**wide), Match(**narrow)) is covered


def test_a_route_is_told_with_the_first_that_leaves_nothing_for_it() -> None:
    routes = [
        Route(Match(path="/a"), source="1"),
        Route(Match(path_prefix="/b"), source="2"),
        Route(Match(path="/a", methods=("GET",)), source="3"),
        Route(source="4"),
        Route(Match(path="/b/c"), source="5"),
    ]
    assert [(route.source, by.source) for route, by in unreached(routes)] == [("3", "1"), ("5", "2")]


def test_as_many_routes_as_a_service_can_have_are_compared_soon() -> None:
    # Each with a template of 200 places, which takes work: 54 seconds, when it was taken apart for every comparison.
    routes = [Route(Match(path_template="/{a}" * 200 + f"/{number}"), source=str(number)) for number in range(ROUTES)]
    watch = Stopwatch()
    assert unreached(routes) == []
    assert watch.seconds < 10
