from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from hostproxy.codec.http1 import HeadLimits, parse_request, parse_response
from hostproxy.enforce.authorise import Audit, Decision
from hostproxy.enforce.retry import RetryPolicy
from hostproxy.exchange.caller import Caller
from hostproxy.exchange.exchange import Exchange
from hostproxy.mesh.retries import Retry
from hostproxy.reporting import Reporter
from hostproxy.telemetry.metrics import WorkerMetrics
from hostproxy.telemetry.tap import Filter
from hostproxy.telemetry.watches import Watches
from tests.datapath import Records

CALLER = Caller("cart", "spiffe://m/service/cart", b"10.0.0.1", secure=True)


def exchange(
    metrics: WorkerMetrics | None = None, data: bytes = b"GET /a?b=c HTTP/1.1\r\nHost: p:80\r\n\r\n"
) -> Exchange:
    head = parse_request(data, len(data), HeadLimits(8192, 16384, 100, 61440))
    path: Any = SimpleNamespace(direction="outbound")
    one = Exchange(path, SimpleNamespace(caller=CALLER), head, 100.0)  # type: ignore[arg-type]
    if metrics is not None:
        one.series = metrics.requests("outbound", "cart", "payments", "", True)
        one.series.in_flight += 1
    return one


def test_request_ids_are_unique_and_of_one_length() -> None:
    one, other = Reporter(WorkerMetrics(), None, 5), Reporter(WorkerMetrics(), None, 6)
    issued = {reporter.request_id() for reporter in (one, other) for _ in range(100)}
    assert len(issued) == 200
    assert {len(each) for each in issued} == {32}
    assert len(Reporter(WorkerMetrics(), None, -1).request_id()) == 32


def test_a_request_is_counted_where_it_went() -> None:
    metrics = WorkerMetrics()
    reporter = Reporter(metrics, None, 1)
    one = exchange(metrics)
    one.status, one.received, one.sent, one.first_byte = 200, 10, 20, 100.5
    reporter.request(one)
    series = metrics.requests("outbound", "cart", "payments", "", True)
    assert series.codes == {(b"GET", 200, "-"): 1}
    assert (series.request_bytes, series.response_bytes, series.in_flight) == (10, 20, 0)
    assert sum(series.first_byte_buckets) == 1


def test_one_that_named_no_destination_is_counted_as_such() -> None:
    metrics = WorkerMetrics()
    one = exchange()
    one.status, one.flags = 404, "NR"
    Reporter(metrics, None, 1).request(one)
    series = metrics.requests("outbound", "cart", "unknown", "", False)
    assert series.codes == {(b"GET", 404, "NR"): 1}
    assert sum(series.first_byte_buckets) == 0


@pytest.mark.parametrize(
    ("reasons", "attempts", "flags", "counted"),
    [
        (("connect-failure",), 2, "-", {("connect-failure", "success"): 1}),
        (("connect-failure",), 2, "UF", {("connect-failure", "failure"): 1}),
        (("connect-failure",), 1, "UF", {}),  # there was nowhere else to try
        (("reset",), 2, "-", {("reset", "success"): 1}),
        (("status",), 1, "DC", {}),  # the client went before the retry was made
        (("status", "status"), 3, "URX", {("status", "failure"): 2}),
        (
            ("connect-failure", "status", "timeout"),
            4,
            "-",
            {("connect-failure", "failure"): 1, ("status", "failure"): 1, ("timeout", "success"): 1},
        ),
    ],
)
def test_retries_are_counted(
    reasons: tuple[str, ...], attempts: int, flags: str, counted: dict[tuple[str, ...], int]
) -> None:
    metrics = WorkerMetrics()
    one = exchange(metrics)
    one.attempts, one.reasons, one.flags = attempts, reasons, flags
    Reporter(metrics, None, 1).request(one)
    assert metrics._events["retries_total"] == counted


def test_a_retry_that_the_budget_did_not_allow_is_counted() -> None:
    metrics = WorkerMetrics()
    one = exchange(metrics)
    one.allow_retries(RetryPolicy(Retry()))
    assert one.retries is not None
    one.attempts, one.target = 1, SimpleNamespace(name="payments", subset="")  # type: ignore[assignment]
    one.retries.over_budget = "status"
    Reporter(metrics, None, 1).request(one)
    assert metrics._events["retries_over_budget_total"] == {("status", "payments"): 1}
    assert metrics._events["retries_total"] == {}


def test_the_log_line_of_a_request() -> None:
    metrics, records = WorkerMetrics(), Records()
    reporter = Reporter(metrics, records, 1)  # type: ignore[arg-type]
    one = exchange(metrics)
    one.status, one.flags, one.details, one.rule = 403, "UAEX", "may not", "policy.toml:3"
    one.request_id = b"abc"
    reporter.request(one)
    (line,) = records.lines
    assert (line.dir, line.method, line.path, line.has_query, line.authority) == (
        "outbound",
        "GET",
        "/a",
        True,
        "p:80",
    )
    assert (line.status, line.flags, line.details, line.denied_by) == (
        403,
        "UAEX",
        "may not",
        "policy.toml:3",
    )
    assert (line.source, line.source_identity, line.tls, line.request_id) == (
        "cart",
        CALLER.uri,
        "TLSv1.3",
        "abc",
    )
    assert "b=c" not in repr(line)


def test_route_and_subset_are_in_the_log_and_shown_live() -> None:
    metrics, records, seen = WorkerMetrics(), Records(), Seen(Filter())
    reporter = Reporter(metrics, records, 1)  # type: ignore[arg-type]
    reporter.show_to(seen.watches)
    one = exchange(metrics)
    one.route, one.target = "canary", SimpleNamespace(name="payments", subset="v2")  # type: ignore[assignment]
    reporter.request(one)
    reporter.request(exchange(metrics))
    expected = [("canary", "v2"), ("", "")]
    assert [(line.route, line.subset) for line in records.lines] == expected
    (shown,) = seen.take()
    assert [(record["route"], record["subset"]) for record in shown] == expected


def test_the_log_may_come_and_go() -> None:
    metrics, records = WorkerMetrics(), Records()
    reporter = Reporter(metrics, None, 1)
    reporter.request(exchange(metrics))
    reporter.log_to(records)  # type: ignore[arg-type]
    reporter.request(exchange(metrics))
    reporter.log_to(None)
    reporter.request(exchange(metrics))
    assert len(records.lines) == 1


def tunnel(refusal: str = "-", destination: bool = True) -> Any:
    return SimpleNamespace(
        destination=SimpleNamespace(name="db", secure=True) if destination else None,
        caller=CALLER,
        direction="outbound" if destination else "",
        started=100.0,
        refusal=refusal,
        rule="policy.toml:3",
        audit="",
        from_client=5,
        to_client=7,
        upstream="10.0.0.2:1",
    )


def test_a_tunnel_is_counted_at_its_begin_and_its_end() -> None:
    metrics = WorkerMetrics()
    reporter = Reporter(metrics, None, 1)
    reporter.tunnel_opened(tunnel())
    series = metrics.tcp("outbound", "cart", "db", True)
    assert (series.opened, series.open) == (1, 1)
    reporter.tunnel(tunnel(), "ended")
    assert (series.opened, series.open, series.closed) == (1, 0, {"ended": 1})
    assert (series.received, series.sent) == (5, 7)


@pytest.mark.parametrize(
    ("refusal", "reason", "denied_by"),
    [("UAEX", "UAEX", "policy.toml:3"), ("-", "policy", "policy.toml:3"), ("-", "ended", ""), ("UH", "UH", "")],
)
def test_the_line_of_a_tunnel_names_the_rule_that_ended_it(refusal: str, reason: str, denied_by: str) -> None:
    records = Records()
    Reporter(WorkerMetrics(), records, 1).tunnel(tunnel(refusal), reason)  # type: ignore[arg-type]
    assert [line.denied_by for line in records.lines] == [denied_by]


@pytest.mark.parametrize("destination", [True, False])
def test_one_that_was_refused_leaves_no_open_one(destination: bool) -> None:
    metrics, records = WorkerMetrics(), Records()
    Reporter(metrics, records, 1).tunnel(tunnel("UH", destination), "UH")  # type: ignore[arg-type]
    (series,) = metrics._tcp.values()
    assert (series.opened, series.open, series.closed) == (1, 0, {"UH": 1})
    assert records.lines[0].kind == "tcp"
    assert records.lines[0].flags == "UH"


def test_rare_events() -> None:
    metrics = WorkerMetrics()
    reporter = Reporter(metrics, None, 1)
    assert reporter.decided(Decision(True, "p:1", True), "payments") == ""
    audits = (Audit("deny", "p:3"), Audit("allow", "p:4"))
    assert reporter.decided(Decision(False, "p:2", False, audits), "payments") == "deny p:3, allow p:4"
    reporter.bad_request("bad-method")
    reporter.connection_refused("connections")
    reporter.handshake("ok", "")
    assert metrics._events["authz_decisions_total"] == {
        ("allow", "p:1", "payments"): 1,
        ("deny", "p:2", "payments"): 1,
    }
    assert metrics._events["authz_audits_total"] == {
        ("deny", "p:3", "payments"): 1,
        ("allow", "p:4", "payments"): 1,
    }
    assert metrics._events["malformed_requests_total"] == {("bad-method",): 1}
    assert metrics._events["connections_refused_total"] == {("connections",): 1}
    assert metrics._events["tls_handshakes_total"] == {("server", "ok", ""): 1}


class Seen:
    """Those who watch, and what they were told."""

    def __init__(self, *filters: Filter) -> None:
        self.told: dict[int, list[Any]] = {number: [] for number in range(len(filters))}
        self.watches = Watches(lambda: 0.0, lambda: 0.0, self._send)
        for number, wanted in enumerate(filters):
            self.watches.begin(number, wanted, 60.0)

    def _send(self, number: int, lines: bytes, dropped: int) -> bool:
        self.told[number] += [msgspec.json.decode(line) for line in lines.splitlines()]
        return True

    def take(self) -> list[list[Any]]:
        self.watches.flush()
        return list(self.told.values())


def test_a_request_is_shown_to_who_wants_it() -> None:
    seen = Seen(Filter(), Filter(headers=True), Filter(method=b"POST"))
    reporter = Reporter(WorkerMetrics(), None, 1)
    reporter.show_to(seen.watches)
    one = exchange(WorkerMetrics(), b"GET /a?b=s3cret HTTP/1.1\r\nHost: p:80\r\nAuthorization: s3cret\r\nTE: x\r\n\r\n")
    one.status, one.upstream, one.rule, one.first_byte = 200, "10.0.0.2:1", "policy.toml:3", 100.5
    head = b"HTTP/1.1 200 OK\r\nSet-Cookie: s3cret\r\nServer: x\r\nContent-Length: 0\r\n\r\n"
    one.answer = parse_response(head, len(head), HeadLimits(8192, 16384, 100, 61440), b"GET")
    reporter.request(one)
    (plain,), (whole,), none = seen.take()
    assert none == []
    assert "s3cret" not in repr((plain, whole))
    assert (plain["path"], plain["client"], plain["upstream"], plain["rule"], plain["ttfb_ms"]) == (
        "/a?b=*",
        "10.0.0.1",
        "10.0.0.2:1",
        "policy.toml:3",
        500.0,
    )
    assert "request_headers" not in plain
    assert whole["request_headers"] == [["Authorization", "*"]]
    assert whole["response_headers"] == [["Set-Cookie", "*"], ["Server", "x"]]
    reporter.show_to(None)
    reporter.request(one)
    assert [len(told) for told in seen.take()] == [1, 1, 0]


def test_an_answer_of_our_own_has_no_header_fields() -> None:
    seen = Seen(Filter(headers=True, denied=True))
    reporter = Reporter(WorkerMetrics(), None, 1)
    reporter.show_to(seen.watches)
    one = exchange(WorkerMetrics())
    one.status, one.flags, one.details = 403, "UAEX", "may not"
    reporter.request(one)
    (record,) = seen.take()[0]
    assert (record["status"], record["details"], record["ttfb_ms"], record["response_headers"]) == (
        403,
        "may not",
        -1.0,
        [],
    )


def test_a_tunnel_is_shown_at_its_begin_and_its_end() -> None:
    seen = Seen(Filter(), Filter(denied=True))
    reporter = Reporter(WorkerMetrics(), None, 1)
    reporter.show_to(seen.watches)
    reporter.tunnel_opened(tunnel())
    reporter.tunnel(tunnel(), "ended")
    for refusal, reason in (("UAEX", "UAEX"), ("-", "policy"), ("-", "denied")):
        reporter.tunnel(tunnel(refusal), reason)
    everything, denied = seen.take()
    assert [(each["event"], each["details"]) for each in everything[:2]] == [("open", ""), ("close", "ended")]
    assert (everything[1]["bytes_in"], everything[1]["bytes_out"], everything[1]["dest"]) == (5, 7, "db")
    assert denied == everything[2:]
    assert {each["flags"] for each in denied} == {"UAEX"}
