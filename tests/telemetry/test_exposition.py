"""The page that Prometheus reads, judged by Prometheus' own tools."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from hostproxy.telemetry import families
from hostproxy.telemetry.exposition import ConsulFacts, ControllerFacts, HostFacts, WorkerFacts, render
from hostproxy.telemetry.metrics import WorkerMetrics
from hostproxy.telemetry.totals import Totals

TABLES = (families.REQUESTS, families.TCP, families.EVENTS, families.LEVELS, families.HOST, families.CONSUL)


def host_facts(**changes):
    values = {
        "build": ("0.1.0", "3.11.2", "26.10.0"),
        "workers": (WorkerFacts(0, True, 2, 0.001), WorkerFacts(1, False, 0, 0.0)),
        "endpoints": {"payments": {"passing": 2, "critical": 1}, "cart": {"passing": 0}},
        "confirmed": {("payments", "dc1"): 1.6e9},
        "consul": ConsulFacts(
            requests={("health_service", "200"): 7, ("health_service", "timeout"): 1},
            errors={"timeout": 1},
            index_resets=2,
            suppressed_empty=3,
            refused_instances=4,
            deferred_updates=5,
            last_success=1.5e9,
            watches=6,
        ),
        "health": {("cart", "127.0.0.1:9000"): True, ("cart", "127.0.0.1:9001"): False},
        "probes": {("cart", "healthy"): 9},
        "controller": ControllerFacts(last_contact=1.4e9, epoch=2, generation=8),
        "skews": {"controller": -86400.0, "consul": 0.0},
        "catalog_age": 12.5,
        "certificates": {"spiffe://example.org/service/cart": 1.8e9},
        "problems": {"catalog": 0, "policy": 2, "certificates": 0},
        "reload_successful": False,
        "reload_success": 1.7e9,
        "reloads": {"success": 1, "refused": 3},
        "upgrades": {"success": 4, "failed": 1},
    }
    return HostFacts(**{**values, **changes})


def totals():
    metrics = WorkerMetrics()
    for mtls in (True, False):
        series = metrics.requests("outbound", "cart", "payments", "canary", mtls, "v2")
        series.in_flight = 1
        series.record(b"GET", 200, "-", 0.0004, 0.0003, 100, 1000)
        series.record(b"POST", 503, "UF,URX", 3.0, 2.0, 50, 10)
    tcp = metrics.tcp("inbound", 'we"ird\\\n', "db", True)
    tcp.begin()
    tcp.begin()
    tcp.end("idle", 0.05)
    for name, family in families.EVENTS.items():
        metrics.count(name, tuple(f"some {label}" for label in family.labels), 3)
    for name, family in families.LEVELS.items():
        metrics.gauge(name, tuple(f"some {label}" for label in family.labels), 4)
    summed = Totals()
    summed.merge(1, metrics.export())
    return summed.view().sum()


def samples(page, parse=parse_text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(page.decode())
        for sample in family.samples
    }


def value(page, name, **labels):
    return samples(page)[("hostproxy_" + name, tuple(sorted(labels.items())))]


CALL = {
    "direction": "outbound",
    "source": "cart",
    "destination": "payments",
    "route": "canary",
    "subset": "v2",
}


def test_promtool_finds_nothing_to_say():
    promtool = shutil.which("promtool")
    if promtool is None:
        reason = "promtool is not installed (Debian package: prometheus)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    page = render(totals(), host_facts(), as_openmetrics=False)
    checked = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.parametrize("as_openmetrics", [False, True])
def test_every_family_is_there_with_its_labels(as_openmetrics):
    page = render(totals(), host_facts(), as_openmetrics=as_openmetrics)
    parsed = {
        family.name: family for family in (parse_openmetrics if as_openmetrics else parse_text)(page.decode())
    }
    for table in TABLES:
        for name, expected in table.items():
            family = parsed["hostproxy_" + name.removesuffix("_total")]
            assert family.type == expected.kind
            assert family.documentation == expected.help
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == set(expected.labels)
            assert family.samples, name


def test_openmetrics_ends_with_its_mark():
    assert render(totals(), host_facts(), as_openmetrics=True).endswith(b"# EOF\n")


def test_requests_keep_mtls_apart_and_the_rest_adds_it_up():
    page = render(totals(), host_facts(), as_openmetrics=False)
    for mtls in ("true", "false"):
        labels = {**CALL, "method": "POST", "code": "503", "flags": "UF,URX", "mtls": mtls}
        assert value(page, "requests_total", **labels) == 1
    assert value(page, "request_bytes_total", **CALL) == 300
    assert value(page, "response_bytes_total", **CALL) == 2020
    assert value(page, "requests_in_flight", **CALL) == 2
    assert value(page, "request_duration_seconds_count", **CALL) == 4
    assert value(page, "request_duration_seconds_sum", **CALL) == pytest.approx(6.0008)
    assert value(page, "request_ttfb_seconds_sum", **CALL) == pytest.approx(4.0006)


def test_histogram_buckets_are_cumulative():
    page = render(totals(), host_facts(), as_openmetrics=False)
    counts = [
        value(page, "request_duration_seconds_bucket", **CALL, le=edge)
        for edge in ("0.0005", "0.001", "2.5", "5.0", "10.0", "+Inf")
    ]
    assert counts == [2, 2, 2, 4, 4, 4]


def test_label_values_are_escaped():
    page = render(totals(), host_facts(), as_openmetrics=False)
    labels = {"direction": "inbound", "source": 'we"ird\\\n', "destination": "db", "mtls": "true"}
    assert value(page, "tcp_connections_opened_total", **labels) == 2
    assert value(page, "tcp_connections_open", **labels) == 1
    assert value(page, "tcp_connections_closed_total", **labels, reason="idle") == 1


def test_what_the_supervisor_knows():
    page = render(totals(), host_facts(), as_openmetrics=False)
    assert value(page, "worker_up", worker="0") == 1
    assert value(page, "worker_up", worker="1") == 0
    assert value(page, "worker_restarts_total", worker="0") == 2
    assert value(page, "reactor_lag_seconds", worker="0") == 0.001
    assert value(page, "endpoints", destination="payments", state="passing") == 2
    assert value(page, "endpoints", destination="payments", state="critical") == 1
    assert value(page, "endpoints", destination="cart", state="passing") == 0
    labels = {"destination": "payments", "datacenter": "dc1"}
    assert value(page, "discovery_confirmed_timestamp_seconds", **labels) == 1.6e9
    assert value(page, "local_instance_healthy", service="cart", local_address="127.0.0.1:9000") == 1
    assert value(page, "local_instance_healthy", service="cart", local_address="127.0.0.1:9001") == 0
    assert value(page, "health_probes_total", service="cart", result="healthy") == 9
    assert value(page, "endpoint_set_age_seconds") == 12.5
    identity = "spiffe://example.org/service/cart"
    assert value(page, "certificate_not_after_timestamp_seconds", identity=identity) == 1.8e9
    assert value(page, "source_problems", source="policy") == 2
    assert value(page, "config_last_reload_successful") == 0
    assert value(page, "config_last_reload_success_timestamp_seconds") == 1.7e9
    assert value(page, "config_reloads_total", result="refused") == 3
    assert value(page, "build_info", version="0.1.0", python="3.11.2", twisted="26.10.0") == 1
    assert samples(page)[("process_resident_memory_bytes", ())] > 0


def test_what_is_asked_of_consul():
    page = render(totals(), host_facts(), as_openmetrics=False)
    assert value(page, "consul_requests_total", endpoint="health_service", code="200") == 7
    assert value(page, "consul_requests_total", endpoint="health_service", code="timeout") == 1
    assert value(page, "consul_watch_errors_total", reason="timeout") == 1
    assert value(page, "consul_index_resets_total") == 2
    assert value(page, "consul_empty_result_suppressed_total") == 3
    assert value(page, "consul_refused_instances_total") == 4
    assert value(page, "consul_deferred_updates_total") == 5
    assert value(page, "consul_last_success_timestamp_seconds") == 1.5e9
    assert value(page, "consul_watches") == 6


def test_without_consul_there_is_nothing_of_it():
    page = render(totals(), host_facts(consul=None), as_openmetrics=False)
    assert not [name for name, _ in samples(page) if name.startswith("hostproxy_consul_")]


def test_clocks_that_are_compared():
    page = render(totals(), host_facts(), as_openmetrics=False)
    assert value(page, "clock_skew_seconds", peer="controller") == -86400.0
    assert value(page, "clock_skew_seconds", peer="consul") == 0.0
    page = render(totals(), host_facts(skews={}), as_openmetrics=False)
    assert not [name for name, _ in samples(page) if name == "hostproxy_clock_skew_seconds"]


def test_what_comes_from_a_controller():
    page = render(totals(), host_facts(), as_openmetrics=False)
    assert value(page, "controller_last_contact_timestamp_seconds") == 1.4e9
    assert (value(page, "policy_epoch"), value(page, "policy_generation")) == (2, 8)
    page = render(totals(), host_facts(controller=None), as_openmetrics=False)
    assert not [name for name, _ in samples(page) if name.startswith(("hostproxy_controller_", "hostproxy_policy_"))]


def test_without_a_catalog_there_is_no_age_of_one():
    page = render(totals(), host_facts(catalog_age=None), as_openmetrics=False)
    assert ("hostproxy_endpoint_set_age_seconds", ()) not in samples(page)


def test_a_host_that_carried_nothing_yet_renders():
    page = render(Totals().view().sum(), host_facts(), as_openmetrics=False)
    assert value(page, "worker_up", worker="0") == 1
