"""What a check has found, and what checks are given to look at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from hostproxy.mesh.document import Problem

if TYPE_CHECKING:
    from hostproxy.config import Config

Result = Literal["ok", "warn", "FAIL", "skip"]
Document = Mapping[str, Any]

SHOWN = 5  # of many that have the same fault
LEAST = 0.05  # seconds that a try over the network gets, also when hardly any are left


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report. Its names are a promise to scripts."""

    group: str
    check: str
    result: Result  # skip: it does not apply here, or could not be looked at; ``found`` says why
    found: str
    fix: str = ""  # what to do, in a line
    see: str = ""  # where to read more


class Group:
    """Collects what one group finds. After :meth:`close` nothing is taken any more: its time is up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.findings: list[Finding] = []
        self._closed = False
        self._lock = threading.Lock()

    def ok(self, check: str, found: str) -> None:
        """It is as it should be."""
        self._add(check, "ok", found)

    def warn(self, check: str, found: str, fix: str) -> None:
        """Traffic flows all the same, but somebody should look at it."""
        self._add(check, "warn", found, fix)

    def fail(self, check: str, found: str, fix: str) -> None:
        """Something does not work, or will not."""
        self._add(check, "FAIL", found, fix)

    def skip(self, check: str, found: str, fix: str = "") -> None:
        """It was not looked at."""
        self._add(check, "skip", found, fix)

    def close(self) -> None:
        """Take nothing more."""
        with self._lock:
            self._closed = True

    def _add(self, check: str, result: Result, found: str, fix: str = "") -> None:
        see = f"docs/doctor.md#{self.name}" if result in ("warn", "FAIL") else ""
        finding = Finding(group=self.name, check=check, result=result, found=found, fix=fix, see=see)
        with self._lock:
            if not self._closed:
                self.findings.append(finding)


@dataclass(frozen=True, slots=True)
class User:
    """Whom the daemon runs as."""

    uid: int
    groups: frozenset[int]
    how: str  # it is known

    @property
    def name(self) -> str:
        """Its name, or its number where it has none."""
        import pwd

        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"number {self.uid}"


@dataclass(frozen=True, slots=True)
class Around:
    """Everything that checks look at."""

    config: Config
    problems: tuple[Problem, ...]  # of conf.toml and of the files that it names
    warnings: tuple[Problem, ...]
    status: Document | None  # what the daemon says of itself; None: it says nothing
    silence: str  # why not
    ask: Callable[[str, str], Document | None]  # a page of the daemon and a key of it; None: it could not be had
    user: User
    unit: Mapping[str, str]  # properties of its unit; empty: no systemd, or no such unit
    deadline: float  # by time.monotonic()
    proc: str = "/proc"
    now: Callable[[], float] = field(default=time.time)  # Unix seconds

    def left(self, most: float = 3.0) -> float:
        """Seconds for one try over the network."""
        return max(LEAST, min(most, self.deadline - time.monotonic() - 0.2))

    def processes(self) -> frozenset[int]:
        """The daemon and its workers."""
        if self.status is None:
            return frozenset()
        return frozenset([self.status["pid"], *(worker["pid"] for worker in self.status["workers"] if worker["pid"])])


def some(names: list[str]) -> str:
    """The first few of many."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def span(seconds: float) -> str:
    """A length of time in its two largest units: "3d4h", "2m5s", "12s"."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
    return "".join(parts[:2]) or "0s"


def number_in(path: str) -> int | None:
    """The number that is all of a file of the kernel; None when there is no such file, or no number."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read(64))
    except (OSError, ValueError):
        return None
