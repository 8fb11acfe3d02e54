"""Builds a controller out of its rooms, starts it and ends it."""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from random import random
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from controller import places
from controller.api.dispatch import Dispatcher
from controller.api.listeners import CannotListen, Listeners
from controller.api.operator_records import Operators
from controller.api.parts import Parts
from controller.api.states import restored
from controller.api.tls import Leaf
from controller.audit import Audit, AuditFailed
from controller.authority import keys, requests
from controller.authority.authority import Authority
from controller.bundles import Bundles
from controller.config import Config, StoreConfig
from controller.decider import Decider
from controller.evidence import Claims, Evidence
from controller.policy.generations import Generations, Version
from controller.push.distribution import Distribution
from controller.push.pusher import Pusher
from controller.registry.catalog import Catalog, ConsulCatalog
from controller.registry.hosts import Report
from controller.registry.limits import Guesses, Rates
from controller.registry.registry import Registry
from controller.reissuing import Reissuing
from controller.rollout.rollouts import Rollouts, Surroundings
from controller.rollout.view import Rollout
from controller.signing import Signing
from controller.store import Leadership, NotLeading, Store, Unavailable, Unusable
from controller.store.client import Address, Client
from controller.store.consul import ConsulStore
from controller.store.election import Election
from controller.store.leadership import Alone
from controller.store.sqlite import SqliteStore
from controller.store.token import TokenFile

SELF = "hostproxy-controller"  # as actor in the audit log
CARE = 10.0  # seconds between looks at what time brings
REPORTS_PER_MINUTE = 60.0  # of one host
REFUSALS_PER_MINUTE = 30.0  # lines in the audit log about one address
DRAIN = 5.0  # seconds that answers under way have when the controller ends


class CannotStart(Exception):
    """The text says why, and what to do."""


class Controller:
    """One controller. :meth:`start` it once the reactor runs."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: Config,
        now: Callable[[], float] = time.time,
        random: Callable[[], float] = random,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """``now`` gives Unix seconds."""
        self.port = 0  # of HTTPS, once it listens
        self.changed: Callable[[], object] = lambda: None  # told when it begins or ends to lead
        self.parts: Parts
        self.pusher: Pusher
        self.distribution: Distribution
        self.rollouts: Rollouts
        self.dispatcher: Dispatcher
        self.listeners: Listeners | None = None
        self._reactor = reactor
        self._config = config
        self._now = now
        self._random = random
        self._random_bytes = random_bytes
        self._passphrase = b""
        self._store: Store | None = None
        self._audit: Audit | None = None
        self._leadership: Leadership | None = None
        self._catalog: Catalog | None = None
        self._care = LoopingCall(self._take_care)
        self._care.clock = reactor
        self._looking: Deferred[Any] | None = None

    # Beginning

    def start(self) -> None:
        """Open everything, and serve. Waits for the disk. Raises :class:`CannotStart`; :meth:`stop` it then too."""
        config = self._config
        try:
            self._passphrase = keys.passphrase_from(config.authority.passphrase_file)
            authority = Authority.load(config.authority.directory, self._passphrase)
            signing = Signing.load(config.authority.signing_key, self._passphrase)
            if authority.trust_domain != config.mesh.trust_domain:
                raise CannotStart(
                    f"{config.path}: [mesh] trust_domain is {config.mesh.trust_domain}, and the authority in"
                    f" {config.authority.directory} is that of {authority.trust_domain}"
                )
            os.makedirs(config.serving.state_directory, 0o700, exist_ok=True)
            self._audit = Audit(self._reactor, places.audit_log(config), self._now)
            store, leadership = self._open_store()
            self._catalog = self._open_catalog()
            self.build(authority, signing, store, leadership, self._audit)
            self.listeners = Listeners(
                self._reactor, self.dispatcher.respond, self.dispatcher.limit, config.serving.connections
            )
            self.port = self.listeners.open(
                config.serving.listen, config.serving.operator_socket, self.parts.leaf
            )
        except (keys.Unusable, requests.Refused, Unusable, AuditFailed, CannotListen) as error:
            raise CannotStart(str(error)) from None
        except OSError as error:
            raise CannotStart(f"{error.filename or config.path}: {error.strerror}") from None
        self._begin_audit()
        self.parts.leadership.start()
        self._care.start(CARE, now=False)
        self.log.info(
            "Serving {domain} on {listen} as {name}, fingerprint {fingerprint}",
            domain=config.mesh.trust_domain,
            listen=config.serving.listen,
            name=config.serving.name,
            fingerprint=authority.fingerprint,
        )

    def _open_store(self) -> tuple[Store, Leadership]:
        config, name = self._config, self._config.serving.name
        if config.store.backend == "sqlite":
            single = self._store = SqliteStore(self._reactor, places.database(config))
            return single, Alone(single, name, self.led)
        client = Client(self._reactor, _agent(config.store), TokenFile(config.store.consul_token_file))
        prefix = config.store.consul_prefix
        shared = self._store = ConsulStore(self._reactor, client, prefix, self._now)
        # Counts also while the machine sleeps, as Consul's clock does.
        clock = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)  # noqa: E731
        return shared, Election(self._reactor, client, shared, prefix, name, self.led, clock, self._random)

    def _open_catalog(self) -> Catalog | None:
        wanted, store = self._config.registry.consul, self._config.store
        if wanted is None:
            return None
        if wanted.address:
            address = Address(address=wanted.address, ca=wanted.ca, certificate=wanted.certificate, key=wanted.key)
            client = Client(self._reactor, address, TokenFile(wanted.token_file))
        else:
            client = Client(self._reactor, _agent(store), TokenFile(store.consul_token_file))
        return ConsulCatalog(client, self._reactor.seconds, wanted.outage, wanted.without_acl)

    def build(
        self, authority: Authority, signing: Signing, store: Store, leadership: Leadership, audit: Audit
    ) -> None:
        """Put the rooms together. Nothing is served yet."""
        config, now, clock = self._config, self._now, self._reactor.seconds
        self._leadership = leadership
        leaf = Leaf(
            authority, config.serving.name, config.serving.dns, timedelta(seconds=config.authority.leaf_life)
        )
        leaf.renew(datetime.fromtimestamp(now(), UTC))
        registry = Registry(
            store, config.mesh.trust_domain, now, random_bytes=self._random_bytes, catalog=self._catalog
        )
        generations = Generations(leadership.store)
        around = Surroundings(self._hosts, self._reports, self._tell, self._rollout_ended)
        self.rollouts = Rollouts(self._reactor, leadership.store, generations, around, now)
        bundles = Bundles(generations, registry, authority, signing, config.push.bundle_life, clock)
        reissuing = Reissuing(
            leadership.store, generations, bundles, self.rollouts, now, self._news, self._older_than_hosts
        )
        decider = Decider(
            registry, self.rollouts, bundles, config.mesh.trust_domain, config.push.port, now, reissuing.settled
        )
        self.pusher = Pusher(self._reactor, config.mesh.trust_domain, leaf.credential, config.push.timeout)
        self.distribution = Distribution(self._reactor, self.pusher, decider, config.push.parallel, self._random)
        self.parts = Parts(
            config=config,
            software=version("hostproxy"),
            started=now(),
            now=now,
            clock=clock,
            authority=authority,
            signing=signing,
            leaf=leaf,
            leadership=leadership,
            registry=registry,
            operators=Operators(store, now, self._random_bytes),
            generations=generations,
            bundles=bundles,
            rollouts=self.rollouts,
            reissuing=reissuing,
            distribution=self.distribution,
            decider=decider,
            audit=audit,
            guesses=Guesses(),
            rates=Rates(config.authority.host_per_minute, config.authority.per_minute, clock()),
            reports=Rates(REPORTS_PER_MINUTE, float("inf"), clock()),
            refusals=Rates(REFUSALS_PER_MINUTE, REFUSALS_PER_MINUTE * 20, clock()),
            answers=Counter(),
            turned_away=lambda: self.listeners.turned_away if self.listeners is not None else 0,
            keys=DeferredLock(),
            in_thread=lambda work: deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work),
            news=self._news,
            claims=self._claims,
            trust_changed=self._trust_changed,
        )
        self._evidence = Evidence(
            self._reactor,
            lambda host, seen: self.pusher.bundle(host, decider.address(seen)),
            lambda: self.parts.signing.signers,
            config.mesh.trust_domain,
            lambda work: self.parts.in_thread(work),
            self._random,
        )
        self.dispatcher = Dispatcher(self.parts)

    def _begin_audit(self) -> None:
        assert self._audit is not None
        begun = self._audit.record(SELF, "controller.start", self._config.serving.name, detail=self.parts.software)
        begun.addErrback(lambda failure: self.log.error("{error}", error=failure.value))

    # While it runs

    def led(self, leads: bool) -> None:
        """This controller begins or ends to lead."""
        if leads:
            self.log.info("This controller leads")
            self.reload_keys()
            self.distribution.start()
            self.rollouts.lead()
            self._news()
            self._look()
        else:
            self.log.info("This controller does not lead any more")
            self.distribution.stop()
            self.rollouts.follow()
        self.changed()

    def reload_keys(self) -> None:
        """Read the authority and the signing keys anew: another controller's operator has copied them here."""
        config = self._config
        try:
            authority = Authority.load(config.authority.directory, self._passphrase)
            signing = Signing.load(config.authority.signing_key, self._passphrase)
        except keys.Unusable as error:
            self.log.error("The keys are not read anew: {error}", error=error)
            return
        self.parts.authority, self.parts.signing = authority, signing
        self.parts.leaf.use(authority)
        self.parts.bundles.use(authority, signing)
        self._trust_changed()

    def _trust_changed(self) -> None:
        """Show a certificate of the issuing authority that is used now, and believe the roots that are trusted now."""
        try:
            self.parts.leaf.renew(self.parts.moment())
        except requests.Refused as error:
            self.log.error("No certificate for this controller: {error}", error=error)
            return
        self.pusher.show(self.parts.leaf.credential)
        # Connections that are open were made under what was trusted before.
        if self.listeners is not None:
            self.listeners.secured.drain()

    def _take_care(self) -> None:
        if self.parts.moment() >= self.parts.leaf.renew_at:
            self._renew()
        self._look()

    def _renew(self) -> None:
        try:
            self.parts.leaf.renew(self.parts.moment())
        except requests.Refused as error:
            self.log.error("No certificate for this controller: {error}", error=error)
        else:
            self.pusher.show(self.parts.leaf.credential)

    def _look(self) -> None:
        """See to what only the leader does, one at a time."""
        if self._looking is None and self.parts.leadership.leading:
            self._looking = Deferred.fromCoroutine(self._lead())
            self._looking.addBoth(self._looked)

    async def _lead(self) -> None:
        """Never fails."""
        try:
            await self.parts.registry.keys.sweep()
            await self.parts.registry.tokens.tidy()
            generation = await self.parts.reissuing.look(SELF, "what hosts have to know has changed")
            if generation is not None:
                await self.parts.audit.record(
                    SELF, "policy.reissue", f"generation {generation.version}", after=generation.digest
                )
        except (Unavailable, NotLeading, AuditFailed) as error:
            self.log.warn("{error}", error=error)
        except Exception:
            self.log.failure("taking care of what time brings")

    def _looked(self, _: object) -> None:
        self._looking = None

    def _news(self) -> None:
        """There may be something new for every host."""
        telling = Deferred.fromCoroutine(self._hosts())
        telling.addCallback(self._tell_all)
        telling.addErrback(lambda failure: self.log.warn("Hosts are not told: {error}", error=failure.value))

    def _tell_all(self, hosts: Any) -> None:
        self.distribution.keep(dict.fromkeys(hosts))
        self._tell(hosts)

    def _tell(self, hosts: Any) -> None:
        self.distribution.tell(hosts)

    async def _hosts(self) -> Any:
        return await self.parts.decider.hosts()

    async def _reports(self) -> Mapping[str, Report]:
        return await self.parts.registry.reports.all()

    async def _claims(self, newest: Version | None) -> Claims:
        return await self._evidence.look(await self._reports(), await self._hosts(), newest)

    async def _older_than_hosts(self, newest: Version) -> str:
        return restored(await self._claims(newest))

    async def _rollout_ended(self, rollout: Rollout) -> None:
        result = "ok" if rollout.phase == "done" else "refused"
        await self.parts.audit.record(
            SELF, "rollout.end", f"generation {rollout.version}", result=result, detail=rollout.reason
        )

    async def summary(self) -> str:
        """How it stands, in a line. Fails as the store does."""
        leadership = self.parts.leadership
        other = f"follows {leadership.leader}" if leadership.leader else "nobody leads"
        role = "leads" if leadership.leading else other
        newest = (await self.rollouts.view()).newest
        policy = f"generation {newest.version}" if newest is not None else "no policy yet"
        problem = f"; {self.parts.reissuing.problem}" if self.parts.reissuing.problem else ""
        return f"{role}, {policy}, {len(await self._hosts())} hosts{problem}"

    # Ending

    def stop(self) -> Deferred[None]:
        """Answer what is being asked, for some seconds, give the lead to another, and close everything. Once."""
        return Deferred.fromCoroutine(self._stop()).addErrback(lambda failure: self.log.failure("ending", failure))

    async def _stop(self) -> None:
        if self._care.running:
            self._care.stop()
        if self.listeners is not None:
            await self.listeners.close()
            end = self._reactor.seconds() + DRAIN
            while self.listeners.busy and self._reactor.seconds() < end:
                await deferLater(self._reactor, 0.05)
            self.listeners.abort()
        if self._leadership is not None:
            await self._leadership.stop()
        if self._looking is not None:
            self._looking.cancel()
        if self._audit is not None:
            await self._audit.close()
        if self._catalog is not None:
            await self._catalog.close()
        if self._store is not None:
            await self._store.close()


def _agent(store: StoreConfig) -> Address:
    """Where the agent of Consul is that the store is in."""
    return Address(
        address=store.consul_address, ca=store.consul_ca, certificate=store.consul_certificate, key=store.consul_key
    )
