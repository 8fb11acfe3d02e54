"""Noticing that files changed: rewritten, renamed into place, behind a switched symbolic link, gone or back.

inotify on the directories says at once that something happened; what happened is found by comparing ``stat``
results, so a missed, doubled or unrelated event does no harm. A slow poll does the same without inotify: on
file systems that have no events, and when the kernel has no watches left (``fs.inotify.max_user_instances``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet import inotify
from twisted.logger import Logger
from twisted.python.filepath import FilePath

INTERVAL = 2.0  # seconds between polls where inotify watches
INTERVAL_WITHOUT_INOTIFY = 0.5  # seconds; a stat costs some microseconds
NOTICE = 0.01  # seconds from an event to the first look, which then serves for all events of that time
SETTLE = 0.05  # seconds that files must stay the same: one change of an operator touches several files
PATIENCE = 0.5  # seconds that a writer may take who rewrites a file in place
LINKS = 40  # symbolic links followed for one path, as the kernel does (MAXSYMLINKS)

_WRITING = inotify.IN_MODIFY
_EVENTS = inotify.IN_WATCH_MASK | inotify.IN_CLOSE_WRITE

Signature = tuple[Any, ...]


class FileWatch:
    """Calls ``callback()`` after any of ``paths`` (files, or directories of files) changed and settled."""

    log = Logger()

    def __init__(
        self, reactor: Any, paths: Iterable[str], callback: Callable[[], object], interval: float = INTERVAL
    ) -> None:
        self.reactor = reactor
        self.paths = tuple(os.path.abspath(path) for path in paths)
        self.callback = callback
        self.interval = interval
        self._seen: Signature = ()  # what the callback knows about
        self._last: Signature = ()  # what was there at the last look
        self._since: float | None = None  # when a change was first noticed that the callback doesn't know
        self._being_written: set[bytes] = set()
        self._directories: dict[str, tuple[int, int]] = {}  # watched: path -> (device, inode)
        self._targets: set[bytes] = set()  # the files, and directories of files, behind all links
        self._notifier: Any = None  # inotify.INotify, which has no types
        self._timer: Any = None

    def start(self) -> None:
        """Begin to watch. Changes from now on are noticed."""
        self._watch_directories()
        self._seen = self._last = self._signature()
        self._schedule(self._pause())

    def stop(self) -> None:
        """Watch no more; ``callback`` isn't called again."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._drop_notifier()

    def _schedule(self, delay: float) -> None:
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= self.reactor.seconds() + delay:
                return
            self._timer.cancel()
        self._timer = self.reactor.callLater(delay, self._look)

    def _pause(self) -> float:
        return self.interval if self._notifier is not None else min(self.interval, INTERVAL_WITHOUT_INOTIFY)

    def _look(self) -> None:
        """Compare what is there with what was; call back once a change has settled."""
        self._watch_directories()  # before the look: what happens after it raises an event
        current, now = self._signature(), self.reactor.seconds()
        settled = current == self._last
        self._last = current
        if current == self._seen:
            self._since = None
            self._being_written.clear()
            self._schedule(self._pause())
            return
        if self._since is None:
            self._since = now
        if not settled or (self._being_written and now - self._since < PATIENCE):
            self._schedule(SETTLE)
            return
        self._seen, self._since = current, None
        self._being_written.clear()
        self._schedule(self._pause())
        self.callback()

    def _event(self, _ignored: object, path: FilePath[bytes], mask: int) -> None:
        if mask & _WRITING and not self._targets.isdisjoint((path.path, os.path.dirname(path.path))):
            self._being_written.add(path.path)
        elif mask & inotify.IN_CLOSE_WRITE:
            self._being_written.discard(path.path)
        if mask & (inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_UNMOUNT):
            self._directories = {}  # Twisted closes a notifier whose directory is deleted
        self._schedule(NOTICE if self._since is None else SETTLE)

    def _signature(self) -> Signature:
        return tuple(_signature(path) for path in self.paths)

    def _watch_directories(self) -> None:
        """Watch the directories in which a change can happen now. Nothing to do unless one of them is new."""
        wanted = {}
        for directory in sorted({each for path in self.paths for each in directories(path)}):
            try:
                found = os.stat(directory)
            except OSError:
                continue  # gone since: the event for that comes from the one above it
            wanted[directory] = (found.st_dev, found.st_ino)
        self._targets = {os.fsencode(os.path.realpath(path)) for path in self.paths}
        if wanted == self._directories:
            return
        self._drop_notifier()
        self._directories = wanted
        try:
            notifier: Any = inotify.INotify
            self._notifier = notifier(self.reactor)
            for directory in wanted:
                self._notifier.watch(FilePath(os.fsencode(directory)), _EVENTS, callbacks=[self._event])
            self._notifier.startReading()
        except (inotify.INotifyError, OSError) as error:
            self.log.warn(
                "Cannot watch {paths} with inotify ({error}): looking every {pause} s instead; raise"
                " fs.inotify.max_user_instances and fs.inotify.max_user_watches",
                paths=", ".join(self.paths),
                error=error,
                pause=INTERVAL_WITHOUT_INOTIFY,
            )
            self._drop_notifier()
            self._directories = wanted  # tried again when they become others

    def _drop_notifier(self) -> None:
        notifier, self._notifier = self._notifier, None
        self._directories = {}
        if notifier is not None and notifier.connected:
            notifier.loseConnection()


def directories(path: str) -> set[str]:
    """Return the directories whose entries decide what is at an absolute ``path``.

    That is where it, or the nearest directory above that exists, and every symbolic link on the way is; a
    directory counts itself.
    """
    found: set[str] = set()
    rest = path.split("/")[1:]
    here, links = "/", 0
    while rest:
        name = rest.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)
            continue
        entry = os.path.join(here, name)
        try:
            mode = os.lstat(entry).st_mode
        except OSError:
            found.add(here)  # where it will appear
            return found
        if stat.S_ISLNK(mode) and links < LINKS:
            links += 1
            found.add(here)
            target = os.readlink(entry).split("/")
            if target[0] == "":
                here = "/"
            rest = target + rest
            continue
        if not rest:
            found.add(here)
        if not stat.S_ISDIR(mode):
            return found
        here = entry
    found.add(here)
    return found


def _signature(path: str) -> Signature:
    """Return what differs whenever a file, or any file in a directory, has become another."""
    try:
        found = os.stat(path)
        if not stat.S_ISDIR(found.st_mode):
            return _identity(found)
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        return (error.errno,)
    signature: list[Any] = []
    for name in names:
        try:
            found = os.stat(os.path.join(path, name))
        except OSError as error:
            signature.append((name, error.errno))
            continue
        if not stat.S_ISDIR(found.st_mode):
            signature.append((name, *_identity(found)))
    return tuple(signature)


def _identity(found: os.stat_result) -> tuple[int, ...]:
    # The change time as well: tools that keep the modification time (cp -p, rsync -t) cannot keep that.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
