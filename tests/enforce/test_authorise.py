from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.enforce.authorise import Authoriser
from hostproxy.snapshot import AllowRule


def rule(
    *callers: str, methods: tuple[str, ...] = (), paths: tuple[str, ...] = (), source: str = "p.toml:1"
) -> AllowRule:
    return AllowRule(callers, methods, paths, source)


class Call(NamedTuple):
    caller: str
    method: bytes
    target: bytes


CART = rule("cart", methods=("POST",), paths=("/make-payment", "/v1/*"), source="p.toml:7")


@pytest.mark.parametrize(
    ("call", "allowed"),
    [
        (Call("cart", b"POST", b"/make-payment"), True),
        (Call("cart", b"POST", b"/make-payment?amount=1"), True),
        (Call("cart", b"POST", b"/make-payment/"), False),
        (Call("cart", b"POST", b"/v1/"), True),
        (Call("cart", b"POST", b"/v1/x/y?z=/../"), True),
        (Call("cart", b"POST", b"/v1"), False),
        (Call("cart", b"GET", b"/make-payment"), False),
        (Call("cart", b"post", b"/make-payment"), False),
        (Call("shop", b"POST", b"/make-payment"), False),
        (Call("", b"POST", b"/make-payment"), False),
        (Call("cart", b"POST", b"/MAKE-PAYMENT"), False),
    ],
)
def test_callers_methods_and_paths(call: Call, allowed: bool) -> None:
    decision = Authoriser([CART], False, "p.toml:2: access").request(*call)
    assert decision == ((True, "p.toml:7") if allowed else (False, "p.toml:2: access"))


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/../admin",
        b"/v1/./x",
        b"/v1//x",
        b"/v1/%2e%2e/admin",
        b"/v1/%2E./admin",
        b"/v1/..%2fadmin",
        b"/v1/..%5cadmin",
        b"/v1/..\\admin",
        b"/v1/%252e%252e/admin",
        b"/v1/;/../admin",
        b"/v1/x%00",
    ],
)
def test_paths_that_servers_read_differently_match_no_prefix(path: bytes) -> None:
    assert not Authoriser([CART], False, "default").request("cart", b"POST", path).allowed


def test_such_a_path_may_be_allowed_by_naming_it() -> None:
    named = rule("cart", paths=("/a//b",))
    assert Authoriser([named], False, "default").request("cart", b"GET", b"/a//b").allowed


def test_or_by_a_rule_about_no_path() -> None:
    assert Authoriser([rule("cart")], False, "default").request("cart", b"GET", b"/v1/../admin").allowed


def test_anyone_means_every_verified_caller() -> None:
    authoriser = Authoriser([rule("*", methods=("GET",), source="p.toml:9")], False, "default")
    assert authoriser.request("whoever", b"GET", b"/") == (True, "p.toml:9")
    assert not authoriser.request("whoever", b"PUT", b"/").allowed


@pytest.mark.parametrize("default", [True, False])
def test_without_rules_the_default_decides_and_is_named(default: bool) -> None:
    authoriser = Authoriser([], default, "p.toml:3: [defaults] access")
    assert authoriser.request("cart", b"GET", b"/") == (default, "p.toml:3: [defaults] access")
    assert authoriser.connection("cart") == (default, "p.toml:3: [defaults] access")
    assert authoriser.trivial is default


def test_it_is_trivial_only_when_nothing_can_be_denied() -> None:
    assert not Authoriser([rule("cart")], True, "").trivial
    assert not Authoriser([rule("*")], True, "").trivial


@pytest.mark.parametrize(
    ("one", "allowed"),
    [
        (rule("cart"), True),
        (rule("*"), True),
        (rule("cart", methods=("GET",)), False),
        (rule("cart", paths=("/x",)), False),
        (rule("shop"), False),
    ],
)
def test_for_connections_only_rules_without_methods_and_paths_speak(one: AllowRule, allowed: bool) -> None:
    assert Authoriser([one], False, "default").connection("cart").allowed is allowed


# Laws

names = st.sampled_from(["cart", "shop", "*"])
methods = st.lists(st.sampled_from(["GET", "POST"]), max_size=2).map(tuple)
paths = st.lists(st.sampled_from(["/", "/a", "/a/*", "/a/b", "*", "/%2e*"]), max_size=2).map(tuple)
rules = st.builds(
    AllowRule,
    st.lists(names, min_size=1, max_size=2).map(tuple),
    methods,
    paths,
    st.sampled_from(["f:1", "f:2", "f:3"]),
)
calls = st.builds(
    Call,
    st.sampled_from(["cart", "shop", "other"]),
    st.sampled_from([b"GET", b"POST", b"PUT"]),
    st.sampled_from([b"/", b"/a", b"/a/b", b"/a/../b", b"/a/b?c", b"/%2e", b"*"]),
)


@given(st.lists(rules, max_size=4), rules, st.booleans(), calls)
def test_adding_a_rule_never_denies_what_was_allowed(
    before: list[AllowRule], more: AllowRule, default: bool, call: Call
) -> None:
    less = Authoriser(before, default, "d")
    wider = Authoriser([*before, more], default, "d")
    assert less.request(*call).allowed <= wider.request(*call).allowed
    assert less.connection(call.caller).allowed <= wider.connection(call.caller).allowed


@given(
    st.lists(rules, max_size=5).flatmap(lambda some: st.tuples(st.just(some), st.permutations(some))), calls
)
def test_the_order_of_rules_does_not_matter(
    both: tuple[list[AllowRule], list[AllowRule]], call: Call
) -> None:
    one, other = (Authoriser(some, False, "d") for some in both)
    assert one.request(*call).allowed is other.request(*call).allowed
    assert one.connection(call.caller).allowed is other.connection(call.caller).allowed


@given(st.lists(rules, max_size=4), calls)
def test_every_decision_names_what_took_it(some: list[AllowRule], call: Call) -> None:
    decision = Authoriser(some, False, "the default").request(*call)
    assert (decision.rule == "the default") is not decision.allowed
    if decision.allowed:
        assert decision.rule in {
            one.source for one in some if call.caller in one.callers or "*" in one.callers
        }
