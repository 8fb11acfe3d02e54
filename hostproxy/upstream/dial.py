"""Opening a connection to an endpoint: TCP, and for a peer host mutual TLS with the expected identity."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Protocol

from twisted.logger import Logger

from hostproxy.codec.http1 import HeadLimits
from hostproxy.identity.peer import (
    UNKNOWN_AUTHORITY,
    PeerRefused,
    handshake_failure_reason,
    peer_identity,
    peer_protocol,
)
from hostproxy.identity.refusals import Refusals
from hostproxy.identity.trust import Trust
from hostproxy.net.connect import Address, Connecting, failure_word
from hostproxy.net.deadlines import NEVER, Deadlines
from hostproxy.net.stream import NOBODY, Stream
from hostproxy.net.tls import TlsStream

if TYPE_CHECKING:
    from hostproxy.limits import Limits
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.telemetry.metrics import WorkerMetrics


class Security:
    """How to prove who we are to a peer, and who it must prove to be. Replaced as a whole when certificates change."""

    __slots__ = ("context", "expected", "server_name", "trust_domain")

    def __init__(self, context: ssl.SSLContext, server_name: str, expected: str, trust_domain: str) -> None:
        self.context = context  # presents the caller's certificate, offers one ALPN
        self.server_name = server_name
        self.expected = expected  # SPIFFE ID
        self.trust_domain = trust_domain


class Dialler(Protocol):
    """Who wants the connection."""

    def dialled(self, dial: Dial, stream: Stream) -> None:
        """Here it is; ``stream.owner`` is to be set before returning."""

    def dial_failed(self, dial: Dial, reason: str) -> None:
        """There is none. ``reason``: a word of net.connect, "timeout", or "tls-" and a word of identity.peer."""


class Dial:
    """One connection being opened."""

    __slots__ = ("_address", "_connecting", "_dialler", "_shared", "_stream", "_tls", "deadline", "slot")

    def __init__(
        self, shared: Dialling, address: Address, security: Security | None, dialler: Dialler
    ) -> None:
        self._shared = shared
        self._dialler = dialler
        self._tls = security
        self._address = address
        self._stream: TlsStream | None = None
        self._connecting: Connecting | None = None
        self.deadline = NEVER
        self.slot = 0
        reactor = shared.reactor
        try:
            self._connecting = Connecting(reactor, address, self)
        except OSError as error:
            # Reported from the loop, so that a dialler is never called back before it holds its dial.
            reactor.callLater(0, self._failed, failure_word(error.errno))
            return
        shared.deadlines.set(self, reactor.now + shared.limits.connect)

    def connected(self, sock: socket.socket) -> None:
        """TCP is there."""
        self._connecting = None
        shared = self._shared
        security = self._tls
        if security is None:
            shared.deadlines.forget(self)
            self._dialler.dialled(self, Stream(shared.reactor, sock, NOBODY))
            return
        shared.deadlines.set(self, shared.reactor.now + shared.limits.handshake)
        try:
            self._stream = TlsStream(shared.reactor, sock, self, security.context, security.server_name)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            sock.close()
            shared.metrics.count("tls_handshakes_total", ("client", "failed", "other"))
            shared.log.error("beginning a handshake with {name}: {error}", name=security.server_name, error=error)
            self._failed("error")

    def connect_failed(self, reason: str) -> None:
        """TCP is not."""
        self._connecting = None
        self._failed(reason)

    def secured(self) -> None:
        """The handshake is complete on our side: see who it is."""
        stream = self._stream
        security = self._tls
        assert stream is not None
        assert security is not None
        metrics = self._shared.metrics
        try:
            peer = peer_identity(
                stream.tls.getpeercert(True), security.trust_domain, security.expected, self._shared.denied
            )
            peer_protocol(stream.tls)
            if not self._shared.trust.holds(stream.tls):
                raise PeerRefused(UNKNOWN_AUTHORITY, "the root was trusted when the handshake began, and is not now")
        except PeerRefused as error:
            metrics.count("tls_handshakes_total", ("client", "refused", error.reason))
            self._shared.refusals.note("client", self._whom(security), error.reason, error)
            stream.abort()
            self._failed("tls-" + error.reason)
            return
        metrics.count("tls_handshakes_total", ("client", "ok", ""))
        self._shared.deadlines.forget(self)
        self._stream = None
        stream.peer = peer.identities
        self._dialler.dialled(self, stream)

    def handshake_failed(self, error: Exception) -> None:
        """The handshake failed."""
        reason = handshake_failure_reason(error)
        self._shared.metrics.count("tls_handshakes_total", ("client", "failed", reason))
        assert self._tls is not None
        self._shared.refusals.note("client", self._whom(self._tls), reason)
        self._failed("tls-" + reason)

    def _whom(self, security: Security) -> str:
        return f"{security.server_name} at {self._address.text}"

    def lost(self, reason: str) -> None:
        """The reactor found an error of ours while shaking hands."""
        self._failed("error")

    def received(self, data: bytes) -> None:
        """Not called before secured()."""

    def ended(self) -> None:
        """Not called before secured()."""

    def drained(self) -> None:
        """The handshake's bytes are out."""

    def expired(self, now: float) -> None:
        """It took too long."""
        stream = self._stream
        if stream is not None:
            self._shared.metrics.count("tls_handshakes_total", ("client", "failed", "timeout"))
        self._release()
        self._failed("timeout")

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._shared.deadlines.forget(self)
        self._release()

    def _release(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._stream is not None:
            self._stream.abort()
            self._stream = None

    def _failed(self, reason: str) -> None:
        self._shared.deadlines.forget(self)
        self._dialler.dial_failed(self, reason)


class Dialling:
    """What all endpoints of a process share."""

    log = Logger()

    __slots__ = (
        "deadlines",
        "denied",
        "head_limits",
        "limits",
        "mesh_head_limits",
        "metrics",
        "reactor",
        "refusals",
        "trust",
    )

    def __init__(
        self, reactor: MeshReactor, deadlines: Deadlines, limits: Limits, metrics: WorkerMetrics
    ) -> None:
        self.reactor = reactor
        self.deadlines = deadlines
        self.metrics = metrics
        self.denied: frozenset[str] = frozenset()  # SPIFFE IDs of peers that are refused
        self.trust = Trust(b"")  # the roots in force
        self.refusals = Refusals(reactor.seconds)
        self.bound(limits)

    def bound(self, limits: Limits) -> None:
        """Keep to these limits from now on."""
        self.limits = limits
        self.head_limits = HeadLimits(
            limits.request_line, limits.header_size, limits.header_count, limits.head_size
        )
        self.mesh_head_limits = self.head_limits.after_a_hop()
