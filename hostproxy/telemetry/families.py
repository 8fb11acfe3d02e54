"""Every metric of hostproxy: its name, kind, labels and help, without the prefix ``hostproxy_``.

Names and labels follow the Prometheus naming practices; ``promtool check metrics`` passes on the result.
No label ever holds a path, a peer's address or a request id: their values have no bound.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

PREFIX = "hostproxy_"

# Seconds. From half a millisecond, below which a local hop is noise, to the ten seconds of a hung call.
REQUEST_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Seconds. From a probe that connects and leaves, to the hour after which an idle tunnel is closed.
TCP_BOUNDS = (0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)


class Family(NamedTuple):
    """One metric family."""

    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


_CALL = ("direction", "source", "destination", "route", "subset")
_TCP = ("direction", "source", "destination", "mtls")

REQUESTS: dict[str, Family] = {
    "requests_total": Family(
        "counter",
        (*_CALL, "method", "code", "flags", "mtls"),
        "Requests that ended. code 0: the client got no answer. flags: what hostproxy did to it.",
    ),
    "request_duration_seconds": Family(
        "histogram", _CALL, "Time from a request's first byte to the last byte of its answer."
    ),
    "request_ttfb_seconds": Family(
        "histogram", _CALL, "Time from a request's first byte to the first byte of its answer."
    ),
    "request_bytes_total": Family("counter", _CALL, "Bytes of request bodies received from clients."),
    "response_bytes_total": Family("counter", _CALL, "Bytes of answer bodies sent to clients."),
    "requests_in_flight": Family("gauge", _CALL, "Requests that have begun and not ended."),
}

TCP: dict[str, Family] = {
    "tcp_connections_opened_total": Family("counter", _TCP, "TCP connections that were relayed."),
    "tcp_connections_closed_total": Family(
        "counter", (*_TCP, "reason"), "Relayed TCP connections that ended, and what ended them."
    ),
    "tcp_connections_open": Family("gauge", _TCP, "TCP connections that are relayed now."),
    "tcp_received_bytes_total": Family("counter", _TCP, "Bytes received from clients of TCP connections."),
    "tcp_sent_bytes_total": Family("counter", _TCP, "Bytes sent to clients of TCP connections."),
    "tcp_connection_duration_seconds": Family("histogram", _TCP, "How long relayed TCP connections lasted."),
}

# Rare events of a worker: WorkerMetrics.count(name, labels).
EVENTS: dict[str, Family] = {
    "upstream_connects_total": Family(
        "counter", ("destination", "result"), "Connections tried to endpoints, and how that went."
    ),
    "retries_total": Family(
        "counter", ("reason", "result"), "Further tries of requests: why, and whether they brought the answer."
    ),
    "retries_over_budget_total": Family(
        "counter", ("reason", "destination"), "Further tries that policy allows, but for its budget."
    ),
    "tls_handshakes_total": Family(
        "counter",
        ("side", "result", "reason"),
        "TLS handshakes, accepting (server) and connecting (client), and why they were refused.",
    ),
    "authz_decisions_total": Family(
        "counter",
        ("decision", "rule", "destination"),
        "Authorisation decisions, and the rule (file:line) or default that took them.",
    ),
    "authz_audits_total": Family(
        "counter",
        ("decision", "rule", "destination"),
        "What rules with audit = true would have decided, by rule (file:line).",
    ),
    "connections_refused_total": Family(
        "counter", ("reason",), "Times that accepting paused: [limits] connections reached, or no descriptors left."
    ),
    "connections_cut_total": Family(
        "counter",
        ("reason",),
        "Open connections that were ended because a peer was denied, or the root over its certificate not trusted"
        " any more (untrusted).",
    ),
    "caller_lookups_total": Family(
        "counter", ("result",), "Local connections whose caller the kernel was asked for: ok, or why it is nobody."
    ),
    "malformed_requests_total": Family(
        "counter", ("reason",), "Messages of clients that were refused because they are no valid HTTP."
    ),
    "access_log_dropped_total": Family("counter", ("reason",), "Access log lines that were not written."),
    "daemon_log_dropped_total": Family(
        "counter", ("process",), "Lines of hostproxy's own log that were not written, as their reader was too slow."
    ),
    "metrics_overflow_total": Family(
        "counter", ("family",), "Look-ups that met a full family and were counted under __overflow__."
    ),
}

# States of a worker: WorkerMetrics.gauge(name, labels, value).
LEVELS: dict[str, Family] = {
    "downstream_connections": Family("gauge", (), "Accepted connections that are open."),
    "upstream_connections": Family("gauge", ("state",), "Connections to endpoints, active or idle."),
}

# What only the supervisor knows.
HOST: dict[str, Family] = {
    "worker_up": Family("gauge", ("worker",), "Whether the worker serves."),
    "worker_restarts_total": Family("counter", ("worker",), "How often the worker's process was replaced."),
    "reactor_lag_seconds": Family("gauge", ("worker",), "How late the worker's event loop ran a timer."),
    "endpoints": Family("gauge", ("destination", "state"), "Instances that the catalog has of a service, by health."),
    "endpoint_set_age_seconds": Family(
        "gauge", (), "Time since the catalog in force was read, or any of it last confirmed by Consul."
    ),
    "discovery_confirmed_timestamp_seconds": Family(
        "gauge",
        ("destination", "datacenter"),
        "When Consul last said what instances a service has, changed or not. 0: never.",
    ),
    # Not "instance", which is Prometheus' own word for who was scraped.
    "local_instance_healthy": Family(
        "gauge", ("service", "local_address"), "Whether an instance on this host is healthy, where it is checked."
    ),
    "health_probes_total": Family(
        "counter", ("service", "result"), "Checks of instances on this host, and how they went."
    ),
    "certificate_not_after_timestamp_seconds": Family("gauge", ("identity",), "When a certificate expires."),
    "source_problems": Family(
        "gauge",
        ("source",),
        "Faults that keep the newest catalog, policy or certificates from use, or services from registration.",
    ),
    "controller_last_contact_timestamp_seconds": Family(
        "gauge", (), "When this host and its controller last heard of each other. 0: never."
    ),
    "clock_skew_seconds": Family(
        "gauge",
        ("peer",),
        "How far this host's clock is ahead of that of controller or consul, negative: behind. Without a better one, a"
        " bound.",
    ),
    "policy_epoch": Family("gauge", (), "The epoch of the controller's policy in force."),
    "policy_generation": Family("gauge", (), "The generation of the controller's policy in force. 0: none."),
    "config_last_reload_successful": Family("gauge", (), "1 when the last reload was taken, 0 when refused."),
    "config_last_reload_success_timestamp_seconds": Family("gauge", (), "When the last reload was taken."),
    "config_reloads_total": Family("counter", ("result",), "Reloads, the start included."),
    "upgrades_total": Family("counter", ("result",), "Times that a successor was to take over, and how that went."),
    "build_info": Family("gauge", ("version", "python", "twisted"), "What runs; always 1."),
}

# What only a supervisor with Consul knows.
CONSUL: dict[str, Family] = {
    "consul_requests_total": Family(
        "counter", ("endpoint", "code"), "Requests to Consul's agent that ended: with which status, or without why."
    ),
    "consul_watch_errors_total": Family(
        "counter", ("reason",), "Answers of Consul, and failed queries, that were of no use."
    ),
    "consul_index_resets_total": Family("counter", (), "Times that Consul's index went backwards."),
    "consul_empty_result_suppressed_total": Family(
        "counter", (), "Answers without instances that were not believed at once, of services that had some."
    ),
    "consul_refused_instances_total": Family(
        "counter", (), "Registered instances that were left out, for an address where none can be or as malformed."
    ),
    "consul_deferred_updates_total": Family("counter", (), "Answers that waited because changes came too fast."),
    "consul_last_success_timestamp_seconds": Family("gauge", (), "When Consul last gave a usable answer. 0: never."),
    "consul_watches": Family("gauge", (), "Blocking queries under way."),
}
