"""What an operator is told about a directory of policy before any host sees it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controller.policy.difference import difference
from controller.policy.files import MOST, check, collect
from hostproxy.mesh.document import Invalid

GOOD = b'[[service.payments.allow]]\nfrom = ["cart"]\nmethods = ["POST"]\npaths = ["/make-payment"]\n'


def warnings(text: str, services: tuple[str, ...] = ("payments", "cart")) -> list[str]:
    return check({"p.toml": text.encode()}, services)[1]


def rule(kind: str, **keys: str) -> str:
    values = {"from": '["cart"]', **keys}
    return f"[[service.payments.{kind}]]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


def test_a_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / "payments.toml").write_bytes(GOOD)
    (tmp_path / ".hidden.toml").write_bytes(b"x")
    (tmp_path / "README").write_bytes(b"x")
    (tmp_path / "tests").mkdir()
    assert collect(str(tmp_path)) == {"payments.toml": GOOD}


def test_everything_wrong_with_the_files_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "Upper.toml").write_bytes(GOOD)
    (tmp_path / "is a directory.toml").mkdir()
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(Invalid) as caught:
        collect(str(tmp_path))
    assert len(caught.value.problems) == 3
    for path in (tmp_path / "none", tmp_path / "folder.toml"):
        with pytest.raises(Invalid):
            collect(str(path))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(Invalid, match=r"pipe\.toml: is no regular file"):
        collect(str(tmp_path))


def test_what_no_bundle_could_carry_is_refused_before(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"#" * (MOST + 1))
    with pytest.raises(Invalid, match="bundle"):
        collect(str(tmp_path))


def test_good_policy_has_no_warnings() -> None:
    assert warnings(GOOD.decode()) == []


def test_bad_policy_is_refused_with_its_place() -> None:
    with pytest.raises(Invalid, match=r"p\.toml:2"):
        check({"p.toml": b"[service.payments]\ntimout = 1\n"})


def test_unknown_services_are_named() -> None:
    (found,) = warnings(rule("allow", **{"from": '["crat"]'}))
    assert found == 'p.toml:1: nobody knows a service crat; did you mean "cart"?'
    assert warnings('[service.paymets]\ntimeout = "1s"\n', ("payments",)) == [
        'p.toml:1: [service.paymets]: nobody knows a service paymets; did you mean "payments"?'
    ]
    assert warnings(rule("allow", **{"from": '["*"]'})) == []


@pytest.mark.parametrize(
    ("rules", "count"),
    [
        ([rule("allow"), rule("allow", methods='["GET"]')], 1),
        ([rule("allow", methods='["GET"]'), rule("allow")], 1),
        ([rule("allow"), rule("allow")], 1),
        ([rule("allow", paths='["/a/*"]'), rule("allow", paths='["/a/b"]')], 1),
        ([rule("allow", paths='["/a/*"]'), rule("allow", paths='["/a/{id}/c"]')], 1),
        ([rule("allow", paths='["/a/b"]'), rule("allow", paths='["/a/*"]')], 1),
        ([rule("allow", paths='["/a"]'), rule("allow", paths='["/b"]')], 0),
        ([rule("allow", methods='["GET"]'), rule("allow", paths='["/b"]')], 0),
        ([rule("allow", headers='{ "x-a" = "1" }'), rule("allow")], 1),
        ([rule("allow", headers='{ "x-a" = "1" }'), rule("allow", headers='{ "x-a" = "2" }')], 0),
        ([rule("allow", paths='["/a//b"]'), rule("allow", paths='["/a*"]')], 0),
        ([rule("allow", paths='["/a//b"]'), rule("allow", paths='["/a*", "/a//b"]')], 1),
        ([rule("allow", paths='["/a//b"]'), rule("allow")], 1),
        ([rule("deny", paths='["/a//b"]'), rule("deny", paths='["/a*"]')], 1),
        ([rule("allow", paths='["/a//b"]'), rule("deny", paths='["/a*"]')], 1),
        ([rule("allow", audit="true"), rule("allow")], 1),  # what is audited is decided by the other
        ([rule("deny"), rule("allow", methods='["GET"]')], 1),
        ([rule("deny", methods='["GET"]'), rule("allow")], 0),
    ],
)
def test_rules_that_never_decide_are_found(rules: list[str], count: int) -> None:
    assert len(warnings("".join(rules))) == count


def test_what_nobody_knows_is_shown_where_it_is_in_many_files() -> None:
    files = {"a.toml": b'[service.cart]\ntimeout = "1s"\n', "b.toml": b'# b\n\n[service.paymets]\ntimeout = "1s"\n'}
    assert check(files, ("cart", "db"))[1] == ["b.toml:3: [service.paymets]: nobody knows a service paymets"]


def test_allow_rules_beside_a_default_that_allows_are_said_to_shut_nobody_out() -> None:
    two = rule("allow", methods='["GET"]') + rule("allow", methods='["POST"]')
    (found,) = warnings('[defaults]\naccess = "allow"\n' + two)
    assert found.startswith("p.toml:3: this and 1 more allow rules shut nobody out: p.toml:2: [defaults] access")
    assert '[service.payments] access = "deny"' in found
    (found,) = warnings('[service.payments]\naccess = "allow"\n' + rule("allow"))
    assert "p.toml:3: this allow rule shuts nobody out" in found
    closed = '[defaults]\naccess = "allow"\n[service.payments]\naccess = "deny"\n'
    assert warnings(closed + rule("allow")) == []
    assert warnings('[defaults]\naccess = "deny"\n' + rule("allow")) == []
    assert warnings('[defaults]\naccess = "allow"\n' + rule("deny")) == []
    assert warnings('[defaults]\naccess = "allow"\n' + rule("allow", audit="true")) == []


SUBSETS = '[service.payments.subset.v1]\nversion = "1"\n[service.payments.subset.v2]\nversion = "2"\n'
DEFAULT = '[service.payments]\ndefault_subset = "v1"\n'


def route(**keys: str) -> str:
    return "[[service.payments.route]]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())


def split(**weights: int) -> str:
    shares = ", ".join(f'{{ subset = "{subset}", weight = {weight} }}' for subset, weight in weights.items())
    return f"[{shares}]"


def test_good_routes_have_no_warnings() -> None:
    canary = route(match='{ headers = { x-canary = "yes" } }', split='[{ subset = "v2" }]')
    timeout = '[service.payments]\ntimeout = "2s"\ndefault_subset = "v1"\n'
    retry = '[service.payments.retry]\non = ["reset"]\ntry_timeout = "500ms"\n'
    assert warnings(timeout + retry + canary + route(split=split(v1=90, v2=10)) + SUBSETS) == []
    assert warnings("[service.payments.retry]\nattempts = 2\n") == []


def test_a_route_that_no_request_takes_is_found() -> None:
    first = DEFAULT + route(match='{ path_prefix = "/v2/" }')
    (found,) = warnings(first + route(match='{ path = "/v2/pay", methods = ["POST"] }', timeout='"5s"') + SUBSETS)
    assert found == "p.toml:5: never reached: p.toml:3 takes all that it matches"
    assert warnings(first + route(match='{ path = "/v1/pay" }') + SUBSETS) == []
    three = [route(), route(match='{ path = "/a" }'), route(match='{ path = "/b" }')]
    assert [found[:23] for found in warnings("".join(three))] == ["p.toml:2: never reached", "p.toml:4: never reached"]


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ({"v1": 90, "v2": 9}, "add up to 99: v1 is 90.91 %, v2 is 9.091 %"),
        ({"v1": 9, "v2": 1}, "add up to 10: v1 is 90 %, v2 is 10 %"),
        ({"v1": 50}, "add up to 50: v1 is 100 %"),
        ({"v1": 90, "v2": 0}, ""),
        ({"v1": 90, "v2": 10}, ""),
        ({"v1": 100, "v2": 0}, ""),
        ({"v1": 999, "v2": 1}, ""),
        ({"v1": 9999, "v2": 1}, ""),
    ],
)
def test_weights_of_an_unusual_sum_are_told_in_percent(weights: dict[str, int], parts: str) -> None:
    expected = [f"p.toml:3: the weights of this split {parts}"] if parts else []
    assert warnings(DEFAULT + route(split=split(**weights)) + SUBSETS) == expected


@pytest.mark.parametrize("protocol", ["http2", "grpc"])
def test_what_means_nothing_for_bytes_is_told(protocol: str) -> None:
    head = f'[service.payments]\nprotocol = "{protocol}"\n'
    carried = f'services with protocol = "{protocol}" are carried as bytes in this version'
    # Of routes that no request takes, nothing else is worth a word.
    text = head + "[service.payments.retry]\nattempts = 2\n" + route() + route(split=split(v1=1, v2=2)) + SUBSETS
    assert warnings(text) == [
        f"p.toml:5: no request takes a route: {carried}",
        f"p.toml:3: nothing is retried: {carried}",
    ]


def test_a_time_for_tries_that_does_not_what_it_seems_is_told() -> None:
    def of(service: str, retry: str) -> list[str]:
        return warnings(f"[service.payments]\n{service}\n[service.payments.retry]\n{retry}\n")

    (found,) = of('timeout = "2s"', 'try_timeout = "2s"')
    assert found == "p.toml:3: try_timeout does nothing: 2s is no less than the timeout, 2s"
    assert of('timeout = "0s"', 'try_timeout = "2s"') == []
    assert of('timeout = "2s"', 'try_timeout = "500ms"') == []


def test_the_times_of_a_route_are_those_that_hold_for_it() -> None:
    retry = '{ try_timeout = "1s" }'
    head = '[service.payments]\ntimeout = "500ms"\n'
    (found,) = warnings(head + route(retry=retry))
    assert found == "p.toml:3: try_timeout does nothing: 1s is no less than the timeout, 500ms"
    assert warnings(head + route(retry=retry, timeout='"2s"')) == []
    assert warnings(head + route(retry=retry, timeout='"0s"')) == []


def test_the_place_of_a_retry_is_that_of_its_own_file() -> None:
    files = {
        "a.toml": b'[service.payments]\ntimeout = "1s"\n',
        "b.toml": b'# b\n[service.payments.retry]\ntry_timeout = "2s"\n',
    }
    (found,) = check(files)[1]
    assert found.startswith("b.toml:2: try_timeout does nothing")


def test_a_prefix_of_every_path_leaves_nothing() -> None:
    rest, canary = route(match='{ path_prefix = "/" }', timeout='"5s"'), '{ headers = { x-canary = "yes" } }'
    (found,) = warnings(DEFAULT + rest + route(match=canary) + SUBSETS)
    assert found == "p.toml:6: never reached: p.toml:3 takes all that it matches"
    # But for a request that has no path: OPTIONS *.
    assert warnings(DEFAULT + rest + route(match='{ methods = ["OPTIONS"] }') + SUBSETS) == []
    assert warnings(route(match=canary, split=split(v2=100)) + rest + SUBSETS) == []


def test_subsets_that_also_get_what_no_route_matches_are_told() -> None:
    canary = route(match='{ headers = { x-canary = "yes" } }', split='[{ subset = "v2" }]')
    (found,) = warnings(canary + SUBSETS)
    assert found == (
        "p.toml:1: requests that no route matches go to all instances of payments, those of v2 too; give"
        " default_subset, or a last route without match if this is meant"
    )
    assert warnings(DEFAULT + canary + SUBSETS) == []
    assert warnings(canary + route() + SUBSETS) == []
    assert warnings(canary + route(split='[{ subset = "v1" }]') + SUBSETS) == []
    assert warnings(route(timeout='"5s"', match='{ path = "/a" }') + SUBSETS) == []


def test_the_difference_is_a_unified_diff() -> None:
    before = {"a.toml": b"one\ntwo\n", "gone.toml": b"x\n", "same.toml": b"y\n"}
    after = {"a.toml": b"one\nthree\n", "new.toml": b"z\n", "same.toml": b"y\n"}
    lines = list(difference(before, after, ("7", "8")))
    assert [line for line in lines if line.startswith(("---", "+++"))] == [
        "--- 7/a.toml", "+++ 8/a.toml", "--- 7/gone.toml", "+++ /dev/null", "--- /dev/null", "+++ 8/new.toml",
    ]
    changed = [line for line in lines if line[:1] in "+-" and line[:2] not in ("++", "--")]
    assert changed == ["-two", "+three", "-x", "+z"]
    assert list(difference(after, after, ("a", "b"))) == []


@pytest.mark.parametrize("fake", ["\u2028", "\u2029", "\x85", "\r", "\x0b", "\x0c", "\x1c"])
def test_no_comment_can_fake_a_line_of_the_difference(fake: str) -> None:
    before, after = {"a.toml": b"x\n"}, {"a.toml": f"# one{fake}[service.payments]\n".encode()}
    assert list(difference(before, after, ("a", "b")))[3:] == ["-x", f"+# one{fake}[service.payments]"]


def test_ends_of_lines_are_a_difference() -> None:
    assert list(difference({}, {"a.toml": b""}, ("a", "b"))) == ["--- /dev/null", "+++ b/a.toml"]
    missing = "\\ No newline at end of file"
    assert list(difference({"a.toml": b"x\n"}, {"a.toml": b"x"}, ("a", "b")))[3:] == ["-x", "+x", missing]
    assert list(difference({"a.toml": b"x\n"}, {"a.toml": b"x\r\n"}, ("a", "b")))[3:] == ["-x", "+x\r"]
    assert list(difference({"a.toml": b"x"}, {"a.toml": b"y"}, ("a", "b")))[3:] == ["-x", missing, "+y", missing]
