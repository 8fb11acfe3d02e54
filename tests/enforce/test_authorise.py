from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.enforce.authorise import Audit, Authoriser, Decision
from hostproxy.mesh.rules import Rule


def rule(
    *callers: str,
    methods: tuple[str, ...] = (),
    paths: tuple[str, ...] = (),
    headers: dict[str, str] | None = None,
    source: str = "p.toml:1",
    audit: bool = False,
) -> Rule:
    return Rule(callers, methods, paths, source, tuple((headers or {}).items()), audit)


def authoriser(*allow: Rule, deny: tuple[Rule, ...] = (), default: bool = False) -> Authoriser:
    return Authoriser(allow, deny, default, "the default")


class Call(NamedTuple):
    caller: str
    method: bytes
    target: bytes
    fields: bytes = b""


CART = rule("cart", methods=("POST",), paths=("/make-payment", "/v1/*", "/orders/{id}/items"), source="p.toml:7")


@pytest.mark.parametrize(
    ("call", "allowed"),
    [
        (Call("cart", b"POST", b"/make-payment"), True),
        (Call("cart", b"POST", b"/make-payment?amount=1"), True),
        (Call("cart", b"POST", b"/make-payment/"), False),
        (Call("cart", b"POST", b"/v1/"), True),
        (Call("cart", b"POST", b"/v1/x/y?z=/../"), True),
        (Call("cart", b"POST", b"/v1"), False),
        (Call("cart", b"POST", b"/orders/7/items"), True),
        (Call("cart", b"POST", b"/orders/a%20b/items?page=2"), True),
        (Call("cart", b"POST", b"/orders//items"), False),
        (Call("cart", b"POST", b"/orders/7/8/items"), False),
        (Call("cart", b"POST", b"/orders/7/items/"), False),
        (Call("cart", b"POST", b"/orders/7"), False),
        (Call("cart", b"GET", b"/make-payment"), False),
        (Call("cart", b"post", b"/make-payment"), False),
        (Call("shop", b"POST", b"/make-payment"), False),
        (Call("", b"POST", b"/make-payment"), False),
        (Call("*", b"POST", b"/make-payment"), False),
        (Call("cart", b"POST", b"/MAKE-PAYMENT"), False),
        (Call("cart", b"POST", b"*"), False),
    ],
)
def test_callers_methods_and_paths(call: Call, allowed: bool) -> None:
    decision = authoriser(CART).request(*call)
    assert decision == (Decision(True, "p.toml:7", True) if allowed else Decision(False, "the default"))


AMBIGUOUS = [
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
]


@pytest.mark.parametrize("path", AMBIGUOUS)
def test_paths_that_servers_read_differently_match_no_prefix_and_no_template(path: bytes) -> None:
    assert not authoriser(CART).request("cart", b"POST", path).allowed
    template = rule("cart", paths=("/v1/{one}", "/v1/{one}/{two}", "/{one}/*"))
    assert not authoriser(template).request("cart", b"POST", path).allowed


def test_such_a_path_may_be_allowed_by_naming_it() -> None:
    assert authoriser(rule("cart", paths=("/a//b",))).request("cart", b"GET", b"/a//b").allowed


def test_or_by_a_rule_about_no_path() -> None:
    assert authoriser(rule("cart")).request("cart", b"GET", b"/v1/../admin").allowed


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/{a}", b"/x", True),
        ("/{a}", b"/", False),
        ("/{a}", b"/x/", False),
        ("/{a}/{b}", b"/x/y", True),
        ("/orders/{id}/*", b"/orders/7/items/3", True),
        ("/orders/{id}/*", b"/orders/7/", True),
        ("/orders/{id}/*", b"/orders/7", False),
        ("/orders/{id}/", b"/orders/7/", True),
        ("/orders/{id}/", b"/orders/7", False),
        ("/or*", b"/orders", True),
        ("/*", b"/", True),
        ("/a", b"/a%62", False),
    ],
)
def test_patterns(pattern: str, path: bytes, matches: bool) -> None:
    one = rule("cart", paths=(pattern,))
    assert authoriser(one).request("cart", b"GET", path).allowed is matches
    assert authoriser(deny=(one,), default=True).request("cart", b"GET", path).allowed is not matches


def test_the_longest_prefix_that_also_fits_otherwise_is_found_among_nested_ones() -> None:
    nested = [rule("cart", methods=(f"M{n}",), paths=("/a" * n + "*",), source=f"p:{n}") for n in range(1, 6)]
    decide = authoriser(*nested, rule("cart", paths=("/b*", "/a/b*"))).request
    for n in range(1, 6):
        assert decide("cart", f"M{n}".encode(), b"/a/a/a/a/a/x").rule == f"p:{n}"
        assert decide("cart", f"M{n}".encode(), b"/a" * (n - 1) + b"/").rule == "the default"


@pytest.mark.parametrize(
    ("wanted", "fields", "allowed", "denied"),
    [
        ({"x-role": "admin"}, b"X-Role: admin\r\n", True, True),
        ({"x-role": "admin"}, b"x-role:admin\r\n", True, True),
        ({"x-role": "admin"}, b"X-Role: user\r\n", False, False),
        ({"x-role": "admin"}, b"X-Role: Admin\r\n", False, False),
        ({"x-role": "admin"}, b"", False, False),
        # Of several values servers take the first, the last or all: what allows must hold for each.
        ({"x-role": "admin"}, b"X-Role: admin\r\nX-Role: user\r\n", False, True),
        ({"x-role": "admin"}, b"X-Role: user, admin\r\n", False, True),
        ({"x-role": "admin"}, b"X_Role: admin\r\n", True, True),
        ({"x-role": "adm*"}, b"X-Role: administrator\r\n", True, True),
        ({"x-role": "adm*"}, b"X-Role: ad\r\n", False, False),
        ({"x-role": "*"}, b"X-Role:\r\n", True, True),
        ({"x-role": "*"}, b"X-Roles: a\r\n", False, False),
        ({"a": "1", "b": "2"}, b"A: 1\r\nB: 2\r\n", True, True),
        ({"a": "1", "b": "2"}, b"A: 1\r\n", False, False),
    ],
)
def test_header_fields(wanted: dict[str, str], fields: bytes, allowed: bool, denied: bool) -> None:
    one = rule("cart", headers=wanted)
    assert authoriser(one).request("cart", b"GET", b"/", fields).allowed is allowed
    assert authoriser(deny=(one,), default=True).request("cart", b"GET", b"/", fields).allowed is not denied


def test_deny_wins_and_is_named() -> None:
    decide = authoriser(rule("*"), deny=(rule("cart", paths=("/admin*",), source="p.toml:9"),)).request
    assert decide("cart", b"GET", b"/admin/x") == Decision(False, "p.toml:9", True)
    assert decide("cart", b"GET", b"/x").allowed
    assert decide("shop", b"GET", b"/admin/x").allowed


@pytest.mark.parametrize("path", [b"/%61dmin", b"/x/../admin", b"//admin", b"/%2561dmin", b"/;a/admin", b"/.%3b/admin"])
def test_no_spelling_of_a_path_gets_round_a_deny_rule(path: bytes) -> None:
    decide = authoriser(rule("*"), deny=(rule("*", paths=("/admin",)),)).request
    assert not decide("cart", b"GET", path).allowed


@pytest.mark.parametrize("path", [b"/a%62", b"/ab", b"/%61b"])
def test_nor_does_one_in_the_rule(path: bytes) -> None:
    assert not authoriser(rule("*"), deny=(rule("*", paths=("/a%62",)),)).request("cart", b"GET", path).allowed


def test_nor_does_a_spelling_of_a_method() -> None:
    decide = authoriser(rule("*"), deny=(rule("*", methods=("DELETE",)),)).request
    assert not decide("cart", b"delete", b"/").allowed
    assert decide("cart", b"GET", b"/").allowed


def test_anyone_means_every_verified_caller() -> None:
    decide = authoriser(rule("*", methods=("GET",), source="p.toml:9")).request
    assert decide("whoever", b"GET", b"/")[:2] == (True, "p.toml:9")
    assert not decide("whoever", b"PUT", b"/").allowed


@pytest.mark.parametrize("default", [True, False])
def test_without_rules_the_default_decides_and_is_named(default: bool) -> None:
    empty = authoriser(default=default)
    assert empty.request("cart", b"GET", b"/") == Decision(default, "the default")
    assert empty.connection("cart") == Decision(default, "the default")
    assert empty.trivial is default


def test_it_is_trivial_only_when_nothing_can_be_denied_or_is_to_be_told() -> None:
    assert not authoriser(rule("cart"), default=True).trivial
    assert not authoriser(deny=(rule("*"),), default=True).trivial
    assert not authoriser(rule("*", audit=True), default=True).trivial
    assert not authoriser(deny=(rule("cart", audit=True),), default=True).trivial


@pytest.mark.parametrize(
    ("one", "allowed", "denied"),
    [
        (rule("cart"), True, True),
        (rule("*"), True, True),
        # Nobody reads what is in it: what may be denied within is denied as a whole.
        (rule("cart", methods=("GET",)), False, True),
        (rule("cart", paths=("/x",)), False, True),
        (rule("cart", headers={"x": "*"}), False, True),
        (rule("shop"), False, False),
    ],
)
def test_connections_whose_bytes_nobody_reads(one: Rule, allowed: bool, denied: bool) -> None:
    assert authoriser(one).connection("cart").allowed is allowed
    assert authoriser(deny=(one,), default=True).connection("cart").allowed is not denied


def test_audit_rules_decide_nothing_and_are_told() -> None:
    audits = (
        rule("*", paths=("/admin*",), source="p:5", audit=True),
        rule("cart", methods=("DELETE",), source="p:6", audit=True),
    )
    one = authoriser(rule("cart"), rule("shop", source="p:9", audit=True), deny=audits)
    assert one.request("cart", b"GET", b"/").audited == ()
    assert one.request("cart", b"GET", b"/admin") == Decision(True, "p.toml:1", True, (Audit("deny", "p:5"),))
    assert one.request("shop", b"GET", b"/") == Decision(False, "the default", False, (Audit("allow", "p:9"),))
    assert one.request("shop", b"GET", b"/admin").audited == (Audit("deny", "p:5"), Audit("allow", "p:9"))
    assert one.connection("shop").audited == (Audit("deny", "p:5"), Audit("allow", "p:9"))


# Laws

PATTERNS = ["/", "/a", "/a/*", "/a/b", "/*", "/a*", "/%2e*", "/{x}", "/a/{x}", "/{x}/b", "/{x}/{y}/*", "/a/{x}/*"]
PATTERNS += ["/%61"]
PATHS = [b"/", b"/a", b"/a/", b"/a/b", b"/a/b/", b"/b/b", b"/a/../b", b"/a/b?c", b"/%2e", b"/%61", b"/%61/b", b"/a/b/c"]
PATHS += [b"/a//b", b"*", b"/A", b"/ab", b"/a%3bb"]
rules = st.builds(
    Rule,
    st.lists(st.sampled_from(["cart", "shop", "*"]), min_size=1, max_size=2, unique=True).map(tuple),
    st.lists(st.sampled_from(["GET", "POST"]), max_size=2, unique=True).map(tuple),
    st.lists(st.sampled_from(PATTERNS), max_size=3, unique=True).map(tuple),
    st.sampled_from(["f:1", "f:2", "f:3"]),
    st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.sampled_from(["1", "2", "1*", "*"]), max_size=2).map(
        lambda headers: tuple(headers.items())
    ),
    st.sampled_from([False, False, False, True]),
)
some = st.lists(rules, max_size=5).map(tuple)
calls = st.builds(
    Call,
    st.sampled_from(["cart", "shop", "other"]),
    st.sampled_from([b"GET", b"POST", b"PUT", b"get"]),
    st.sampled_from(PATHS),
    st.lists(
        st.sampled_from([b"X-A: 1\r\n", b"x-a:2\r\n", b"X_A: 1\r\n", b"X-B: 1, 2\r\n", b"X-B: 12\r\n", b"Y: 1\r\n"]),
        max_size=3,
    ).map(b"".join),
)


def matches(one: Rule, call: Call, deny: bool) -> bool:
    """A rule read plainly, part by part."""
    caller, method, target, fields = call
    path = target.split(b"?")[0]
    if not {"*", caller} & {*one.callers}:
        return False
    if one.methods and (method.upper() if deny else method).decode() not in one.methods:
        return False
    values: dict[str, list[str]] = {}
    for line in fields.decode().splitlines():
        name, _, value = line.partition(":")
        values.setdefault(name.lower().replace("_", "-"), []).append(value.strip())
    for name, wanted in one.headers:
        fits = [
            has(value, wanted) or (deny and any(has(element.strip(), wanted) for element in value.split(",")))
            for value in values.get(name, [])
        ]
        if not (any if deny else all)(fits or [False]):
            return False
    if not one.paths or (not deny and path.decode() in one.paths):
        return True
    unclear = any(part in path.lower() for part in (b"//", b"/.", b"\\", b"%2e", b"%2f", b"%5c", b"%25", b"%00", b";"))
    if deny and (unclear or b";" in unquote_to_bytes(path)):
        return True
    path = unquote_to_bytes(path) if deny else path
    return not unclear and any(regex(pattern, deny).fullmatch(path) for pattern in one.paths)


def has(value: str, wanted: str) -> bool:
    return value.startswith(wanted[:-1]) if wanted.endswith("*") else value == wanted


def regex(pattern: str, decoded: bool) -> re.Pattern[bytes]:
    parts = re.split(r"(\{\w+\}|\*$)", pattern)
    texts = [unquote_to_bytes(part) if decoded else part.encode() for part in parts]
    return re.compile(
        b"".join(
            b".*" if part == b"*" else b"[^/]+" if part.startswith(b"{") else re.escape(part) for part in texts
        )
    )


@given(some, some, st.booleans(), calls)
def test_the_compiled_decision_is_that_of_a_plain_reading(
    allow: tuple[Rule, ...], deny: tuple[Rule, ...], default: bool, call: Call
) -> None:
    denying = [one for one in deny if matches(one, call, True)]
    allowing = [one for one in allow if matches(one, call, False)]
    decision = authoriser(*allow, deny=deny, default=default).request(*call)
    if any(not one.audit for one in denying):
        assert not decision.allowed
        assert decision.rule in {one.source for one in denying if not one.audit}
    elif any(not one.audit for one in allowing):
        assert decision.allowed
        assert decision.rule in {one.source for one in allowing if not one.audit}
    else:
        assert decision[:3] == (default, "the default", False)
    for kind, found in (("deny", denying), ("allow", allowing)):
        told = {audit.rule for audit in decision.audited if audit.decision == kind}
        assert told <= {one.source for one in found if one.audit}
        assert bool(told) is any(one.audit for one in found)


@given(some, some, rules, st.booleans(), calls)
def test_adding_an_allow_rule_never_denies_and_a_deny_rule_never_allows(
    allow: tuple[Rule, ...], deny: tuple[Rule, ...], more: Rule, default: bool, call: Call
) -> None:
    before = authoriser(*allow, deny=deny, default=default)
    wider = authoriser(*allow, more, deny=deny, default=default)
    narrower = authoriser(*allow, deny=(*deny, more), default=default)
    for one, other in ((before, wider), (narrower, before)):
        assert one.request(*call).allowed <= other.request(*call).allowed
        assert one.connection(call.caller).allowed <= other.connection(call.caller).allowed


@given(some.flatmap(lambda some: st.tuples(st.just(some), st.permutations(some))), some, calls)
def test_the_order_of_rules_does_not_matter(
    both: tuple[tuple[Rule, ...], list[Rule]], others: tuple[Rule, ...], call: Call
) -> None:
    for kinds in (lambda some: (some, others), lambda some: (others, some)):
        one, other = (Authoriser(*kinds(some), False, "d") for some in both)
        assert one.request(*call).allowed is other.request(*call).allowed
        assert one.connection(call.caller).allowed is other.connection(call.caller).allowed


@given(some, some, st.booleans(), calls)
def test_without_audit_rules_the_same_is_decided(
    allow: tuple[Rule, ...], deny: tuple[Rule, ...], default: bool, call: Call
) -> None:
    enforced = [tuple(one for one in kind if not one.audit) for kind in (allow, deny)]
    with_audit = authoriser(*allow, deny=deny, default=default).request(*call)
    assert with_audit[:3] == authoriser(*enforced[0], deny=enforced[1], default=default).request(*call)[:3]


@pytest.mark.parametrize("kind", ["exact", "prefix", "template"])
@pytest.mark.parametrize("found", [True, False])
def test_a_thousand_rules_cost_what_one_does(kind: str, found: bool) -> None:
    """Counted in what is done with the path, which no clock can blur."""
    pattern = {"exact": "/p{}/", "prefix": "/p{}/*", "template": "/p{}/{{id}}/items"}[kind]
    path = {"exact": b"/p%d/", "prefix": b"/p%d/x", "template": b"/p%d/7/items"}[kind]
    counted = []
    for number in (1, 1000):
        many = [rule("cart", paths=(pattern.format(n),), source=f"p:{n}") for n in range(number)]
        counter: Counter[str] = Counter()
        asked = Work.of(path % (number - 1) if found else b"/q/7/items", counter)
        decision = authoriser(*many).request("cart", b"GET", asked)
        assert decision.rule == (f"p:{number - 1}" if found else "the default")
        counted.append(counter["done"])
    assert counted[0]
    assert counted[1] <= counted[0] + 12  # a binary search among 1000


class Work(bytes):
    """A path that counts what is done with it and its segments."""

    counter: Counter[str]

    @classmethod
    def of(cls, text: bytes, counter: Counter[str]) -> Work:
        work = cls(text)
        work.counter = counter
        return work

    def partition(self, _: object) -> tuple[Work, bytes, bytes]:  # type: ignore[override]
        return self, b"", b""

    def split(self, *arguments: object) -> list[Work]:  # type: ignore[override]
        return [Work.of(part, self.counter) for part in bytes(self).split(*arguments)]  # type: ignore[arg-type]

    def __lt__(self, other: bytes) -> bool:
        self.counter["done"] += 1
        return bytes(self) < other

    def __eq__(self, other: object) -> bool:
        self.counter["done"] += 1
        return bytes(self) == other

    def startswith(self, *arguments: object) -> bool:  # type: ignore[override]
        self.counter["done"] += 1
        return bytes(self).startswith(*arguments)  # type: ignore[arg-type]

    def __hash__(self) -> int:
        self.counter["done"] += 1
        return hash(bytes(self))


def test_rules_travel_to_workers_as_they_are() -> None:
    one = rule("cart", "*", methods=("GET",), paths=("/a*",), headers={"x": "1"}, audit=True)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Rule) == one
