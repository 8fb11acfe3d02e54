from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from hostproxy.codec.http1 import HeadLimits, parse_request
from hostproxy.exchange.caller import Caller
from hostproxy.exchange.exchange import Exchange
from hostproxy.exchange.replies import Refusal
from hostproxy.inbound import Inbound
from hostproxy.mesh.rules import Rule
from hostproxy.net.deadlines import Deadlines
from hostproxy.reporting import Reporter
from hostproxy.snapshot import Delta, Local
from hostproxy.tables import Tables
from hostproxy.telemetry.metrics import WorkerMetrics
from hostproxy.upstream.dial import Dialling
from tests.datapath import snapshot
from tests.support import Listening, Loop, loop

__all__ = ["loop"]

# The whole path, from the mesh port to an instance, is in tests/test_traffic.py.

RULE = Rule(("cart",), ("GET",), ("/open/*",), "policy.toml:7")


class Responder:
    """The client's side of an exchange."""

    def __init__(self, service: str, caller: str = "cart") -> None:
        line = b"X-Forwarded-Client-Cert: URI=spiffe://mesh.test/service/cart\r\n"
        self.caller = Caller(
            caller, f"spiffe://mesh.test/service/{caller}", b"10.0.0.7", b"https", service, line, True
        )
        self.refusals: list[Refusal] = []
        self.woken: list[float] = []

    def refuse(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    def wake(self, at: float) -> None:
        self.woken.append(at)


class Bench:
    def __init__(self, loop: Loop, **local: Any) -> None:
        self.loop = loop
        self.origin = Listening(loop)
        first = snapshot(
            (), (Local("payments", local.pop("protocol", "http"), (self.origin.address,), **local),)
        )
        self.metrics = WorkerMetrics()
        dialling = Dialling(loop.reactor, Deadlines(loop.reactor.seconds()), first.limits, self.metrics)
        self.tables = Tables(first, dialling, self.metrics, lambda: 0.0)
        self.inbound = Inbound(self.tables, Reporter(self.metrics, None, 1))

    def ask(
        self,
        target: bytes = b"/",
        method: bytes = b"GET",
        service: str = "payments",
        caller: str = "cart",
        fields: bytes = b"",
    ) -> tuple[Exchange, Responder]:
        data = b"%b %b HTTP/1.1\r\nHost: payments:1\r\n%b\r\n" % (method, target, fields)
        head = parse_request(data, len(data), HeadLimits(8192, 16384, 100, 61440))
        server = Responder(service, caller)
        exchange = Exchange(self.inbound, server, head, self.loop.reactor.now)  # type: ignore[arg-type]
        self.inbound.begin(exchange)
        return exchange, server


def test_an_allowed_request_goes_to_an_instance_and_names_its_rule(loop: Loop) -> None:
    bench = Bench(loop, allow=(RULE,), default_allow=False, default_reason="policy.toml:2")
    exchange, server = bench.ask(b"/open/x")
    assert server.refusals == []
    assert exchange.rule == "policy.toml:7"
    origin = bench.origin.accept()
    lines = origin.until(b"\r\n\r\n").split(b"\r\n")
    assert server.caller.identity_line.strip() in lines
    assert b"X-Forwarded-Proto: https" in lines
    assert b"X-Forwarded-For: 10.0.0.7" in lines
    assert bench.metrics._events["authz_decisions_total"] == {("allow", "policy.toml:7", "payments"): 1}
    exchange.cancel("DC", "")


@pytest.mark.parametrize(
    ("target", "method", "caller"),
    [
        (b"/", b"GET", "cart"),
        (b"/open/x", b"POST", "cart"),
        (b"/open/x", b"GET", "shop"),
        (b"/open/../x", b"GET", "cart"),
    ],
)
def test_a_denied_one_goes_nowhere_and_says_what_decided(
    loop: Loop, target: bytes, method: bytes, caller: str
) -> None:
    bench = Bench(loop, allow=(RULE,), default_allow=False, default_reason="policy.toml:2: access")
    exchange, server = bench.ask(target, method, caller=caller)
    (refusal,) = server.refusals
    assert (refusal.status, refusal.flags) == (403, "UAEX")
    assert "no rule allows it (policy.toml:2: access)" in refusal.details
    assert f"spiffe://mesh.test/service/{caller}" in refusal.details
    assert bench.origin.pending() is None
    assert exchange.endpoint is None
    assert bench.metrics.requests("inbound", caller, "payments", "", True).in_flight == 0


def test_a_deny_rule_is_named(loop: Loop) -> None:
    deny = (Rule(("*",), ("POST",), (), "policy.toml:9", (("x-role", "guest"),)),)
    bench = Bench(loop, allow=(Rule(("cart",)),), deny=deny)
    exchange, server = bench.ask(b"/open", b"POST", fields=b"X-Role: guest\r\n")
    (refusal,) = server.refusals
    assert refusal.details == (
        "spiffe://mesh.test/service/cart may not POST this path of payments: denied by policy.toml:9"
    )
    assert exchange.rule == "policy.toml:9"
    assert bench.metrics._events["authz_decisions_total"] == {("deny", "policy.toml:9", "payments"): 1}


def test_an_audit_rule_is_counted_and_noted_and_does_nothing(loop: Loop) -> None:
    bench = Bench(loop, deny=(Rule(("*",), source="policy.toml:9", audit=True),))
    exchange, server = bench.ask()
    assert server.refusals == []
    assert exchange.audit == "deny policy.toml:9"
    assert bench.metrics._events["authz_audits_total"] == {("deny", "policy.toml:9", "payments"): 1}
    exchange.cancel("DC", "")


def test_without_rules_nothing_is_decided(loop: Loop) -> None:
    bench = Bench(loop)
    exchange, server = bench.ask()
    assert server.refusals == []
    assert bench.metrics._events["authz_decisions_total"] == {}
    exchange.cancel("DC", "")


def test_a_service_that_has_left(loop: Loop) -> None:
    bench = Bench(loop)
    _, server = bench.ask(service="gone")
    assert [refusal.status for refusal in server.refusals] == [503]


def test_connect_is_not_carried(loop: Loop) -> None:
    bench = Bench(loop)
    _, server = bench.ask(b"payments:1", b"CONNECT")
    assert [refusal.status for refusal in server.refusals] == [403]
    assert bench.origin.pending() is None


def test_a_service_whose_checks_fail(loop: Loop) -> None:
    bench = Bench(loop, failing="no instance of payments passes its check: GET /healthz: 500")
    _, server = bench.ask()
    (refusal,) = server.refusals
    assert (refusal.status, refusal.flags) == (503, "LH")
    assert "GET /healthz: 500" in refusal.details
    assert bench.origin.pending() is None
    series = bench.metrics.requests("inbound", "cart", "payments", "", True)
    assert (series.codes, series.in_flight) == ({(b"GET", 503, "LH"): 1}, 0)


def test_who_may_not_call_does_not_hear_of_failing_checks(loop: Loop) -> None:
    bench = Bench(loop, failing="they fail", default_allow=False, default_reason="policy.toml:2")
    _, server = bench.ask()
    assert [refusal.flags for refusal in server.refusals] == ["UAEX"]


def test_the_service_s_timeout_counts_from_the_head(loop: Loop) -> None:
    bench = Bench(loop, timeout=2.0)
    exchange, server = bench.ask()
    assert exchange.deadline == exchange.started + 2.0
    assert server.woken == [exchange.deadline]
    exchange.cancel("DC", "")


class Tunnel:
    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []
        self.refusals: list[str] = []

    def begin(self, destination: Any, direction: str, objection: Callable[[], str]) -> None:
        self.begun.append((destination.name, direction))
        self.objection = objection

    def refuse(self, flags: str) -> None:
        self.refusals.append(flags)


@pytest.mark.parametrize(
    ("rules", "service", "begun", "refused"),
    [
        ((), "payments", [("payments", "inbound")], []),
        ((Rule(("cart",), (), (), "p:1"),), "payments", [("payments", "inbound")], []),
        ((Rule(("shop",), (), (), "p:1"),), "payments", [], ["UAEX"]),
        ((RULE,), "payments", [], ["UAEX"]),
        ((), "gone", [], ["NR"]),
    ],
)
def test_connections(
    loop: Loop, rules: tuple[Rule, ...], service: str, begun: list[Any], refused: list[str]
) -> None:
    bench = Bench(loop, protocol="tcp", allow=rules, default_allow=not rules, default_reason="default")
    tunnel: Any = Tunnel()
    bench.inbound.connection(tunnel, SimpleNamespace(name="cart", service=service))  # type: ignore[arg-type]
    assert (tunnel.begun, tunnel.refusals) == (begun, refused)


def test_a_tunnel_is_objected_to_when_the_policy_has_changed(loop: Loop) -> None:
    bench = Bench(loop, protocol="tcp")
    tunnel: Any = Tunnel()
    bench.inbound.connection(tunnel, SimpleNamespace(name="cart", service="payments"))  # type: ignore[arg-type]
    local = Local("payments", "tcp", (bench.origin.address,))
    for deny, objection, rule in (((Rule(("shop",)),), "", ""), ((Rule(("cart",), source="p:4"),), "policy", "p:4")):
        bench.tables.change(Delta(version=2, locals={"payments": replace(local, deny=deny)}))
        assert tunnel.objection() == objection
        assert tunnel.rule == rule
    bench.tables.change(Delta(version=3, locals={"payments": None}))
    assert tunnel.objection() == ""
