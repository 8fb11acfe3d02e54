"""The questions that are asked before a certificate is issued, each in the order that leaves no gap."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping

from controller.registry import tokens
from controller.registry.catalog import Catalog, Unknown
from controller.registry.denied import Denied
from controller.registry.hosts import Host, Hosts, Reports, taken
from controller.registry.keys import UsedKeys
from controller.registry.records import Refused
from controller.registry.services import Services
from controller.registry.tokens import Token, Tokens, token_id
from controller.store import Store
from hostproxy.mesh.spiffe import Kind, SpiffeId


class Registry:
    """Hosts, tokens and services of one mesh."""

    def __init__(
        self,
        store: Store,
        trust_domain: str,
        now: Callable[[], float],
        configured: Mapping[str, Collection[str]] | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        catalog: Catalog | None = None,
    ) -> None:
        """``now`` gives Unix seconds. ``configured`` are the hosts of each service that controller.toml names.

        ``catalog`` says what runs where besides the operators.
        """
        self.hosts = Hosts(store, now)
        self.reports = Reports(store)
        self.tokens = Tokens(store, now, random_bytes)
        self.services = Services(store, configured or {})
        self.denied = Denied(store, trust_domain)
        self.keys = UsedKeys(store, now)
        self._trust_domain = trust_domain
        self._catalog = catalog

    @property
    def catalog_problem(self) -> str:
        """Why the catalog cannot be asked or is not believed; "" when it is well, and where there is none."""
        return self._catalog.problem if self._catalog is not None else ""

    async def invite(
        self, host: str, *, by: str, life: float = tokens.LIFE, reenrol: bool = False
    ) -> tuple[str, Token]:
        """A join token for a host, and its record. Raises :class:`Refused`, also when it has enrolled before."""
        known = await self.hosts.get(host)
        if known is not None and not reenrol:
            raise taken(known)
        return await self.tokens.create(host, by=by, life=life, reenrol=reenrol)

    async def admit(self, host: str, secret: str, key: str) -> Host:
        """Take in a host that came with a token and a key that it has proved to have. Raises :class:`Refused`.

        ``key`` is the key's fingerprint. Once this returns, and nobody else can come with the same token, a certificate
        may be issued; when it is refused before the token is used up, the token can still be used.
        """
        token = await self.tokens.check(secret, host)
        await self._not_denied("host", host)
        known = await self.hosts.get(host)
        if known is not None and not token.reenrol:
            raise taken(known)
        await self.keys.claim(key, host)
        await self.tokens.use(secret, host, key)
        # Asked once more with the write: two tokens for one new host let one machine in, not two.
        return await self.hosts.enrol(host, token=token_id(token), again=token.reenrol)

    async def recognise(self, host: str, key: str) -> Host:
        """The host that shows a certificate which is valid in itself. Raises :class:`Refused`.

        ``key`` is the fingerprint of the key in it. One that was not issued since the last enrolment belongs to the
        machine that had the name before, however new the certificate is.
        """
        known = await self.hosts.get(host)
        if known is None:
            raise Refused("unknown-host", f"{host} has not enrolled")
        await self._not_denied("host", host)
        if key not in known.keys:
            raise Refused("stale", f"the certificate is from before {host} enrolled again, or an old one of its own")
        return known

    async def may_have(self, host: str, service: str) -> bool:
        """Whether the service's certificate may be issued to the host, which is enrolled and not denied.

        Raises :class:`controller.registry.catalog.Unknown` where only the catalog could say so, and it says nothing.
        """
        assigned = host in await self.services.hosts(service)
        if not assigned and (self._catalog is None or not await self._catalog.runs(service, host)):
            return False
        try:
            await self._not_denied("host", host)
            await self._not_denied("service", service)
        except Refused:
            return False
        return await self.hosts.get(host) is not None

    async def known_services(self) -> tuple[str, ...]:
        """Every service that somebody says to run; none when nobody does, or when that cannot be found out."""
        assigned = await self.services.all()
        try:
            return (*assigned, *(await self._catalog.names() if self._catalog is not None else ()))
        except Unknown:
            return ()

    async def _not_denied(self, kind: Kind, name: str) -> None:
        identity = SpiffeId(self._trust_domain, kind, name)
        if await self.denied.has(identity):
            raise Refused("denied", f"{identity} is denied")
