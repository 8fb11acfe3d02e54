"""Catalog, policy and certificates: read, watched, and kept in force when newer content cannot be used."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from twisted.logger import Logger

from hostproxy.compile import Inputs, identity_names
from hostproxy.control.state import SourceState
from hostproxy.discovery.file import FileDiscovery
from hostproxy.discovery.files import FileWatch
from hostproxy.discovery.knowledge import DiscoveryState
from hostproxy.discovery.reload import Reload
from hostproxy.discovery.watch import Watch
from hostproxy.identity import files as identity_files
from hostproxy.mesh import policy as mesh_policy
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.messages import Figures

if TYPE_CHECKING:
    from hostproxy.config import Config
    from hostproxy.control.consul import ConsulSource
    from hostproxy.control.kept import Kept
    from hostproxy.control.state import SupervisorState
    from hostproxy.discovery.catalog import Catalog
    from hostproxy.identity.files import Identities
    from hostproxy.mesh.policy import Policy
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.steering.state import SteeringState
    from hostproxy.steering.steering import Steering

T = TypeVar("T")

# What holds where no policy is configured.
NO_POLICY = mesh_policy.Policy()


class Backend(Protocol):
    """What reads and watches: :class:`FileDiscovery`, :class:`Reload`, and what comes to their side."""

    @property
    def error(self) -> Invalid | None:
        """What is wrong now; what is in force is the last good."""

    def start(self) -> None:
        """Read and watch. Raises Invalid when the first read fails."""

    def stop(self) -> None:
        """Watch no more."""


class Source(Generic[T]):
    """One of the three."""

    log = Logger()

    def __init__(
        self,
        reactor: MeshReactor,
        name: str,
        paths: Sequence[str],
        backend: Backend,
        watch: Watch[T],
        now: Callable[[], float],
    ) -> None:
        """``name`` and the first of ``paths`` are for people."""
        self.watch = watch
        self._name = name
        self._path = paths[0]
        self._backend = backend
        self._now = now
        self._loaded = 0.0
        self._problems: tuple[str, ...] = ()
        self._since = 0.0
        self._kept = False
        # Only needed until the first good read, from which on the backend watches by itself.
        self._retry = FileWatch(reactor, paths, self._try_again)
        watch.subscribe(self._took)

    def _took(self, value: T) -> None:
        self._loaded = self._now()

    def start(self, kept: T | None = None, saved: float = 0.0) -> tuple[str, ...]:
        """Read and watch. With bad content, ``kept`` (of ``saved``, Unix seconds) is in force instead.

        Returns what is wrong when there is none: then nothing is watched.
        """
        self._retry.start()
        try:
            self._backend.start()
        except Invalid as invalid:
            if kept is None:
                self._retry.stop()
                return _texts(invalid)
            self._note(_texts(invalid))
            self._kept = True
            self.watch.publish(kept)
            self._loaded = saved
            self.log.error(
                "the {name} cannot be used: serving with the copy kept at {moment}, until it is corrected: {problems}",
                name=self._name,
                moment=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(saved)),
                problems="\n".join(self._problems),
            )
        else:
            self._retry.stop()
        return ()

    def _try_again(self) -> None:
        try:
            self._backend.start()
        except Invalid as invalid:
            self._note(_texts(invalid))
            self.log.error("the {name} still cannot be used: {error}", name=self._name, error=invalid)
            return
        self._kept = False
        self._note(())
        self._retry.stop()
        self.log.info("the {name} is in force again, and not the kept copy", name=self._name)

    def _note(self, problems: tuple[str, ...]) -> None:
        if problems != self._problems:
            self._since = (self._since or self._now()) if problems else 0.0
            self._problems = problems

    def state(self) -> SourceState:
        """How it stands now."""
        if not self._kept:
            error = self._backend.error
            self._note(_texts(error) if error is not None else ())
        return SourceState(
            path=self._path,
            loaded=self._loaded,
            problems=self._problems,
            since=self._since,
            kept=self._kept,
        )

    def stop(self) -> None:
        """Watch no more."""
        self._retry.stop()
        self._backend.stop()


class Sources:
    """The sources of one configuration. ``changed`` is called after each change of what is in force."""

    log = Logger()

    def __init__(
        self,
        reactor: MeshReactor,
        config: Config,
        changed: Callable[[], None],
        now: Callable[[], float] = time.time,
        before: Sources | None = None,
        figures: Callable[[], Figures] = Figures,
    ) -> None:
        """``before``, those in force until now, give what the new configuration can go on with.

        ``figures`` say how traffic goes under the policy in force, for the controller.
        """
        self.config = config
        self.identities: Source[Identities] | None = None
        self.catalog: Source[Catalog] | None = None
        self.policy: Source[Policy] | None = None
        self.consul: ConsulSource | None = None  # or there is a catalog
        self.steering: Steering | None = None  # or there are identities and policy of our own
        self.paused = False  # what was steered stays as it is, and others may write what the controller gives
        self._changed = changed
        self._now = now
        self._before = before
        self._started: list[Source[object]] = []
        self._subscriptions: list[Callable[[], None]] = []
        if config.identity.mode == "controller":
            self.steering = before.steering if before is not None and not before.paused else None
            if self.steering is None or not self.steering.serves(config):
                from hostproxy.steering.steering import Steering

                self.steering = Steering(reactor, config, figures, random.random, now)
        else:
            self._from_files(reactor)
        path = config.discovery.file_path
        if config.discovery.backend == "consul":
            self.consul = before.consul if before is not None else None
            if self.consul is None or not self.consul.serves(config):
                from hostproxy.control.consul import ConsulSource

                self.consul = ConsulSource(reactor, config, now)
        elif path:
            discovery = FileDiscovery(reactor, path)
            self.catalog = Source(reactor, "catalog", [path], discovery, discovery.catalog, now)

    def _from_files(self, reactor: MeshReactor) -> None:
        """Certificates and policy that the operator brings."""
        config, now = self.config, self._now
        files, names = config.identity, identity_names(config)
        paths = identity_files.watched_paths(files, names)
        identities: Watch[Identities] = Watch(identity_files.Identities(b"", {}, {}, 0.0))
        load_identities = lambda: identity_files.load(  # noqa: E731
            files, names, config.mesh.trust_domain, config.host.name
        )
        backend = Reload(reactor, paths, load_identities, identities)
        self.identities = Source(reactor, "certificates", [files.directory, *paths], backend, identities, now)
        path = config.policy.path
        if path:
            policy: Watch[Policy] = Watch(NO_POLICY)
            reload = Reload(reactor, [path], lambda: mesh_policy.load(config.policy.path), policy)
            self.policy = Source(reactor, "policy", [path], reload, policy, now)

    def start(self, kept: Kept | None = None) -> list[str]:
        """Read everything and watch it. Returns all that is wrong; then nothing is watched."""
        problems = [*self._start(self.identities)] if self.identities is not None else []
        usable = kept is not None and kept.catalog_path == catalog_name(self.config)
        kept_catalog = kept.catalog if kept is not None and usable else None
        if self.catalog is not None:
            problems += self._start(self.catalog, kept_catalog, kept)
        if self.policy is not None:
            usable = kept is not None and kept.policy_path == self.config.policy.path
            problems += self._start(self.policy, kept.policy if kept and usable else None, kept)
        if problems:
            self.stop(self._before)
            return problems
        # Nothing of the rest can fail.
        if self.steering is not None:
            self._be_steered(self.steering)
        if self.consul is not None:
            self._begin(self.consul, kept_catalog, kept.saved if kept is not None else 0.0)
        self._before = None
        if self.identities is not None:
            for warning in self.identities.watch.value.warnings:
                self.log.warn("{warning}", warning=warning)
        return []

    def _start(self, source: Source[T], value: T | None = None, kept: Kept | None = None) -> tuple[str, ...]:
        problems = source.start(value, kept.saved if kept is not None else 0.0)
        if not problems:
            self._subscriptions.append(source.watch.subscribe(lambda _: self._changed()))
            self._started.append(source)  # type: ignore[arg-type]
        return problems

    def _be_steered(self, steering: Steering) -> None:
        if self._before is not None and steering is self._before.steering:
            steering.take(self.config)
        else:
            steering.start()
        for watch in (steering.identities, steering.policy, steering.denied):
            self._subscriptions.append(watch.subscribe(lambda _: self._changed()))

    @property
    def _policy(self) -> Watch[Policy] | None:
        if self.steering is not None:
            return self.steering.policy
        return self.policy.watch if self.policy is not None else None

    def _begin(self, consul: ConsulSource, kept: Catalog | None, saved: float) -> None:
        """A new agent begins with what the one before it knew."""
        policy = self._policy
        if policy is not None:
            self._subscriptions.append(policy.subscribe(consul.need))
        before = self._before.consul if self._before is not None else None
        if consul is before:
            consul.take(self.config)
        consul.need(policy.value if policy is not None else NO_POLICY)
        if consul is not before:
            if before is not None:
                kept, saved = before.watch.value, self._now()
            consul.start(kept, saved)
        self._subscriptions.append(consul.watch.subscribe(lambda _: self._changed()))
        self._subscriptions.append(consul.bands.subscribe(lambda _: self._changed()))

    def pause(self) -> None:
        """Let another process keep in touch with the controller. It ends with other sources, which go on with these."""
        if self.steering is not None and not self.paused:
            self.paused = True
            self.steering.stop()

    def stop(self, successor: Sources | None = None) -> None:
        """Watch no more, but for what ``successor`` goes on with."""
        for cancel in self._subscriptions:
            cancel()
        self._subscriptions.clear()
        for source in self._started:
            source.stop()
        self._started.clear()
        steering = self.steering
        if steering is not None and not self.paused:
            if successor is None or successor.steering is not steering:
                steering.stop()
            else:
                steering.take(successor.config)
        if self.consul is None:
            return
        consul = self.consul
        if successor is None:
            consul.stop()
        elif successor.consul is consul:
            consul.take(successor.config)
        elif successor.consul and successor.consul.registers and successor.consul.address == consul.address:
            consul.stop()  # the other one looks after what is registered there
        else:
            consul.leave().addBoth(lambda _: consul.stop())

    @property
    def inputs(self) -> Inputs:
        """What is in force now."""
        catalog: Catalog = {}
        if self.consul is not None:
            catalog = self.consul.watch.value
        elif self.catalog is not None:
            catalog = self.catalog.watch.value
        policy, steering = self._policy, self.steering
        assert steering is not None or self.identities is not None  # one of the two says who this host is
        identities = steering.identities if steering is not None else self.identities.watch  # type: ignore[union-attr]
        return Inputs(
            config=self.config,
            catalog=catalog,
            policy=policy.value if policy is not None else NO_POLICY,
            identities=identities.value,
            bands=self.consul.bands.value if self.consul is not None else {},
            denied=steering.denied.value if steering is not None else (),
            usable=self.usable,
        )

    @property
    def usable(self) -> bool:
        """Whether anything may listen: a host that has not joined its mesh has no policy and no certificate."""
        return self.steering is None or self.steering.usable

    def show(self, state: SupervisorState) -> None:
        """Say how they stand."""
        nothing = SourceState()
        if self.steering is not None:
            state.steering = self.steering.state()
            state.policy_source, state.identity_source = _steered(state.steering)
        else:
            state.steering = None
            state.policy_source = self.policy.state() if self.policy is not None else nothing
            state.identity_source = self.identities.state() if self.identities is not None else nothing
        consul = self.consul
        if consul is not None:
            state.discovery = consul.known()
            state.catalog_source = consul.state(state.discovery)
            state.consul = consul.counters
            state.registration = consul.registration.problem
            state.registered = consul.registration.registered
        else:
            state.discovery = DiscoveryState(source=self.config.discovery.file_path)
            state.catalog_source = self.catalog.state() if self.catalog is not None else nothing
            state.consul = None
            state.registration, state.registered = "", ()
        clocks = {
            "controller": self.steering.skew if self.steering is not None else None,
            "consul": consul.clock.skew if consul is not None else None,
        }
        state.skews = {name: skew for name, skew in clocks.items() if skew is not None}


def catalog_name(config: Config) -> str:
    """What tells a kept catalog of another source apart."""
    discovery = config.discovery
    return f"consul:{discovery.consul.datacenter}" if discovery.backend == "consul" else discovery.file_path


def _texts(invalid: Invalid) -> tuple[str, ...]:
    return tuple(str(problem) for problem in invalid.problems)


def _steered(state: SteeringState) -> tuple[SourceState, SourceState]:
    """Policy and certificates as they come from the controller. All its problems are told with the policy."""
    policy = SourceState(
        path=f"{state.url}, generation {state.generation}" if state.generation else state.url,
        loaded=state.issued,
        problems=state.problems,
        kept=state.state == "kept" and not state.last_contact,
    )
    return policy, SourceState(path=state.url, loaded=state.last_contact)
