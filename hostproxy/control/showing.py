"""What the supervisor knows, put where admin, metrics and the service manager's status line read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hostproxy.control.state import IdentityState

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

    from hostproxy.control.daemon import Daemon
    from hostproxy.snapshot import Snapshot

# Seconds between looks at everything that is shown but not reported.
REFRESH = 1.0
REFRESH_AGAIN = 0.1  # between two for news

# While draining, the service manager is asked for this much more at every look (microseconds).
PATIENCE = 10_000_000

LINE = 200  # letters of a status line, which systemctl shows as one


class Showing:
    """Fills one state, from whatever is in force at the moment."""

    def __init__(self, daemon: Daemon, problems: Callable[[], tuple[list[str], list[str]]]) -> None:
        """``problems`` gives why this host is not ready, and what does not work although it is."""
        self.line = ""  # what the service manager was told last
        self._daemon = daemon
        self._problems = problems
        self._reactor = daemon.reactor
        self._timer: DelayedCall | None = None
        self._looked = 0.0

    def start(self) -> None:
        """Look once a second from now on."""
        self._timer = self._reactor.callLater(REFRESH, self.start)
        self.refresh()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def soon(self) -> None:
        """There is news: at once, unless it comes fast. A look takes milliseconds, and news may come every five."""
        if self._timer is None or not self._timer.active():
            return  # it has not begun, or is over
        wait = max(0.0, self._looked + REFRESH_AGAIN - self._reactor.seconds())
        if not wait:
            self.refresh()
        elif self._timer.getTime() > self._reactor.seconds() + wait:
            self._timer.cancel()
            self._timer = self._reactor.callLater(wait, self.start)

    def refresh(self) -> None:
        """Look at everything."""
        self._looked = self._reactor.seconds()
        daemon, state = self._daemon, self._daemon.state
        state.workers = daemon.crew.states
        daemon.sources.show(state)
        state.health, state.health_counts = daemon.health.results.value, daemon.health.counts
        problem = daemon.keeper.problem
        state.degraded = (problem,) if problem else ()
        if daemon.compiled is not None:
            inputs, snapshot = daemon.compiled
            state.policy = inputs.policy
            state.catalog, state.bands = inputs.catalog, inputs.bands
            state.snapshot = snapshot
            state.listeners = snapshot.listeners
            state.identities = tuple(
                IdentityState(
                    name=name,
                    uri=identity.uri,
                    not_before=inputs.identities.validity[name].not_before,
                    not_after=inputs.identities.validity[name].not_after,
                )
                for name, identity in inputs.identities.by_name.items()
            )
            self._tell_manager(snapshot)
        if daemon.sources.consul is not None:
            daemon.sources.consul.registration.serving(state.ready)

    def _tell_manager(self, snapshot: Snapshot) -> None:
        state = self._daemon.state
        if state.stopping:
            self._daemon.manager.tell(f"EXTEND_TIMEOUT_USEC={PATIENCE}")
            return
        self.line = self._say(snapshot)
        self._daemon.manager.status(self.line)

    def _say(self, snapshot: Snapshot) -> str:
        """Everything in one line: what is wrong, or what is served."""
        state = self._daemon.state
        reasons, degraded = self._problems()
        if reasons:
            return _one(f"not ready: {reasons[0]}", len(reasons))
        parts = [f"serving {len(snapshot.services)} services"]
        if state.steering is not None:
            parts.append(f"policy generation {state.steering.generation}")
        if state.upgrades.running:
            parts.append("upgrading")
        if degraded:
            return _one(f"{', '.join(parts)}; degraded: {degraded[0]}", len(degraded))
        if state.consul is not None:
            parts.append("consul ok")
        return ", ".join(parts)


def _one(text: str, count: int) -> str:
    """One problem, and how many more there are."""
    more = f" (and {count - 1} more)" if count > 1 else ""
    line = " ".join(text.split())
    return (line if len(line) <= LINE else line[: LINE - 3] + "...") + more
