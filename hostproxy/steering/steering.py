"""A host and its controller: what comes from there, and what is told there."""

# Twisted's reactors have few annotations.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from hostproxy.discovery.watch import Watch
from hostproxy.identity.files import Identities
from hostproxy.mesh import messages
from hostproxy.mesh.clocks import Skew
from hostproxy.mesh.messages import Confirm, Figures, HostReport, Malformed
from hostproxy.mesh.policy import Policy, parse_files
from hostproxy.steering import server
from hostproxy.steering.bundles import Bundles
from hostproxy.steering.certificates import moment
from hostproxy.steering.controller import Answer, Controller, Declined, Unreachable
from hostproxy.steering.enrolment import Enrolment
from hostproxy.steering.keeper import Keeper
from hostproxy.steering.listening import Listening
from hostproxy.steering.pace import Backoff, around
from hostproxy.steering.record import Disk
from hostproxy.steering.renewal import LOOK, Certificates
from hostproxy.steering.state import SteeringState

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

    from hostproxy.config import Config

SPREAD = 30.0  # seconds over which hosts that start at the same moment come to the controller
FIRST, LAST = 1.0, 30.0  # seconds between tries while the controller does not answer
PROBLEMS = 100  # of a report
LINE = 1000  # characters of one


class Steering:
    """Publishes ``policy``, ``identities`` and ``denied`` as the controller says."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: Config,
        figures: Callable[[], Figures],
        random: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        """``figures``: of traffic since ``policy`` changed last. ``random`` gives 0 to 1, ``now`` Unix seconds."""
        self._reactor = reactor
        self._config = config
        self._figures = figures
        self._random = random
        self._now = now
        disk = Disk(config.host.state_directory)
        self._keeper = Keeper(disk, self._aside)
        self._controller = Controller(reactor, config.controller, config.mesh.trust_domain, now)
        self._bundles = Bundles(reactor, self._keeper, disk, parse_files, now, self._aside, self._soon)
        self._certificates = Certificates(
            reactor, config, self._controller, self._keeper, disk, self._join, random, now, self._aside
        )
        self._enrolment = Enrolment(
            reactor,
            config,
            self._controller,
            self._keeper,
            disk,
            lambda held: self._certificates.take("host", held),
            random,
            now,
            self._aside,
        )
        self._backoff = Backoff(FIRST, LAST, random)
        self._listening = Listening(reactor, config, self._certificates, self._bundles.denied, self._respond, now)
        self._running = False
        self._asking = False
        self._again = False  # there was news to report while it was asking
        self._timer: DelayedCall | None = None
        self._minute: DelayedCall | None = None
        self._connected = False
        self._last_contact = 0.0
        self._contact_problem = ""
        self._newest = (0, 0)  # version that the controller named last
        self._heard = False  # the controller has asked, since the last request to it that was answered
        self._one_way = False  # it asks, and a request to it was not answered after that

    # What comes from the controller

    @property
    def policy(self) -> Watch[Policy]:
        """The policy in force; until there is a bundle, one that denies everything."""
        return self._bundles.policy

    @property
    def identities(self) -> Watch[Identities]:
        """Certificates of this host, as far as there are any, and the roots that are trusted."""
        return self._certificates.identities

    @property
    def denied(self) -> Watch[tuple[str, ...]]:
        """Identities that are refused whatever certificate they have."""
        return self._bundles.denied

    @property
    def skew(self) -> Skew | None:
        """How far this host's clock is from the controller's; None: it is not known."""
        return self._controller.skew

    @property
    def usable(self) -> bool:
        """Whether there is a policy and a certificate of the host: before that, no listener may be open."""
        return self._bundles.current is not None and "host" in self.identities.value.by_name

    # Life

    def start(self) -> None:
        """Put in force what was kept, and keep in touch. Not under the reactor: it waits for the disk. Never fails."""
        self._running = True
        self._keeper.start()
        record = self._keeper.record.value
        config = self._config
        if record is not None and (record.trust_domain, record.host) != (config.mesh.trust_domain, config.host.name):
            self.log.error(
                "what is kept in {directory} is of {host} in {mesh}, and is not used",
                directory=config.host.state_directory,
                host=record.host,
                mesh=record.trust_domain,
            )
            self._keeper.record.value = None
        self._bundles.start()
        self._certificates.start()
        self.identities.subscribe(lambda _: self._found())
        self._every_minute()
        self._found()

    def stop(self) -> None:
        """Leave everything as it is, and be told nothing more."""
        self._running = False
        for timer in (self._timer, self._minute):
            if timer is not None and timer.active():
                timer.cancel()
        self._enrolment.stop()
        self._certificates.stop()
        self._bundles.stop()
        self._controller.close()
        self._listening.stop()

    def serves(self, config: Config) -> bool:
        """Whether this one can go on with ``config``, or another one is to take its place."""
        mine = self._config
        return (
            config.controller == mine.controller
            and config.identity.mode == mine.identity.mode
            and config.host == mine.host
            and config.mesh.trust_domain == mine.mesh.trust_domain
        )

    def take(self, config: Config) -> None:
        """A reload that this one :meth:`serves`: services come and go."""
        self._config = config
        self._certificates.change(config)

    def state(self) -> SteeringState:
        """How it stands now."""
        current, bundles = self._bundles.current, self._bundles
        manifest = current.bundle.manifest if current is not None else None
        return SteeringState(
            url=self._config.controller.url,
            joined=self._certificates.host is not None,
            connected=self._connected,
            last_contact=self._last_contact,
            listening=self._listening.open,
            epoch=manifest.epoch if manifest is not None else 0,
            generation=manifest.generation if manifest is not None else 0,
            digest=current.bundle.digest if current is not None else "",
            issued=manifest.issued if manifest is not None else 0.0,
            expires=manifest.expires if manifest is not None else 0.0,
            state=bundles.state,
            confirm_until=bundles.pending,
            refused=bundles.refused,
            refused_code=bundles.code,
            certificates=self._certificates.ends,
            denied=len(self.denied.value),
            problems=self._problems(contact=True),
        )

    def _problems(self, contact: bool) -> tuple[str, ...]:
        """``contact``: also that the controller can't be reached, and what comes of that."""
        manifest = self._bundles.current.bundle.manifest if self._bundles.current is not None else None
        expired = ""
        if manifest is not None and self._bundles.expired:
            expired = (
                f"bundle: generation {manifest.generation} has expired at {moment(manifest.expires)}, and stays in"
                " force: this host may have been cut off from newer ones"
            )
        found = (
            self._enrolment.problem,
            *self._certificates.problems(contact),
            *self._bundles.problems,
            expired,
            self._keeper.problem,
            self._contact_problem if contact else "",
            self._listening.problem,
        )
        return tuple(each for each in found if each)

    def report(self) -> HostReport:
        """The same for the controller.

        That it could not be reached is over when it reads this, unless it can reach this host and not be reached.
        """
        state = self.state()
        problems = self._problems(contact=self._one_way)
        return HostReport(
            software=version_of("hostproxy"),
            listen=self._listening.address,
            epoch=state.epoch,
            generation=state.generation,
            digest=state.digest,
            state=state.state,
            refused=state.refused,
            problems=tuple(each[:LINE] for each in problems[:PROBLEMS]),
            confirmed=not state.confirm_until,
            expired=self._bundles.expired,
            certificates={name: max(end, 0.0) for name, end in state.certificates.items()},
            figures=self._figures(),
        )

    # Keeping in touch

    def _aside(self, work: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)

    def _join(self) -> None:
        if self._running:
            if self._certificates.early > 0:
                self._controller.behind(self._certificates.early)
            self._enrolment.start()

    def _found(self) -> None:
        """Certificates have changed: with the first one everything else begins."""
        if not self._running or self._certificates.host is None:
            return
        self._listening.start()
        if self._timer is None and not self._asking:
            spread = min(SPREAD, self._config.controller.interval)
            self._schedule(0.0 if self._bundles.current is None else spread * self._random())

    def _every_minute(self) -> None:
        self._minute = self._reactor.callLater(LOOK, self._every_minute)
        if self._keeper.problem:
            self._keeper.save()
        self._found()

    def _soon(self) -> None:
        """There is something to tell the controller."""
        if self._running:
            self._again = True
            if not self._asking:
                self._schedule(0.0)

    def _schedule(self, delay: float) -> None:
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= self._reactor.seconds() + delay:
                return
            self._timer.cancel()
        self._timer = self._reactor.callLater(delay, self._ask)

    def _ask(self) -> None:
        self._timer = None
        if self._asking or not self._running:
            return
        self._asking = True
        asking = Deferred.fromCoroutine(self._round())
        asking.addErrback(lambda failure: self.log.failure("asking the controller", failure))
        asking.addCallback(lambda _: self._asked())

    def _asked(self) -> None:
        self._asking = False
        if not self._running:
            return
        pause = around(self._config.controller.interval, self._random)
        if self._contact_problem:
            pause = min(pause, self._backoff.count())
        elif self._again:
            pause = 0.0
        self._schedule(pause)

    async def _round(self) -> None:
        """Ask for a bundle, and tell how this host stands: in this order, so that the answer is told at once."""
        held, roots = self._certificates.host, self._certificates.roots
        if held is None:
            return
        self._enrolment.stop()  # it was tried while the clock was wrong
        try:
            data = await self._controller.bundle(self._bundles.asked, roots, held.identity)
            if data:
                await self._bundles.take(data)
            self._again = False
            self._one_way = False  # it was just answered
            report = self.report()
            answer = await self._controller.report(report, roots, held.identity)
            if answer.confirm:
                await self._bundles.confirm(report.epoch, report.generation, report.digest)
            newest = answer.epoch, answer.generation
            if newest > self._bundles.asked and newest != self._newest:
                self._again = True  # it was applied between the two questions; asked for once, whatever comes of it
            self._newest = newest
        except (Unreachable, Declined) as error:
            text = str(error) if isinstance(error, Unreachable) else f"the controller refuses this host: {error}"
            if text != self._contact_problem and self._running:
                self.log.error("{problem}", problem=text)
            self._contact_problem = text
            self._connected = False
            self._one_way = self._heard
            return
        if self._contact_problem:
            self.log.info("the controller at {url} answers again", url=self._config.controller.url)
            self._certificates.try_again()
        self._contact_problem = ""
        self._heard = self._one_way = False
        self._backoff.reset()
        self._connected = True
        self._last_contact = self._now()

    # Being told

    def _respond(self, method: str, path: str, body: bytes) -> Deferred[Answer]:
        self._last_contact = self._now()
        if self._contact_problem and not self._heard:
            self._heard = True
            self._schedule(0.0)  # it is back
        match method, path:
            case "PUT", "/v1/bundle":
                return self._bundles.take(body).addCallback(lambda _: self._reported())
            case "POST", "/v1/confirm":
                try:
                    confirm = messages.decode(body, Confirm)
                except Malformed as error:
                    return succeed(server.problem(400, str(error)))
                confirming = self._bundles.confirm(confirm.epoch, confirm.generation, confirm.digest)
                return confirming.addCallback(lambda _: self._reported())
            case "GET", "/v1/bundle":
                current = self._bundles.current
                return succeed(Answer(200, current.data) if current is not None else server.problem(404, "no bundle"))
            case "GET", "/v1/report":
                return succeed(self._reported())
        known = path in ("/v1/bundle", "/v1/confirm", "/v1/report")
        there = "GET or PUT /v1/bundle, POST /v1/confirm or GET /v1/report"
        return succeed(server.problem(405 if known else 404, there))

    def _reported(self) -> Answer:
        self._again = False  # it knows now
        return Answer(200, messages.encode(self.report()))
