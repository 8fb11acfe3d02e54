"""The decision on a call, explained; that it is the very one of the path."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.compile import compile_snapshot
from hostproxy.config_services import LocalService
from hostproxy.decision import Decision, Part, World, decide, question
from hostproxy.discovery.catalog import CRITICAL, Instance
from hostproxy.enforce.authorise import Authoriser
from hostproxy.mesh.policy import Policy, ServicePolicy
from hostproxy.mesh.retries import Retry
from hostproxy.mesh.routes import Match, Route, Share
from hostproxy.mesh.rules import Rule
from hostproxy.mesh.subsets import Subset
from hostproxy.mesh.units import Wrong
from hostproxy.snapshot import Service
from hostproxy.telemetry.metrics import WorkerMetrics
from hostproxy.upstream.routing import Routing
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
    assert (found.treatment.timeout, found.treatment.timeout_from) == (2.0, "service payments")
    assert (found.retries.connecting, found.retries.reused, found.retries.policy) == (4, False, None)
    assert found.routes == ()
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
    verdicts = [one.verdict for one in found.candidates]
    assert [(one.instance.host, one.used) for one in verdicts] == [("db-1", True), ("db-2", False), ("old", False)]
    assert "disk" in verdicts[1].why
    assert "permissive" in verdicts[2].why


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


# Routes

CANARY = Route(
    Match(headers=(("x-canary", "yes"),)),
    (Share("v2", 10), Share("v3", 10), Share("v1", 80), Share("v4", 0)),
    5.0,
    Retry(attempts=3, on=("reset", "retriable-4xx"), methods=("GET", "POST")),
    "canary",
    "p.toml:20",
)
REPORTS = Route(Match(path_prefix="/reports/", methods=("GET",)), (Share("v2"),), 0.0, None, "", "p.toml:30")
REST = Route(name="rest", source="p.toml:40")
ROUTED = CATALOG | {
    "payments": (
        Instance("payments", "a", "10.0.0.1:9000", "10.0.0.1:15443", version="1"),
        Instance("payments", "b", "10.0.0.2:9000", "10.0.0.2:15443", version="1", weight=3),
        Instance("payments", "c", "10.0.0.3:9000", "10.0.0.3:15443", version="2"),
        Instance("payments", "d", "10.0.0.4:9000", "10.0.0.4:15443", version="0"),
    )
}


def routed(*routes: Route, **more: object) -> World:
    subsets = {f"v{version}": Subset(version=str(version)) for version in (1, 2, 3, 4)}
    rules = ServicePolicy(access="allow", timeout=2.0, subsets=subsets, routes=routes, **more)  # type: ignore[arg-type]
    policy = Policy(services={"payments": rules})
    snapshot = compile_snapshot(1, inputs(policy=policy, catalog=ROUTED, config=config(services=())))
    return World(policy, ROUTED, msgspec.structs.replace(snapshot, domains=("mesh",)), {})


def test_the_first_route_that_matches_decides() -> None:
    found = decide(question("cart", "GET", "http://payments/reports/1"), routed(CANARY, REPORTS, REST))
    assert (found.treatment.route, found.treatment.source, found.subset) == ("p.toml:30", "p.toml:30", "v2")
    assert [(one.name, one.source, one.matches, one.decides, one.why) for one in found.routes] == [
        ("canary", "p.toml:20", False, False, "headers: the request has others"),
        ("p.toml:30", "p.toml:30", True, True, ""),
        ("rest", "p.toml:40", True, False, ""),
    ]
    assert (found.treatment.timeout, found.treatment.timeout_from) == (0.0, "route p.toml:30")
    used = [(one.verdict.instance.host, one.verdict.share) for one in found.candidates if one.verdict.used]
    assert used == [("c", 1.0)]


def test_a_split_shows_the_instances_of_each_of_its_subsets() -> None:
    found = decide(question("cart", "POST", "http://payments/", ["X-Canary: yes"]), routed(CANARY, REST))
    assert (found.treatment.route, found.subset) == ("canary", "")
    assert [(part.subset, part.share, part.obstacle) for part in found.parts] == [
        ("v2", 0.1, ""),
        ("v3", 0.1, 'no instance of payments is in subset "v3"'),
        ("v1", 0.8, ""),
        ("v4", 0.0, 'no instance of payments is in subset "v4"'),
    ]
    rows = [(one.subset, one.verdict.instance.host, round(one.verdict.share, 9)) for one in found.candidates]
    assert rows == [("v2", "c", 0.1), ("v1", "a", 0.2), ("v1", "b", 0.6), ("", "d", 0.0)]
    assert found.candidates[3].verdict.why == "in none of the subsets v2, v3, v1, v4"


def test_an_instance_of_a_share_of_weight_0_is_not_used() -> None:
    route = Route(split=(Share("v2", 0), Share("v1", 100)), source="p.toml:20")
    found = decide(question("cart", "GET", "http://payments/"), routed(route))
    (row,) = [one.verdict for one in found.candidates if one.subset == "v2"]
    assert (row.used, row.share, row.why) == (False, 0.0, "weight 0 in this split")


def test_what_a_route_does_not_say_is_as_for_the_service() -> None:
    retry = Retry(attempts=2)
    world = routed(CANARY, REST, retry=retry, default_subset="v1")
    found = decide(question("cart", "POST", "http://payments/"), world)
    assert (found.treatment.route, found.subset) == ("rest", "v1")
    assert (found.treatment.timeout, found.treatment.timeout_from) == (2.0, "service payments")
    assert (found.retries.policy, found.treatment.retry_from) == (retry, "service payments")
    assert (found.retries.method, found.retries.reused) == (False, False), "POST may not be repeated"
    own = decide(question("cart", "POST", "http://payments/", ["X-Canary: yes"]), world)
    assert (own.retries.policy, own.treatment.retry_from) == (CANARY.retry, "route canary")
    assert (own.retries.method, own.retries.statuses) == (True, (409,))
    assert own.retries.waits == (0.025, 0.075, 0.175)


def test_no_route_matches() -> None:
    found = decide(question("cart", "GET", "http://payments/"), routed(CANARY, REPORTS, default_subset="v1"))
    assert (found.treatment.route, found.subset, found.treatment.timeout) == ("", "v1", 2.0)
    assert not any(one.matches or one.decides for one in found.routes)


def test_who_names_a_subset_has_chosen() -> None:
    found = decide(question("cart", "GET", "http://v1.payments.mesh/"), routed(REST, CANARY))
    assert (found.treatment.route, found.subset) == ("", "v1")
    assert found.treatment.passed_over == "the call names subset v1 itself"
    assert not any(one.matches for one in found.routes)


def test_a_subset_that_policy_does_not_have() -> None:
    """An upstream of conf.toml may name one."""
    world = routed(CANARY)
    services = {**world.snapshot.services, "v9.payments": Service("payments", "v9")}
    world = world._replace(snapshot=msgspec.structs.replace(world.snapshot, services=services))
    found = decide(question("cart", "GET", "http://v9.payments/"), world)
    assert found.parts == (Part("v9", 1.0, 'policy has no subset "v9" of payments'),)
    assert not any(one.verdict.used for one in found.candidates)


@pytest.mark.parametrize("protocol", ["grpc", "http2"])
def test_bytes_have_no_routes(protocol: str) -> None:
    found = decide(question("cart", "GET", "http://payments/"), routed(REST, retry=Retry(), protocol=protocol))
    assert (found.treatment.route, found.treatment.passed_over) == ("", "payments is carried as bytes")
    assert (found.retries.policy, found.retries.reused, found.treatment.timeout) == (None, False, 0.0)


def test_a_host_with_instances_of_several_subsets_is_told() -> None:
    world = routed(CANARY)
    shared = Instance("payments", "c", "10.0.0.3:9001", "10.0.0.3:15443", version="0")
    catalog = ROUTED | {"payments": (*ROUTED["payments"], shared)}
    call = question("cart", "POST", "http://payments/", ["X-Canary: yes"])
    note = "the host c has instances outside the subset too, and its hostproxy picks among all that it has"
    assert note in decide(call, world._replace(catalog=catalog)).notes
    assert not any("outside" in one for one in decide(call, world).notes)
    whole = question("cart", "POST", "http://payments/")
    assert not any("outside" in one for one in decide(whole, world._replace(catalog=catalog)).notes)


matches = st.builds(
    Match,
    path_prefix=st.sampled_from(["", "/a", "/a/b"]),
    methods=st.sampled_from([(), ("GET",), ("POST",)]),
    headers=st.sampled_from([(), (("x-a", "1"),)]),
)
shares = st.builds(Share, st.sampled_from(["v1", "v2", "v3"]), st.integers(0, 3))
splits = st.lists(shares, max_size=3, unique_by=lambda share: share.subset).filter(
    lambda split: not split or any(share.weight for share in split)
)
some_routes = st.lists(
    st.builds(Route, matches, splits.map(tuple), st.sampled_from([None, 0.0, 3.0])), max_size=4
).map(lambda some: [msgspec.structs.replace(one, source=f"p.toml:{at}") for at, one in enumerate(some, 1)])


@given(
    some_routes,
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(["/", "/a", "/a/b?c"]),
    st.sampled_from([(), ("X-A: 1",), ("X-A: 1", "X-A: 2")]),
    st.floats(0, 1, exclude_max=True),
)
def test_it_is_the_way_that_workers_find(
    routes: list[Route], method: str, path: str, headers: tuple[str, ...], random: float
) -> None:
    world = routed(*routes)
    call = question("cart", method, f"http://payments{path}", headers)
    found = decide(call, world)
    service = world.snapshot.services["payments"]
    routing = Routing(service, "cart", WorkerMetrics(), lambda: random)
    way = routing.find(call.head.method, call.head.target, call.head.fields)
    if way is None:
        assert (found.treatment.route, found.treatment.timeout) == ("", service.timeout)
        return
    assert found.treatment.route == way.route
    assert found.treatment.timeout == (service.timeout if way.timeout is None else way.timeout)
    parts = {f"{each.subset}.payments" if each.subset else "payments": each.share for each in found.parts}
    assert parts[way.key] > 0
    assert sum(parts.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        (("Cart", "GET", "http://payments/"), 'did you mean "cart"'),
        (("c t", "GET", "http://payments/"), "the caller 'c t' is not the name of a service"),
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
