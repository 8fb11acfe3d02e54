"""What the supervisor knows, as the metrics want it."""

from __future__ import annotations

import platform

import twisted

from hostproxy.control.state import SupervisorState
from hostproxy.telemetry.exposition import HostFacts, WorkerFacts


def host_facts(state: SupervisorState, now: float) -> HostFacts:
    """Take the facts of one moment; ``now`` is Unix seconds."""
    snapshot = state.snapshot
    services = snapshot.services if snapshot is not None else {}
    loaded = state.catalog_source.loaded
    return HostFacts(
        build=(state.software, platform.python_version(), twisted.__version__),
        workers=tuple(
            WorkerFacts(worker.place, worker.phase == "serving", worker.restarts, worker.lag)
            for worker in state.workers
            if worker.place >= 0
        ),
        endpoints={name: len(service.instances) for name, service in services.items()},
        catalog_age=max(0.0, now - loaded) if loaded else None,
        certificates={identity.uri: identity.not_after for identity in state.identities},
        problems={
            "catalog": len(state.catalog_source.problems),
            "policy": len(state.policy_source.problems),
            "certificates": len(state.identity_source.problems),
        },
        reload_successful=not state.reloads.problems,
        reload_success=state.reloads.last_success,
        reloads={"success": state.reloads.succeeded, "refused": state.reloads.refused},
    )
