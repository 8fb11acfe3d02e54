"""What a worker tells whatever carries its traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from hostproxy.snapshot import Delta, Listener, Snapshot
    from hostproxy.telemetry.access_log import AccessLogWriter
    from hostproxy.telemetry.watches import Watches


class Carrier(Protocol):
    """What carries the traffic: :class:`hostproxy.traffic.Traffic`."""

    def apply(self, snapshot: Snapshot) -> None:
        """Decide by this from now on."""

    def change(self, delta: Delta) -> None:
        """Change some of it."""

    def listen(self, listener: Listener, sock: socket.socket) -> None:
        """Accept from ``sock``, which becomes the carrier's."""

    def close(self, listener_id: str) -> None:
        """Accept no more; connections go on."""

    def log_to(self, access_log: AccessLogWriter | None) -> None:
        """Write the access log there from now on."""

    def show_to(self, watches: Watches | None) -> None:
        """Tell them of live requests from now on; ``None``: nobody watches."""

    def drain(self, seconds: float) -> Deferred[None]:
        """Accept nothing; fires when the last connection has gone or the time is up."""

    def ask_with(self, ask: Callable[[str], bool]) -> None:
        """Ask the supervisor for services that are not in the snapshot with this; false: there is no supervisor."""

    def absent(self, service: str, problem: str) -> None:
        """There is no such service, or it can't be known."""

    def supervisor_lost(self) -> None:
        """What was asked is not going to be answered."""

    def used(self) -> tuple[str, ...]:
        """The services that were called since the last time."""

    def describe(self) -> dict[str, object]:
        """What it does now, to be shown."""
