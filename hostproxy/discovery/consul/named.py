"""Connections to an agent whose address has a host name.

Twisted looks names up on the reactor's thread pool, which has ten threads for everything, and which a process that ends
waits for. With slow DNS, and a watch for each service that retries, all ten would soon do nothing else. So there is one
lookup at a time here, on a thread that nobody waits for.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver, IStreamClientEndpoint
from zope.interface import directlyProvides, implementer

KEPT = 60.0  # seconds after which a connection has the name looked up again

GetAddrInfo = Callable[..., Iterable[Sequence[Any]]]
Addresses = tuple[IPv4Address | IPv6Address, ...]


@implementer(IStreamClientEndpoint)
class NamedEndpoint:
    """Connects to whichever address of a host answers first.

    The last addresses found stay in use until a lookup finds others, so that slow DNS holds up only who has none.
    """

    def __init__(self, reactor: Any, host: str, port: int, getaddrinfo: GetAddrInfo) -> None:
        """``getaddrinfo`` is called as :func:`socket.getaddrinfo` is, on a thread."""
        self._reactor = reactor
        self._host = host
        self._port = port
        self._getaddrinfo = getaddrinfo
        self._addresses: Addresses = ()
        self._until = float("-inf")  # reactor seconds until which they are not looked up again
        self._asking = False
        self._waiting: dict[Deferred[None], None] = {}  # who has no address to connect to
        # What HostnameEndpoint uses of a reactor, with another resolver.
        own: Any = SimpleNamespace(
            seconds=reactor.seconds,
            callLater=reactor.callLater,
            connectTCP=reactor.connectTCP,
            nameResolver=_Found(self),
        )
        directlyProvides(own, IReactorPluggableNameResolver)
        self._endpoint = HostnameEndpoint(own, host, port)

    @property
    def addresses(self) -> Addresses:
        """Those found last."""
        return self._addresses

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # Twisted's name
        """Open a connection. How long that may take is up to the caller, who may cancel it at any time."""
        return self._resolved().addCallback(lambda _: self._endpoint.connect(protocolFactory))

    def _resolved(self) -> Deferred[None]:
        if not self._asking and self._reactor.seconds() >= self._until:
            threading.Thread(target=self._ask, name="consul-address", daemon=True).start()
            self._asking = True
        if self._addresses:
            return succeed(None)
        waiting: Deferred[None] = Deferred(lambda cancelled: self._waiting.pop(cancelled, None))
        self._waiting[waiting] = None
        return waiting

    def _ask(self) -> None:
        """Look the name up; on its thread."""
        found: tuple[Sequence[Any], ...] = ()
        try:
            found = tuple(self._getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError):
            pass  # that there is no address says it
        finally:
            self._reactor.callFromThread(self._answered, found)

    def _answered(self, found: tuple[Sequence[Any], ...]) -> None:
        self._asking = False
        addresses: list[IPv4Address | IPv6Address] = []
        for family, *_, place in found:
            if family == socket.AF_INET:
                addresses.append(IPv4Address("TCP", *place))
            elif family == socket.AF_INET6:
                addresses.append(IPv6Address("TCP", *place))
        if addresses:
            self._addresses = tuple(addresses)
            self._until = self._reactor.seconds() + KEPT
        waiting, self._waiting = self._waiting, {}
        for each in waiting:
            each.callback(None)


@implementer(IHostnameResolver)
class _Found:
    """Gives HostnameEndpoint the addresses that have been found, at once."""

    def __init__(self, endpoint: NamedEndpoint) -> None:
        self._endpoint = endpoint

    def resolveHostName(  # Twisted's names
        self, resolutionReceiver: Any, hostName: str, portNumber: int = 0, *_: object
    ) -> Any:
        resolutionReceiver.resolutionBegan(self)
        for address in self._endpoint.addresses:
            resolutionReceiver.addressResolved(address)
        resolutionReceiver.resolutionComplete()
        return self
