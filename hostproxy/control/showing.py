"""What the supervisor knows, put where admin, metrics and the status line read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostproxy.control import notify
from hostproxy.control.state import IdentityState

if TYPE_CHECKING:
    from hostproxy.compile import Inputs
    from hostproxy.control.crew import Crew
    from hostproxy.control.kept import Keeper
    from hostproxy.control.sources import Sources
    from hostproxy.control.state import SupervisorState
    from hostproxy.health import LocalHealth
    from hostproxy.snapshot import Snapshot


class Showing:
    """Fills one state, from whatever is in force at the moment."""

    def __init__(self, state: SupervisorState, crew: Crew, keeper: Keeper, health: LocalHealth) -> None:
        self.line = ""  # what the service manager was told last
        self._state = state
        self._crew = crew
        self._keeper = keeper
        self._health = health

    def show(self, sources: Sources, compiled: tuple[Inputs, Snapshot] | None) -> None:
        """Look at everything."""
        state = self._state
        state.workers = self._crew.states
        sources.show(state)
        state.health, state.health_counts = self._health.results.value, self._health.counts
        problem = self._keeper.problem
        state.degraded = (problem,) if problem else ()
        if compiled is None:
            return
        inputs, snapshot = compiled
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

    def _tell_manager(self, snapshot: Snapshot) -> None:
        serving = sum(1 for worker in self._state.workers if worker.phase == "serving")
        line = f"{serving} workers serve {len(snapshot.services)} services, snapshot {snapshot.version}"
        if line != self.line and not self._state.stopping:
            self.line = line
            notify.notify(f"STATUS={line}")
