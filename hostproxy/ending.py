"""Ends what is open and would not be let in any more: the policy, the denials or the roots are other ones now.

Requests are decided on one by one, so it is enough to look at connections, and only when one of these has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostproxy.exchange.replies import Refusal
from hostproxy.exchange.tunnel import DENIED, UNTRUSTED
from hostproxy.net.tls import TlsStream

if TYPE_CHECKING:
    from twisted.logger import Logger

    from hostproxy.exchange.server import ServerConnection
    from hostproxy.exchange.surroundings import Surroundings
    from hostproxy.exchange.tunnel import Joiner, Suspicion, Tunnel
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.net.stream import Stream
    from hostproxy.reporting import Reporter
    from hostproxy.tables import Tables

# HTTP connections of peers whose root is trusted no longer: unused ones are closed after the first time, for a request
# may be on its way, and responses under way may take the second (seconds).
UNUSED = 0.5
LAST_RESPONSE = 5.0


class Suspicions:
    """Why a stream may not stay open, DENIED or UNTRUSTED; empty: it may."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def denied(self, stream: Stream) -> str:
        """Whether its peer is denied."""
        return "" if self._tables.denied.isdisjoint(stream.peer) else DENIED

    def untrusted(self, stream: Stream) -> str:
        """Whether its peer's chain leads to no root that is trusted now."""
        # Streams without an identity are those of apps and to instances.
        if not stream.peer:
            return ""
        assert isinstance(stream, TlsStream)
        return "" if self._tables.trust.holds(stream.tls) else UNTRUSTED

    def any(self, stream: Stream) -> str:
        """Either."""
        return self.denied(stream) or self.untrusted(stream)


class Ending:
    """Looks at everything that a worker has open."""

    def __init__(
        self,
        reactor: MeshReactor,
        tables: Tables,
        suspicions: Suspicions,
        surroundings: Surroundings,
        joiner: Joiner,
        tunnels: set[Tunnel],
        reporter: Reporter,
        log: Logger,
    ) -> None:
        self._reactor = reactor
        self._tables = tables
        self._suspicions = suspicions
        self._surroundings = surroundings
        self._joiner = joiner
        self._tunnels = tunnels
        self._reporter = reporter
        self._log = log
        self._trust = tables.trust

    def revise(self) -> None:
        """End what the tables of now would not let begin.

        Who is denied is cut off. Who has lost the root over him may be a host that is late with its new certificate:
        his tunnels are cut, and his HTTP connections end after the response under way.
        """
        trust, before = self._tables.trust, self._trust
        self._trust = trust
        if trust is not before and trust.lacks(before):
            self._lose_root()
        denied = self._suspicions.denied
        ended = self._end_tunnels(denied)
        if self._tables.denied:
            ended += self._end_requests(denied)
        if ended:
            self._reporter.cut(DENIED, ended)
            self._log.warn("{count} connections are cut: a peer of theirs is denied", count=ended)

    def _lose_root(self) -> None:
        untrusted = self._suspicions.untrusted
        cut = self._end_tunnels(untrusted)
        last = 0
        for connection in self._surroundings.connections:
            if untrusted(connection.stream):
                connection.retire()
                last += 1
            elif self._calls(connection, untrusted):
                last += 1  # its connection to the endpoint is used for nothing else afterwards
        if cut or last:
            self._reporter.cut(UNTRUSTED, cut + last)
        self._log.warn(
            "a root is trusted no longer: {cut} tunnels are cut, and {last} HTTP connections end after the response"
            " under way, because the certificates at their other end are under no other one",
            cut=cut,
            last=last,
        )
        self._reactor.callLater(UNUSED, self._close_unused)
        self._reactor.callLater(LAST_RESPONSE, self._end_late)

    def _close_unused(self) -> None:
        for connection in list(self._surroundings.connections):
            if self._suspicions.untrusted(connection.stream):
                connection.drain()

    def _end_late(self) -> None:
        untrusted = self._suspicions.untrusted
        ended = self._end_requests(untrusted) + self._end_tunnels(untrusted)
        if ended:
            self._log.warn("{count} connections are cut: their last response took too long", count=ended)

    def _end_requests(self, suspicion: Suspicion) -> int:
        ended = 0
        for connection in list(self._surroundings.connections):
            exchange = connection.exchange
            if reason := suspicion(connection.stream):
                connection.expel("UAEX", f"{connection.caller.uri}, or its host, is {reason}")
            elif exchange is not None and (reason := self._calls(connection, suspicion)):
                text = f"the endpoint {exchange.upstream}, or its host, is {reason}"
                exchange.refuse(Refusal(503, "UAEX", "destination_unavailable", text))
            else:
                continue
            ended += 1
        return ended

    def _end_tunnels(self, suspicion: Suspicion) -> int:
        return self._joiner.revise(suspicion) + sum(tunnel.revise(suspicion) for tunnel in list(self._tunnels))

    @staticmethod
    def _calls(connection: ServerConnection, suspicion: Suspicion) -> str:
        """What is suspicious about the endpoint that is answering the request under way."""
        exchange = connection.exchange
        client = exchange.client if exchange is not None else None
        return suspicion(client.stream) if client is not None else ""
