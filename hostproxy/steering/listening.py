"""Where the controller can bring policy to: the listener, and who is let in there."""

# Twisted's reactors have few annotations.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from hostproxy.mesh import addresses
from hostproxy.steering import server
from hostproxy.steering.controller import Answer
from hostproxy.steering.tls import ServerSide, check_caller

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

    from hostproxy.config import Config
    from hostproxy.discovery.watch import Watch
    from hostproxy.steering.renewal import Certificates

AGAIN = 1.0  # seconds until [controller] listen is tried again: who had it may be leaving


class Listening:
    """Listens from :meth:`start` to :meth:`stop`, as soon as it can."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: Config,
        certificates: Certificates,
        denied: Watch[tuple[str, ...]],
        respond: Callable[[str, str, bytes], Deferred[Answer]],
        now: Callable[[], float],
    ) -> None:
        """``respond`` gets method, path and body; ``now`` gives Unix seconds."""
        self.problem = ""
        self._reactor = reactor
        self._config = config
        self._certificates = certificates
        self._denied = denied
        self._now = now
        self._factory = server.Factory(reactor, respond, self._check)
        self._side = lru_cache(maxsize=1)(self._make_side)
        self._port: Any = None
        self._again: DelayedCall | None = None  # the next try

    @property
    def open(self) -> bool:
        """Whether it does."""
        return self._port is not None

    @property
    def address(self) -> str:
        """Where the controller finds it; empty: nowhere."""
        ip, port = addresses.split(self._config.controller.listen)
        if self._port is None:
            return ""
        host = self._config.host.address if ip in addresses.ANY else ip
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        """Listen. Nothing happens when it does, or tries to already. There is a certificate of the host by now."""
        if self._port is None and self._again is None:
            self._listen()

    def stop(self) -> None:
        """End it, and all connections."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._port is not None:
            self._port.stopListening()
            self._port = None
        self._factory.abort()

    def _listen(self) -> None:
        self._again = None
        ip, port = addresses.split(self._config.controller.listen)
        try:
            self._port = self._reactor.listenTCP(
                port, server.SecureFactory(self._reactor, self._factory, self._server_side), interface=ip
            )
        except CannotListenError as error:
            problem = f"[controller] listen {self._config.controller.listen}: {error.socketError}: policy comes late"
            if problem != self.problem:
                self.log.error("{problem}", problem=problem)
            self.problem = problem
            self._again = self._reactor.callLater(AGAIN, self._listen)
        else:
            self.problem = ""

    def _server_side(self) -> ServerSide:
        return self._side(self._certificates.identities.value.by_name["host"], tuple(self._certificates.roots))

    def _make_side(self, identity: Any, roots: Any) -> ServerSide:
        return ServerSide(list(roots), identity)

    def _check(self, connection: Any) -> None:
        domain = self._config.mesh.trust_domain
        check_caller(connection, domain, self._denied.value, self._certificates.roots, self._now())
