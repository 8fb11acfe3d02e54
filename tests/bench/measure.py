"""CPU time and memory of whole process trees, and the statistics of a few rounds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_PROC = Path("/proc")
_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")  # nanoseconds
_PROCESS_CPU_CLOCK = 2  # CPUCLOCK_SCHED of the kernel: what the scheduler counted, in nanoseconds


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process tree."""

    proportional: int  # PSS: pages shared by n processes count 1/n for each
    peak_resident: int  # the sum of VmHWM


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure of several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """``samples`` must not be empty."""
        return cls(median(samples), min(samples), max(samples))


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least ``share`` (0..1) of all samples do not exceed (nearest rank)."""
    ordered = sorted(samples)
    rank = -int(-share * len(ordered) // 1)  # the ceiling
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours to theirs, round by round: interleaved rounds share what the machine did at that moment."""
    return Spread.of([mine / other for mine, other in zip(ours, theirs, strict=True)])


def process_tree(root: int) -> set[int]:
    """``root`` and all its descendants that are alive."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    tree: set[int] = set()
    waiting = [root] if (_PROC / str(root)).exists() else []
    while waiting:
        pid = waiting.pop()
        tree.add(pid)
        waiting.extend(children.get(pid, ()))
    return tree


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which the process began; None when it has ended.

    That tells it from a later process of the same number.
    """
    fields = _stat(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[19])


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third (state) on, or None when the process has gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def cpu_time(pids: Iterable[int]) -> int:
    """Nanoseconds of CPU that the processes used: all threads, and the children they have waited for."""
    total = 0
    for pid in pids:
        fields = _stat(pid)
        if fields is None:
            continue
        total += (int(fields[13]) + int(fields[14])) * _TICK  # cutime, cstime
        try:
            total += time.clock_gettime_ns(~pid << 3 | _PROCESS_CPU_CLOCK)  # clock_getcpuclockid(3)
        except OSError:
            continue
    return total


def memory(pids: Iterable[int]) -> Memory:
    """Memory of the processes that are alive."""
    proportional = peak = 0
    for pid in pids:
        try:
            rollup = (_PROC / str(pid) / "smaps_rollup").read_text()
            status = (_PROC / str(pid) / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        proportional += _kilobytes(rollup, "Pss:")
        peak += _kilobytes(status, "VmHWM:")
    return Memory(proportional, peak)


def _kilobytes(text: str, key: str) -> int:
    """The value, in bytes, of the line ``key  123 kB``; 0 when there is none."""
    for line in text.splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What else happened to the processors meanwhile, as shares (0..1) of all their time."""

    stolen: float  # by the hypervisor
    others: float  # by programs that are not of this benchmark


class Watch:
    """Compares what the machine did with what this process and its children did."""

    def __init__(self) -> None:
        self._machine = _machine_times()
        self._own = _own_time()

    def disturbance(self) -> Disturbance:
        """Since the beginning. All children have to be waited for before, or they count as others."""
        user, nice, system, idle, waiting, irq, soft, stolen = (
            late - early for early, late in zip(self._machine, _machine_times(), strict=True)
        )
        total = max(user + nice + system + idle + waiting + irq + soft + stolen, 1)
        busy = user + nice + system + irq + soft
        own = (_own_time() - self._own) * os.sysconf("SC_CLK_TCK")
        return Disturbance(stolen / total, max(busy - own, 0.0) / total)


def _machine_times() -> tuple[int, ...]:
    """The first eight fields of the ``cpu`` line of /proc/stat, in clock ticks."""
    return tuple(int(field) for field in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9])


def _own_time() -> float:
    """Seconds of CPU of this process and of all children that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
