"""What the supervisor knows about this host, in one object that the admin room and the status line read.

Only the supervisor writes it. Times named ``since``, ``started``, ``loaded``, ``confirmed``, ``not_before`` and
``not_after`` are Unix seconds, durations are seconds. Nothing here holds a private key except ``snapshot.identities``,
which nobody may show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from hostproxy.discovery.knowledge import DiscoveryState

if TYPE_CHECKING:
    from hostproxy.config import Config
    from hostproxy.discovery.catalog import Catalog
    from hostproxy.discovery.consul.counters import Counters
    from hostproxy.health import Result
    from hostproxy.mesh.clocks import Skew
    from hostproxy.mesh.policy import Policy
    from hostproxy.snapshot import Listener, Snapshot
    from hostproxy.steering.state import SteeringState
    from hostproxy.telemetry.totals import Totals

# starting: spawned, has not said Ready; serving; silent: does not answer; draining: finishes what it has;
# waiting: died young and is replaced after the back-off.
WorkerPhase = Literal["starting", "serving", "silent", "draining", "waiting"]


# Place of a process that an earlier supervisor started.
ADOPTED = -1


class WorkerState(msgspec.Struct, kw_only=True):
    """One place for a worker, and the process that fills it now.

    A process taken over from a supervisor that died has ``place`` ADOPTED and is always draining.
    """

    place: int  # 0 .. [workers] count - 1: the "worker" label of metrics
    id: int  # unique for every process that this supervisor had: the key of Totals
    pid: int = 0  # 0 while waiting
    phase: WorkerPhase = "starting"
    since: float = 0.0  # when the process was started
    version: int = 0  # snapshot version that it applied last
    restarts: int = 0  # how often the process of this place had to be replaced
    lag: float = 0.0  # how late its reactor ran its last timer
    problem: str = ""  # why it could not apply the newest snapshot, or why it is silent
    description: dict[str, object] = {}  # Traffic.describe() of the last second
    reported: float = 0.0  # when it told its counters last, by a monotonic clock; 0: never


class SourceState(msgspec.Struct, kw_only=True):
    """A file or directory that is watched: catalog, policy or certificates."""

    path: str = ""  # empty: not configured
    loaded: float = 0.0  # when what is in force was read
    problems: tuple[str, ...] = ()  # why the newest content is not in force: "file:line: key: what"
    since: float = 0.0  # since when it has problems; 0: it has none
    kept: bool = False  # in force is the copy that the state directory kept, because the file was bad at start


class IdentityState(msgspec.Struct, kw_only=True):
    """A certificate in force."""

    name: str  # service name, or "host"
    uri: str
    not_before: float
    not_after: float


class ReloadState(msgspec.Struct, kw_only=True):
    """What SIGHUP did. The start counts as the first success."""

    succeeded: int = 0
    refused: int = 0
    last_success: float = 0.0
    problems: tuple[str, ...] = ()  # why the last one was refused; empty: it was not


class UpgradeState(msgspec.Struct, kw_only=True):
    """What upgrades did: those that this supervisor began, and those that its predecessors did."""

    succeeded: int = 0
    failed: int = 0
    last_success: float = 0.0
    running: bool = False
    problems: tuple[str, ...] = ()  # why the last one failed; empty: it did not


class SupervisorState(msgspec.Struct, kw_only=True):
    """Everything there is to show. Read it at the moment of showing: fields are replaced, not mutated."""

    software: str  # version of hostproxy
    pid: int
    started: float
    config: Config
    totals: Totals  # sums over all workers, also over those that died
    policy: Policy | None = None
    catalog: Catalog = msgspec.field(default_factory=dict)  # where services run, as far as it is known here
    bands: Mapping[str, int] = {}  # by host: how far it is, as selection.Here has it
    discovery: DiscoveryState = DiscoveryState()  # how the catalog is known
    consul: Counters | None = None  # None: the catalog is not Consul's
    registered: tuple[str, ...] = ()  # IDs of what this host has in Consul
    registration: str = ""  # why not all of it is there; empty: it is
    health: Mapping[tuple[str, str], Result] = {}  # by service and address: instances here that are checked
    health_counts: Mapping[tuple[str, str], int] = {}  # checks done so far, by service and result
    steering: SteeringState | None = None  # None: certificates and policy do not come from a controller
    skews: Mapping[str, Skew] = {}  # this host's clock against those of "controller" and "consul", where that is known
    snapshot: Snapshot | None = None  # what the workers were told; its version counts up from 1
    listeners: tuple[Listener, ...] = ()  # bound now; the admin socket is not among them
    workers: tuple[WorkerState, ...] = ()
    catalog_source: SourceState = msgspec.field(default_factory=SourceState)
    policy_source: SourceState = msgspec.field(default_factory=SourceState)
    identity_source: SourceState = msgspec.field(default_factory=SourceState)
    identities: tuple[IdentityState, ...] = ()
    reloads: ReloadState = msgspec.field(default_factory=ReloadState)
    upgrades: UpgradeState = msgspec.field(default_factory=UpgradeState)
    log_dropped: Callable[[], int] = lambda: 0  # lines of this process' log that did not fit
    degraded: tuple[str, ...] = ()  # what does not work although traffic flows: "state_directory: ..."
    stopping: bool = False

    @property
    def ready(self) -> bool:
        """Whether a worker serves, none is on its first start any more, services can be found, and no stop came.

        Connections made before the last worker is there would all stay with the others.
        """
        mine = [worker for worker in self.workers if worker.place >= 0]
        starting = any(worker.version == 0 and not worker.restarts for worker in mine)
        serving = not starting and any(worker.version > 0 for worker in mine)
        return serving and not self.stopping and not self.lost and not self.unsteered

    @property
    def unsteered(self) -> bool:
        """Whether certificate or policy have still to come from the controller: nothing listens before that."""
        return self.steering is not None and not (self.steering.joined and self.steering.generation)

    @property
    def lost(self) -> bool:
        """Whether services are needed, and nothing was ever heard of one nor kept from before."""
        services = self.discovery.services
        return bool(services) and not self.catalog and not any(service.confirmed for service in services)
