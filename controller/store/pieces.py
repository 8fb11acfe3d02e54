"""Values larger than Consul takes for one key: in pieces, each under a key of its own.

Pieces are written first, and what names them, the manifest, is written under the value's own key last, by
compare-and-set: until then the old value is what everybody reads. Pieces belong to one attempt of writing and are
never changed. Those that no manifest names (of a value that was replaced or deleted, or whose writer died) are deleted
when the next large value is written, an hour after they were made at the earliest: no attempt lasts that long, and the
clocks of controllers differ by less.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable

import msgspec

from controller.store import VALUE_SIZE, Unavailable
from controller.store.client import Client, decoded, refused

PIECE = 448 * 1024  # bytes; Consul takes 512 KiB
LEFT = 3600.0  # seconds after which pieces that no manifest names are deleted
KEYS = 16 * 1024 * 1024  # bytes of the names of all pieces
MOST_DELETED = 64  # sets of pieces in one go
_SET = re.compile(r"(.+)/([0-9]{1,12})-[0-9a-f]{16}/")

ManifestOf = Callable[[str], Awaitable[bytes | None]]


class Manifest(msgspec.Struct, frozen=True):
    """What is kept under the key of a value in pieces."""

    pieces: str  # key that those of the pieces begin with
    size: int
    sha256: bytes


class Pieces:
    """Writes and reads values in pieces, below one prefix."""

    def __init__(self, client: Client, prefix: str, now: Callable[[], float], manifest_of: ManifestOf) -> None:
        """``now`` is the time of day, Unix seconds. ``manifest_of`` reads the manifest that a key has now."""
        self._client = client
        self._prefix = prefix
        self._now = now
        self._manifest_of = manifest_of

    async def write(self, key: str, value: bytes) -> bytes:
        """Write the pieces, and return the manifest to keep under the key."""
        await self._sweep()
        where = f"{self._prefix}{key}/{int(self._now())}-{secrets.token_hex(8)}/"
        for number, start in enumerate(range(0, len(value), PIECE)):
            body = value[start : start + PIECE]
            reply = await self._client.request("PUT", f"/v1/kv/{where}{number}", body=body)
            if reply.status != 200:
                raise refused(reply)
        return msgspec.json.encode(Manifest(where, len(value), hashlib.sha256(value).digest()))

    async def read(self, encoded: bytes) -> bytes | None:
        """The value that a manifest names; None when a piece is not there any more."""
        manifest = _manifest(encoded)
        if not manifest.pieces.startswith(self._prefix) or manifest.size > VALUE_SIZE:
            raise Unavailable("what should name pieces of a value in Consul names something else")
        value = bytearray()
        for number in range(-(-manifest.size // PIECE)):
            path = f"/v1/kv/{manifest.pieces}{number}"
            reply = await self._client.request("GET", path, {"raw": "", "consistent": ""})
            if reply.status == 404:
                return None
            if reply.status != 200:
                raise refused(reply)
            value += reply.body
        if hashlib.sha256(value).digest() != manifest.sha256:
            raise Unavailable("the pieces of a value in Consul were changed by somebody else")
        return bytes(value)

    async def _sweep(self) -> None:
        """Delete old pieces that no manifest names."""
        params = {"keys": "", "consistent": ""}
        reply = await self._client.request("GET", f"/v1/kv/{self._prefix}", params, limit=KEYS)
        if reply.status == 404:
            return
        if reply.status != 200:
            raise refused(reply)
        sets = {each.rpartition("/")[0] + "/" for each in decoded(reply, list[str])}
        deleted = 0
        for each in sorted(sets):
            match = _SET.fullmatch(each.removeprefix(self._prefix))
            if match is None or int(match[2]) > self._now() - LEFT or await self._named(match[1], each):
                continue
            await self._client.request("DELETE", f"/v1/kv/{each}", {"recurse": ""})
            deleted += 1
            if deleted >= MOST_DELETED:
                return

    async def _named(self, key: str, pieces: str) -> bool:
        encoded = await self._manifest_of(key)
        return encoded is not None and _manifest(encoded).pieces == pieces


def _manifest(encoded: bytes) -> Manifest:
    try:
        return msgspec.json.decode(encoded, type=Manifest)
    except msgspec.DecodeError as error:
        raise Unavailable(f"what should name pieces of a value in Consul does not: {error}") from None
