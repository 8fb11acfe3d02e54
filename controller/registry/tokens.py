"""Join tokens: whoever has one may enrol one host, once, and soon.

The store has nothing that a token could be made from: half of its SHA-256 names the record, and all of it is in there.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

import msgspec

from controller.registry.records import Record, Refused, change, read, read_all
from controller.store import Store

PREFIX = "hpj_"  # by which scanners for secrets know it
SECRET = 24  # bytes of randomness
LIFE = 15 * 60.0  # seconds
LONGEST = 24 * 3600.0
MOST = 10_000  # tokens that have not expired, about: other controllers make some between two looks
SELDOM = 60.0  # seconds between two looks at all of them
SOON = 1.0  # the same while there are too many
_WHERE = "tokens/"
_ID = 32  # hexadecimal digits


class Token(Record, frozen=True):
    """What is known of a token."""

    sha256: str
    host: str  # the only one that it is for
    created: float  # Unix seconds
    expires: float
    by: str  # the operator
    reenrol: bool = False  # it is for a host that has enrolled before
    used: float = 0.0  # when; 0.0: not yet
    used_by: str = ""  # fingerprint of the key that was enrolled with it


class Tokens:
    """All tokens."""

    def __init__(self, store: Store, now: Callable[[], float], random_bytes: Callable[[int], bytes]) -> None:
        self._store = store
        self._now = now
        self._random_bytes = random_bytes
        self._count = 0  # at the last look, and those made here since
        self._looked = float("-inf")  # Unix seconds

    async def create(self, host: str, *, by: str, life: float = LIFE, reenrol: bool = False) -> tuple[str, Token]:
        """Make one: the token itself, which nobody can show again, and its record. Raises :class:`Refused`."""
        if not 0 < life <= LONGEST:
            raise Refused("expired", f"a token lasts at most {LONGEST / 3600:g} hours, not {life / 3600:g}")
        await self.tidy(SOON if self._count >= MOST else SELDOM)
        if self._count >= MOST:
            raise Refused("full", f"there are {MOST} tokens that have not expired: wait, or revoke some")
        secret = PREFIX + base64.urlsafe_b64encode(self._random_bytes(SECRET)).rstrip(b"=").decode("ascii")
        now = self._now()
        sha256 = _hash(secret)
        token = Token(sha256=sha256, host=host, created=now, expires=now + life, by=by, reenrol=reenrol)
        self._count += 1
        await change(self._store, _key(sha256), Token, lambda known: token)
        return secret, token

    async def check(self, secret: str, host: str) -> Token:
        """The record of a token that ``host`` could use now. Raises :class:`Refused`."""
        sha256 = _hash(secret)
        return self._usable(await read(self._store, _key(sha256), Token), sha256, host)

    async def use(self, secret: str, host: str, key: str) -> Token:
        """Use it up: of all who do so at the same time, one gets it, and the others :class:`Refused`.

        ``key`` is the fingerprint of the key that is to be certified. Whether a token is used up is not known when this
        fails with :class:`controller.store.Unavailable`.
        """
        sha256 = _hash(secret)
        now = self._now()

        def used(known: Token | None) -> Token:
            return msgspec.structs.replace(self._usable(known, sha256, host), used=now, used_by=key)

        token = await change(self._store, _key(sha256), Token, used)
        assert token is not None
        return token

    async def all(self) -> dict[str, Token]:
        """Those that are kept, by their ids, which are no secrets."""
        return await read_all(self._store, _WHERE, Token)

    async def revoke(self, token: str) -> Token:
        """Forget one, by its id; what is returned says whether it had been used. Raises :class:`Refused`."""
        found: list[Token] = []

        def forgotten(known: Token | None) -> None:
            found[:] = [known] if known is not None else []

        try:
            await change(self._store, _WHERE + token, Token, forgotten)
        except ValueError:
            pass  # not even an id
        if not found:
            raise Refused("token", "there is no such token")
        return found[0]

    async def sweep(self) -> dict[str, Token]:
        """Forget those that have expired, used or not; returns the others."""
        tokens = await self.all()
        now = self._now()
        for name in [name for name, token in tokens.items() if token.expires <= now]:
            await self._store.delete(_WHERE + name)
            del tokens[name]
        self._count = len(tokens)
        return tokens

    async def tidy(self, pause: float = SELDOM) -> None:
        """Forget those that have expired, unless that was done less than ``pause`` seconds ago."""
        now = self._now()
        if not 0.0 <= now - self._looked < pause:
            self._looked = now
            await self.sweep()

    def _usable(self, token: Token | None, sha256: str, host: str) -> Token:
        if token is None or not hmac.compare_digest(token.sha256, sha256):
            raise Refused("token", "there is no such token, or it has expired")
        if token.expires <= self._now():
            raise Refused("expired", "the token has expired")
        if token.host != host:
            raise Refused("other-host", f"the token is for {token.host}")
        if token.used:
            raise Refused("used", "the token has been used")
        return token


def token_id(token: Token) -> str:
    """By which operators and the audit log name it."""
    return token.sha256[:_ID]


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(sha256: str) -> str:
    return _WHERE + sha256[:_ID]
