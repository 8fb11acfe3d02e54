"""Everything that carries traffic in one worker, behind the few calls that the supervisor's messages become."""

from __future__ import annotations

import resource
import secrets
import socket
from functools import partial
from random import random
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from hostproxy.ending import Ending, Suspicions
from hostproxy.exchange.answers import DRAIN_GRACE
from hostproxy.exchange.caller import Caller
from hostproxy.exchange.replies import Refusal, reply
from hostproxy.exchange.server import ServerConnection
from hostproxy.exchange.surroundings import Surroundings
from hostproxy.exchange.tunnel import DENIED, POLICY, UNTRUSTED, Joiner, Tunnel
from hostproxy.identity.workload import NO_SERVICE, Workloads
from hostproxy.inbound import Inbound
from hostproxy.mesh.spiffe import ALPN_HTTP1
from hostproxy.meshport import MeshPort
from hostproxy.net.deadlines import TICK, Deadlines
from hostproxy.net.listen import Acceptor
from hostproxy.net.stream import NOBODY, Stream
from hostproxy.outbound import Outbound
from hostproxy.reporting import UNKNOWN, Reporter
from hostproxy.tables import Tables
from hostproxy.upstream.dial import Dialling
from hostproxy.waiting import Ask, Waiting

if TYPE_CHECKING:
    from twisted.logger import Logger

    from hostproxy.exchange.exchange import Exchange
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.net.tls import TlsStream
    from hostproxy.snapshot import Delta, Listener, Snapshot
    from hostproxy.telemetry.access_log import AccessLogWriter
    from hostproxy.telemetry.metrics import WorkerMetrics
    from hostproxy.telemetry.watches import Watches
    from hostproxy.upstream.destination import Destination

# Descriptors that a worker needs for itself: listeners, channel, logs, pipes of plain TCP.
OWN_DESCRIPTORS = 64


def connections_for(descriptors: int) -> int:
    """How many accepted connections ``descriptors`` (RLIMIT_NOFILE) allow, when each may need one to an endpoint.

    Accepting more would leave none to answer them with.
    """
    return max(1, (descriptors - min(OWN_DESCRIPTORS, descriptors // 4)) // 2)


class Traffic:
    """The data path of one process. Nothing here is configured after the first :meth:`apply` but by snapshots."""

    _outbound: Outbound
    _inbound: Inbound
    _joiner: Joiner
    _mesh_port: MeshPort
    _ending: Ending
    _surroundings: Surroundings
    _waiting: Waiting

    def __init__(
        self, reactor: MeshReactor, metrics: WorkerMetrics, access_log: AccessLogWriter | None, log: Logger
    ) -> None:
        self._reactor = reactor
        self._metrics = metrics
        self._log = log
        self._reporter = Reporter(metrics, access_log, secrets.randbits(64))
        self._deadlines = Deadlines(reactor.seconds())
        self._acceptors: dict[str, Acceptor] = {}
        self._tables: Tables | None = None
        self._drained: Deferred[None] | None = None
        self._clock = LoopingCall(self._tick)
        self._clock.clock = reactor  # type: ignore[assignment]  # it has Twisted's interface
        self._tunnels: set[Tunnel] = set()
        self._ask: Ask = lambda service: False
        self._workloads = Workloads((), reactor.seconds)
        self._descriptors = connections_for(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        metrics.on_export(self._gauges)

    # Snapshots

    def apply(self, snapshot: Snapshot) -> None:
        """Take the first snapshot, or a whole new one."""
        if self._workloads.rules != snapshot.workloads:
            self._workloads.change(snapshot.workloads)
            if self._workloads.problem:
                self._log.error("callers: {problem}", problem=self._workloads.problem)
        if self._tables is not None:
            self._tables.apply(snapshot)
            self._surroundings.limits = snapshot.limits
            self._surroundings.head_limits = self._tables.dialling.head_limits
            self._surroundings.mesh_head_limits = self._tables.dialling.mesh_head_limits
            self._joiner.limits = snapshot.limits
            self._waiting.seconds = snapshot.first_use
            self._ending.revise()
            self._waiting.look()
            return
        reactor = self._reactor
        dialling = Dialling(reactor, self._deadlines, snapshot.limits, self._metrics)
        self._tables = tables = Tables(snapshot, dialling, self._metrics, random)
        self._waiting = Waiting(tables, self._ask)
        self._waiting.seconds = snapshot.first_use
        self._outbound = Outbound(tables, self._waiting, self._reporter)
        self._inbound = Inbound(tables, self._reporter)
        suspicions = Suspicions(tables)
        self._joiner = Joiner(snapshot.limits, self._deadlines, suspicions.any)
        self._mesh_port = MeshPort(reactor, tables, self._reporter, self._greeted)
        self._surroundings = Surroundings(
            snapshot.limits,
            dialling.head_limits,
            dialling.mesh_head_limits,
            self._deadlines,
            self._reporter.bad_request,
            self._switched,
            self._connect,
        )
        self._ending = Ending(
            reactor, tables, suspicions, self._surroundings, self._joiner, self._tunnels, self._reporter, self._log
        )
        self._clock.start(TICK, now=False).addErrback(
            lambda failure: self._log.failure("the clock of the deadlines stopped", failure)
        )

    def change(self, delta: Delta) -> None:
        """Take what changed since the snapshot before."""
        assert self._tables is not None
        self._tables.change(delta)
        if delta.locals or delta.denied is not None or delta.authorities is not None:
            self._ending.revise()
        self._waiting.look()

    def log_to(self, access_log: AccessLogWriter | None) -> None:
        """Write the access log there from now on."""
        self._reporter.log_to(access_log)

    def show_to(self, watches: Watches | None) -> None:
        """Tell them of live requests from now on; ``None``: nobody watches."""
        self._reporter.show_to(watches)

    # Services that are named for the first time

    def ask_with(self, ask: Ask) -> None:
        """Ask the supervisor for services with this, from the first snapshot on."""
        self._ask = ask

    def absent(self, service: str, problem: str) -> None:
        """The supervisor's answer: see :class:`hostproxy.control.messages.Absent`."""
        if self._tables is not None:
            self._waiting.absent(service, problem)

    def supervisor_lost(self) -> None:
        """Nobody answers what was asked."""
        if self._tables is not None:
            self._waiting.give_up("hostproxy's supervisor went away while it was looked up")

    def used(self) -> tuple[str, ...]:
        """The services that were called since the last time."""
        return self._tables.used() if self._tables is not None else ()

    def _tick(self) -> None:
        self._deadlines.tick(self._reactor.seconds())

    # Listeners

    def listen(self, listener: Listener, sock: socket.socket) -> None:
        """Accept on ``sock`` for ``listener``, at once. A listener of the same id goes on with its own socket."""
        if listener.id in self._acceptors:
            sock.close()
            return
        tables = self._tables
        assert tables is not None
        if listener.kind == "mesh":
            self._acceptors[listener.id] = Acceptor(
                self._reactor, sock, self._accepted_peer, self._admit, self._exhausted
            )
            return

        def accepted(sock: socket.socket, address: object) -> None:
            text = ""
            if isinstance(address, tuple):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                text = address[0]
            name, refusal = listener.caller, ""
            if self._workloads.active or not name:
                name, refusal = self._who(sock, name)
            uri = tables.identity_of(name) if name else ""
            caller = Caller(name or UNKNOWN, uri, text.encode(), b"http", listener.service, refusal=refusal)
            self._accepted_local(sock, caller)

        self._acceptors[listener.id] = Acceptor(self._reactor, sock, accepted, self._admit, self._exhausted)

    def _who(self, sock: socket.socket, other: str) -> tuple[str, str]:
        """In whose name a new local connection calls, ``other`` if it is no service; and why in nobody's."""
        verdict = self._workloads.caller(sock)
        self._reporter.looked_up(verdict.reason or "ok")
        if verdict.service:
            return verdict.service, ""
        # Only who is known to be none of the services: any of them could be behind a failure.
        if other and verdict.reason == NO_SERVICE:
            return other, ""
        return "", f"nobody may call: {verdict.text}"

    def close(self, listener_id: str) -> None:
        """Stop accepting there; connections go on."""
        acceptor = self._acceptors.pop(listener_id, None)
        if acceptor is not None:
            acceptor.close()

    def _open(self) -> int:
        return (
            len(self._surroundings.connections)
            + len(self._joiner.joints)
            + len(self._tunnels)
            + len(self._mesh_port.under_way)
        )

    def _admit(self) -> bool:
        if self._open() < min(self._surroundings.limits.connections, self._descriptors):
            return True
        self._reporter.connection_refused("connections")
        return False

    def _exhausted(self) -> None:
        self._reporter.connection_refused("descriptors")

    # Connections

    def _accepted_local(self, sock: socket.socket, caller: Caller) -> None:
        tables = self._tables
        assert tables is not None
        if caller.service and tables.is_tcp(caller.service):
            self._outbound.connection(self._tunnel(Stream(self._reactor, sock, NOBODY), caller), caller)
        else:
            connection = ServerConnection(self._surroundings, self._outbound, caller)
            connection.attach(Stream(self._reactor, sock, connection))

    def _accepted_peer(self, sock: socket.socket, address: object) -> None:
        if isinstance(address, tuple):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._mesh_port.accepted(sock, address)

    def _greeted(self, stream: TlsStream, caller: Caller, protocol: str) -> None:
        if protocol == ALPN_HTTP1:
            ServerConnection(self._surroundings, self._inbound, caller).attach(stream)
        else:
            self._inbound.connection(self._tunnel(stream, caller), caller)

    def _tunnel(self, stream: Stream, caller: Caller, **more) -> Tunnel:  # type: ignore[no-untyped-def]
        return Tunnel(stream, caller, self._joiner, self._tunnels, self._reporter, **more)

    def _switched(self, stream: Stream, ahead: bytes, exchange: Exchange, surplus: bytes) -> None:
        """A 101 was passed on: relay, and end the exchange with the relay."""
        client, exchange.client = exchange.client, None
        assert client is not None  # it brought the 101
        upstream = client.leave()

        endpoint = exchange.endpoint

        def over(reason: str, received: int, sent: int) -> None:
            if endpoint is not None:
                endpoint.open -= 1
            exchange.received += received
            exchange.sent += sent
            if reason not in ("ended", "reset", "closed"):
                exchange.details = reason
            if reason in (POLICY, DENIED, UNTRUSTED):
                exchange.flags = "UAEX"
            exchange.complete()

        self._joiner.join(stream, upstream, over, ahead, surplus, partial(exchange.path.objection, exchange))

    def _connect(self, stream: Stream, ahead: bytes, exchange: Exchange, destination: Destination) -> None:
        """CONNECT was allowed: the answer comes when an endpoint has been reached."""
        caller = exchange.server.caller

        def answer(flags: str) -> bytes:
            if flags == "-":
                exchange.status = 200
                exchange.complete()
                return b"HTTP/1.1 200 Connected\r\n\r\n"
            if flags == "DC":
                exchange.cancel(flags, "the client's connection was lost")
                return b""
            text = destination.unsuitable or f"{destination.key} can't be reached"
            refusal = Refusal(503, flags, "destination_unavailable", text)
            exchange.status, exchange.flags, exchange.details = refusal.status, refusal.flags, refusal.details
            exchange.complete()
            return reply(refusal, exchange.request_id, True, False)

        self._tunnel(stream, caller, ahead=ahead, reply=answer).begin(destination, "outbound")

    # Draining

    def drain(self, seconds: float) -> Deferred[None]:
        """Stop accepting and let everything finish; fires when the last connection has gone or time is up."""
        if self._drained is not None:
            return self._drained
        done: Deferred[None] = Deferred()
        self._drained = done
        for listener_id, acceptor in list(self._acceptors.items()):
            # Who is in the queue has been told by the kernel that the connection stands. When every process leaves,
            # nobody else would take it.
            acceptor.ready(0)
            self.close(listener_id)
        if self._tables is None:
            done.callback(None)
            return done
        self._surroundings.draining = True
        self._waiting.close("hostproxy is leaving")  # who leaves gets no more news
        self._reactor.callLater(DRAIN_GRACE, self._close_unused)
        self._drain_deadline = self._reactor.callLater(seconds, self._cut_all)
        waiting = LoopingCall(self._check_drained)
        waiting.clock = self._reactor  # type: ignore[assignment]
        self._drain_check = waiting
        waiting.start(0.05, now=False).addErrback(
            lambda failure: self._log.failure("looking for what is left to drain", failure)
        )
        return done

    def _close_unused(self) -> None:
        for connection in list(self._surroundings.connections):
            connection.drain()

    def _check_drained(self) -> None:
        if not self._open():
            self._finish_drain()

    def _cut_all(self) -> None:
        self._log.warn("[limits] drain is over: cutting {count} connections", count=self._open())
        for connection in list(self._surroundings.connections):
            connection.expel()
        for joint in list(self._joiner.joints):
            joint.stop("drain")
        for tunnel in list(self._tunnels):
            tunnel.refuse("LR")
        for handshake in list(self._mesh_port.under_way):
            handshake.cut("drain")
        self._finish_drain()

    def _finish_drain(self) -> None:
        done = self._drained
        if done is None or done.called:
            return
        self._drain_check.stop()
        self._workloads.close()
        if self._drain_deadline.active():
            self._drain_deadline.cancel()
        done.callback(None)

    # Telling

    def describe(self) -> dict[str, object]:
        """What is open now, for /workers."""
        if self._tables is None:
            return {}
        return {
            "connections": len(self._surroundings.connections),
            "requests": sum(1 for one in self._surroundings.connections if one.exchange is not None),
            "tunnels": len(self._joiner.joints) + len(self._tunnels),
            "waiting": len(self._waiting),
            "handshakes": len(self._mesh_port.under_way),
            "listeners": sorted(self._acceptors),
            "endpoints": self._tables.described(),
        }

    def _gauges(self, metrics: WorkerMetrics) -> None:
        if self._tables is None:
            return
        opened, idle = self._tables.connections()
        metrics.gauge("upstream_connections", ("active",), opened - idle)
        metrics.gauge("upstream_connections", ("idle",), idle)
        metrics.gauge("downstream_connections", (), self._open())
