"""One request from the controller to one host."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import TimeoutError as ConnectTimedOut
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from controller import bodies
from controller.bodies import Body
from controller.push.tls import Credential, HostConnection, context
from hostproxy.mesh import addresses
from hostproxy.mesh.bundle import BUNDLE_SIZE
from hostproxy.mesh.messages import BODY_SIZE, Confirm, HostReport, Malformed, Problem, decode, encode
from hostproxy.mesh.spiffe import SpiffeId

REASON = 500  # characters of a host's own words that are kept and logged


class PushFailed(Exception):
    """A host was not told; the text says why."""


class Pusher:
    """Tells hosts, each over a connection of its own: they are many, and the next word is hours away."""

    def __init__(self, reactor: Any, trust_domain: str, credential: Credential, timeout: float) -> None:
        """``timeout``: seconds for one request, connecting included."""
        self._reactor = reactor
        self._trust_domain = trust_domain
        self._timeout = timeout
        self._context = context(credential)

    def show(self, credential: Credential) -> None:
        """Use this from now on."""
        self._context = context(credential)

    async def push(self, host: str, address: str, bundle: bytes) -> HostReport:
        """Give ``host`` its bundle; how it stands now. Raises :class:`PushFailed`."""
        return _report(await self._ask(host, address, b"PUT", "/v1/bundle", bundle, "application/octet-stream"))

    async def ask(self, host: str, address: str) -> HostReport:
        """How ``host`` stands now. Raises :class:`PushFailed`."""
        return _report(await self._ask(host, address, b"GET", "/v1/report", b"", ""))

    async def bundle(self, host: str, address: str) -> bytes:
        """The bundle that ``host`` has in force, as it says. Raises :class:`PushFailed`."""
        return await self._ask(host, address, b"GET", "/v1/bundle", b"", "", BUNDLE_SIZE)

    async def confirm(self, host: str, address: str, confirm: Confirm) -> None:
        """Let ``host`` stay with what it has. Raises :class:`PushFailed`."""
        await self._ask(host, address, b"POST", "/v1/confirm", encode(confirm), "application/json")

    async def _ask(
        self, host: str, address: str, method: bytes, path: str, body: bytes, kind: str, limit: int = BODY_SIZE
    ) -> bytes:
        try:
            ip, port = addresses.split(addresses.reachable_ip(address))
        except ValueError as error:
            raise PushFailed(f"its address {address!r:.60} {error}") from None
        creator = HostConnection(self._context, SpiffeId.host(self._trust_domain, host))
        endpoint = _Secured(self._reactor, ip, port, creator, self._timeout)
        pool: Any = HTTPConnectionPool
        agent: Any = Agent
        headers = Headers({"content-type": [kind]} if kind else {})
        asking: Deferred[tuple[int, bytes]] = Deferred.fromCoroutine(
            _asked(
                agent.usingEndpointFactory(self._reactor, endpoint, pool(self._reactor, persistent=False)),
                (method, f"https://{address}{path}".encode(), headers, Body(body) if body else None),
                limit,
            )
        )
        asking.addTimeout(self._timeout, self._reactor)
        try:
            status, content = await asking
        except Exception as error:
            raise PushFailed(_explained(error, creator, self._timeout)) from None
        if status >= 300:
            raise PushFailed(f"it answers {status}: {_reason(content)}")
        return content


def _report(body: bytes) -> HostReport:
    try:
        return decode(body, HostReport)
    except Malformed as error:
        raise PushFailed(f"the answer is not a report: {error}") from None


async def _asked(agent: Any, request: tuple[bytes, bytes, Headers, Body | None], limit: int) -> tuple[int, bytes]:
    response = await agent.request(*request)
    return response.code, await bodies.read(response, limit)


def _reason(content: bytes) -> str:
    try:
        return decode(content, Problem).error[:REASON]
    except Malformed:
        return content[:REASON].decode("utf-8", "replace")


def _explained(error: Exception, creator: HostConnection, timeout: float) -> str:
    if creator.wrong is not None:
        return str(creator.wrong)
    reasons = getattr(error, "reasons", None)  # of a request that Twisted gave up
    while reasons:
        error = reasons[0].value
        reasons = getattr(error, "reasons", None)
    if isinstance(error, SSL.Error):
        return f"TLS: {'; '.join(str(each[-1]) for each in error.args[0]) if error.args and error.args[0] else 'ended'}"
    if isinstance(error, CancelledError | TimedOut | ConnectTimedOut):
        return f"no answer within {timeout:g} s"
    return str(error) or type(error).__name__


@implementer(IAgentEndpointFactory)
class _Secured:
    """Opens a connection to one address, whatever the URI."""

    def __init__(self, reactor: Any, ip: str, port: int, creator: HostConnection, timeout: float) -> None:
        kind: Any = TCP6ClientEndpoint if ":" in ip else TCP4ClientEndpoint
        self._endpoint = kind(reactor, ip, port, timeout)
        self._reactor = reactor
        self._creator = creator

    def endpointForURI(self, uri: object) -> _Secured:  # Twisted's names
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        # Not wrapClientTLS: that takes the process's global reactor for its clock.
        secure: Any = TLSMemoryBIOFactory
        connecting: Deferred[Any] = self._endpoint.connect(secure(self._creator, True, factory, self._reactor))
        return connecting.addCallback(lambda outer: outer.wrappedProtocol)
