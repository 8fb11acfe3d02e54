"""The mesh port: TLS handshakes with peers, and what their certificates prove."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from hostproxy.exchange.caller import Caller
from hostproxy.identity.peer import (
    UNKNOWN_AUTHORITY,
    PeerRefused,
    handshake_failure_reason,
    peer_identity,
    peer_protocol,
)
from hostproxy.mesh.spiffe import SpiffeId
from hostproxy.net.deadlines import NEVER
from hostproxy.net.tls import TlsStream

if TYPE_CHECKING:
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.reporting import Reporter
    from hostproxy.tables import Tables


class MeshPort:
    """Takes peers' connections as far as their identity."""

    def __init__(
        self,
        reactor: MeshReactor,
        tables: Tables,
        reporter: Reporter,
        greeted: Callable[[TlsStream, Caller, str], None],
    ) -> None:
        """``greeted(stream, caller, protocol)`` takes each connection whose peer has proved who it is."""
        self.reactor = reactor
        self.tables = tables
        self.reporter = reporter
        self.greeted = greeted
        self.under_way: dict[Handshake, None] = {}  # the oldest first

    def accepted(self, sock: socket.socket, address: object) -> None:
        """A connection has come. When as many are under way as [limits] handshakes allows, the oldest gives way.

        A handshake takes milliseconds. Were the newest to wait instead, whoever opens connections and says nothing
        could keep everybody out for [limits] handshake seconds at a time, without a certificate.
        """
        while len(self.under_way) >= self.tables.dialling.limits.handshakes:
            next(iter(self.under_way)).cut("crowded-out")
        Handshake(self, sock, address)


class Handshake:
    """One connection until its peer is known."""

    __slots__ = ("_address", "_port", "_stream", "deadline", "slot")

    def __init__(self, port: MeshPort, sock: socket.socket, address: object) -> None:
        self._port = port
        self._address = address
        self.deadline = NEVER
        self.slot = 0
        tables = port.tables
        port.under_way[self] = None
        tables.dialling.deadlines.set(self, port.reactor.now + tables.dialling.limits.handshake)
        self._stream = TlsStream(port.reactor, sock, self, tables.server_contexts.context)

    def secured(self) -> None:
        """The handshake is complete; OpenSSL has verified the chain."""
        self._over()
        stream = self._stream
        port = self._port
        tables = port.tables
        try:
            peer = peer_identity(stream.tls.getpeercert(True), tables.trust_domain, denied=tables.denied)
            protocol = peer_protocol(stream.tls)
            if not tables.trust.holds(stream.tls):
                raise PeerRefused(UNKNOWN_AUTHORITY, "the root was trusted when the handshake began, and is not now")
        except PeerRefused as error:
            port.reporter.handshake("refused", error.reason)
            tables.dialling.refusals.note("server", self._from(), error.reason, error)
            stream.abort()
            return
        port.reporter.handshake("ok", "")
        stream.peer = peer.identities
        uri = peer.uri
        service = tables.server_contexts.service(stream.tls)
        identity = SpiffeId.parse(uri)
        name = identity.name if identity.kind == "service" else f"host/{identity.name}"
        own = SpiffeId.service(tables.trust_domain, service)
        address = self._from()
        line = f"X-Forwarded-Client-Cert: By={own};URI={uri}\r\n"
        caller = Caller(name, uri, address.encode(), b"https", service, line.encode(), secure=True)
        port.greeted(stream, caller, protocol)

    def handshake_failed(self, error: Exception) -> None:
        """The handshake failed."""
        self._over()
        reason = handshake_failure_reason(error)
        self._port.reporter.handshake("failed", reason)
        self._port.tables.dialling.refusals.note("server", self._from(), reason)

    def _from(self) -> str:
        return self._address[0] if isinstance(self._address, tuple) else ""

    def expired(self, now: float) -> None:
        """It took too long."""
        self._over()
        self._stream.abort()
        self._port.reporter.handshake("failed", "timeout")

    def cut(self, reason: str) -> None:
        """End it: others need the place ("crowded-out"), or the process leaves ("drain")."""
        self._over()
        self._stream.abort()
        self._port.reporter.handshake("failed", reason)

    def _over(self) -> None:
        self._port.under_way.pop(self, None)
        self._port.tables.dialling.deadlines.forget(self)

    def received(self, data: bytes) -> None:
        """Not called before secured()."""

    def ended(self) -> None:
        """Not called before secured()."""

    def drained(self) -> None:
        """The handshake's bytes are out."""

    def lost(self, reason: str) -> None:
        """The reactor found an error of ours while shaking hands."""
        self._over()
        self._port.reporter.handshake("failed", "other")
