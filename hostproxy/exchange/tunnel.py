"""A connection whose bytes nobody reads: TCP services, CONNECT, and what follows a 101.

The client's stream waits, unread, until an endpoint has been reached; then both are joined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hostproxy.enforce.retry import MAX_ATTEMPTS
from hostproxy.net.relay import Relay
from hostproxy.net.splice import Pipes, SpliceRelay

if TYPE_CHECKING:
    from hostproxy.exchange.caller import Caller
    from hostproxy.limits import Limits
    from hostproxy.net.deadlines import Deadlines
    from hostproxy.net.stream import Stream
    from hostproxy.upstream.destination import Destination
    from hostproxy.upstream.endpoint import Endpoint, Opening

Finished = Callable[[str, int, int], None]
Objection = Callable[[], str]

# Why tunnels end that could go on: the policy has changed, one end has been barred, or the root over its certificate is
# trusted no longer.
POLICY = "policy"
DENIED = "denied"
UNTRUSTED = "untrusted"


def unsuspicious(stream: Stream) -> str:
    """Why a stream may not stay open, DENIED or UNTRUSTED; empty: it may. This one knows nobody."""
    return ""


Suspicion = Callable[["Stream"], str]


class Joint(NamedTuple):
    """Two streams that are joined."""

    first: Stream
    second: Stream
    objection: Objection | None


class Reporter(Protocol):
    """Who counts tunnels."""

    def tunnel_opened(self, tunnel: Tunnel) -> None:
        """An endpoint has been reached."""

    def tunnel(self, tunnel: Tunnel, reason: str) -> None:
        """It is over."""


class Joiner:
    """Joins streams, and knows the joints, so that a drain can wait for them and end them."""

    __slots__ = ("_deadlines", "_pipes", "_suspicion", "joints", "limits")

    def __init__(self, limits: Limits, deadlines: Deadlines, suspicion: Suspicion = unsuspicious) -> None:
        """``suspicion`` is asked of streams that are to be joined."""
        self.limits = limits
        self._deadlines = deadlines
        self._suspicion = suspicion
        self._pipes = Pipes()
        self.joints: dict[Relay | SpliceRelay, Joint] = {}

    def join(
        self,
        first: Stream,
        second: Stream,
        finished: Finished,
        ahead: bytes = b"",
        behind: bytes = b"",
        objection: Objection | None = None,
    ) -> None:
        """Relay between two streams; ``ahead`` was read from the first before, ``behind`` from the second.

        ``objection()`` says why they may not go on, when that is asked again; empty: they may.
        """
        idle = self.limits.tunnel_idle
        joint: Relay | SpliceRelay

        def over(reason: str, from_first: int, from_second: int) -> None:
            self.joints.pop(joint, None)
            finished(reason, from_first, from_second)

        first.send_posted()
        second.send_posted()
        plain = not (first.secure or second.secure)
        if plain and not (ahead or behind or first.backlog or second.backlog):
            joint = SpliceRelay(first, second, self._pipes, self._deadlines, idle, over)
            self.joints[joint] = Joint(first, second, objection)
        else:
            relay = joint = Relay(first, second, self._deadlines, idle, over)
            self.joints[joint] = Joint(first, second, objection)
            relay.begin(ahead, behind)
        self._ask(joint, self._suspicion)  # what it was decided by may have changed since

    def revise(self, suspicion: Suspicion) -> int:
        """Ask again of every joint whether it may go on; how many may not for ``suspicion`` of one of its ends."""
        return sum(self._ask(joint, suspicion) for joint in list(self.joints))

    def _ask(self, relay: Relay | SpliceRelay, suspicion: Suspicion) -> bool:
        joint = self.joints.get(relay)
        if joint is None:
            return False  # it is over
        suspect = suspicion(joint.first) or suspicion(joint.second)
        reason = suspect or (joint.objection() if joint.objection is not None else "")
        if reason:
            relay.stop(reason)
        return bool(suspect)


class Tunnel:
    """A client's connection on its way to an endpoint of a destination."""

    __slots__ = (
        "_destination",
        "_endpoint",
        "_joiner",
        "_objection",
        "_opening",
        "_reply",
        "_reporter",
        "_tried",
        "_waiting",
        "ahead",
        "audit",
        "caller",
        "direction",
        "from_client",
        "refusal",
        "rule",
        "started",
        "stream",
        "to_client",
        "upstream",
    )

    def __init__(
        self,
        stream: Stream,
        caller: Caller,
        joiner: Joiner,
        waiting: set[Tunnel],
        reporter: Reporter,
        ahead: bytes = b"",
        reply: Callable[[str], bytes] | None = None,
    ) -> None:
        """``waiting`` holds it until it is joined or refused. ``reply(flags)`` gives what the client is told first:
        flags "-" once the endpoint has been reached, others when it has not; ``None``: nothing."""
        self.stream = stream
        stream.owner = self
        stream.pause()
        self.caller = caller
        self.direction = ""
        self.started = stream.reactor.now
        self.ahead = ahead
        self._reporter = reporter
        self._objection: Objection | None = None
        self.rule = ""  # the rule or default that decided on it
        self.audit = ""  # what rules with audit = true would have done
        self.refusal = "-"
        self.upstream = ""
        self.from_client = 0
        self.to_client = 0
        self._joiner = joiner
        self._waiting = waiting
        waiting.add(self)
        self._reply = reply
        self._destination: Destination | None = None
        self._endpoint: Endpoint | None = None
        self._opening: Opening | None = None
        self._tried: tuple[Endpoint, ...] = ()

    @property
    def destination(self) -> Destination | None:
        """Where it goes; ``None`` before that was decided."""
        return self._destination

    def begin(self, destination: Destination, direction: str, objection: Objection | None = None) -> None:
        """Reach an endpoint of ``destination``. ``objection`` is for :meth:`Joiner.join`."""
        self._destination = destination
        self.direction = direction
        self._objection = objection
        self._attempt()

    def revise(self, suspicion: Suspicion) -> bool:
        """Ask again whether it may go on, until it is joined; says whether it may not for ``suspicion``."""
        suspect = bool(suspicion(self.stream))
        if suspect or (self._objection is not None and self._objection()):
            self.refuse("UAEX")
        return suspect

    def _attempt(self) -> None:
        destination = self._destination
        assert destination is not None
        endpoint = destination.choose(self._tried, self.stream.reactor.now)
        if endpoint is None or len(self._tried) >= MAX_ATTEMPTS:
            self.refuse("UF" if self._tried else destination.lacking)
        elif endpoint.full:
            self.refuse("UO")
        else:
            self._endpoint = endpoint
            self.upstream = endpoint.label
            endpoint.in_flight += 1
            self._opening = endpoint.connect(self)

    def refuse(self, flags: str) -> None:
        """There is no way, or no leave: the client's connection ends."""
        self.refusal = flags
        self._let_go()
        if self._reply is not None:
            self.stream.write(self._reply(flags))
            self.stream.linger()
        else:
            self.stream.abort()
        self._over(flags)

    def opened(self, stream: Stream) -> None:
        """The endpoint has been reached."""
        self._opening = None
        self._waiting.discard(self)
        if self._reply is not None:
            self.stream.write(self._reply("-"))
        self._reporter.tunnel_opened(self)
        ahead, self.ahead = self.ahead, b""
        self._joiner.join(self.stream, stream, self._joined_over, ahead, objection=self._objection)

    def not_opened(self, reason: str) -> None:
        """It has not: the next one."""
        self._opening = None
        endpoint = self._endpoint
        assert endpoint is not None
        endpoint.in_flight -= 1
        self._tried = (*self._tried, endpoint)
        self._endpoint = None
        self._attempt()

    def _joined_over(self, reason: str, from_client: int, to_client: int) -> None:
        self.from_client = from_client
        self.to_client = to_client
        endpoint = self._endpoint
        assert endpoint is not None
        endpoint.open -= 1
        endpoint.in_flight -= 1
        self._endpoint = None
        self._over(reason)

    def _over(self, reason: str) -> None:
        self._waiting.discard(self)
        self._reporter.tunnel(self, reason)

    # The client's stream, until it is joined

    def received(self, data: bytes) -> None:
        """Read before the pause took hold: at most one read."""
        self.ahead += data

    def ended(self) -> None:
        """The stream remembers it, and the relay passes it on."""

    def drained(self) -> None:
        """Nothing was written."""

    def lost(self, reason: str) -> None:
        """The client has gone while an endpoint was being reached."""
        self.refusal = "DC"
        self._let_go()
        if self._reply is not None:
            self._reply("DC")  # nobody hears it, but it ends the request
        self._over("client-" + reason)

    def _let_go(self) -> None:
        if self._opening is not None:
            self._opening.forget()
            self._opening = None
        if self._endpoint is not None:
            self._endpoint.in_flight -= 1
            self._endpoint = None
