"""How far away hosts are: Consul's network coordinates become bands of round-trip times.

Every agent of Consul places itself in a space in which distances are round-trip times, from what it measures while it
gossips (Vivaldi, with height and adjustment). Estimates move all the time; bands that double, and that a host leaves
only when it is clearly outside, change rarely, and what is compiled from them with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from hostproxy.discovery.consul.ask import Asker, Unanswered
from hostproxy.discovery.consul.slices import Slices
from hostproxy.discovery.consul.transport import Reply
from hostproxy.discovery.watch import Watch

PATH = "/v1/coordinate/nodes"
INTERVAL = 60.0  # seconds; agents send theirs to the servers every 15 s or less often
FIRST = 0.001  # seconds: up to here is band 0, up to twice of it band 1, and so on
LAST_BAND = 12  # from 2 s on, and every host that nothing is known about
MARGIN = 0.25  # of the border of a band that an estimate has to be beyond it, before the host leaves the band
MOST = 50_000  # hosts
SLICE = 500  # hosts at a time: 5 ms
DIMENSIONS = 16  # Consul uses 8


class _Coordinate(msgspec.Struct, rename="pascal"):
    vec: list[float]
    height: float
    adjustment: float = 0.0


class _Node(msgspec.Struct, rename="pascal"):
    node: str
    coord: _Coordinate
    segment: str = ""


_entries = msgspec.json.Decoder(list[msgspec.Raw])
_node = msgspec.json.Decoder(_Node)


class Coordinates:
    """The bands of the hosts of this datacenter, seen from this one. A host without a band is in the last."""

    log = Logger()

    def __init__(self, reactor: Any, asker: Asker, node: str, slices: Slices, random: Callable[[], float]) -> None:
        """``node``: Consul's name of this host."""
        self.bands: Watch[Mapping[str, int]] = Watch({})
        self.round_trips: Mapping[str, float] = {}  # estimated seconds, by host
        self.problem = ""  # why there are no new ones
        self._reactor = reactor
        self._asker = asker
        self._node = node
        self._slices = slices
        self._random = random
        self._timer: Any = None
        self._asking: Deferred[None] | None = None
        self._job: Iterator[None] | None = None
        self._running = False

    def start(self) -> None:
        """Ask regularly from now on; nothing happens when it does already."""
        if not self._running:
            self._running = True
            self._timer = self._reactor.callLater(self._random(), self._ask)

    def stop(self) -> None:
        """Ask no more. What is known stays."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asking is not None:
            self._asking.cancel()
        if self._job is not None:
            self._slices.remove(self._job)
            self._job = None

    def _ask(self) -> None:
        self._timer = self._reactor.callLater(INTERVAL * (0.9 + 0.2 * self._random()), self._ask)
        asking: Deferred[Any] = self._asker.ask(PATH, "", "coordinate_nodes")
        self._asking = asking
        asking.addCallback(self._take).addErrback(self._failed)

    def _take(self, reply: Reply) -> None:
        self._asking = None
        try:
            entries = _entries.decode(reply.body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            self._asker.unusable("malformed")
            raise Unanswered("malformed", str(error)) from None
        if self._job is not None:
            self._slices.remove(self._job)
        self._job = self._read(entries[:MOST])
        self._slices.add(self._job)

    def _failed(self, failure: Failure) -> None:
        self._asking = None
        if not self._running:
            return
        if not isinstance(failure.value, Unanswered):
            self.log.failure("Cannot take the coordinates of hosts.", failure)
        self._wrong(str(failure.value))

    def _wrong(self, problem: str) -> None:
        if problem and problem != self.problem:
            self.log.warn("no new round-trip times: {problem}", problem=problem)
        self.problem = problem

    def _read(self, entries: list[msgspec.Raw]) -> Iterator[None]:
        nodes: dict[str, _Coordinate] = {}
        for number, entry in enumerate(entries, 1):
            try:
                node = _node.decode(entry)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                self._asker.unusable("coordinate")
                continue
            if not node.segment and _usable(node.coord):
                nodes[node.node] = node.coord
            if not number % SLICE:
                yield
        here = nodes.get(self._node)
        if here is None:
            self._job = None
            self._wrong(
                f"Consul has no coordinate of node {self._node!a}:"
                " if that is not the agent's name, set node in [discovery.consul]"
            )
            return
        round_trips: dict[str, float] = {}
        bands: dict[str, int] = {}
        before = self.bands.value
        for number, (name, there) in enumerate(nodes.items(), 1):
            estimate = 0.0 if name == self._node else distance(here, there)
            if math.isfinite(estimate):
                round_trips[name] = estimate
                bands[name] = band(estimate, before.get(name))
            if not number % SLICE:
                yield
        self._job = None
        self._wrong("")
        self.round_trips = round_trips
        if bands != before:
            self.bands.publish(bands)


def distance(one: _Coordinate, other: _Coordinate) -> float:
    """Return the estimated round-trip time in seconds; infinite when there is no saying."""
    if len(one.vec) != len(other.vec):
        return math.inf
    raw = math.dist(one.vec, other.vec) + one.height + other.height
    adjusted = raw + one.adjustment + other.adjustment
    return adjusted if adjusted > 0 else raw


def band(seconds: float, before: int | None = None) -> int:
    """Return the band of a round-trip time; that of ``before`` unless it is clearly outside of it."""
    if before is not None:
        low = 0.0 if before == 0 else FIRST * 2 ** (before - 1)
        high = math.inf if before == LAST_BAND else FIRST * 2**before
        if low * (1 - MARGIN) <= seconds < high * (1 + MARGIN):
            return before
    if seconds < FIRST:
        return 0
    if seconds >= FIRST * 2 ** (LAST_BAND - 1):
        return LAST_BAND
    # frexp is exact where a logarithm is not: at the borders.
    return max(0, math.frexp(seconds / FIRST)[1])


def _usable(coordinate: _Coordinate) -> bool:
    numbers = (*coordinate.vec, coordinate.height, coordinate.adjustment)
    return 0 < len(coordinate.vec) <= DIMENSIONS and all(map(math.isfinite, numbers)) and coordinate.height >= 0
