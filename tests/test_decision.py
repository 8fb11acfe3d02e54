"""The decision on a call, explained; that it is the very one of the path."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.compile import compile_snapshot
from hostproxy.config_services import LocalService
from hostproxy.decision import Decision, World, decide, question
from hostproxy.discovery.catalog import CRITICAL, Instance
from hostproxy.enforce.authorise import Authoriser
from hostproxy.mesh.policy import Policy, ServicePolicy
from hostproxy.mesh.rules import Rule
from hostproxy.mesh.subsets import Subset
from hostproxy.mesh.units import Wrong
from tests.enforce.test_authorise import Call, calls, some
from tests.test_compile import config, inputs

CATALOG = {
    "payments": (
        Instance("payments", "db-1", "10.0.0.1:9000", "10.0.0.1:15443", version="2"),
        Instance("payments", "db-2", "10.0.0.2:9000", "10.0.0.2:15443", health=CRITICAL, reason="disk"),
        Instance("payments", "old", "10.0.0.3:9000"),
    ),
    "db": (Instance("db", "db-1", "10.0.0.1:5432", "10.0.0.1:15443"),),
}
POLICY = Policy(
    default_access="deny",
    default_source="mesh.toml:2",
    services={
        "payments": ServicePolicy(
            timeout=2.0,
            subsets={"v2": Subset(version="2")},
            allow=(
                Rule(("shop",), source="p.toml:1"),
                Rule(("cart",), ("GET",), source="p.toml:2"),
                Rule(("cart",), ("POST",), ("/orders/{id}",), "p.toml:3"),
                Rule(("cart",), ("POST",), ("/make-payment",), "p.toml:4", (("x-canary", "yes"),)),
                Rule(("cart",), ("POST",), ("/make-payment",), "p.toml:5"),
            ),
            deny=(
                Rule(("*",), (), ("/admin*",), "p.toml:6"),
                Rule(("cart",), ("POST",), (), "p.toml:7", (), True),
            ),
        ),
        "db": ServicePolicy(protocol="tcp", allow=(Rule(("cart",), source="db.toml:1"),)),
    },
)


def world(policy: Policy = POLICY, **changes: object) -> World:
    found = inputs(policy=policy, catalog=CATALOG, config=config(services=()))
    snapshot = msgspec.structs.replace(compile_snapshot(1, found), **changes)
    return World(policy, CATALOG, snapshot, {})


def ask(caller: str, method: str, url: str, *headers: str, **changes: object) -> Decision:
    return decide(question(caller, method, url, headers), world(**changes))


def test_an_allowed_call() -> None:
    found = ask("cart", "POST", "http://payments/make-payment?amount=1")
    assert (found.allowed, found.reason, found.rule) == (True, "allowed by p.toml:5", "p.toml:5")
    assert (found.caller, found.name) == ("spiffe://example.test/service/cart", "payments")
    assert (found.destination, found.service, found.subset, found.protocol) == ("payments", "payments", "", "http")
    assert (found.timeout, found.attempts, found.repeatable) == (2.0, 4, False)
    assert [(one.kind, one.source, one.matches, one.decides, one.why) for one in found.rules] == [
        ("deny", "p.toml:6", False, False, "paths: /make-payment is not among them"),
        ("deny", "p.toml:7", True, False, ""),
        ("allow", "p.toml:1", False, False, "from: cart is not among them"),
        ("allow", "p.toml:2", False, False, "methods: POST is not among them"),
        ("allow", "p.toml:3", False, False, "paths: /make-payment is not among them"),
        ("allow", "p.toml:4", False, False, "headers: the request has others"),
        ("allow", "p.toml:5", True, True, ""),
    ]
    assert found.audited == (("deny", "p.toml:7"),)


def test_header_fields_are_seen_as_the_path_sees_them() -> None:
    assert ask("cart", "POST", "http://payments/make-payment", "X-Canary:yes").rules[5].matches
    hidden = ask("cart", "POST", "http://payments/make-payment", "X-Canary: yes", "Connection: x-canary")
    assert not hidden.rules[5].matches


def test_a_call_that_a_rule_denies() -> None:
    found = ask("cart", "GET", "http://payments/admin")
    assert (found.allowed, found.reason) == (False, "denied by p.toml:6")
    assert [one.source for one in found.rules if one.decides] == ["p.toml:6"]
    assert [one.source for one in found.rules if one.matches and not one.decides] == ["p.toml:2"]


def test_a_call_that_no_rule_speaks_of() -> None:
    found = ask("cart", "PUT", "payments")
    assert not found.allowed
    assert found.reason.startswith("denied, as no rule speaks of it: ")
    assert not any(one.decides for one in found.rules)


def test_instances_are_in_or_out_for_a_reason() -> None:
    found = ask("cart", "GET", "http://payments/")
    used = [(one.instance.host, one.used) for one in found.instances]
    assert used == [("db-1", True), ("db-2", False), ("old", False)]
    assert "disk" in found.instances[1].why
    assert "permissive" in found.instances[2].why


def test_a_subset_and_a_domain() -> None:
    found = ask("cart", "GET", "http://v2.payments.mesh/", domains=("mesh",))
    assert (found.destination, found.service, found.subset) == ("v2.payments", "payments", "v2")


def test_a_connection_is_decided_by_who_calls() -> None:
    found = ask("cart", "GET", "tcp://db:5432")
    assert (found.allowed, found.rule, found.opaque) == (True, "db.toml:1", True)
    assert any("carried as bytes" in note for note in found.notes)
    assert not ask("shop", "GET", "tcp://db").allowed


def test_a_name_that_nobody_has() -> None:
    found = ask("cart", "GET", "http://nobody/")
    assert (found.allowed, found.destination) == (False, "")
    assert "no service is known here as nobody" in found.reason


def test_a_service_that_the_first_call_looks_up() -> None:
    known = {"db": world().snapshot.services["db"]}
    found = ask("cart", "GET", "http://payments/", services=known, first_use=2.0)
    assert (found.allowed, found.rule) == (True, "p.toml:2")
    assert "payments is not known here yet: the first call looks it up" in found.notes
    assert not ask("cart", "GET", "http://payments/", services=known).destination
    assert not ask("cart", "GET", "http://nobody/", services=known, first_use=2.0).destination


def test_this_host_as_the_caller() -> None:
    found = ask("host", "GET", "http://payments/")
    assert found.caller == "spiffe://example.test/host/h1"
    assert found.rules[2].why == "from: host/h1 is not among them"


def test_who_is_barred() -> None:
    for barred in ("cart", "payments"):
        found = ask("cart", "GET", "http://payments/", denied=(f"spiffe://example.test/service/{barred}",))
        assert (found.allowed, found.reason) == (
            False,
            f"the controller has barred spiffe://example.test/service/{barred}",
        )
    found = ask("cart", "GET", "http://payments/", denied=("spiffe://example.test/host/db-1",))
    assert found.allowed
    assert "the controller has barred the host db-1: its instances can't be reached" in found.notes


def test_notes_tell_what_the_verdict_does_not() -> None:
    assert any("does not call from this host" in note for note in ask("shop", "GET", "http://payments/").notes)
    assert not any("does not call" in note for note in ask("cart", "GET", "http://payments/").notes)
    assert any("in different ways" in note for note in ask("cart", "GET", "http://payments/a/../b").notes)
    plain = msgspec.structs.replace(POLICY, services={"payments": ServicePolicy(permissive=True)})
    assert any("plain text" in note for note in ask("cart", "GET", "http://payments/", policy=plain).notes)


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        (("Cart", "GET", "http://payments/"), 'did you mean "cart"'),
        (("cart", "GET", "https://payments/"), "is not a URL"),
        (("cart", "GET", ""), "is not a URL"),
        (("cart", "GET", "http://pay ments/"), "no request: "),
        (("cart", "GET", "http://payments/\r\nX: y"), "is not a URL"),
        (("cart", "G T", "http://payments/"), "no request: "),
        (("cart", "GET\r\nX: y", "http://payments/"), "printable ASCII"),
        (("cart", "GET", "http://payments/", ["X: y\r\nZ: 1"]), "printable ASCII"),
        (("cart", "GET", "http://payments/", ["no colon"]), "no request: "),
        (("cart", "GET", "http://payments/", ["Host: other"]), "no request: "),
        (("cart", "GET", "http://payments/", ["A: b"] * 33), "the most is 32"),
        (("cart", "CONNECT", "payments:80"), "tcp://payments:80"),
    ],
)
def test_questions_that_make_no_sense(asked: tuple[str, ...], part: str) -> None:
    with pytest.raises(Wrong) as caught:
        question(*asked)
    assert part in str(caught.value)


@given(some, some, st.sampled_from([None, "allow", "deny"]), st.sampled_from([None, "allow", "deny"]), calls)
def test_it_is_the_decision_of_the_path(
    allow: tuple[Rule, ...], deny: tuple[Rule, ...], default: str | None, access: str | None, call: Call
) -> None:
    """Explained on a host that calls, and decided on the host that is called, from the same policy."""
    if call.target == b"*":
        return
    rules = ServicePolicy(access=access, access_source="s:1", allow=allow, deny=deny)
    policy = Policy(default_access=default, default_source="d:1", services={"payments": rules})
    payments = LocalService(name="payments", instances=("127.0.0.1:9001",))
    there = compile_snapshot(1, inputs(policy=policy, config=config(services=(payments,)))).locals["payments"]
    decided = Authoriser(there.allow, there.deny, there.default_allow, there.default_reason).request(*call)
    lines = [line for line in call.fields.decode().split("\r\n") if line]
    asked = question(call.caller, call.method.decode(), f"http://payments{call.target.decode()}", lines)
    found = decide(asked, world(policy))
    assert (found.allowed, found.rule, found.audited) == (decided.allowed, decided.rule, decided.audited)
    deciding = [one for one in found.rules if one.decides]
    assert bool(deciding) is decided.by_rule
    assert all(one.source == decided.rule and not one.audit and one.matches for one in deciding)
    if not decided.by_rule:
        assert not any(one.matches and not one.audit for one in found.rules)
