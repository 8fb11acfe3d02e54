"""What the paths tell telemetry: one call at the end of a request or connection."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hostproxy.exchange.tunnel import DENIED, POLICY
from hostproxy.telemetry.access_log import AccessLogWriter, AccessRecord
from hostproxy.telemetry.tap import Facts, TapRecord, cut, fields_of, path_of

if TYPE_CHECKING:
    from hostproxy.enforce.authorise import Decision
    from hostproxy.exchange.exchange import Exchange
    from hostproxy.exchange.tunnel import Tunnel
    from hostproxy.telemetry.metrics import WorkerMetrics
    from hostproxy.telemetry.watches import Watches

UNKNOWN = "unknown"  # in the place of a destination's name, for requests that named none


class Reporter:
    """Counts and logs for both paths. ``seed`` makes this worker's request ids differ from all others'."""

    __slots__ = ("_issued", "_log", "_metrics", "_seed", "_watches")

    def __init__(self, metrics: WorkerMetrics, log: AccessLogWriter | None, seed: int) -> None:
        self._metrics = metrics
        self._log = log
        self._seed = b"%016x" % (seed & (1 << 64) - 1)
        self._issued = 0
        self._watches: Watches | None = None

    def show_to(self, watches: Watches | None) -> None:
        """Tell them of live requests from now on; ``None``: nobody watches."""
        self._watches = watches

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
        if exchange.reasons or exchange.retries is not None:
            self._count_retries(exchange)
        if self._log is not None:
            self._write(exchange, now)
        if self._watches is not None:
            self._show(self._watches, exchange, now)

    def _count_retries(self, exchange: Exchange) -> None:
        """Why further tries were made, or would have been, and whether the last one brought a usable answer."""
        last = exchange.attempts - 1
        for number, reason in enumerate(exchange.reasons[:last], 1):
            result = "success" if number == last and exchange.flags == "-" else "failure"
            self._metrics.count("retries_total", (reason, result))
        retries, target = exchange.retries, exchange.target
        if retries is not None and retries.over_budget and target is not None:
            self._metrics.count("retries_over_budget_total", (retries.over_budget, target.name))

    def _show(self, watches: Watches, exchange: Exchange, now: float) -> None:
        head, caller, target = exchange.head, exchange.server.caller, exchange.target
        started, first = exchange.started, exchange.first_byte
        dest = target.name if target is not None else ""
        client = caller.address.decode("latin-1")
        takers = watches.takers(
            Facts(
                True,
                exchange.path.direction,
                caller.name,
                dest,
                head.method,
                head.target,
                exchange.status,
                exchange.flags,
                now - started,
                (client, exchange.upstream),
            )
        )
        if not takers:
            return
        record = TapRecord(
            event="request",
            ts=watches.now(),
            dir=exchange.path.direction,
            source=caller.name,
            source_identity=caller.uri,
            client=client,
            dest=dest,
            route=exchange.route,
            subset=target.subset if target is not None else "",
            method=cut(head.method.decode("latin-1")),
            path=path_of(head.target),
            authority=cut(head.authority.decode("latin-1")),
            status=exchange.status,
            flags=exchange.flags,
            details=cut(exchange.details) if exchange.flags != "-" else "",
            rule=exchange.rule,
            upstream=exchange.upstream,
            attempts=exchange.attempts,
            bytes_in=exchange.received,
            bytes_out=exchange.sent,
            dur_ms=round((now - started) * 1000, 3),
            ttfb_ms=round((first - started) * 1000, 3) if first else -1.0,
            tls="TLSv1.3" if caller.secure else "",
            request_id=cut(exchange.request_id.decode("latin-1")),
        )
        with_headers = [watch for watch in takers if watch.filter.headers]
        if len(with_headers) < len(takers):
            watches.give((watch for watch in takers if not watch.filter.headers), record)
        if with_headers:
            record.request_headers = fields_of(head.fields)
            record.response_headers = fields_of(exchange.answer.fields) if exchange.answer is not None else []
            watches.give(with_headers, record)

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
                route=exchange.route,
                subset=target.subset if target is not None else "",
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

    def cut(self, reason: str, count: int = 1) -> None:
        """Open connections end because who is at their other end has lost its trust."""
        self._metrics.count("connections_cut_total", (reason,), count)

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
        if self._watches is not None:
            self._show_tunnel(self._watches, tunnel, "close", name, reason, now - tunnel.started)

    def _show_tunnel(
        self, watches: Watches, tunnel: Tunnel, event: str, name: str, reason: str, seconds: float
    ) -> None:
        caller = tunnel.caller
        client = caller.address.decode("latin-1")
        flags = "UAEX" if reason in (POLICY, DENIED) else tunnel.refusal
        direction = tunnel.direction or "inbound"
        takers = watches.takers(
            Facts(False, direction, caller.name, name, b"", b"", 0, flags, seconds, (client, tunnel.upstream))
        )
        if takers:
            watches.give(
                takers,
                TapRecord(
                    event=event,
                    ts=watches.now(),
                    dir=direction,
                    source=caller.name,
                    source_identity=caller.uri,
                    client=client,
                    dest=name,
                    flags=flags,
                    details=cut(reason),
                    rule=tunnel.rule,
                    upstream=tunnel.upstream,
                    bytes_in=tunnel.from_client,
                    bytes_out=tunnel.to_client,
                    dur_ms=round(seconds * 1000, 3),
                    tls="TLSv1.3" if caller.secure else "",
                ),
            )

    def tunnel_opened(self, tunnel: Tunnel) -> None:
        """A TCP connection has reached an endpoint."""
        destination = tunnel.destination
        assert destination is not None
        caller = tunnel.caller
        mtls = caller.secure or destination.secure
        self._metrics.tcp(tunnel.direction, caller.name, destination.name, mtls).begin()
        if self._watches is not None:
            self._show_tunnel(
                self._watches, tunnel, "open", destination.name, "", time.monotonic() - tunnel.started
            )
