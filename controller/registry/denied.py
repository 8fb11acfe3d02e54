"""Identities that are refused from now on, although their certificates are valid: they go out with every bundle."""

from __future__ import annotations

from controller.registry.records import Record, Refused, change, read_all
from controller.store import Store
from hostproxy.mesh.spiffe import InvalidName, SpiffeId

MOST = 10_000  # each host has all of them in its bundle
_WHERE = "denied/"


class Denial(Record, frozen=True):
    """One identity, refused."""

    identity: str  # SPIFFE ID
    at: float  # Unix seconds
    by: str
    reason: str = ""


class Denied:
    """All denials."""

    def __init__(self, store: Store, trust_domain: str) -> None:
        self._store = store
        self._trust_domain = trust_domain

    async def deny(self, denial: Denial) -> Denial:
        """Refuse a host or service; what was denied before stays as it was. Raises :class:`Refused`."""
        key = self._key(denial.identity)
        if len(await self.all()) >= MOST:
            raise Refused("full", f"{MOST} identities are denied already")
        kept = await change(self._store, key, Denial, lambda known: known or denial)
        assert kept is not None
        return kept

    async def lift(self, identity: str) -> Denial:
        """Refuse it no more. Raises :class:`Refused`."""
        found: list[Denial] = []

        def lifted(known: Denial | None) -> None:
            if known is None:
                raise Refused("denied", f"{identity} is not denied")
            found[:] = [known]

        await change(self._store, self._key(identity), Denial, lifted)
        return found[0]

    async def has(self, identity: SpiffeId) -> bool:
        """Whether it is denied."""
        return await self._store.get(self._key(str(identity))) is not None

    async def all(self) -> tuple[Denial, ...]:
        """All, by identity."""
        found = await read_all(self._store, _WHERE, Denial)
        return tuple(sorted(found.values(), key=lambda denial: denial.identity))

    def _key(self, identity: str) -> str:
        try:
            found = SpiffeId.parse(identity)
        except InvalidName as error:
            raise Refused("name", str(error)) from None
        if found.trust_domain != self._trust_domain or found.kind not in ("host", "service"):
            raise Refused("name", f"{identity} is no host and no service of this mesh")
        return f"{_WHERE}{found.kind}/{found.name}"
