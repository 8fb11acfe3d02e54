"""The outbound path: from a local app to a peer host's mesh port, or in plain text where policy permits it.

    listen -> caller -> codec -> route -> enforce -> upstream (balance, pool) -> TLS -> peer's mesh port

``begin`` is that line for one request. A request reads the tables once, at its head, and keeps what it found in the
exchange: also the route's choice, which later changes of the policy leave alone. What later stages need stands where
it will be asked: a mirror beside ``send``, and retries in ``attempt``, which is called again with the endpoints already
tried. None of it knows HTTP/1.1: the exchange's two ends may as well be streams of HTTP/2.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hostproxy.exchange import forward
from hostproxy.exchange.replies import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostproxy.exchange.caller import Caller
    from hostproxy.exchange.exchange import Exchange
    from hostproxy.exchange.tunnel import Tunnel
    from hostproxy.reporting import Reporter
    from hostproxy.tables import Tables
    from hostproxy.waiting import Waiting


class Outbound:
    """Decides on every request and connection of local apps."""

    direction = "outbound"

    def __init__(self, tables: Tables, waiting: Waiting, reporter: Reporter) -> None:
        self.tables = tables
        self._waiting = waiting
        self._reporter = reporter
        self.completed: Callable[[Exchange], None] = reporter.request

    def begin(self, exchange: Exchange) -> None:
        """A request has come: find where it goes, and send it there."""
        caller: Caller = exchange.server.caller
        head = exchange.head
        exchange.request_id = head.request_id or self._reporter.request_id()
        if caller.refusal:
            exchange.refuse(Refusal(403, "UAEX", "http_request_denied", caller.refusal))
            return
        tables = self.tables
        service = caller.service or tables.names.service(head.host)
        if service is None:
            self._waiting.wait(exchange)  # it may bring the exchange here again
            return
        if head.method == b"CONNECT":
            self._connect(exchange, caller, service)
            return
        destination = tables.outbound(caller.name, service)
        series, timeout, retry = destination.series, destination.timeout, destination.retry
        if destination.routing is not None:
            way = destination.routing.find(head.method, head.target, head.fields)
            if way is not None:
                destination = tables.outbound(caller.name, way.key)
                series = way.series(destination.secure)
                timeout = destination.timeout if way.timeout is None else way.timeout
                retry = destination.retry if way.retry is None else way.retry
                exchange.route = way.route
        exchange.target = destination
        exchange.series = series
        series.in_flight += 1
        if not head.authority:
            head.authority = service.encode()  # HTTP/1.0 without Host, or an empty one: servers want a name
        if timeout:
            exchange.limit(timeout)
        if retry is not None:
            exchange.allow_retries(retry)
        exchange.request_bytes = forward.request(
            head, caller.address, caller.protocol, b"", exchange.request_id
        )
        # Not when it came: it may have waited for its service to be looked up, and tries have their time from here on.
        destination.send(exchange, exchange.server.reactor.now)

    def attempt(self, exchange: Exchange) -> None:
        """The endpoint could not be reached, or its connection broke before an answer: the next one."""
        destination = exchange.target
        assert destination is not None  # begin() chose it
        if exchange.retries is not None:
            # It may have waited, and its instances may have moved meanwhile.
            current = self.tables.outbound(exchange.server.caller.name, destination.key)
            if current.endpoints:
                exchange.target = destination = current
        destination.send(exchange, time.monotonic())

    def connection(self, tunnel: Tunnel, caller: Caller) -> None:
        """A TCP connection for ``caller.service`` has come."""
        if caller.refusal:
            tunnel.direction = self.direction
            tunnel.refuse("UAEX")
            return
        tunnel.begin(self.tables.outbound_tcp(caller.name, caller.service), self.direction)

    def objection(self, exchange: Exchange) -> str:
        """Path: what local apps may call is decided by the callee's host."""
        return ""

    def _connect(self, exchange: Exchange, caller: Caller, service: str) -> None:
        """CONNECT: bytes to a TCP service, when its port is among those that conf.toml allows."""
        head = exchange.head
        tables = self.tables
        if head.port not in tables.connect_ports:
            text = f"CONNECT to port {head.port} is not allowed: [outbound] connect_ports does not name it"
            exchange.refuse(Refusal(403, "UAEX", "http_request_denied", text))
        elif not tables.is_tcp(service):
            text = f'CONNECT reaches services of protocol "tcp"; {service} is none'
            exchange.refuse(Refusal(403, "UAEX", "http_request_denied", text))
        else:
            exchange.target = destination = tables.outbound_tcp(caller.name, service)
            exchange.series = destination.series
            destination.series.in_flight += 1
            exchange.server.connect(destination)
