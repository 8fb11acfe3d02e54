"""What each host is told: one generation of policy, whom to believe and whom to refuse, sealed for that host alone.

A bundle of one generation for one host has to come out the same whoever seals it, or the host would say that two
controllers disagree. So nothing in it is of the moment: it was issued when its generation was applied. When something
else that it tells changes (an authority, a signing key, a denial), or its end comes near, the policy that holds is
applied once more as a generation of its own, by :class:`controller.reissuing.Reissuing`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

import msgspec

from controller.authority.authority import Authority
from controller.batched import Batched
from controller.policy.generations import Generation, Generations, Unknown, Version
from controller.registry.registry import Registry
from controller.signing import Signing
from hostproxy.mesh.bundle import Manifest, seal

TRUST_KEPT = 1.0  # seconds that one reading of the denials serves for all bundles
GENERATIONS_KEPT = 4  # a rollout has two
SEALED_KEPT = 64 * 1024 * 1024  # bytes of bundles that somebody may ask for again


class Trust(NamedTuple):
    """What bundles say besides policy: whom hosts are to believe, whom they are to refuse, and for how long."""

    roots: tuple[str, ...]  # PEM
    signers: tuple[bytes, ...]  # raw public keys
    denied: tuple[str, ...]  # SPIFFE IDs, sorted
    life: float  # seconds until they end
    format: tuple[str, ...] = Manifest.__struct_fields__  # another release may say more

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()


class Bundles:
    """Seals bundles, and keeps the last ones."""

    def __init__(
        self,
        generations: Generations,
        registry: Registry,
        authority: Authority,
        signing: Signing,
        life: float,
        clock: Callable[[], float],
    ) -> None:
        """``life``: seconds from a generation's application to the end of its bundles; ``clock`` gives seconds."""
        self.life = life
        self._store_of = generations
        self._registry = registry
        self._authority = authority
        self._signing = signing
        self._clock = clock
        self._trust: tuple[float, Trust] | None = None
        self._trust_of = Version(0, 0)  # the latest generation that it was read for
        self._read_trust = Batched(self._look_up)
        self._generations: OrderedDict[Version, Generation] = OrderedDict()
        self._sealed: OrderedDict[Hashable, bytes] = OrderedDict()
        self._size = 0

    def use(self, authority: Authority, signing: Signing) -> None:
        """Others than so far, read anew from the disk."""
        self._authority, self._signing = authority, signing
        self.trust_changed()

    def trust_changed(self) -> None:
        """Read it anew for the next bundle."""
        self._trust = None

    async def trust(self) -> Trust:
        """What bundles say now. Fails as the store does."""
        return self._trust[1] if self._current() and self._trust is not None else await self._read_trust()

    def _current(self) -> bool:
        return self._trust is not None and self._clock() - self._trust[0] < TRUST_KEPT

    async def _look_up(self) -> Trust:
        now = self._clock()
        denied = tuple(denial.identity for denial in await self._registry.denied.all())
        trust = Trust(self._authority.roots, self._signing.signers, denied, self.life)
        self._trust = now, trust
        return trust

    async def sealed(self, host: str, version: Version, confirm_within: float) -> bytes:
        """The bundle of one generation for one host. Raises Unknown; fails as the store does."""
        # A denial is written before the generation that tells of it, maybe by another controller: what was read before
        # this generation was heard of may not have it.
        trust = await (self.trust() if version <= self._trust_of else self._read_trust())
        self._trust_of = max(self._trust_of, version)
        key = (host, version, confirm_within, trust, self._signing.signers)
        known = self._sealed.get(key)
        if known is not None:
            self._sealed.move_to_end(key)
            return known
        generation = await self._generation(version)
        manifest = Manifest(
            mesh=self._authority.trust_domain,
            host=host,
            epoch=version.epoch,
            generation=version.generation,
            issued=generation.applied,
            expires=generation.applied + self.life,
            files={},  # seal() fills them in
            roots=trust.roots,
            signers=trust.signers,
            denied=trust.denied,
            confirm_within=confirm_within,
        )
        bundle = seal(manifest, generation.files, self._signing.current)
        self._keep(key, bundle)
        return bundle

    async def _generation(self, version: Version) -> Generation:
        known = self._generations.get(version)
        if known is None:
            newest = await self._store_of.newest()
            found = newest if newest is not None and newest.version == version else None
            known = found or await self._store_of.get(version.generation)
            if known.version != version:
                raise Unknown(f"there is no generation {version}, or it is not kept any more")
            self._generations[version] = known
            if len(self._generations) > GENERATIONS_KEPT:
                self._generations.popitem(last=False)
        return known

    def _keep(self, key: Hashable, bundle: bytes) -> None:
        self._size += len(bundle) - len(self._sealed.pop(key, b""))
        self._sealed[key] = bundle
        while self._size > SEALED_KEPT:
            _, old = self._sealed.popitem(last=False)
            self._size -= len(old)
