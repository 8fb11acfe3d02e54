"""What the server connections of a process have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hostproxy.codec.http1 import HeadLimits
    from hostproxy.exchange.exchange import Exchange
    from hostproxy.exchange.server import ServerConnection
    from hostproxy.limits import Limits
    from hostproxy.net.deadlines import Deadlines
    from hostproxy.net.stream import Stream
    from hostproxy.upstream.destination import Destination


class Surroundings:
    """What all server connections of a process share, and how a new snapshot reaches them."""

    __slots__ = (
        "connect",
        "connections",
        "deadlines",
        "draining",
        "head_limits",
        "limits",
        "mesh_head_limits",
        "refused",
        "switch",
    )

    def __init__(
        self,
        limits: Limits,
        head_limits: HeadLimits,
        mesh_head_limits: HeadLimits,
        deadlines: Deadlines,
        refused: Callable[[str], None],
        switch: Callable[[Stream, bytes, Exchange, bytes], None],
        connect: Callable[[Stream, bytes, Exchange, Destination], None],
    ) -> None:
        """``refused(reason)`` counts requests that never became an exchange; ``switch(stream, ahead, exchange,
        surplus)`` and ``connect(stream, ahead, exchange, destination)`` take streams that become tunnels."""
        self.limits = limits
        self.head_limits = head_limits
        self.mesh_head_limits = mesh_head_limits  # for peers, whose hostproxy has added to the heads
        self.deadlines = deadlines
        self.draining = False
        self.connections: set[ServerConnection] = set()
        self.refused = refused
        self.switch = switch
        self.connect = connect
