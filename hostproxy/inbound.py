"""The inbound path: from a peer host through the mesh port to an instance on this host.

    mesh port -> TLS -> peer identity -> codec -> enforce (authorise) -> local instance

``begin`` is that line for one request; TLS and the peer's identity are settled before (:mod:`hostproxy.meshport`). The
decision of ``authorise`` is one call with what it needs and nothing else, and names its rule; further rules, and rules
for the response, join it there.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from hostproxy.exchange import forward
from hostproxy.exchange.replies import Refusal
from hostproxy.exchange.tunnel import POLICY

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostproxy.exchange.caller import Caller
    from hostproxy.exchange.exchange import Exchange
    from hostproxy.exchange.tunnel import Tunnel
    from hostproxy.reporting import Reporter
    from hostproxy.tables import Tables


class Inbound:
    """Decides on every request and connection of peers."""

    direction = "inbound"

    def __init__(self, tables: Tables, reporter: Reporter) -> None:
        self.tables = tables
        self._reporter = reporter
        self.completed: Callable[[Exchange], None] = reporter.request

    def begin(self, exchange: Exchange) -> None:
        """A request of a verified peer has come: may it, and which instance answers it?"""
        caller: Caller = exchange.server.caller
        head = exchange.head
        exchange.request_id = head.request_id or self._reporter.request_id()
        local = self.tables.local(caller.service)
        if local is None:
            text = f"service {caller.service} is not on this host any more"
            exchange.refuse(Refusal(503, "NR", "destination_not_found", text))
            return
        exchange.target = destination = local.destination(caller.name)
        exchange.series = destination.series
        destination.series.in_flight += 1
        if head.method == b"CONNECT":
            # An instance that agreed would hold bytes of any kind on a connection that others use after.
            text = f"CONNECT is not carried between hosts: {local.name} is reached by requests"
            exchange.refuse(Refusal(403, "UAEX", "http_request_denied", text))
            return
        if not local.authoriser.trivial:
            decision = local.authoriser.request(caller.name, head.method, head.target, head.fields)
            exchange.rule = decision.rule
            exchange.audit = self._reporter.decided(decision, local.name)
            if not decision.allowed:
                why = f"denied by {decision.rule}" if decision.by_rule else f"no rule allows it ({decision.rule})"
                text = f"{caller.uri} may not {head.method.decode('latin-1')} this path of {local.name}: {why}"
                exchange.refuse(Refusal(403, "UAEX", "http_request_denied", text))
                return
        if destination.timeout:
            exchange.limit(destination.timeout)
        exchange.request_bytes = forward.request(
            head, caller.address, caller.protocol, caller.identity_line, exchange.request_id
        )
        destination.send(exchange, exchange.started)

    def attempt(self, exchange: Exchange) -> None:
        """The instance could not be reached, or its connection broke before an answer: the next one."""
        destination = exchange.target
        assert destination is not None  # begin() chose it
        destination.send(exchange, time.monotonic())

    def connection(self, tunnel: Tunnel, caller: Caller) -> None:
        """A TCP connection of a verified peer has come."""
        local = self.tables.local(caller.service)
        if local is None:
            tunnel.refuse("NR")
            return
        decision = local.authoriser.connection(caller.name)
        tunnel.rule = decision.rule
        tunnel.audit = self._reporter.decided(decision, local.name)
        if decision.allowed:
            tunnel.begin(local.tcp(caller.name), self.direction, partial(self._object_to, tunnel, caller))
        else:
            tunnel.refuse("UAEX")

    # What goes on under a policy that has changed

    def objection(self, exchange: Exchange) -> str:
        """Path: whether the rules of now still allow the request that a tunnel came of."""
        caller: Caller = exchange.server.caller
        local = self.tables.local(caller.service)
        if local is None or local.authoriser.trivial:
            return ""
        head = exchange.head
        decision = local.authoriser.request(caller.name, head.method, head.target, head.fields)
        exchange.rule = decision.rule
        return "" if decision.allowed else POLICY

    def _object_to(self, tunnel: Tunnel, caller: Caller) -> str:
        local = self.tables.local(caller.service)
        if local is None:
            return ""
        decision = local.authoriser.connection(caller.name)
        tunnel.rule = decision.rule
        return "" if decision.allowed else POLICY
