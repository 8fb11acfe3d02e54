"""Expectations about a policy: read strictly, and decided as hosts decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller.policy.expectations import Call, Expectation, collect
from controller.policy.rehearsal import Rehearsal
from hostproxy.codec.http1 import HeadLimits, parse_request
from hostproxy.compile import Inputs, compile_snapshot
from hostproxy.config_services import LocalService
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.policy import parse_files
from hostproxy.tables import LocalTable, is_bytes
from hostproxy.telemetry.metrics import WorkerMetrics
from hostproxy.upstream.routing import Routing
from tests.test_compile import config, identities

POLICY = {
    "mesh.toml": b'[defaults]\naccess = "deny"\n',
    "payments.toml": b"""\
[[service.payments.allow]]
from = ["cart"]
methods = ["POST"]
paths = ["/make-payment", "/refunds/{id}"]

[[service.payments.allow]]
from = ["*"]
paths = ["/health"]
headers = { x-probe = "yes" }

[[service.payments.deny]]
from = ["*"]
paths = ["/admin*"]

[[service.payments.deny]]
from = ["cart"]
paths = ["/health"]
audit = true

[service.ledger]
protocol = "tcp"
allow = [{ from = ["payments"] }]

[service.open]
access = "allow"
""",
}
REHEARSAL = Rehearsal(parse_files(POLICY))


def call(caller: str, service: str, method: str = "GET", path: str = "/", **headers: str) -> Call:
    fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Call(caller=caller, service=service, method=method, path=path, headers=fields)


CALLS = {
    call("cart", "payments", "POST", "/make-payment"): (True, "payments.toml:1"),
    call("cart", "payments", "POST", "/make-payment?a=b"): (True, "payments.toml:1"),
    call("cart", "payments", "POST", "/refunds/7"): (True, "payments.toml:1"),
    call("cart", "payments", "GET", "/make-payment"): (False, "mesh.toml:2"),
    call("shop", "payments", "POST", "/make-payment"): (False, "mesh.toml:2"),
    call("shop", "payments", "GET", "/health"): (False, "mesh.toml:2"),
    call("shop", "payments", "GET", "/health", x_probe="yes"): (True, "payments.toml:6"),
    call("cart", "payments", "GET", "/health", x_probe="yes"): (True, "payments.toml:6"),
    call("host", "payments", "GET", "/health", x_probe="yes"): (True, "payments.toml:6"),
    call("cart", "payments", "GET", "/%61dmin"): (False, "payments.toml:11"),
    call("payments", "ledger"): (True, "payments.toml:22"),
    call("cart", "ledger"): (False, "mesh.toml:2"),
    call("host", "ledger"): (False, "mesh.toml:2"),
    call("cart", "open"): (True, "payments.toml:25"),
    call("cart", "unheard-of"): (False, "mesh.toml:2"),
}


@pytest.mark.parametrize("asked", CALLS, ids=str)
def test_a_call_is_decided(asked: Call) -> None:
    allowed, rule = CALLS[asked]
    decision = REHEARSAL.decide(asked)
    assert (decision.allowed, decision.rule.partition(": ")[0]) == (allowed, rule)
    assert not REHEARSAL.judge(Expectation(call=asked, allowed=allowed, rule=rule)).fault
    assert REHEARSAL.judge(Expectation(call=asked, allowed=not allowed)).fault
    assert REHEARSAL.judge(Expectation(call=asked, allowed=allowed, rule="other.toml:1")).fault


@pytest.mark.parametrize("asked", CALLS, ids=str)
def test_a_host_decides_the_same(asked: Call) -> None:
    """From the policy through the compiler to the table of a worker, and from octets through the parser to it."""
    local = LocalService(name=asked.service, instances=())
    inputs = Inputs(config(services=(local,)), {}, parse_files(POLICY), identities())
    compiled = compile_snapshot(1, inputs).locals[asked.service]
    tables: Any = None
    authoriser = LocalTable(compiled, tables, None).authoriser
    caller = "host/web-1" if asked.caller == "host" else asked.caller
    if is_bytes(compiled.protocol):
        assert authoriser.connection(caller) == REHEARSAL.decide(asked)
        return
    lines = [f"{asked.method} {asked.path} HTTP/1.1", f"Host: {asked.service}"]
    lines += [f"{name}: {value}" for name, value in asked.headers]
    octets = "\r\n".join([*lines, "", ""]).encode()
    head = parse_request(octets, len(octets), HeadLimits(8192, 8192, 100, 65536))
    assert authoriser.request(caller, head.method, head.target, head.fields) == REHEARSAL.decide(asked)


def test_what_only_requests_have_is_no_expectation_of_bytes() -> None:
    expectation = Expectation(call=call("payments", "ledger"), allowed=True, about_requests=True)
    fault = REHEARSAL.judge(expectation).fault
    assert fault == "ledger is carried as bytes: leave out method, path, headers, route, timeout"
    expectation = Expectation(call=call("payments", "ledger"), allowed=True, subsets=("old",))
    assert REHEARSAL.judge(expectation).fault == (
        "is to go to subset old, and goes to all instances: it takes none; there is no subset old"
    )


ROUTES = {
    "mesh.toml": b'[defaults]\naccess = "deny"\n',
    "orders.toml": b"""\
[service.orders]
timeout = "2s"
default_subset = "v1"
subset = { v1 = { version = "1" }, v2 = { version = "2" }, v3 = { version = "3" } }

[[service.orders.route]]
name = "canary"
match = { path_prefix = "/v2/", headers = { x-canary = "yes" } }
split = [{ subset = "v2", weight = 1 }, { subset = "v1", weight = 9 }, { subset = "v3", weight = 0 }]
timeout = "5s"

[[service.orders.route]]
match = { query = { report = "*" } }
split = [{ subset = "v3" }]
timeout = "0s"

[service.plain]
access = "allow"
""",
}
CANARY = call("cart", "orders", path="/v2/x", x_canary="yes")
REPORT = call("cart", "orders", path="/?report=1")
OTHER = call("cart", "orders")
PLAIN = call("cart", "plain")
ROUTED = {
    CANARY: ({"canary", "orders.toml:6"}, ("v1", "v2"), 5.0),
    REPORT: ({"orders.toml:12"}, ("v3",), 0.0),
    OTHER: ({"none"}, ("v1",), 2.0),
    PLAIN: ({"none"}, (), 0.0),
}


@pytest.mark.parametrize("asked", ROUTED, ids=str)
def test_a_call_is_routed_whether_it_is_denied_or_not(asked: Call) -> None:
    rehearsal = Rehearsal(parse_files(ROUTES))
    names, subsets, timeout = ROUTED[asked]
    allowed = asked is PLAIN

    def fault(**expected: Any) -> str:
        return rehearsal.judge(Expectation(call=asked, allowed=allowed, **expected)).fault

    for name in ("canary", "orders.toml:6", "orders.toml:12", "none"):
        assert bool(fault(route=name)) is (name not in names)
    for some in ((), ("v1",), ("v2", "v1"), ("v3",), ("v1", "v2", "v3")):
        assert bool(fault(subsets=some)) is (sorted(some) != sorted(subsets))
    for seconds in (0.0, 2.0, 5.0):
        assert bool(fault(timeout=seconds)) is (seconds != timeout)


@pytest.mark.parametrize("asked", ROUTED, ids=str)
def test_a_worker_finds_the_same_route(asked: Call) -> None:
    """From the policy through the compiler to the table of a worker, and from octets through the parser to it."""
    compiled = compile_snapshot(1, Inputs(config(), {}, parse_files(ROUTES), identities())).services[asked.service]
    lines = [f"{asked.method} {asked.path} HTTP/1.1", f"Host: {asked.service}"]
    lines += [f"{name}: {value}" for name, value in asked.headers]
    octets = "\r\n".join([*lines, "", ""]).encode()
    head = parse_request(octets, len(octets), HeadLimits(8192, 8192, 100, 65536))
    found = set()
    for tenth in range(10):
        routing = Routing(compiled, "cart", WorkerMetrics(), lambda tenth=tenth: tenth / 10)
        way = routing.find(head.method, head.target, head.fields)
        found.add((way.route, way.key.rpartition(".")[0], way.timeout) if way is not None else ("none", "", None))
    names, subsets, timeout = ROUTED[asked]
    if "none" in names:
        assert found == {("none", "", None)}
        assert compiled.timeout == timeout
    else:
        assert {route for route, _, _ in found} <= names
        assert sorted(subset for _, subset, _ in found) == sorted(subsets)
        assert {each for _, _, each in found} == {timeout}


@pytest.mark.parametrize(
    ("expected", "fault"),
    [
        ({"route": "canry"}, 'takes canary (orders.toml:6); there is no route canry, did you mean "canary"?'),
        ({"route": "orders.toml:12"}, "is to take route orders.toml:12, and takes canary (orders.toml:6)"),
        ({"route": "none"}, "is to take no route, and takes canary (orders.toml:6)"),
        ({"subsets": ("v1", "v3")}, "to subsets v1, v3, and goes to subsets v1, v2: it takes canary (orders.toml:6)"),
        ({"subsets": ("v1", "v22")}, 'there is no subset v22, did you mean "v2"?'),
        ({"subsets": ()}, "is to go to all instances, and goes to subsets v1, v2"),
        ({"timeout": 0.0}, "have timeout none, and has 5s by route canary: it takes canary (orders.toml:6)"),
    ],
)
def test_what_is_not_met_is_said_with_its_place(expected: dict[str, Any], fault: str) -> None:
    found = Rehearsal(parse_files(ROUTES)).judge(Expectation(call=CANARY, allowed=False, **expected)).fault
    assert fault in found


def collected(tmp_path: Path, text: str) -> tuple[list[Expectation], list[str]]:
    (tmp_path / "tests").mkdir(exist_ok=True)
    (tmp_path / "tests" / "a.toml").write_text(text)
    return collect(str(tmp_path), {"cart", "payments"})


def test_files_are_read(tmp_path: Path) -> None:
    found, warnings = collected(
        tmp_path,
        """
[[expect]]
from = "cart"
to = "payments"
method = "POST"
path = "/pay?now=1"
headers = { X-Canary = "yes, indeed" }
decision = "allow"
rule = "payments.toml:1"
route = "canary"
subsets = ["v2", "v1"]
timeout = "5s"

[[expect]]
from = "stranger"
to = "payments"
decision = "deny"
""",
    )
    assert found == [
        Expectation(
            call=call("cart", "payments", "POST", "/pay?now=1", x_canary="yes, indeed"),
            allowed=True,
            rule="payments.toml:1",
            route="canary",
            subsets=("v2", "v1"),
            timeout=5.0,
            about_requests=True,
            source="tests/a.toml:2",
        ),
        Expectation(call=call("stranger", "payments"), allowed=False, source="tests/a.toml:14"),
    ]
    assert warnings == []


def test_a_slip_in_a_name_is_told(tmp_path: Path) -> None:
    _, warnings = collected(tmp_path, '[[expect]]\nfrom = "crat"\nto = "payment"\ndecision = "deny"\n')
    assert [warning.rpartition("/")[2] for warning in warnings] == [
        'a.toml:2: expect[0].from: nobody knows a service crat; did you mean "cart"?',
        'a.toml:3: expect[0].to: nobody knows a service payment; did you mean "payments"?',
    ]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('from = "cart"\nto = "payments"', "decision: is missing"),
        ('from = "cart"\nto = "payments"\ndecision = "denied"', 'did you mean "deny"?'),
        ('from = "cart"\nto = "payments"\ndecision = "deny"\nmethd = "GET"', 'did you mean "method"?'),
        ('from = "cart"\nto = "payments"\ndecision = "deny"\nmethod = "post"', 'did you mean "POST"?'),
        ('from = "cart"\nto = "payments"\ndecision = "deny"\npath = "pay"', "is not the path of a request"),
        ('from = "cart"\nto = "payments"\ndecision = "deny"\npath = "/a b"', "is not the path of a request"),
        ('from = "cart"\nto = "payments"\ndecision = "deny"\npath = "/%zz"', "is not the path of a request"),
        ('from = "cart"\nto = "payments"\ndecision = "deny"\nheaders = { Host = "x" }', "neither rules nor routes see"),
        ('from = "cart"\nto = "payments"\ndecision = "deny"\nheaders = { a = "x\\r\\ny" }', "header field"),
        ('from = "*"\nto = "payments"\ndecision = "deny"', "is not the name of a service"),
        ('from = "cart"\nto = "payments"\ndecision = "deny"\nrule = "line 12"', "is not a place in a policy"),
        ('from = "cart"\nto = "payments"\ndecision = "deny"\nroute = "the canary"', "is not a word"),
        ('from = "cart"\nto = "payments"\ndecision = "deny"\nroute = "payments:x"', "is not the name of a route"),
        ('from = "cart"\nto = "payments"\ndecision = "deny"\nsubsets = ["v1", "v1"]', "is there twice"),
        ('from = "cart"\nto = "payments"\ndecision = "deny"\nsubsets = "v1"', "put it into brackets"),
        ('from = "cart"\nto = "payments"\ndecision = "deny"\ntimeout = 5', "expected a duration"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(Invalid) as caught:
        collected(tmp_path, f"[[expect]]\n{text}\n")
    (problem,) = caught.value.problems
    assert problem.line
    assert part in str(problem)


def test_all_files_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "b.toml").write_text("[[expect\n")
    with pytest.raises(Invalid) as caught:
        collected(tmp_path, "# nothing\n")
    assert [Path(problem.file).name for problem in caught.value.problems] == ["a.toml", "b.toml"]


def test_expecting_nothing_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        collect(str(tmp_path), ())
    (tmp_path / "tests").mkdir()
    with pytest.raises(Invalid, match=r"has no \*\.toml file"):
        collect(str(tmp_path), ())
