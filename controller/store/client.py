"""Requests to the agent of Consul on this host. Bounded in time, size and number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from OpenSSL import SSL
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from controller import bodies
from controller.store import Unavailable, Unusable
from controller.store.tls import Secured
from hostproxy.mesh import addresses

TIMEOUT = 10.0  # seconds for one answer, the wait for others included
CONNECT = 3.0  # seconds
BODY = 1024 * 1024  # bytes of an answer, unless asked otherwise
AT_A_TIME = 16  # requests
MOST_WAITING = 4096

T = TypeVar("T")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where the agent is. Paths of files are "" where there is none."""

    address: str = "http://127.0.0.1:8500"  # http://IP:PORT, https://NAME:PORT or unix:/path
    ca: str = ""  # PEM: the authorities of the agent's certificate; "" trusts those of the platform
    certificate: str = ""  # PEM: to show the agent, if it wants one
    key: str = ""


class Reply(msgspec.Struct, frozen=True):
    """An answer, whatever its status."""

    status: int
    body: bytes
    filtered: bool = False  # Consul says to have left out what the token may not see; older ones never do


class TooLong(Unavailable):
    """The answer is longer than was asked for."""


def decoded(reply: Reply, kind: type[T]) -> T:
    """The JSON of an answer. Raises :class:`Unavailable` when it is something else."""
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unavailable(f"an answer of Consul that is not understood: {error}") from None


def refused(reply: Reply) -> Unavailable:
    """What to raise for an answer that is an error."""
    text = reply.body[:200].decode("ascii", "backslashreplace").strip()
    denied = reply.status == 403 or "ermission denied" in text  # in a transaction it is 409
    hint = "; the token of the controller needs key write and session write" if denied else ""
    return Unavailable(f"Consul answers {reply.status} {text!a}{hint}")


class Client:
    """The way to one agent."""

    def __init__(self, reactor: Any, address: Address, token: Callable[[], str]) -> None:
        """``token`` is asked before each request; "" sends none. Raises :class:`Unusable`: a file, or the address."""
        self.address = address.address
        self._reactor = reactor
        self._token = token
        self._endpoint = _Endpoint(reactor, address)
        pool: Any = HTTPConnectionPool
        self._pool = pool(reactor)
        self._pool.maxPersistentPerHost = AT_A_TIME
        agent: Any = Agent
        self._agent = agent.usingEndpointFactory(reactor, self._endpoint, self._pool)
        self._turn = DeferredSemaphore(AT_A_TIME)
        self._asking: set[Deferred[Reply]] = set()
        self._closed = False

    def request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        timeout: float = TIMEOUT,
        limit: int = BODY,
        token: str | None = None,
    ) -> Deferred[Reply]:
        """Ask; fails with :class:`Unavailable` when there is no whole answer of at most ``limit`` bytes in time.

        ``path`` and ``params`` are plain text, quoted here. A request is sent once: whether it had an effect is not
        known when this fails. Cancelling the Deferred ends the connection. ``token`` is sent instead of the usual one.
        """
        uri = quote(path, safe="/") + ("?" + urlencode(params) if params else "")
        asking: Deferred[Reply] = Deferred.fromCoroutine(self._ask(method, uri, body, limit, token))
        self._asking.add(asking)
        asking.addTimeout(timeout, self._reactor)
        return asking.addBoth(self._answered, asking, timeout)

    def close(self) -> Deferred[None]:
        """Fail what is under way, and end all connections."""
        self._closed = True
        for asking in list(self._asking):
            asking.cancel()
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed

    async def _ask(self, method: str, uri: str, body: bytes, limit: int, token: str | None) -> Reply:
        if self._closed:
            raise Unavailable("the connection to Consul is closed")
        if len(self._asking) >= MOST_WAITING:
            raise Unavailable(f"{MOST_WAITING} requests wait for Consul already")
        await self._turn.acquire()
        try:
            headers = Headers({b"User-Agent": [b"hostproxy-controller"]})
            if shown := self._token() if token is None else token:
                headers.addRawHeader(b"X-Consul-Token", shown.encode("ascii"))
            url = self._endpoint.url + uri.encode("ascii")
            response = await self._agent.request(method.encode(), url, headers, bodies.Body(body) if body else None)
            filtered = response.headers.getRawHeaders(b"X-Consul-Results-Filtered-By-ACLs", [b""])[0] == b"true"
            return Reply(response.code, await bodies.read(response, limit), filtered)
        finally:
            self._turn.release()

    def _answered(self, result: Reply | Failure, asking: Deferred[Reply], timeout: float) -> Reply | Failure:
        self._asking.discard(asking)
        if not isinstance(result, Failure):
            return result
        if isinstance(result.value, bodies.TooLong):
            raise TooLong(str(result.value)) from None
        late = "the connection is closed" if self._closed else f"no answer within {timeout:g} s"
        raise Unavailable(f"Consul at {self.address}: {_explained(result.value, late)}") from None


def _explained(error: BaseException | None, late: str) -> str:
    if isinstance(error, Refused):
        return "nobody listens there"
    if isinstance(error, CancelledError | TimedOut):
        return late
    reasons = [each.value for each in getattr(error, "reasons", ())]
    if reasons:
        return _explained(reasons[0], late)
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return "TLS: " + (", ".join(str(entry[-1]) for entry in error.args[0]) or "the connection was cut")
    return str(error) or type(error).__name__


@implementer(IAgentEndpointFactory)
class _Endpoint:
    """Opens connections to the agent, whatever the URI."""

    def __init__(self, reactor: Any, config: Address) -> None:
        self._reactor = reactor
        self._secured: Secured | None = None
        kind: Any
        if addresses.is_unix(config.address):
            self.url = b"http://localhost"
            kind = UNIXClientEndpoint
            self._endpoint = kind(reactor, config.address.removeprefix(addresses.UNIX), CONNECT)
            return
        scheme, _, rest = config.address.partition("://")
        try:
            host, port = addresses.split(rest)
        except ValueError:
            host, port = "", 0
        if scheme not in ("http", "https") or not host:
            raise Unusable(f"{config.address}: is not http://IP:PORT, https://NAME:PORT or unix:/path")
        self.url = config.address.encode("ascii")
        if isIPAddress(host):
            kind = TCP4ClientEndpoint
        elif isIPv6Address(host):
            kind = TCP6ClientEndpoint
        else:
            kind = HostnameEndpoint
        self._endpoint = kind(reactor, host, port, CONNECT)
        if scheme == "https":
            self._secured = Secured(host, config.ca, config.certificate, config.key)

    def endpointForURI(self, uri: object) -> _Endpoint:  # Twisted's names
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        if self._secured is None:
            return self._endpoint.connect(factory)  # type: ignore[no-any-return]
        # Not wrapClientTLS: that takes the process's global reactor for its clock.
        secure: Any = TLSMemoryBIOFactory
        connecting: Deferred[Any] = self._endpoint.connect(secure(self._secured, True, factory, self._reactor))
        return connecting.addCallback(lambda outer: outer.wrappedProtocol)
