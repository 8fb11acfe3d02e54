"""The totals as Prometheus reads them: the one place of prometheus_client, never on a reactor's thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

import msgspec
from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics

from hostproxy.telemetry.export import Export, RequestKey, RequestTotals
from hostproxy.telemetry.families import (
    CONSUL,
    EVENTS,
    HOST,
    LEVELS,
    PREFIX,
    REQUEST_BOUNDS,
    REQUESTS,
    TCP,
    TCP_BOUNDS,
    Family,
)

TEXT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
OPENMETRICS_TYPE = openmetrics.CONTENT_TYPE_LATEST

Samples = Iterable[tuple[Sequence[str], float]]


class WorkerFacts(msgspec.Struct, frozen=True):
    """One place for a worker process."""

    place: int
    up: bool
    restarts: int
    lag: float  # seconds


class ConsulFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of Consul's agent, and what came of it."""

    requests: Mapping[tuple[str, str], int]  # by endpoint and status, or why there is none
    errors: Mapping[str, int]  # by reason
    index_resets: int
    suppressed_empty: int
    refused_instances: int
    deferred_updates: int
    last_success: float  # Unix seconds; 0: never
    watches: int


class ControllerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a host stands with its controller."""

    last_contact: float  # Unix seconds; 0: never
    epoch: int
    generation: int  # 0: no policy yet


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What only the supervisor knows, apart from the sums of the workers."""

    build: tuple[str, str, str]  # versions of hostproxy, Python, Twisted
    workers: tuple[WorkerFacts, ...]
    endpoints: Mapping[str, Mapping[str, int]]  # by service and health
    confirmed: Mapping[tuple[str, str], float]  # by service and datacenter: Unix seconds, 0 for never
    consul: ConsulFacts | None  # None: the catalog is not Consul's
    controller: ControllerFacts | None = None  # None: policy does not come from one
    skews: Mapping[str, float] = {}  # seconds that the clock is ahead, by whose it is compared with
    catalog_age: float | None  # seconds; None: no catalog was read
    certificates: Mapping[str, float]  # SPIFFE identity -> Unix seconds of its end
    health: Mapping[tuple[str, str], bool]  # of instances here that are checked, by service and address
    probes: Mapping[tuple[str, str], int]  # checks done, by service and result
    problems: Mapping[str, int]  # "catalog", "policy", "certificates", "registration" -> number of faults
    reload_successful: bool
    reload_success: float  # Unix seconds
    reloads: Mapping[str, int]  # by result
    upgrades: Mapping[str, int] = {}  # by result
    log_dropped: int = 0  # lines of the supervisor's own log


class _Exposition:
    """A prometheus_client collector over one moment."""

    def __init__(self, sums: Export, facts: HostFacts) -> None:
        self._sums = sums
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        yield from _requests(self._sums)
        yield from _tcp(self._sums)
        own = {"daemon_log_dropped_total": [(("supervisor",), self._facts.log_dropped)]}
        for name, family in EVENTS.items():
            yield _plain(name, family, [*self._sums.events.get(name, {}).items(), *own.get(name, ())])
        for name, family in LEVELS.items():
            yield _plain(name, family, self._sums.levels.get(name, {}).items())
        yield from _host(self._facts)
        yield from ProcessCollector(registry=None).collect()


def render(sums: Export, facts: HostFacts, *, as_openmetrics: bool) -> bytes:
    """The whole page, of :data:`OPENMETRICS_TYPE` or :data:`TEXT_TYPE`. 10 us per line: use a thread."""
    generate = openmetrics.generate_latest if as_openmetrics else generate_latest
    page: bytes = generate(_Exposition(sums, facts))
    return page


def _requests(sums: Export) -> Iterator[Metric]:
    # All but requests_total leave mtls out, so the two series that differ only in it are added up.
    calls: dict[tuple[str, ...], list[RequestTotals]] = {}
    for key, totals in sums.requests.items():
        calls.setdefault(_call(key), []).append(totals)
    family = REQUESTS["requests_total"]
    yield _plain("requests_total", family, _codes(sums.requests))
    for name, buckets, seconds in (
        ("request_duration_seconds", "buckets", "seconds"),
        ("request_ttfb_seconds", "first_byte_buckets", "first_byte_seconds"),
    ):
        family = REQUESTS[name]
        histogram = HistogramMetricFamily(PREFIX + name, family.help, labels=family.labels)
        for call, several in calls.items():
            counts = [sum(column) for column in zip(*(getattr(one, buckets) for one in several), strict=True)]
            total = sum(getattr(one, seconds) for one in several)
            histogram.add_metric(call, _cumulative(_REQUEST_EDGES, counts), total)
        yield histogram
    for name, field in (
        ("request_bytes_total", "request_bytes"),
        ("response_bytes_total", "response_bytes"),
        ("requests_in_flight", "in_flight"),
    ):
        samples = ((call, sum(getattr(one, field) for one in several)) for call, several in calls.items())
        yield _plain(name, REQUESTS[name], samples)


def _codes(requests: Mapping[RequestKey, RequestTotals]) -> Iterator[tuple[Sequence[str], float]]:
    for key, totals in requests.items():
        for (method, code, flags), count in totals.codes.items():
            yield (*_call(key), method.decode("ascii"), str(code), flags, _truth(key.mtls)), count


def _call(key: RequestKey) -> tuple[str, ...]:
    """The labels that all families of requests have."""
    return key.direction, key.source, key.destination, key.route, key.subset


def _tcp(sums: Export) -> Iterator[Metric]:
    rows = [((*key[:3], _truth(key[3])), totals) for key, totals in sums.tcp.items()]
    closed = (
        ((*labels, reason), count) for labels, totals in rows for reason, count in totals.closed.items()
    )
    name = "tcp_connections_closed_total"
    yield _plain(name, TCP[name], closed)
    for name, field in (
        ("tcp_connections_opened_total", "opened"),
        ("tcp_connections_open", "open"),
        ("tcp_received_bytes_total", "received"),
        ("tcp_sent_bytes_total", "sent"),
    ):
        yield _plain(name, TCP[name], ((labels, getattr(totals, field)) for labels, totals in rows))
    name = "tcp_connection_duration_seconds"
    histogram = HistogramMetricFamily(PREFIX + name, TCP[name].help, labels=TCP[name].labels)
    for labels, totals in rows:
        histogram.add_metric(labels, _cumulative(_TCP_EDGES, totals.buckets), totals.seconds)
    yield histogram


def _host(facts: HostFacts) -> Iterator[Metric]:
    workers = [(str(worker.place), worker) for worker in facts.workers]
    samples: dict[str, Samples] = {
        "worker_up": [((place,), worker.up) for place, worker in workers],
        "worker_restarts_total": [((place,), worker.restarts) for place, worker in workers],
        "reactor_lag_seconds": [((place,), worker.lag) for place, worker in workers],
        "endpoints": [
            ((service, health), count)
            for service, counts in facts.endpoints.items()
            for health, count in counts.items()
        ],
        "discovery_confirmed_timestamp_seconds": facts.confirmed.items(),
        "local_instance_healthy": facts.health.items(),
        "health_probes_total": facts.probes.items(),
        "endpoint_set_age_seconds": [] if facts.catalog_age is None else [((), facts.catalog_age)],
        "certificate_not_after_timestamp_seconds": [((uri,), end) for uri, end in facts.certificates.items()],
        "source_problems": [((source,), count) for source, count in facts.problems.items()],
        **_controller(facts.controller),
        "clock_skew_seconds": [((peer,), seconds) for peer, seconds in facts.skews.items()],
        "config_last_reload_successful": [((), facts.reload_successful)],
        "config_last_reload_success_timestamp_seconds": [((), facts.reload_success)],
        "config_reloads_total": [((result,), count) for result, count in facts.reloads.items()],
        "upgrades_total": [((result,), count) for result, count in facts.upgrades.items()],
        "build_info": [(facts.build, 1)],
    }
    for name, family in HOST.items():
        yield _plain(name, family, samples[name])
    consul = {} if facts.consul is None else _consul(facts.consul)
    for name, family in CONSUL.items():
        yield _plain(name, family, consul.get(name, ()))


def _controller(facts: ControllerFacts | None) -> dict[str, Samples]:
    return {
        "controller_last_contact_timestamp_seconds": [] if facts is None else [((), facts.last_contact)],
        "policy_epoch": [] if facts is None else [((), facts.epoch)],
        "policy_generation": [] if facts is None else [((), facts.generation)],
    }


def _consul(facts: ConsulFacts) -> dict[str, Samples]:
    return {
        "consul_requests_total": facts.requests.items(),
        "consul_watch_errors_total": [((reason,), count) for reason, count in facts.errors.items()],
        "consul_index_resets_total": [((), facts.index_resets)],
        "consul_empty_result_suppressed_total": [((), facts.suppressed_empty)],
        "consul_refused_instances_total": [((), facts.refused_instances)],
        "consul_deferred_updates_total": [((), facts.deferred_updates)],
        "consul_last_success_timestamp_seconds": [((), facts.last_success)],
        "consul_watches": [((), facts.watches)],
    }


def _plain(name: str, family: Family, samples: Samples) -> Metric:
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = make(PREFIX + name, family.help, labels=family.labels)
    for labels, value in samples:
        metric.add_metric(labels, value)
    return metric


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _edges(bounds: Sequence[float]) -> tuple[str, ...]:
    return (*(str(bound) for bound in bounds), "+Inf")


_REQUEST_EDGES = _edges(REQUEST_BOUNDS)
_TCP_EDGES = _edges(TCP_BOUNDS)


def _cumulative(edges: Sequence[str], counts: Sequence[int]) -> list[tuple[str, float]]:
    return list(zip(edges, accumulate(counts), strict=True))
