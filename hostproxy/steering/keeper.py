"""The record in memory, and its copy on the disk: one change at a time, and the disk before what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from hostproxy.discovery.watch import Watch
from hostproxy.steering.record import Disk, Kept, Record

T = TypeVar("T")
Aside = Callable[[Callable[[], T]], "Deferred[T]"]  # runs something where it may wait, and gives what it returned


class Keeper:
    """Holds the record. While the disk takes nothing, what is new holds in memory, and ``problem`` says so."""

    log = Logger()

    def __init__(self, disk: Disk, aside: Aside[None]) -> None:
        self.record: Watch[Record | None] = Watch(None)
        self.problem = ""
        self._disk = disk
        self._aside = aside
        self._lock = DeferredLock()
        self._unsaved: dict[Kept, bytes] = {}

    def start(self) -> None:
        """Read what there is. Not under the reactor: it waits for the disk, and nothing can be done before."""
        try:
            self._disk.make()
            self._disk.clear()
        except OSError as error:
            self._note(self._text(error))  # what is there can be read all the same
        self.record.value, problem = self._disk.load()
        if problem:
            self._note(f"state_directory: {problem}")

    def change(
        self, make: Callable[[Record | None], Record | None], bundles: Mapping[Kept, bytes] | None = None
    ) -> Deferred[None]:
        """Replace the record by what ``make`` says, None for no change. Fires when it is on the disk, or can't be."""
        return self._lock.run(lambda: Deferred.fromCoroutine(self._change(make, bundles or {})))

    def save(self) -> Deferred[None]:
        """Write the record as it is: after a failure, or when it was found to be out of date."""
        return self._lock.run(lambda: Deferred.fromCoroutine(self._save(self.record.value)))

    async def _change(self, make: Callable[[Record | None], Record | None], bundles: Mapping[Kept, bytes]) -> None:
        record = make(self.record.value)
        if record is None or record == self.record.value:
            return
        self._unsaved |= bundles
        await self._save(record)
        self.record.publish(record)

    async def _save(self, record: Record | None) -> None:
        if record is None:
            return
        self._unsaved = {kept: data for kept, data in self._unsaved.items() if kept in record.kept}
        bundles = dict(self._unsaved)

        def save() -> None:
            self._disk.make()
            self._disk.save(record, bundles)

        try:
            await self._aside(save)
        except OSError as error:
            self._note(self._text(error))
        else:
            self._unsaved = {}
            self._note("")

    def unsaved(self, kept: Kept) -> bytes | None:
        """A bundle that the disk has not taken."""
        return self._unsaved.get(kept)

    def _text(self, error: OSError) -> str:
        return (
            f"state_directory {self._disk.directory}: {error.strerror}: what the controller says holds until a restart,"
            " and is not kept"
        )

    def _note(self, problem: str) -> None:
        if problem and problem != self.problem:
            self.log.error("{problem}", problem=problem)
        elif self.problem and not problem:
            self.log.info("what the controller says is kept in {directory} again", directory=self._disk.directory)
        self.problem = problem
