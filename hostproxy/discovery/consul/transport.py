"""One request to the agent of Consul, and its answer: Twisted's HTTP client, bounded in time, size and number.

Every request under way has a connection of its own, which serves another one afterwards: a blocking query that
returned goes on over the connection that it had. Requests that the agent answers at once share ``SHORT`` connections
and wait for each other, so that there are never more than ``[discovery.consul] watches`` and those.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent as WebAgent
from twisted.web.client import HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from hostproxy.config_discovery import ConsulConfig
from hostproxy.discovery.consul.connection import BODY, AgentEndpoint, Stale
from hostproxy.discovery.consul.counters import Counters
from hostproxy.discovery.consul.errors import AgentError
from hostproxy.discovery.consul.reasons import causes, explained, not_http
from hostproxy.mesh.clocks import Comparison

__all__ = ("Agent", "AgentError", "Reply")

SHORT = 4  # requests under way at a time, blocking queries aside
IDLE = 60.0  # seconds that an unused connection stays open: longer than a watch pauses between two rounds
REPEATABLE = frozenset(("GET", "PUT", "DELETE"))  # RFC 9110 section 9.2.2, and true of Consul's

_DECIMAL = re.compile(rb"[0-9]{1,20}")


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of the agent, whatever its status."""

    status: int
    body: bytes = b""
    index: int | None = None  # X-Consul-Index; None when it is missing or no number
    known_leader: bool = True  # X-Consul-KnownLeader
    last_contact: float = 0.0  # X-Consul-LastContact: seconds that the answering server is behind the leader
    filtered: bool = False  # X-Consul-Results-Filtered-By-ACLs: the token may not see all of it
    retry_after: float = 0.0  # Retry-After: seconds; 0.0 when it is missing, or a date


class Agent:
    """The way to the agent of Consul that ``config`` describes."""

    def __init__(
        self,
        reactor: Any,
        config: ConsulConfig,
        token: Callable[[], str],
        counters: Counters,
        clock: Comparison | None = None,
    ) -> None:
        """``token`` is asked before each request: "" sends none, and an :class:`AgentError` fails the request.

        ``clock`` is told what time it is for the agent, with each answer that did not wait.
        """
        self.reactor = reactor
        self.counters = counters
        self.clock = clock
        self.address = config.address
        self.token_changed: Callable[[], object] = lambda: None  # called before another token than before is sent
        self._namespace = config.namespace
        self._token = token
        self._endpoint = AgentEndpoint(reactor, config)
        pool: Any = HTTPConnectionPool
        self._pool = pool(reactor)
        self._pool.maxPersistentPerHost = config.watches + SHORT
        self._pool.cachedConnectionTimeout = IDLE
        self._pool.retryAutomatically = False  # done here, for PUT as well
        web: Any = WebAgent
        self._web = web.usingEndpointFactory(reactor, self._endpoint, self._pool)
        self._calls: dict[_Call, None] = {}  # all that have no answer yet
        self._line: deque[_Call] = deque()  # those that wait for others
        self._short = 0  # those that count against SHORT
        self._sent: tuple[str, Headers] | None = None  # the token, and the headers made with it
        self._closed = False

    @property
    def problem(self) -> str:
        """What is wrong with the files for TLS while the last good ones are in use; "" when nothing is."""
        return self._endpoint.tls.problem if self._endpoint.tls is not None else ""

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._endpoint.connections)

    def request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        timeout: float,
        persistent: bool = True,
        what: str,
    ) -> Deferred[Reply]:
        """Ask, and fail with :class:`AgentError` when there is no answer.

        ``path`` and ``params`` are plain text, quoted here. ``timeout`` (seconds) is for everything: waiting for
        others, connecting, the last byte of the body. ``persistent=False`` is for blocking queries, which never wait
        for others. ``what`` is the endpoint's name in metrics. Cancelling the Deferred ends the connection.
        """
        pairs = list(params.items()) if isinstance(params, Mapping) else list(params)
        if self._namespace and all(name != "ns" for name, _ in pairs):
            pairs.append(("ns", self._namespace))
        if self._closed:
            self.counters.request(what, "closed")
            return fail(_closed())
        uri = quote(path, safe="/:") + ("?" + urlencode(pairs) if pairs else "")
        call = _Call(self, method, self._endpoint.url + uri.encode("ascii"), body, timeout, what)
        self._calls[call] = None
        if persistent:
            self._line.append(call)
            self._next()
        else:
            call.ask()
        return call.result

    def close(self) -> Deferred[None]:
        """Fail what is under way ("closed"), end all connections, and fire once they are gone. Asks nobody then."""
        self._closed = True
        for call in list(self._calls):
            call.abandon(_closed())
        ended: Deferred[None] = self._pool.closeCachedConnections()
        return succeed(None).addCallback(lambda _: ended).addCallback(lambda _: self._endpoint.close())

    # Of calls only

    def ended(self, call: _Call, code: str) -> None:
        """A call has got its answer, or gets none."""
        self.counters.request(call.what, code)
        del self._calls[call]
        if call.short:
            self._short -= 1
            self._next()
        elif call in self._line:
            self._line.remove(call)

    def send(self, method: str, uri: bytes, body: bytes) -> Deferred[Any]:
        """Send it over a connection that is free, or a new one. Raises :class:`AgentError` without a token."""
        token = self._token()
        if self._sent is None or self._sent[0] != token:
            headers = Headers({b"Host": [self._endpoint.host], b"User-Agent": [b"hostproxy"]})
            if token:
                headers.addRawHeader(b"X-Consul-Token", token.encode("ascii"))
            changed, self._sent = self._sent is not None, (token, headers)
            if changed:
                self.token_changed()
        sent: Deferred[Any] = self._web.request(method.encode(), uri, self._sent[1], _Body(body) if body else None)
        return sent

    def explained(self, failure: Failure) -> AgentError:
        """Why there is no answer."""
        return explained(failure, self.address)

    def _next(self) -> None:
        while self._line and self._short < SHORT:
            call = self._line.popleft()
            call.short = True
            self._short += 1
            call.ask()


class _Call(Protocol):
    """A request without an answer yet; takes the body of the answer."""

    def __init__(self, agent: Agent, method: str, uri: bytes, body: bytes, timeout: float, what: str) -> None:
        self.what = what
        self.short = False
        self.result: Deferred[Reply] = Deferred(self._cancelled)
        self._agent = agent
        self._request = method, uri, body
        self._asking: Deferred[Any] | None = None  # for the head of the answer
        self._asked = (0.0, 0.0)  # when
        self._response: Any = None  # the head of the answer, twisted.web.iweb.IResponse
        self._received = bytearray()
        self._over = False
        late = AgentError("timeout", f"no answer from the agent of Consul at {agent.address} within {timeout:g} s")
        self._timer = agent.reactor.callLater(timeout, self.abandon, late)

    def ask(self) -> None:
        """Send the request."""
        if self._agent.clock is not None:
            self._asked = self._agent.clock.ask()
        try:
            self._asking = self._agent.send(*self._request)
        except AgentError as error:
            self._fail(error)
            return
        self._asking.addCallbacks(self._answered, self._failed)

    def _answered(self, response: Any) -> None:
        self._response = response
        if self._agent.clock is not None:
            self._agent.clock.take(_last(response.headers, b"Date").decode("latin-1"), self._asked)
        if 200 <= response.code <= 599:
            response.deliverBody(self)
        else:
            self._fail(not_http(self._agent.address, "a status that HTTP does not have"))
            response.deliverBody(self)  # what there is of it, to get at the connection
            self._disconnect()

    def _failed(self, failure: Failure) -> None:
        if self._over:
            return
        if self._request[0] in REPEATABLE and any(isinstance(each, Stale) for each in causes(failure)):
            # Each round takes one of the connections that had served before, and the last one a new connection.
            self.ask()
        else:
            self._fail(self._agent.explained(failure))

    def dataReceived(self, data: bytes) -> None:  # Twisted's name
        """A piece of the body."""
        self._received += data
        if len(self._received) > BODY:
            message = f"an answer of the agent of Consul at {self._agent.address} is larger than {BODY >> 20} MiB"
            self.abandon(AgentError("too_large", message))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end of the body, for this or that reason."""
        if self._over:
            return
        status = self._response.code
        whole = isinstance(reason.value, ResponseDone)
        if not whole and (status < 300 or not isinstance(reason.value, PotentialDataLoss)):
            # The text of an error answer may end with the connection: so does Go's to HTTP on a port for HTTPS.
            self._fail(self._agent.explained(reason))
            return
        self._end(str(status))
        self.result.callback(reply(status, self._response.headers, bytes(self._received)))

    def abandon(self, error: AgentError) -> None:
        """Give up, and end the connection."""
        if not self._over:
            self._fail(error)
            self._disconnect()

    def _cancelled(self, _: object) -> None:
        self._end("cancelled")
        self._disconnect()

    def _fail(self, error: AgentError) -> None:
        self._end(error.kind)
        self.result.errback(error)

    def _end(self, code: str) -> None:
        self._over = True
        if self._timer.active():
            self._timer.cancel()
        self._agent.ended(self, code)

    def _disconnect(self) -> None:
        if self._response is not None:
            transport: Any = self.transport
            transport.loseConnection()
        elif self._asking is not None:
            self._asking.cancel()


@implementer(IBodyProducer)
class _Body:
    """The body of a request, sent in one piece."""

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body

    def startProducing(self, consumer: Any) -> Deferred[None]:  # Twisted's names
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It has been handed over already."""

    resumeProducing = stopProducing = pauseProducing  # noqa: N815


def reply(status: int, headers: Headers, body: bytes) -> Reply:
    """The answer with what its headers say. What is broken in them counts as absent."""
    index = _number(headers, b"X-Consul-Index")
    return Reply(
        status=status,
        body=body,
        index=index,
        known_leader=_last(headers, b"X-Consul-KnownLeader") != b"false",
        last_contact=(_number(headers, b"X-Consul-LastContact") or 0) / 1000,
        filtered=_last(headers, b"X-Consul-Results-Filtered-By-ACLs") == b"true",
        retry_after=float(_number(headers, b"Retry-After") or 0),
    )


def _last(headers: Headers, name: bytes) -> bytes:
    values = headers.getRawHeaders(name)
    return bytes(values[-1]).strip().lower() if values else b""


def _number(headers: Headers, name: bytes) -> int | None:
    text = _last(headers, name)
    return int(text) if _DECIMAL.fullmatch(text) else None


def _closed() -> AgentError:
    return AgentError("closed", "hostproxy asks Consul no more")
