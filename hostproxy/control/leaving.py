"""The end of a supervisor and its workers, in order: Consul is left, the workers drain, and nothing is left open."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.logger import Logger

if TYPE_CHECKING:
    from hostproxy.control.daemon import Daemon

# After the second signal nothing is waited for but this (seconds).
HARD_STOP = 1.0


class Leaving:
    """It happens once, and is over with the process."""

    log = Logger()

    def __init__(self, daemon: Daemon, ended: Callable[[bool], None]) -> None:
        """``ended(clean)`` comes before everything is closed; ``clean``: no worker had to be killed."""
        self.over = False  # or another supervisor does it
        self._daemon = daemon
        self._ended = ended
        self._hurried = False

    def begin(self) -> None:
        """Leave Consul, and then let the workers finish what they have."""
        consul = self._daemon.sources.consul
        if consul is None or not self._daemon.running:
            self._drain()
            return
        # Callers are to choose other hosts before this one accepts no more.
        self.log.info("leaving Consul")
        consul.leave().addBoth(lambda _: self._drain())

    def hurry(self) -> None:
        """Leave within a second; what is under way is cut."""
        if self._hurried:
            return
        self._hurried = True
        self.log.warn("stopping at once: what is under way is cut")
        daemon = self._daemon
        daemon.running = False
        daemon.crew.drain(0.0)  # while Consul is left the crew still replaces who dies
        daemon.crew.kill()
        daemon.reactor.callLater(HARD_STOP, self._finish, False)

    def _drain(self) -> None:
        if self.over or self._hurried:
            return
        daemon = self._daemon
        daemon.running = False
        seconds = daemon.config.limits.drain
        self.log.info("stopping: workers have {seconds:g} s to finish what they have", seconds=seconds)
        daemon.manager.status("draining")
        daemon.health.stop()
        daemon.sources.stop()
        daemon.crew.drain(seconds).addCallback(self._finish)
        daemon.sockets.leave(daemon.sockets.addresses - {daemon.config.admin.listen})

    def _finish(self, clean: bool) -> None:
        if self.over:
            return
        self.over = True
        self._ended(clean and not self._hurried)
        daemon = self._daemon
        daemon.close_admin()
        daemon.sockets.leave()
        daemon.directory.release(in_order=not daemon.crew.pids)
        daemon.reactor.stop()
