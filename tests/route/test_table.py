"""The first route that matches decides, and what is said of a route is what decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.mesh.routes import Match, Route
from hostproxy.route.table import NONE, RouteTable, mismatch


def route(**parts: object) -> Route:
    return Route(Match(**parts))  # type: ignore[arg-type]


def matches(one: Route, target: bytes, fields: bytes = b"", method: bytes = b"GET") -> bool:
    """Asked both ways: they have to agree."""
    found = RouteTable([one]).find(method, target, fields) == 0
    assert found is not bool(mismatch(one, method, target, fields))
    return found


# Which requests a route takes


def test_without_a_match_every_request_is_taken() -> None:
    assert matches(route(), b"/")
    assert matches(route(), b"*", method=b"OPTIONS")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/orders", True),
        (b"/orders?id=7", True),
        (b"/orders/", False),
        (b"/Orders", False),
        (b"/orders/7", False),
        (b"/%6frders", False),
        (b"/order", False),
        (b"//orders", False),
    ],
)
def test_a_path_is_compared_letter_by_letter_without_the_query(target: bytes, expected: bool) -> None:
    assert matches(route(path="/orders"), target) is expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [(b"/v2/", True), (b"/v2/orders?x=/v1/", True), (b"/v2", False), (b"/v1/?/v2/", False), (b"/V2/", False)],
)
def test_a_prefix_is_the_beginning_of_the_path(target: bytes, expected: bool) -> None:
    assert matches(route(path_prefix="/v2/"), target) is expected


@pytest.mark.parametrize(
    ("template", "target", "expected"),
    [
        ("/orders/{id}", b"/orders/7", True),
        ("/orders/{id}", b"/orders/7?a=/b", True),
        ("/orders/{id}", b"/orders/", False),
        ("/orders/{id}", b"/orders", False),
        ("/orders/{id}", b"/orders/7/items", False),
        ("/orders/{id}/items", b"/orders/7/items", True),
        ("/orders/{id}/items", b"/orders//items", False),
        ("/orders/{id}/items", b"/orders/7/item", False),
        ("/orders/{id}/items", b"/order/7/items", False),
        ("/{a}/{b}", b"/x/y", True),
        ("/{a}/{b}", b"//y", False),
        ("/orders/{id}/*", b"/orders/7/items/2", True),
        ("/orders/{id}/*", b"/orders/7/", True),
        ("/orders/{id}/*", b"/orders/7", False),
        ("/orders/{id}/*", b"/orders//items", False),
        ("/{a}/b", b"*", False),
    ],
)
def test_a_template_takes_one_segment_in_each_place(template: str, target: bytes, expected: bool) -> None:
    assert matches(route(path_template=template), target) is expected


def test_one_of_the_methods_is_enough_and_their_case_counts() -> None:
    one = route(methods=("GET", "HEAD"))
    assert matches(one, b"/", method=b"HEAD")
    assert not matches(one, b"/", method=b"POST")
    assert not matches(one, b"/", method=b"get")


@pytest.mark.parametrize(
    ("wanted", "fields", "expected"),
    [
        ("yes", b"X-Canary: yes\r\n", True),
        ("yes", b"Accept: a\r\nx-CANARY:\t yes \r\n", True),
        ("yes", b"X_Canary: yes\r\n", True),
        ("yes", b"X-Canary: Yes\r\n", False),
        ("yes", b"X-Canary: yes, no\r\n", False),
        ("yes", b"X-Canary: yes\r\nX-Canary: yes\r\n", True),
        ("yes", b"X-Canary: yes\r\nX-Canary: no\r\n", False),
        ("yes", b"Canary: yes\r\n", False),
        ("yes", b"", False),
        ("y*", b"X-Canary: yes\r\n", True),
        ("y*", b"X-Canary: no\r\n", False),
        ("*", b"X-Canary: anything\r\n", True),
        ("*", b"X-Canary:\r\n", True),
        ("*", b"Y: x-canary\r\n", False),
    ],
)
def test_every_value_of_a_field_has_to_be_what_is_wanted(wanted: str, fields: bytes, expected: bool) -> None:
    assert matches(route(headers=(("x-canary", wanted),)), b"/", fields) is expected


@pytest.mark.parametrize(
    ("wanted", "target", "expected"),
    [
        ("new", b"/?ui=new", True),
        ("new", b"/?a=b&ui=new&c", True),
        ("new", b"/?ui=old", False),
        ("new", b"/?ui=new&ui=old", False),
        ("new", b"/?ui=new&ui=new", True),
        ("new", b"/?UI=new", False),
        ("new", b"/?ui=%6eew", False),
        ("new", b"/?ui=new=er", False),
        ("new", b"/", False),
        ("n*", b"/?ui=new=er", True),
        ("*", b"/?ui", True),
        ("*", b"/?ui=", True),
        ("*", b"/?ui&&", True),
        ("*", b"/?xui=1", False),
        ("*", b"/ui?", False),
    ],
)
def test_parameters_of_the_query_are_compared_as_they_were_sent(wanted: str, target: bytes, expected: bool) -> None:
    assert matches(route(query=(("ui", wanted),)), target) is expected


def test_all_that_is_given_has_to_fit() -> None:
    one = route(path_prefix="/v2/", methods=("GET",), headers=(("a", "1"), ("b", "2")), query=(("c", "3"), ("d", "*")))
    fields = b"A: 1\r\nB: 2\r\n"
    assert matches(one, b"/v2/x?d=&c=3", fields)
    assert not matches(one, b"/v2/x?d=&c=3", b"A: 1\r\n")
    assert not matches(one, b"/v2/x?c=3", fields)
    assert not matches(one, b"/v1/x?d=&c=3", fields)
    assert not matches(one, b"/v2/x?d=&c=3", fields, method=b"PUT")


# Which of several


def test_the_first_that_matches_decides() -> None:
    table = RouteTable([route(path="/a"), route(path_prefix="/a"), route(path_prefix="/a/b"), route(path="/c")])
    targets = (b"/a", b"/a/b", b"/c", b"/d")
    assert [table.find(b"GET", target, b"") for target in targets] == [0, 1, 3, NONE]
    assert RouteTable([route(), route()]).find(b"GET", b"/", b"") == 0
    assert RouteTable([]).find(b"GET", b"/", b"") == NONE


# Why not


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (route(path="/v2"), "path: /v1/x is another"),
        (route(path="/v1/"), "path: /v1/x is another"),
        (route(path="/v1"), "path: /v1/x is another"),
        (route(path_prefix="/v2/", methods=("PUT",)), "path_prefix: /v1/x begins otherwise"),
        (route(path_template="/v2/{a}"), "path_template: /v1/x has another form"),
        (route(path_template="/v1/{a}/b"), "path_template: /v1/x has another form"),
        (route(path_prefix="/v1/", methods=("PUT",), headers=(("a", "1"),)), "methods: GET is not among them"),
        (route(headers=(("a", "1"),), query=(("q", "2"),)), "headers: the request has others"),
        (route(headers=(("b", "*"),), query=(("q", "2"),)), "query: the request has others"),
        (route(headers=(("b", "*"),), query=(("q", "1"),)), ""),
    ],
)
def test_the_first_part_that_does_not_fit_is_named(one: Route, why: str) -> None:
    assert mismatch(one, b"GET", b"/v1/x?q=1", b"B: 1\r\n") == why


# The same as a plain reading

TEXTS = st.sampled_from(("/", "/a", "/a/", "/a/b", "/ab", "/b/a"))
TEMPLATES = st.sampled_from(("/{x}", "/a/{x}", "/{x}/b", "/{x}/*", "/a/{x}/{y}"))
PAIRS = st.lists(st.tuples(st.sampled_from(("k", "l")), st.sampled_from(("1", "1*", "*", "12"))), max_size=2).map(
    lambda pairs: tuple(dict(pairs).items())
)


@st.composite
def matching(draw: st.DrawFn) -> Match:
    kind = draw(st.sampled_from(("", "path", "path_prefix", "path_template")))
    where = {kind: draw(TEMPLATES if kind == "path_template" else TEXTS)} if kind else {}
    methods = draw(st.sampled_from(((), ("GET",), ("PUT", "GET"), ("PUT",))))
    return Match(**where, methods=methods, headers=draw(PAIRS), query=draw(PAIRS))


def plainly(match: Match, method: str, path: str, fields: list[tuple[str, str]], query: list[tuple[str, str]]) -> bool:
    """What the words of the documentation say, word for word."""

    def meet(given: list[tuple[str, str]], wanted: tuple[tuple[str, str], ...]) -> bool:
        for name, pattern in wanted:
            values = [value for key, value in given if key == name]
            if not values:
                return False
            for value in values:
                if pattern[-1] == "*":
                    if not value.startswith(pattern[:-1]):
                        return False
                elif value != pattern:
                    return False
        return True

    def form(template: str) -> bool:
        wanted, given = template.split("/"), path.split("/")
        if wanted[-1] == "*":
            wanted = wanted[:-1]
            if len(given) <= len(wanted):
                return False
            given = given[: len(wanted)]
        if len(given) != len(wanted):
            return False
        return all(two != "" if "{" in one else one == two for one, two in zip(wanted, given, strict=True))

    return (
        match.path in ("", path)
        and path.startswith(match.path_prefix)
        and (match.path_template == "" or form(match.path_template))
        and (match.methods == () or method in match.methods)
        and meet(fields, match.headers)
        and meet(query, match.query)
    )


GIVEN = st.lists(st.tuples(st.sampled_from(("k", "l", "m")), st.sampled_from(("", "1", "12", "2"))), max_size=3)


@given(
    st.lists(matching(), max_size=5),
    st.sampled_from(("GET", "PUT", "POST")),
    st.lists(st.sampled_from(("", "a", "b", "c")), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts)),
    GIVEN,
    GIVEN,
)
def test_the_table_is_a_plain_reading_of_the_policy(
    parts: list[Match], method: str, path: str, fields: list[tuple[str, str]], query: list[tuple[str, str]]
) -> None:
    target = path + ("?" + "&".join(f"{name}={value}" for name, value in query) if query else "")
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    asked = method.encode(), target.encode(), lines.encode()
    expected = [plainly(match, method, path, fields, query) for match in parts]
    assert RouteTable([Route(match) for match in parts]).find(*asked) == (
        expected.index(True) if True in expected else NONE
    )
    assert [not mismatch(Route(match), *asked) for match in parts] == expected
