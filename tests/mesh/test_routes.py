"""Routes in a policy file."""

from __future__ import annotations

import pytest

from hostproxy.mesh import policy, policy_tables
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.retries import Retry
from hostproxy.mesh.routes import Match, Route, Share
from hostproxy.mesh.units import Wrong

SUBSETS = "[service.a.subset.v1]\nversion = '1'\n[service.a.subset.v2]\nversion = '2'\n"

WHOLE = """
[[service.a.route]]
name = "canary"
match = { path_prefix = "/v2/", headers = { X-Canary = "yes", accept-language = "en*" } }
split = [ { subset = "v2", weight = 10 }, { subset = "v1", weight = 90 } ]
timeout = "5s"
retry = { attempts = 3 }

[[service.a.route]]
[service.a.route.match]
path = "/health"
methods = ["GET", "HEAD"]
query = { verbose = "1", "a%20b" = "*", token = "ab=*" }
[[service.a.route.split]]
subset = "v1"

[[service.a.route]]
match = { path_template = "/orders/{id}/*" }
timeout = "0s"

[[service.a.route]]
"""


def read(text: str) -> tuple[Route, ...]:
    return policy.parse_files({"p.toml": text.encode()}).services["a"].routes


def problems_of(text: str) -> list[str]:
    with pytest.raises(Invalid) as caught:
        read(text)
    return [str(problem).removeprefix("p.toml:") for problem in caught.value.problems]


def one(**keys: str) -> str:
    """A file with one route and the subsets v1 and v2."""
    return "[[service.a.route]]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()) + SUBSETS


def test_routes_keep_the_order_of_the_file() -> None:
    assert read(WHOLE + SUBSETS) == (
        Route(
            Match(path_prefix="/v2/", headers=(("accept-language", "en*"), ("x-canary", "yes"))),
            (Share("v2", 10), Share("v1", 90)),
            5.0,
            Retry(attempts=3),
            "canary",
            "p.toml:2",
        ),
        Route(
            Match(
                path="/health",
                methods=("GET", "HEAD"),
                query=(("a%20b", "*"), ("token", "ab=*"), ("verbose", "1")),
            ),
            (Share("v1"),),
            source="p.toml:9",
        ),
        Route(Match(path_template="/orders/{id}/*"), timeout=0.0, source="p.toml:17"),
        Route(source="p.toml:21"),
    )


def test_a_service_without_routes_has_none() -> None:
    assert read("[service.a]\ntimeout = '2s'") == ()


@pytest.mark.parametrize(
    ("match", "problem"),
    [
        ("{ path = '/a', path_prefix = '/b/' }", "match.path_prefix: is there beside path; a route has one of them"),
        ("{ path_template = '/{b}', path = '/a' }", "match.path_template: is there beside path; a route has one"),
        ("{ path = 'a' }", 'match.path: "a" is not a path; it starts with "/"'),
        ("{ path = '' }", "match.path: is empty"),
        ("{ path = '/a/*' }", 'match.path: "/a/*" ends with "*"; for all that begins so write path_prefix = "/a/"'),
        ("{ path = '/a/{id}' }", 'match.path: "/a/{id}" has braces; write it as path_template'),
        ("{ path = '/a?b=c' }", 'match.path: "/a?b=c" has a query; a match has a key of its own for it: query = {'),
        ("{ path = '/a/../b' }", 'match.path: "/a/../b" has "." or ".." segments'),
        ("{ path_prefix = '/a/*' }", 'match.path_prefix: "/a/*" ends with "*"; a prefix has none: "/a/"'),
        (
            "{ path_prefix = '/a/{id}/' }",
            'match.path_prefix: "/a/{id}/" has braces; write path_template = "/a/{id}/*"',
        ),
        ("{ path_prefix = 'v2/' }", 'match.path_prefix: "v2/" is not a path'),
        ("{ path_prefix = '/a*b' }", 'match.path_prefix: "/a*b" has "*" before its end'),
        ("{ path_template = '/a' }", 'match.path_template: "/a" has no place like "{id}"; write it as path or path_'),
        ("{ path_template = '/a{id}' }", 'match.path_template: "/a{id}" has a brace that is not part of'),
        ("{ prefix = '/a' }", 'match.prefix: unknown key; did you mean "path_prefix"?'),
        ("{ methods = [] }", "match.methods: is empty; leave the key out, and it means all of them"),
        ("{ methods = ['get'] }", 'match.methods[0]: "get" is not an HTTP method; did you mean "GET"?'),
        ("{ methods = ['*'] }", 'match.methods[0]: "*" is no method that anybody sends; name the methods, or leave'),
        ("{ headers = { host = 'a' } }", "match.headers.host: is a field that neither rules nor routes see"),
        ("{ headers = { x = 'a*b' } }", 'match.headers.x: "a*b" has "*" before its end'),
        ("{ headers = { x-a = '1', X-A = '2' } }", "match.headers.X-A: says x-a twice"),
        ("{ query = { 'a=b' = '1' } }", 'match.query."a=b": is not the name of a parameter'),
        ("{ query = { 'a b' = '1' } }", 'match.query."a b": is not the name of a parameter; it has at most 128'),
        ("{ query = { a = 'b c' } }", 'match.query.a: "b c" is not a value to compare with'),
        ("{ query = { a = 'é' } }", "match.query.a:"),
        ("{ query = { a = 'b&c' } }", 'match.query.a: "b&c" has "&" or "#", which no value has'),
        ("{ query = { a = '*b' } }", 'match.query.a: "*b" has "*" before its end; only "prefix*" is a pattern'),
        ("{ query = { a = '' } }", "match.query.a: is empty"),
        ("{ query = { " + ", ".join(f"a{number} = '1'" for number in range(17)) + " } }", "match.query: has 17 keys"),
        ("'/v2/'", 'match: expected a table, found "/v2/"'),
    ],
)
def test_a_wrong_match_says_where_and_why(match: str, problem: str) -> None:
    (found,) = problems_of(one(match=match))
    assert found.startswith(f"2: service.a.route[0].{problem}")


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ("[]", "2: service.a.route[0].split: is empty; leave it out, and they go where requests without a route go"),
        ("'v1'", "2: service.a.route[0].split: expected an array of tables"),
        ("['v1']", '2: service.a.route[0].split[0]: expected a table, found "v1"'),
        ("[{ weight = 1 }]", "2: service.a.route[0].split[0].subset: is missing; it is the subset that these requests"),
        ("[{ subset = 'v1', weight = -1 }]", "2: service.a.route[0].split[0].weight: -1 is too low; the least is 0"),
        ("[{ subset = 'v1', weight = 10001 }]", "2: service.a.route[0].split[0].weight: 10001 is too high"),
        ("[{ subset = 'v1', weight = 0.5 }]", "2: service.a.route[0].split[0].weight: expected a whole number"),
        ("[{ subset = 'v1', weight = 0 }]", "2: service.a.route[0].split: has no weight but 0"),
        (
            "[{ subset = 'v1', weight = 0 }, { subset = 'v2', weight = 0 }]",
            "2: service.a.route[0].split: has no weight but 0, so its requests could go nowhere",
        ),
        (
            "[{ subset = 'v1', weight = 1 }, { subset = 'v1', weight = 2 }]",
            '2: service.a.route[0].split[1].subset: "v1" is there twice; add up its weights',
        ),
        (
            "[{ subset = 'v1', weight = 90 }, { subset = 'v2' }]",
            "2: service.a.route[0].split[1].weight: is missing; a split of several has one for each",
        ),
        (
            "[{ subset = 'v3' }]",
            '2: service.a.route[0].split[0].subset: "v3" is no subset of this service; known here: v1, v2',
        ),
        (
            "[" + ", ".join(f"{{ subset = 'v{number}', weight = 1 }}" for number in range(17)) + "]",
            "2: service.a.route[0].split: there are 17, the most is 16",
        ),
    ],
)
def test_a_wrong_split_says_where_and_why(split: str, problem: str) -> None:
    (found,) = problems_of(one(split=split))
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"name": "''"}, "2: service.a.route[0].name: is empty"),
        ({"name": "'a b'"}, '2: service.a.route[0].name: "a b" is not a word'),
        ({"name": "'none'"}, '2: service.a.route[0].name: "none" is not the name of a route; "none" and "file:line" h'),
        ({"name": "'p.toml:3'"}, '2: service.a.route[0].name: "p.toml:3" is not the name of a route'),
        ({"timeout": "5"}, '2: service.a.route[0].timeout: expected a duration like "250ms", found the integer 5'),
        ({"timeout": "'25h'"}, "2: service.a.route[0].timeout: 25h is too high; the most is 24h"),
        ({"retry": "{ attempts = 0 }"}, "2: service.a.route[0].retry.attempts: 0 is too low; the least is 1"),
        ({"retry": "{ on = ['timeout'] }"}, '2: service.a.route[0].retry.on[0]: "timeout" is no condition here; give'),
        ({"spilt": "[]"}, '2: service.a.route[0].spilt: unknown key; did you mean "split"?'),
    ],
)
def test_a_wrong_route_says_where_and_why(keys: dict[str, str], problem: str) -> None:
    (found,) = problems_of(one(**keys))
    assert found.startswith(problem)


def test_a_table_instead_of_an_array_of_tables() -> None:
    (found,) = problems_of("[service.a.route]\nname = 'x'\n")
    assert found == "1: service.a.route: expected an array of tables, found a table; write [[service.a.route]]"
    (found,) = problems_of("[service.a]\nroute = []\n")
    assert found == "2: service.a.route: is empty; leave it out, and all requests are treated alike"


def test_no_name_is_given_to_two_routes() -> None:
    (found,) = problems_of("[[service.a.route]]\nname = 'x'\n[[service.a.route]]\n[[service.a.route]]\nname = 'x'\n")
    assert found == '5: service.a.route[2].name: "x" is the name of the route in line 1 as well'


def test_routes_of_a_service_are_bounded() -> None:
    assert len(read("[[service.a.route]]\n" * policy_tables.ROUTES)) == policy_tables.ROUTES
    (found,) = problems_of("[[service.a.route]]\n" * (policy_tables.ROUTES + 1))
    assert found == f"1: service.a.route: there are {policy_tables.ROUTES + 1}, the most is {policy_tables.ROUTES}"


@pytest.mark.parametrize("names", [("a.toml", "b.toml"), ("b.toml", "a.toml")])
def test_the_subsets_of_a_split_may_be_in_another_file(names: tuple[str, str]) -> None:
    route = "[[service.a.route]]\nsplit = [{ subset = 'v2', weight = 1 }, { subset = '%s', weight = 1 }]\n"
    here, there = names
    files = {here: (route % "v1").encode(), there: SUBSETS.encode()}
    (found,) = policy.parse_files(files).services["a"].routes
    assert found.split == (Share("v2", 1), Share("v1", 1))
    files[here] = (route % "canary").encode()
    with pytest.raises(Invalid) as caught:
        policy.parse_files(files)
    assert [str(problem) for problem in caught.value.problems] == [
        f'{here}:2: service.a.route[0].split[1].subset: "canary" is no subset of this service; known here: v1, v2'
    ]


def test_unknown_subsets_by_the_thousand_are_told_in_short() -> None:
    shares = ", ".join(f"{{ subset = 'x{number}', weight = 1 }}" for number in range(policy_tables.SHARES))
    subsets = "".join(f"[service.a.subset.v{number}]\nversion = '{number}'\n" for number in range(64))
    found = problems_of(f"[[service.a.route]]\nsplit = [{shares}]\n" * policy_tables.ROUTES + subsets)
    assert len(found) == 101
    assert found[-1].endswith("more problems")


def test_routes_in_two_files_would_have_no_order() -> None:
    text = b"[[service.a.route]]\n"
    with pytest.raises(Invalid) as caught:
        policy.parse_files({"a.toml": text, "b.toml": text})
    assert [str(problem) for problem in caught.value.problems] == [
        "b.toml:1: service.a.route: is given at a.toml:1 as well; "
        "all routes of a service stand in one file, as their order counts"
    ]


@pytest.mark.parametrize(
    "files",
    [
        {"p.toml": "[service.a]\nprotocol = 'tcp'\n[[service.a.route]]"},
        {"p.toml": "\n\n[[service.a.route]]", "q.toml": "[service.a]\nprotocol = 'tcp'"},
    ],
)
def test_connections_have_no_routes(files: dict[str, str]) -> None:
    with pytest.raises(Invalid) as caught:
        policy.parse_files({name: text.encode() for name, text in files.items()})
    assert [str(problem) for problem in caught.value.problems] == [
        'p.toml:3: service.a.route: means nothing with protocol = "tcp"; leave it out'
    ]


def test_paths_that_are_taken() -> None:
    for text in ("/", "/a/b", "/a%20b/..c", "/~a;b=c,d"):
        assert policy_tables.exact_path(text) == text
        assert policy_tables.path_prefix(text) == text
    for text in ("/{id}", "/a/{order-id}/", "/{a}/{_b}/*"):
        assert policy_tables.path_template(text) == text
    assert policy_tables.path_prefix("/" + "a" * 1022) == "/" + "a" * 1022
    with pytest.raises(Wrong):
        policy_tables.path_prefix("/" + "a" * 1024)
