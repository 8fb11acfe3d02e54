"""The level of this host's log: what conf.toml says, or, for a while, what somebody who looks for a fault has set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.logger import Logger

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

    from hostproxy.net.reactor import MeshReactor

LONGEST = 7 * 86400.0  # seconds that a level may be set for, other than without an end


class LogLevel:
    """One for the supervisor and all workers. conf.toml's is back after the time given, or when it is read again."""

    log = Logger()

    def __init__(self, reactor: MeshReactor, configured: str, tell: Callable[[str], None]) -> None:
        """``tell`` makes every process log from a level up."""
        self.configured = configured  # in conf.toml
        self.level = configured  # in force
        self._reactor = reactor
        self._tell = tell
        self._timer: DelayedCall | None = None

    @property
    def left(self) -> float | None:
        """Seconds until conf.toml's is back; None: it is in force, or not coming back by itself."""
        if self._timer is None or not self._timer.active():
            return None
        return max(0.0, self._timer.getTime() - self._reactor.seconds())

    def set(self, level: str, seconds: float) -> None:
        """Log from ``level`` up for ``seconds``; 0: until conf.toml is read again."""
        self._stop()
        if seconds:
            self._timer = self._reactor.callLater(seconds, self._expire)
        self._change(level)

    def configure(self, level: str) -> None:
        """conf.toml was read (again), and says this."""
        self._stop()
        self.configured = level
        self._change(level)

    def restore(self) -> None:
        """Go back to conf.toml's."""
        self.configure(self.configured)

    def _expire(self) -> None:
        self.log.warn("the log is at {configured} again, as in conf.toml", configured=self.configured)
        self.restore()

    def _change(self, level: str) -> None:
        if level != self.level:
            self.level = level
            self._tell(level)

    def _stop(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
