"""Connections to the agent: opened within a limit of time, watched for what comes over them, all known by name."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IHandshakeListener, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from hostproxy.config_discovery import ConsulConfig
from hostproxy.discovery.consul.errors import AgentError
from hostproxy.discovery.consul.named import NamedEndpoint
from hostproxy.discovery.consul.tls import ClientTls, TlsError
from hostproxy.mesh import addresses

CONNECT = 3.0  # seconds to open a connection, name and TLS handshake included
HEAD = 64 * 1024  # bytes: the most for status line and headers of an answer
BODY = 16 * 1024 * 1024  # bytes: the most for its body
ANSWER = BODY + 1024 * 1024  # bytes: the most for all of it as transferred; Go's chunks cost one in two hundred


class Stale(Exception):
    """A connection that had served before ended without a byte of an answer: ask over another one."""


@implementer(IHandshakeListener)
class Connection(ProtocolWrapper):
    """One connection: what Twisted's HTTP protocol takes for its transport."""

    transport: Any

    def __init__(self, factory: Any, wrapped: Any) -> None:
        super().__init__(factory, wrapped)
        self._securing: Deferred[None] | None = None  # until the TLS handshake is over
        self._error: AgentError | None = None  # why we ended it
        self._requests = 0
        self._received = 0  # bytes since the last request
        self._head = False  # it is the head of an answer that comes

    def secured(self) -> Deferred[None]:
        """Fires when the TLS handshake is complete, and fails when it is not going to be."""
        self._securing = Deferred(self._not_secured)
        return self._securing

    def _not_secured(self, _: object) -> None:
        self._securing = None
        self.end(AgentError("timeout", "no TLS handshake"))

    def handshakeCompleted(self) -> None:
        """Twisted tells that TLS is there."""
        securing, self._securing = self._securing, None
        if securing is not None:
            securing.callback(None)

    def writeSequence(self, data: Any) -> None:
        """A request begins: its head comes in one call."""
        self._requests += 1
        self._received = 0
        self._head = True
        super().writeSequence(data)

    def pauseProducing(self) -> None:
        """The head of an answer is complete: Twisted pauses until somebody takes the body."""
        self._head = False
        self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        """Pass it on; end the connection when it is too much."""
        self._received += len(data)
        super().dataReceived(data)
        if self._head and self._received > HEAD:
            self.end(AgentError("protocol", f"headers of more than {HEAD // 1024} KiB"))
        elif self._received > ANSWER:
            self.end(AgentError("too_large", f"an answer of more than {ANSWER >> 20} MiB"))

    def loseConnection(self) -> None:
        """End it at once: there is never anything left to say, and nobody to wait for."""
        self.end(AgentError("protocol", "an answer that is not HTTP"))

    def end(self, error: AgentError) -> None:
        """End it at once; ``error`` is why, for the request under way if there is one."""
        if self._error is None:
            self._error = error
            self.disconnecting = 1
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Say why in our words, where we know better."""
        if self._error is not None:
            reason = Failure(self._error)
        elif self._requests > 1 and not self._received:
            reason = Failure(Stale())
        super().connectionLost(reason)
        securing, self._securing = self._securing, None
        if securing is not None:
            securing.errback(reason)


class _Factory(WrappingFactory[Connection]):
    protocol = Connection
    noisy = False

    def __init__(self, wrapped: Any, endpoint: AgentEndpoint) -> None:
        super().__init__(wrapped)
        self.endpoint = endpoint

    def registerProtocol(self, p: Connection) -> None:
        self.endpoint.connections.add(p)

    def unregisterProtocol(self, p: Connection) -> None:
        self.endpoint.gone(p)


@implementer(IStreamClientEndpoint, IAgentEndpointFactory)
class AgentEndpoint:
    """Where the agent is: opens connections to it, and knows all that are open."""

    def __init__(self, reactor: Any, config: ConsulConfig) -> None:
        self.connections: set[Connection] = set()
        self.tls: ClientTls | None = None
        self._reactor = reactor
        self._waiting: list[Deferred[None]] = []  # for all connections to be gone
        address = config.address
        if addresses.is_unix(address):
            self.url, self.host = b"http://localhost", b"localhost"
            kind: Any = UNIXClientEndpoint
            self._endpoint = kind(reactor, address.removeprefix(addresses.UNIX))
            return
        scheme, _, netloc = address.partition("://")
        self.url, self.host = address.encode("ascii"), netloc.encode("ascii")
        host, port = addresses.split(netloc)
        if isIPAddress(host):
            kind = TCP4ClientEndpoint
        elif isIPv6Address(host):
            kind = TCP6ClientEndpoint
        else:
            kind = partial(NamedEndpoint, getaddrinfo=socket.getaddrinfo)
        self._endpoint = kind(reactor, host, port)
        if scheme == "https":
            self.tls = ClientTls(reactor, config, host)

    def __repr__(self) -> str:
        return f"<AgentEndpoint {self.url.decode()}>"

    def endpointForURI(self, uri: object) -> AgentEndpoint:  # Twisted's name
        """There is one place to connect to, whatever the URI."""
        return self

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Open a connection, ready to be used; fails with what Twisted or TLS say, or with TimeoutError."""
        connecting = Deferred.fromCoroutine(self._connect(protocolFactory))
        return connecting.addTimeout(CONNECT, self._reactor)

    async def _connect(self, protocol_factory: Any) -> Any:
        factory = _Factory(protocol_factory, self)
        if self.tls is None:
            return (await self._endpoint.connect(factory)).wrappedProtocol
        # Not wrapClientTLS: that takes the process's global reactor for its clock.
        secure: Any = TLSMemoryBIOFactory
        outer = await self._endpoint.connect(secure(self.tls.options(), True, factory, self._reactor))
        connection: Connection = outer.wrappedProtocol
        await connection.secured()
        try:
            self.tls.check(connection.transport.getPeerCertificate())
        except TlsError as error:
            connection.end(AgentError("tls", str(error)))
            raise
        return connection.wrappedProtocol

    def gone(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if not self.connections:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.callback(None)

    def close(self) -> Deferred[None]:
        """End all connections; fires once they are gone."""
        if not self.connections:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._waiting.append(closed)
        for connection in list(self.connections):
            connection.end(AgentError("closed", "hostproxy asks no more"))
        return closed
