"""How a host joins: it makes a key, shows a token that works once, and gets its first certificate.

The token goes to nobody but a controller under the root that the operator has named.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from hostproxy.config_controller import ControllerConfig
from hostproxy.identity.files import HOST
from hostproxy.mesh import storage
from hostproxy.mesh.bundle import PUBLIC_KEY, SIGNERS
from hostproxy.mesh.messages import Enrolled, EnrolRequest
from hostproxy.steering import certificates
from hostproxy.steering.certificates import Held, Wrong
from hostproxy.steering.controller import Controller, Declined, Unreachable
from hostproxy.steering.keeper import Aside, Keeper
from hostproxy.steering.pace import Backoff, around
from hostproxy.steering.record import Disk, Record
from hostproxy.steering.tls import Pin, Trust

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

    from hostproxy.config import Config

TOKEN_SIZE = 4096
LOOK = 2.0  # seconds between looks at the token file, while there is nothing to do but to wait for a new one
REFUSED = 300.0  # seconds until a token that was refused is tried again: the operator may have changed something
FIRST, LAST = 1.0, 30.0  # seconds between tries to reach the controller


class NotNow(Exception):
    """Joining has to wait; the message says for what, and ``retry`` for how many seconds unless the token changes."""

    def __init__(self, text: str, retry: float) -> None:
        super().__init__(text)
        self.retry = retry


class Enrolment:
    """Tries to join, from :meth:`start` until it has succeeded."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: Config,
        controller: Controller,
        keeper: Keeper,
        disk: Disk,
        joined: Callable[[Held], Deferred[None]],
        random: Callable[[], float],
        now: Callable[[], float],
        aside: Aside[None],
    ) -> None:
        """``joined`` gets the host's certificate."""
        self.problem = ""
        self._reactor = reactor
        self._config = config
        self._controller = controller
        self._keeper = keeper
        self._disk = disk
        self._joined = joined
        self._random = random
        self._now = now
        self._aside = aside
        self._backoff = Backoff(FIRST, LAST, random)
        self._running = False
        self._trying = False
        self._timer: DelayedCall | None = None
        self._due = 0.0  # by the reactor's clock
        self._tried: object = None  # the state of the token file at the last try

    @property
    def _settings(self) -> ControllerConfig:
        return self._config.controller

    def start(self) -> None:
        """Join. Nothing happens when it is trying already."""
        if not self._running:
            self._running = True
            self._due = 0.0
            self._look()

    def stop(self) -> None:
        """Try no more. What is under way may still succeed."""
        self._running = False
        self.problem = ""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if not self._running or self._trying:
            return
        token = _state(self._settings.join_token_file)
        if self._reactor.seconds() < self._due and token == self._tried:
            self._timer = self._reactor.callLater(LOOK, self._look)
            return
        self._tried = token
        self._trying = True
        trying = Deferred.fromCoroutine(self._try())
        trying.addErrback(self._failed)
        trying.addCallback(self._done)

    def _done(self, _: object) -> None:
        self._trying = False
        self._look()

    def _failed(self, failure: Any) -> None:
        error = failure.value
        if isinstance(error, NotNow):
            text, retry = str(error), error.retry
        else:
            self.log.failure("joining the mesh", failure)
            text, retry = f"this host cannot join: {failure.getErrorMessage()}", self._backoff.count()
        if self._running:
            if text != self.problem:
                self.log.error("{problem}", problem=text)
            self.problem = text
        self._due = self._reactor.seconds() + retry

    async def _try(self) -> None:
        settings = self._settings
        token = self._token()
        trust = self._trust()
        try:
            await self._aside(self._probe)
        except OSError as error:
            raise NotNow(
                f"this host cannot join: state_directory {self._disk.directory}: {error.strerror}",
                self._backoff.count(),
            ) from None
        key = certificates.new_key()
        request = EnrolRequest(host=self._config.host.name, token=token, csr=certificates.request(key))
        try:
            answer = await self._controller.enrol(request, trust)
        except Unreachable as error:
            raise NotNow(f"this host cannot join: {error}", self._backoff.count()) from None
        except Declined as error:
            hint = f"make a new one with hostproxy-controller token create, and write it to {settings.join_token_file}"
            text = f"the controller does not take the token in {settings.join_token_file}: {error}; {hint}"
            raise NotNow(text, around(REFUSED, self._random)) from None
        try:
            held, record = self._checked(answer, key)
        except Wrong as wrong:
            # The token is spent: nothing but a new one helps.
            raise NotNow(f"this host cannot join: {wrong}", around(REFUSED, self._random)) from None
        await self._keeper.change(lambda before: _merged(before, record))
        await self._joined(held)
        self._running = False
        self.problem = ""
        self._backoff.reset()
        self.log.info(
            "this host has joined {mesh} as {identity}; the token in {path} has done its work, and may be deleted",
            mesh=record.trust_domain,
            identity=held.identity.uri,
            path=settings.join_token_file,
        )

    def _probe(self) -> None:
        self._disk.make()
        self._disk.probe()

    def _token(self) -> str:
        path = self._settings.join_token_file
        hint = "hostproxy-controller token create --host " + self._config.host.name
        if not path:
            raise NotNow(
                f"this host has no certificate, and [controller] join_token_file is not set: {hint}", REFUSED
            )
        try:
            content = storage.read(path, TOKEN_SIZE, private=True)
            token = content.decode("ascii").strip()
        except storage.Unusable as error:
            what = "is a token open to others" if "private key" in str(error) else str(error)
            raise NotNow(
                f"this host has no certificate, and [controller] join_token_file {path} {what}; {error.hint or hint}",
                REFUSED,
            ) from None
        except UnicodeDecodeError:
            token = ""
        if not 16 <= len(token) <= 256 or not token.isprintable() or " " in token:
            raise NotNow(f"[controller] join_token_file {path} holds no token; {hint}", REFUSED)
        return token

    def _trust(self) -> Trust:
        settings = self._settings
        if settings.ca_fingerprint:
            return Pin(settings.ca_fingerprint)
        try:
            return certificates.roots_of([storage.read(settings.ca_file, 1 << 20).decode("ascii")])
        except (storage.Unusable, Wrong, UnicodeDecodeError) as error:
            raise NotNow(f"[controller] ca_file {settings.ca_file}: {error}", LAST) from None

    def _checked(self, answer: Enrolled, key: Any) -> tuple[Held, Record]:
        config = self._config
        if answer.trust_domain != config.mesh.trust_domain:
            raise Wrong(f"the controller is of the mesh {answer.trust_domain!r:.100}: compare [mesh] trust_domain")
        roots: list[x509.Certificate] = certificates.roots_of(answer.roots)
        wanted = certificates.wanted_identity(config.mesh.trust_domain, config.host.name, HOST)
        held = certificates.issued(answer.certificate, key, HOST, wanted, roots, self._now())
        try:
            signers = tuple(bytes.fromhex(each) for each in answer.signers)
        except ValueError:
            signers = ()
        if not 1 <= len(signers) <= SIGNERS or any(len(each) != PUBLIC_KEY for each in signers):
            raise Wrong("the controller names no keys that sign bundles")
        record = Record(
            trust_domain=config.mesh.trust_domain, host=config.host.name, roots=answer.roots, signers=signers
        )
        return held, record


def _merged(before: Record | None, joined: Record) -> Record:
    """Join again with what was taken before: older bundles are refused also after that."""
    if before is None or (before.trust_domain, before.host) != (joined.trust_domain, joined.host):
        return joined
    return msgspec.structs.replace(before, roots=joined.roots, signers=joined.signers)


def _state(path: str) -> object:
    """What differs whenever the file has become another."""
    try:
        found = os.stat(path)
    except OSError as error:
        return error.errno
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
