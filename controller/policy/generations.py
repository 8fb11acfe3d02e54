"""Every generation of policy, and which one holds.

A generation never changes. ``state/head`` names the newest; whoever applies another replaces it only if it is still
the one that was read, so that of two operators at once one has to look again. Each generation names the one before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from controller.store import Conflict, Entry, Store
from hostproxy.mesh.bundle import file_name

HEAD = "state/head"
KEPT = 100  # generations; older ones are forgotten
KEPT_SIZE = 32 * 1024 * 1024  # bytes of them; a listing of the store has at most twice that
TRIES = 5  # to replace the head, when somebody else does so at the same time


class Version(msgspec.Struct, frozen=True, order=True):
    """What is compared: a later one replaces an earlier one."""

    epoch: int
    generation: int

    def __str__(self) -> str:
        return f"{self.generation}" if self.epoch == 1 else f"{self.epoch}.{self.generation}"


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """All policy at one time."""

    version: Version
    applied: float  # Unix seconds
    actor: str  # who
    note: str = ""  # why, as they said
    previous: str = ""  # the key of the one before
    staged: bool = False  # hosts get it from a rollout, and not before that has begun
    restored: int = 0  # the generation whose files these are, after a rollback; 0: they are new
    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        """SHA-256 of the files with their names, hexadecimal."""
        return digest_of(self.files)


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The newest."""

    version: Version
    key: str


class Unchanged(Exception):
    """The files are those of the newest generation."""


class Unknown(Exception):
    """There is no such generation, or it is not kept any more."""


def digest_of(files: Mapping[str, bytes]) -> str:
    """SHA-256 of files with their names, hexadecimal."""
    whole = hashlib.sha256()
    for name in sorted(files):
        content = files[name]
        whole.update(f"{len(name)}:{name}{len(content)}:".encode() + content)
    return whole.hexdigest()


class Generations:
    """All of them, in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loaded: tuple[str, Generation] | None = None  # the last one, by its key

    async def newest(self) -> Generation | None:
        """The one that holds; None before the first."""
        head, _ = await self._head()
        return await self._load(head.key) if head is not None else None

    async def get(self, generation: int) -> Generation:
        """One by its number; of several epochs the latest. Raises :class:`Unknown`."""
        for found in await self.history():
            if found.version.generation == generation:
                return found
        raise Unknown(f"there is no generation {generation}, or it is not kept any more")

    async def history(self) -> list[Generation]:
        """All that are kept, the newest first."""
        head, _ = await self._head()
        return [] if head is None else [each for _, each in self._chain(head, await self._store.list("generations/"))]

    @staticmethod
    def _chain(head: Head, entries: Mapping[str, Entry]) -> list[tuple[str, Generation]]:
        """Each one and the one before it. What was written and never became the newest is in nobody's chain."""
        chain: list[tuple[str, Generation]] = []
        key, size = head.key, 0
        while key in entries and len(chain) < KEPT:
            size += len(entries[key].value)
            if chain and size > KEPT_SIZE:
                break
            generation = _decode(entries[key].value)
            chain.append((key, generation))
            key = generation.previous
        return chain

    async def apply(
        self,
        files: Mapping[str, bytes],
        actor: str,
        now: float,
        note: str = "",
        restored: int = 0,
        anyway: bool = False,
        staged: bool = False,
    ) -> Generation:
        """Make ``files``, which were checked, the newest. Raises :class:`Unchanged`, or Conflict when others do too.

        ``anyway``: a new generation even when the files are the same. ``staged``: a rollout brings it to the hosts.
        """
        for name in files:
            file_name(name)
        for _ in range(TRIES):
            head, version = await self._head()
            before = await self._load(head.key) if head is not None else None
            if before is not None and before.digest == digest_of(files) and not anyway:
                raise Unchanged(f"generation {before.version} has the same files")
            epoch, number = (head.version.epoch, head.version.generation) if head is not None else (1, 0)
            generation = Generation(
                version=Version(epoch, number + 1),
                applied=now,
                actor=actor,
                note=note,
                previous=head.key if head is not None else "",
                restored=restored,
                staged=staged,
                files=dict(files),
            )
            try:
                await self._become_newest(generation, version)
            except Conflict:
                continue
            return generation
        raise Conflict("others apply policy at the same time: look at what holds now, and try again")

    async def rollback(
        self, generation: int, actor: str, now: float, note: str = "", staged: bool = False
    ) -> Generation:
        """Make the files of an earlier generation the newest, as a generation of its own: numbers never go back."""
        earlier = await self.get(generation)
        return await self.apply(earlier.files, actor, now, note, restored=generation, staged=staged)

    async def renew(self, actor: str, now: float, note: str) -> Generation | None:
        """The same files as a new generation, for what else travels with them: roots, signers, denied identities.

        Hosts tell bundles apart by their number, so nothing in one may change without it. None before the first.
        """
        newest = await self.newest()
        return None if newest is None else await self.apply(newest.files, actor, now, note, anyway=True)

    async def raise_epoch(self, actor: str, now: float) -> Generation:
        """After the store was restored from a backup: what hosts have may be newer, and is replaced by this epoch."""
        head, version = await self._head()
        if head is None:
            raise Unknown("there is no generation to begin a new epoch with")
        files = (await self._load(head.key)).files
        next_version = Version(head.version.epoch + 1, head.version.generation + 1)
        generation = Generation(
            version=next_version, applied=now, actor=actor, note="a new epoch", previous=head.key, files=files
        )
        await self._become_newest(generation, version)
        return generation

    async def _head(self) -> tuple[Head | None, int]:
        entry = await self._store.get(HEAD)
        return (None, 0) if entry is None else (msgspec.msgpack.decode(entry.value, type=Head), entry.version)

    async def _load(self, key: str) -> Generation:
        # Never changes under its key, and is asked for once for each host that is told.
        if self._loaded is None or self._loaded[0] != key:
            entry = await self._store.get(key)
            if entry is None:
                raise Unknown(f"the store has lost {key}: apply the policy again")
            self._loaded = key, _decode(entry.value)
        return self._loaded[1]

    async def _become_newest(self, generation: Generation, head_version: int) -> None:
        version = generation.version
        whole = hashlib.sha256(msgspec.msgpack.encode(generation)).hexdigest()
        key = f"generations/{version.epoch:010}-{version.generation:016}-{whole}"
        await self._store.put(key, msgspec.msgpack.encode(generation), None)
        head = Head(version=version, key=key)
        await self._store.put(HEAD, msgspec.msgpack.encode(head), head_version)
        await self._forget_old(head)

    async def _forget_old(self, head: Head) -> None:
        """All that nobody can ask for. What is newer than the newest may be about to replace it."""
        entries = await self._store.list("generations/")
        kept = {key for key, _ in self._chain(head, entries)}
        for key, entry in entries.items():
            if key not in kept and _decode(entry.value).version < head.version:
                await self._store.delete(key)


def _decode(value: bytes) -> Generation:
    return msgspec.msgpack.decode(value, type=Generation)
