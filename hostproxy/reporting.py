"""What the paths tell telemetry: one call at the end of a request or connection."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hostproxy.exchange.tunnel import POLICY
from hostproxy.telemetry.access_log import AccessLogWriter, AccessRecord

if TYPE_CHECKING:
    from hostproxy.enforce.authorise import Decision
    from hostproxy.exchange.exchange import Exchange
    from hostproxy.exchange.tunnel import Tunnel
    from hostproxy.telemetry.metrics import WorkerMetrics

UNKNOWN = "unknown"  # in the place of a destination's name, for requests that named none


class Reporter:
    """Counts and logs for both paths. ``seed`` makes this worker's request ids differ from all others'."""

    __slots__ = ("_issued", "_log", "_metrics", "_seed")

    def __init__(self, metrics: WorkerMetrics, log: AccessLogWriter | None, seed: int) -> None:
        self._metrics = metrics
        self._log = log
        self._seed = b"%016x" % (seed & (1 << 64) - 1)
        self._issued = 0

    def log_to(self, log: AccessLogWriter | None) -> None:
        """Write the access log there from now on; ``None``: nowhere."""
        self._log = log

    def request_id(self) -> bytes:
        """A new request id: 32 hexadecimal digits, unique in the mesh, not secret."""
        self._issued += 1
        return self._seed + b"%016x" % self._issued

    def request(self, exchange: Exchange) -> None:
        """A request is over."""
        now = time.monotonic()
        started = exchange.started
        first = exchange.first_byte
        series = exchange.series
        if series is None:
            series = self._metrics.requests(exchange.path.direction, exchange.server.caller.name, UNKNOWN, "", False)
        else:
            series.in_flight -= 1
        series.record(
            exchange.head.method,
            exchange.status,
            exchange.flags,
            now - started,
            first - started if first else -1.0,
            exchange.received,
            exchange.sent,
        )
        if exchange.attempts > 1:
            result = "success" if exchange.flags == "-" else "failure"
            self._metrics.count("retries_total", ("connect-failure" if exchange.tried else "reset", result))
        if self._log is not None:
            self._write(exchange, now)

    def _write(self, exchange: Exchange, now: float) -> None:
        assert self._log is not None
        head = exchange.head
        caller = exchange.server.caller
        path, question, _ = head.target.partition(b"?")
        target = exchange.target
        first = exchange.first_byte
        self._log.write(
            AccessRecord(
                dir=exchange.path.direction,
                method=head.method.decode("latin-1"),
                path=path.decode("latin-1"),
                has_query=bool(question),
                authority=head.authority.decode("latin-1"),
                protocol="HTTP/1.1" if head.minor else "HTTP/1.0",
                status=exchange.status,
                flags=exchange.flags,
                details=exchange.details if exchange.flags != "-" else "",
                source=caller.name,
                source_identity=caller.uri,
                dest=target.name if target is not None else "",
                upstream=exchange.upstream,
                attempts=exchange.attempts,
                bytes_in=exchange.received,
                bytes_out=exchange.sent,
                dur_ms=(now - exchange.started) * 1000,
                ttfb_ms=(first - exchange.started) * 1000 if first else -1.0,
                tls="TLSv1.3" if caller.secure else "",
                request_id=exchange.request_id.decode("latin-1"),
                denied_by=exchange.rule if exchange.flags == "UAEX" else "",
                audit=exchange.audit,
            )
        )

    def decided(self, decision: Decision, service: str) -> str:
        """Authorisation spoke. Returns what rules with audit = true would have done, for the log."""
        count = self._metrics.count
        count("authz_decisions_total", ("allow" if decision.allowed else "deny", decision.rule, service))
        if not decision.audited:
            return ""
        for audit in decision.audited:
            count("authz_audits_total", (*audit, service))
        return ", ".join(f"{audit.decision} {audit.rule}" for audit in decision.audited)

    def bad_request(self, reason: str) -> None:
        """A client's bytes were no request."""
        self._metrics.count("malformed_requests_total", (reason,))

    def connection_refused(self, reason: str) -> None:
        """A connection was closed before it was served."""
        self._metrics.count("connections_refused_total", (reason,))

    def looked_up(self, result: str) -> None:
        """It was asked who is at the other end of a local connection."""
        self._metrics.count("caller_lookups_total", (result,))

    def handshake(self, result: str, reason: str) -> None:
        """A handshake on the mesh port ended."""
        self._metrics.count("tls_handshakes_total", ("server", result, reason))

    def tunnel(self, tunnel: Tunnel, reason: str) -> None:
        """A TCP connection is over."""
        destination = tunnel.destination
        caller = tunnel.caller
        now = time.monotonic()
        name = destination.name if destination is not None else caller.service or UNKNOWN
        mtls = caller.secure or (destination is not None and destination.secure)
        series = self._metrics.tcp(tunnel.direction or "inbound", caller.name, name, mtls)
        if tunnel.refusal == "-":
            series.received += tunnel.from_client
            series.sent += tunnel.to_client
        else:
            series.begin()
        series.end(reason, now - tunnel.started)
        if self._log is not None:
            self._log.write(
                AccessRecord(
                    kind="tcp",
                    dir=tunnel.direction,
                    flags=tunnel.refusal,
                    details=reason,
                    source=caller.name,
                    source_identity=caller.uri,
                    dest=name,
                    upstream=tunnel.upstream,
                    bytes_in=tunnel.from_client,
                    bytes_out=tunnel.to_client,
                    dur_ms=(now - tunnel.started) * 1000,
                    tls="TLSv1.3" if caller.secure else "",
                    denied_by=tunnel.rule if tunnel.refusal == "UAEX" or reason == POLICY else "",
                    audit=tunnel.audit,
                )
            )

    def tunnel_opened(self, tunnel: Tunnel) -> None:
        """A TCP connection has reached an endpoint."""
        destination = tunnel.destination
        assert destination is not None
        caller = tunnel.caller
        mtls = caller.secure or destination.secure
        self._metrics.tcp(tunnel.direction, caller.name, destination.name, mtls).begin()
