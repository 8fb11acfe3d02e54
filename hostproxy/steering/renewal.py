"""The certificates of this host: asked for, renewed at half of their life with a fresh key, and published."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography import x509
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from hostproxy.discovery.watch import Watch
from hostproxy.identity.files import HOST, Identities
from hostproxy.mesh import storage
from hostproxy.mesh.messages import CertificateRequest
from hostproxy.steering import certificates
from hostproxy.steering.certificates import PEM, Held, Wrong, moment
from hostproxy.steering.controller import Controller, Declined, Unreachable
from hostproxy.steering.keeper import Aside, Keeper
from hostproxy.steering.pace import Backoff
from hostproxy.steering.record import Disk, Record

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

    from hostproxy.config import Config

LOOK = 60.0  # seconds between looks at the wall clock, which may step
SOON = 1.0  # seconds, the least between two looks
FIRST, LAST = 1.0, 60.0  # seconds between tries of a renewal
REFUSED = 300.0  # the most seconds between tries of a name that was refused: registries change
NO_IDENTITIES = Identities(b"", {}, {}, 0.0)


class Slot:
    """One name, and the certificate for it if there is one."""

    def __init__(self, random: Callable[[], float]) -> None:
        self.held: Held | None = None
        self.due = 0.0  # when to renew it, by the reactor's clock
        self.due_wall = 0.0  # the same in Unix seconds: whichever comes first counts
        self.problem = ""
        self.unanswered = False  # the problem is that the controller could not be reached
        self.backoff = Backoff(FIRST, LAST, random)
        self.refusals = Backoff(30.0, REFUSED, random)


class Certificates:
    """Keeps ``identities`` complete and fresh. ``lost`` is called while the host itself has none that holds."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: Config,
        controller: Controller,
        keeper: Keeper,
        disk: Disk,
        lost: Callable[[], object],
        random: Callable[[], float],
        now: Callable[[], float],
        aside: Aside[None],
    ) -> None:
        """``random`` gives numbers from 0 to 1, ``now`` Unix seconds; ``aside`` runs what waits for the disk."""
        self.identities: Watch[Identities] = Watch(NO_IDENTITIES)
        self.roots: list[x509.Certificate] = []
        self.disk_problem = ""
        self._reactor = reactor
        self._trust_domain = config.mesh.trust_domain
        self._host = config.host.name
        self._controller = controller
        self._keeper = keeper
        self._disk = disk
        self._lost = lost
        self._random = random
        self._now = now
        self._aside = aside
        self._slots = {name: Slot(random) for name in names_of(config)}
        self._unsaved: set[str] = set()
        self._saving = DeferredLock()  # one writer at a time: it drops the files that it does not know
        self._busy = False
        self._running = False
        self._timer: DelayedCall | None = None
        keeper.record.subscribe(self._told)

    # Starting

    def start(self) -> None:
        """Read what was kept, and renew from now on. Not under the reactor: it waits for the disk."""
        self._running = True
        record = self._keeper.record.value
        if record is not None:
            self.roots = self._roots(record)
            for name, slot in self._slots.items():
                self._load(name, slot)
        self._publish()
        self._schedule(0.0)

    def stop(self) -> None:
        """Ask no more."""
        self._running = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def change(self, config: Config) -> None:
        """Have certificates for these services from now on."""
        names = names_of(config)
        if names == tuple(self._slots):
            return
        before = self._slots
        self._slots = {name: before.get(name) or Slot(self._random) for name in names}
        for name, slot in self._slots.items():
            if name not in before:
                self._load(name, slot)
        self._publish()
        self._schedule(0.0)

    def _load(self, name: str, slot: Slot) -> None:
        wanted = certificates.wanted_identity(self._trust_domain, self._host, name)
        try:
            content, written = self._disk.load_identity(name)
            held = certificates.stored(content, name, wanted, written, self._now())
        except (storage.Unusable, Wrong, OSError) as error:
            if "does not exist" not in str(error):
                self.log.error("the kept certificate of {name} cannot be used: {why}", name=name, why=str(error))
            return
        self._hold(slot, held)

    # What is known

    @property
    def host(self) -> Held | None:
        """The host's own, when it holds now."""
        slot = self._slots[HOST]
        return slot.held if slot.held is not None and self._holds(slot.held) else None

    @property
    def early(self) -> float:
        """In how many seconds that of the host begins to hold: it can't, unless the clock is behind."""
        held = self._slots[HOST].held
        return max(held.validity.not_before - self._now(), 0.0) if held is not None else 0.0

    @property
    def ends(self) -> dict[str, float]:
        """When each ends, Unix seconds."""
        return {name: slot.held.validity.not_after for name, slot in self._slots.items() if slot.held is not None}

    def problems(self, unanswered: bool = True) -> tuple[str, ...]:
        """What is wrong with certificates now; ``unanswered``: also that no new one could be asked for."""
        found = [self.disk_problem] if self.disk_problem else []
        for name, slot in self._slots.items():
            held = slot.held
            if held is not None and not self._holds(held):
                found.append(self._untimely(name, held))
            elif slot.unanswered and not unanswered:
                continue
            elif held is not None and slot.problem and self._past_half(held):
                found.append(f"certificate of {name}: it ends at {moment(held.validity.not_after)}; {slot.problem}")
            elif slot.problem:
                found.append(f"certificate of {name}: {slot.problem}")
        return tuple(found)

    def _holds(self, held: Held) -> bool:
        return held.validity.not_before <= self._now() < held.validity.not_after

    def _past_half(self, held: Held) -> bool:
        return self._now() > (held.received + held.validity.not_after) / 2

    def _untimely(self, name: str, held: Held) -> str:
        start, end = held.validity
        now = moment(self._now())
        which = f"certificate of {name}: it"
        if self._now() < start:
            return f"{which} is valid from {moment(start)}, and it is {now}: set the clock (clock skew)"
        text = f"{which} has expired at {moment(end)}, and it is {now} here"
        if name != HOST:
            return text
        return (
            f"{text}: this host has to join again with a new token, hostproxy-controller token create"
            f" --host {self._host} --reenrol (or its clock is wrong: clock skew)"
        )

    # Taking

    def take(self, name: str, held: Held) -> Deferred[None]:
        """Use a certificate that has come. Fires when it is on the disk, or can't be."""
        return Deferred.fromCoroutine(self._take(name, held))

    async def _take(self, name: str, held: Held) -> None:
        slot = self._slots.get(name)
        if slot is None:
            return  # the service is gone since
        if name == HOST and self.host is None:
            # It has joined, maybe again: what was asked for in vain can be had now.
            for other in self._slots.values():
                if other.held is None or not self._holds(other.held):
                    other.due = self._reactor.seconds()
        slot.problem = ""
        slot.unanswered = False
        slot.backoff.reset()
        slot.refusals.reset()
        self._hold(slot, held)
        self._unsaved.add(name)
        await self._save()
        self._publish()
        self._schedule(SOON)

    def _save(self) -> Deferred[None]:
        return self._saving.run(lambda: Deferred.fromCoroutine(self._save_now()))

    async def _save_now(self) -> None:
        if not self._unsaved:
            return  # somebody else has
        names = {name: self._slots[name].held for name in self._unsaved if name in self._slots}
        contents = {name: held.content for name, held in names.items() if held is not None}
        known = tuple(self._slots)

        def save() -> None:
            self._disk.make()
            for name, content in contents.items():
                self._disk.save_identity(name, content)
            self._disk.keep_identities(known)

        try:
            await self._aside(save)
        except OSError as error:
            text = f"state_directory {self._disk.directory}: {error.strerror}: new certificates are lost at a restart"
            if text != self.disk_problem:
                self.log.error("{problem}", problem=text)
            self.disk_problem = text
        else:
            self.disk_problem = ""
            self._unsaved -= contents.keys()

    def _hold(self, slot: Slot, held: Held) -> None:
        slot.held = held
        life = held.validity.not_after - held.received
        # Half of what is left of it when it came, and up to a tenth sooner: hosts that joined together spread.
        slot.due_wall = held.received + life * (0.5 - 0.05 * self._random())
        slot.due = self._reactor.seconds() + max(slot.due_wall - self._now(), 0.0)

    def _told(self, record: Record | None) -> None:
        """The record has changed, and maybe its roots."""
        if record is None:
            return
        roots = self._roots(record)
        if roots == self.roots:
            return
        self.roots = roots
        for name, slot in self._slots.items():
            if slot.held is not None and not self._verifies(slot.held):
                self.log.info("the certificate of {name} is under no root that is trusted now: renewing it", name=name)
                slot.due = self._reactor.seconds()
        self._publish()
        if self._running:
            self._schedule(0.0)

    def _verifies(self, held: Held) -> bool:
        chain = x509.load_pem_x509_certificates(held.identity.certificate)
        try:
            certificates.verify(chain, self.roots, self._now())
        except Wrong:
            return not self._holds(held)  # renewing it for its time is another matter
        return True

    @staticmethod
    def _roots(record: Record) -> list[x509.Certificate]:
        try:
            return certificates.roots_of(record.roots)
        except Wrong:
            return []  # never written: they are checked before

    def _publish(self) -> None:
        held = {name: slot.held for name, slot in self._slots.items() if slot.held is not None}
        identities = NO_IDENTITIES
        if self.roots:
            identities = Identities(
                authorities=b"".join(root.public_bytes(PEM) for root in self.roots),
                by_name={name: each.identity for name, each in held.items()},
                validity={name: each.validity for name, each in held.items()},
                authorities_end=min(root.not_valid_after_utc.timestamp() for root in self.roots),
            )
        if identities != self.identities.value:
            self.identities.publish(identities)

    # Renewing

    def _schedule(self, delay: float) -> None:
        if not self._running:
            return
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= self._reactor.seconds() + delay:
                return
            self._timer.cancel()
        self._timer = self._reactor.callLater(delay, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._running:
            return
        if self.host is None:
            self._lost()
        elif not self._busy:
            self._busy = True
            working = Deferred.fromCoroutine(self._work())
            working.addErrback(lambda failure: self.log.failure("renewing certificates", failure))
            working.addCallback(lambda _: self._rest())
        self._schedule(LOOK)

    def _rest(self) -> None:
        self._busy = False
        now = self._reactor.seconds()
        soonest = min(slot.due - now for slot in self._slots.values())
        host = self.host
        if host is not None:
            # From its end on it has to join again.
            soonest = min(soonest, host.validity.not_after - self._now())
        self._schedule(min(max(soonest, SOON), LOOK))

    async def _work(self) -> None:
        if self._unsaved:
            await self._save()
        for name in list(self._slots):
            slot = self._slots.get(name)
            if slot is None or not self._running or not self._is_due(slot):
                continue
            if not await self._renew(name, slot):
                # Nobody answers: the others need not ask as well.
                pause = slot.due - self._reactor.seconds()
                for other in self._slots.values():
                    if self._is_due(other):
                        self._postpone(other, pause)
                return

    def _is_due(self, slot: Slot) -> bool:
        return slot.due <= self._reactor.seconds() or (slot.due_wall and slot.due_wall <= self._now()) or False

    def _postpone(self, slot: Slot, seconds: float) -> None:
        slot.due = self._reactor.seconds() + seconds
        slot.due_wall = self._now() + seconds

    async def _renew(self, name: str, slot: Slot) -> bool:
        """Ask for one; says whether the controller answered."""
        host = self.host
        if host is None:
            return False
        key = certificates.new_key()
        wanted = certificates.wanted_identity(self._trust_domain, self._host, name)
        request = CertificateRequest(name=name, csr=certificates.request(key))
        try:
            answer = await self._controller.certificate(request, self.roots, host.identity)
        except Unreachable as error:
            self._note(name, slot, str(error), slot.backoff.count())
            slot.unanswered = True
            return False
        except Declined as error:
            self._note(name, slot, f"the controller refuses it: {error}", slot.refusals.count())
            return True
        try:
            roots = certificates.roots_of(answer.roots)
            held = certificates.issued(answer.certificate, key, name, wanted, roots, self._now(), slot.held)
        except Wrong as wrong:
            self._note(name, slot, str(wrong), slot.refusals.count())
            return True
        if roots != self.roots:
            pems = tuple(root.public_bytes(PEM).decode("ascii") for root in roots)
            await self._keeper.change(
                lambda record: msgspec.structs.replace(record, roots=pems) if record is not None else None
            )
        await self._take(name, held)
        return True

    def try_again(self) -> None:
        """The controller answers: ask for what could not be asked for."""
        for slot in self._slots.values():
            if slot.unanswered:
                slot.due = self._reactor.seconds()
        self._schedule(0.0)

    def _note(self, name: str, slot: Slot, problem: str, pause: float) -> None:
        self._postpone(slot, pause)
        slot.unanswered = False
        if problem != slot.problem:
            self.log.error("no new certificate of {name}: {problem}", name=name, problem=problem)
        slot.problem = problem


def names_of(config: Config) -> tuple[str, ...]:
    """Who this host has to be: itself, its services, and those in whose name it calls."""
    outbound = config.outbound
    names: Iterable[str] = (
        HOST,
        *(service.name for service in config.services),
        *([outbound.caller] if outbound.listen else ()),
        *(upstream.caller for upstream in outbound.upstreams),
    )
    return tuple(dict.fromkeys(name for name in names if name))
