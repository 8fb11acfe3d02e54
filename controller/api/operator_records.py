"""Operators, their roles, and what proves that somebody is one: a client certificate, or a bearer token.

A token is ``NAME~SECRET`` with 256 random bits; the store has its SHA-256. Both ways end with the operator's record.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

from controller.registry.records import Record, Refused, change, read, read_all
from controller.store import Store
from hostproxy.mesh import spiffe

SECRET = 32  # bytes of randomness
PREFIX = "hpo_"  # by which scanners for secrets know it
MOST = 1000
_WHERE = "operators/"


class Operator(Record, frozen=True):
    """Somebody who may use the interface of operators."""

    name: str
    role: str  # "read", "deploy" or "admin"
    sha256: str  # of the token's secret
    created: float  # Unix seconds; certificates from before that are not taken
    by: str


class Operators:
    """All operators."""

    def __init__(self, store: Store, now: Callable[[], float], random_bytes: Callable[[int], bytes]) -> None:
        """``now`` gives Unix seconds."""
        self._store = store
        self._now = now
        self._random_bytes = random_bytes

    async def create(self, name: str, role: str, by: str) -> tuple[str, Operator]:
        """A new one and the token, which nobody can show again. Raises :class:`Refused` when there is one."""
        if len(await self.all()) >= MOST:
            raise Refused("full", f"there are {MOST} operators")
        secret = PREFIX + base64.urlsafe_b64encode(self._random_bytes(SECRET)).rstrip(b"=").decode("ascii")
        operator = Operator(name=name, role=role, sha256=_hash(secret), created=self._now(), by=by)

        def first(known: Operator | None) -> Operator:
            if known is not None:
                raise Refused("operator", f"there is an operator {name}: revoke it first")
            return operator

        await change(self._store, _key(name), Operator, first)
        return f"{name}~{secret}", operator

    async def revoke(self, name: str) -> Operator:
        """No token and no certificate of this one is taken any more. Raises :class:`Refused`."""
        known = await self.get(name)
        if known is None:
            raise Refused("unknown-operator", f"there is no operator {name}")
        await self._store.delete(_key(name))
        return known

    async def get(self, name: str) -> Operator | None:
        """One; None when there is none."""
        return await read(self._store, _key(name), Operator)

    async def all(self) -> dict[str, Operator]:
        """All, by name."""
        return await read_all(self._store, _WHERE, Operator)

    async def with_token(self, token: str) -> Operator:
        """Whose token it is. Raises :class:`Refused`, always with the same text."""
        name, _, secret = token.partition("~")
        try:
            known = await self.get(name)
        except Refused:
            known = None
        # Compared also when there is nobody to compare with, so that the time does not tell who there is.
        expected = known.sha256 if known is not None else _hash("")
        if not hmac.compare_digest(expected, _hash(secret)) or known is None:
            raise Refused("operator", "the token is not an operator's")
        return known


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(name: str) -> str:
    try:
        spiffe.check_host(name)
    except spiffe.InvalidName:
        raise Refused("name", "an operator has a name like a host: letters, digits, inner hyphens and dots") from None
    return _WHERE + name
