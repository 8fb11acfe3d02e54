"""From a cgroup, or a process, to the systemd unit of this host that it belongs to.

What counts are units of the system's manager: the first directory below the slices. Whatever is further down belongs
to that unit, also when it has the name of another: users may make such directories below their ``user@UID.service``,
and so may services that the hierarchy is delegated to.
"""

from __future__ import annotations

import os
import re
import select
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import islice

from hostproxy.identity.sockets import Unknown

_UNITS = (".service", ".scope", ".socket", ".mount", ".swap")  # units with processes
_SLICE = ".slice"
# Of one look at the hierarchy: a host has a few hundred. Whoever is delegated a part of it can make many.
MAX_DIRECTORIES = 20_000
MAX_BELOW = 5_000  # cgroups within one unit
MAX_OTHERS = 10_000  # cgroups that are remembered to be no service's
# Looks at the hierarchy in a second that new cgroups of one user may cause; nobody else has to wait for them.
LOOKS = 20
_PROC_FILE = 16 * 1024  # bytes
_EFFECTIVE_UID = re.compile(rb"^Uid:\t\d+\t(\d+)\t", re.MULTILINE)
_MOUNT_ESCAPE = re.compile(r"\\([0-7]{3})")


def unit_of(path: str) -> str:
    """The unit that a path in the cgroup hierarchy belongs to; "" when that is none."""
    for name in path.split("/"):
        if name and not name.endswith(_SLICE):
            # systemd puts "_" before what could be a file of the kernel's: "_cpu.service".
            return name.removeprefix("_") if name.endswith(_UNITS) else ""
    return ""


def template(unit: str) -> str:
    """The template of an instance: "payments@.service" of "payments@1.service"; "" when it is none."""
    name, at, _ = unit.partition("@")
    return f"{name}@{unit[unit.rindex('.'):]}" if at else ""


def hierarchy(mounts: str = "/proc/self/mountinfo") -> str:
    """Where the whole cgroup v2 hierarchy is mounted; "" when it is not."""
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.readlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, kind = line.partition(" - ")
        _, _, _, root, point, *_ = fields.split(" ")
        # A part of it that is mounted elsewhere has other names at its top than systemd's.
        if kind.startswith("cgroup2 ") and root == "/":
            return _MOUNT_ESCAPE.sub(lambda match: chr(int(match[1], 8)), point)
    return ""


class Cgroups:
    """Knows cgroups by number. A number is never given twice, and a cgroup never gets another name or place.

    So what was found once stays right, and so does that a cgroup is none of a wanted unit. Only cgroups that are new
    cost a look at the hierarchy: at its slices, and at what is below the wanted units.
    """

    def __init__(self, wanted: Collection[str], root: str, clock: Callable[[], float]) -> None:
        """``wanted``: names of units and of templates. ``root``: see :func:`hierarchy`. ``clock``: seconds."""
        self._wanted = frozenset(wanted)
        self._root = root
        self._clock = clock
        self._units: dict[int, str] = {}
        self._others: set[int] = set()
        self._second = 0
        self._looks: dict[int, int] = {}  # in that second, by user

    def unit(self, cgroup: int, uid: int) -> str:
        """The unit that it belongs to, asked for a process of ``uid``; "" when it is none that is wanted.

        Of other units, some are named as well. Raises :class:`Unknown`.
        """
        found = self._units.get(cgroup)
        if found is None and cgroup not in self._others:
            self._look(uid)
            found = self._units.get(cgroup)
            if found is None:
                if len(self._others) >= MAX_OTHERS:
                    self._others.clear()
                self._others.add(cgroup)
        return found or ""

    def _look(self, uid: int) -> None:
        if not self._root:
            raise Unknown("cgroups", "the cgroup v2 hierarchy is not mounted, so there are no units")
        second = int(self._clock())
        if second != self._second:
            self._second, self._looks = second, {}
        looks = self._looks.get(uid, 0)
        if looks >= LOOKS:
            raise Unknown("busy", f"too many new cgroups of user {uid} call at once")
        self._looks[uid] = looks + 1
        self._units = self._found()

    def _found(self) -> dict[int, str]:
        units: dict[int, str] = {}
        wanted: list[tuple[str, str]] = []
        slices = deque([self._root])
        while slices and len(units) < MAX_DIRECTORIES:
            for entry in islice(_directories(slices.popleft()), MAX_DIRECTORIES):
                if entry.name.endswith(_SLICE):
                    slices.append(entry.path)
                    continue
                unit = units[entry.inode()] = unit_of(entry.name)
                if unit in self._wanted or template(unit) in self._wanted:
                    wanted.append((entry.path, unit))
        for path, unit in wanted:
            below = deque([path])
            left = MAX_BELOW
            while below and left > 0:
                for entry in islice(_directories(below.popleft()), left):
                    units[entry.inode()] = unit
                    below.append(entry.path)
                    left -= 1
        return units


def unit_of_process(pid: int, uid: int, descriptor: int | None) -> str:
    """The unit of a process that made itself known as ``pid`` and effective ``uid``; "" when it has none.

    With ``descriptor``, its pidfd, it is that process for certain. Without, another one may have got its number since,
    and is taken for it if it is of the same user. Raises :class:`Unknown`.
    """
    if pid <= 0:
        raise Unknown("namespace", "the process is in another PID namespace")
    try:
        directory = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # From here on it is about one process: files below say nothing when it ends, whoever gets its number.
            if descriptor is not None:
                same = not _exited(descriptor)
            else:
                found = _EFFECTIVE_UID.search(_read(directory, "status"))
                same = found is not None and int(found[1]) == uid
            content = _read(directory, "cgroup") if same else b""
        finally:
            os.close(directory)
    except OSError:
        raise Unknown("gone", f"process {pid} has gone, or /proc hides it") from None
    if not same:
        raise Unknown("gone", f"process {pid} has gone, or runs as another user than when it connected")
    for line in content.splitlines():
        if line.startswith(b"0::"):
            return unit_of(line[3:].decode("utf-8", "replace"))
    raise Unknown("cgroups", "the process is in no cgroup v2, so it is in no unit")


def _exited(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


def _read(directory: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(descriptor, _PROC_FILE)
    finally:
        os.close(descriptor)


def _directories(path: str) -> Iterator[os.DirEntry[str]]:
    """What is in a directory that may be taken away at any moment."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield entry
    except OSError:
        return
