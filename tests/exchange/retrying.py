"""What tests of retries by policy stand on."""

from __future__ import annotations

from hostproxy.enforce.retry import RetryPolicy
from hostproxy.mesh.retries import Retry
from tests.exchange.proxy import END, GET, Proxy
from tests.support import Peer

BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
PUT = POST.replace(b"POST", b"PUT")
CHUNKED = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def retrying(proxy: Proxy, **retry: object) -> Proxy:
    """Give ``proxy`` a policy. Retries wait for no time, unless the test has a say in it."""
    proxy.policy = RetryPolicy(Retry(**retry))  # type: ignore[arg-type]
    proxy.destination.random = lambda: 0.0
    return proxy


def asked(proxy: Proxy, request: bytes = GET) -> tuple[Peer, Peer, bytes]:
    """A client that has sent ``request``, the origin that has it, and what that received."""
    client = proxy.client()
    client.send(request)
    origin = proxy.origin()
    received = origin.until(END)
    if b"Content-Length: 3" in received:
        received += origin.until(3)
    return client, origin, received


def nothing_more(proxy: Proxy, *origins: Peer) -> None:
    """No origin has another request, on connections that are there or new ones."""
    proxy.loop.settle()
    assert all(not origin.read() for origin in origins)
    assert all(one.pending() is None for one in proxy.origins)


def waiting(proxy: Proxy) -> float:
    """The seconds for which the one retry waits."""
    (call,) = proxy.loop.reactor.getDelayedCalls()
    return call.getTime() - proxy.loop.reactor.seconds()


def fire(proxy: Proxy) -> None:
    """The one retry has waited long enough."""
    (call,) = proxy.loop.reactor.getDelayedCalls()
    call.reset(0)
    proxy.loop.settle()
