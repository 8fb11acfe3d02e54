"""Starting other programs on a chosen core, and leaving none of them behind.

A guard process learns every process group that is started and the scratch directory. Its standard input
closes when the benchmark ends in whatever way, SIGKILL included; it then ends the groups that are still
there and removes the directory.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.bench.measure import process_tree, start_time

DESCRIPTORS = 65_536  # wanted RLIMIT_NOFILE: two per proxied connection for 10,000 of them, three times over
STOP_TIME = 2.0  # seconds from SIGTERM to SIGKILL
_PR_SET_PDEATHSIG = 1

_GUARD = """
import os, shutil, signal, sys, time
groups = set()
for line in sys.stdin:
    word, value = line.split(" ", 1)
    groups.add(int(value)) if word == "add" else groups.discard(int(value))
def end(number):
    for group in groups:
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            pass
if groups:
    end(signal.SIGTERM)
    time.sleep(1)
    end(signal.SIGKILL)
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class Failed(Exception):
    """A program did not do what the benchmark needs of it; the message is for the operator."""


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE of this process and its children as far as allowed; return the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, max(hard, DESCRIPTORS)))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Program:
    """A running program with all its children."""

    __slots__ = ("log", "name", "process")

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raise :class:`Failed` with the end of its log when the program has ended."""
        if self.process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-1500:].strip()
            raise Failed(f"{self.name} ended with status {self.process.returncode}: {tail}")


class Processes:
    """Every program of one run, and the scratch directory that they share."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hostproxy-bench-"))
        self.directory.chmod(0o755)  # nginx workers may run as another user
        self._running: list[Program] = []
        self._guard = subprocess.Popen(
            [sys.executable, "-c", _GUARD, str(self.directory)], stdin=subprocess.PIPE, start_new_session=True
        )

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(*self._running)
        shutil.rmtree(self.directory, ignore_errors=True)
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()

    def start(
        self,
        name: str,
        command: Sequence[str],
        core: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Program:
        """Start ``command`` on ``core``, its output in ``log``, in a process group of its own."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=settle_on(core),
            )
        self._tell_guard("add", process.pid)
        program = Program(name, process, log)
        self._running.append(program)
        return program

    def stop(self, *programs: Program) -> None:
        """SIGTERM to the programs, then SIGKILL to whatever of their trees or groups is left."""
        trees = {program: {pid: start_time(pid) for pid in process_tree(program.pid)} for program in programs}
        for program in programs:
            if program.process.poll() is None:
                program.process.terminate()
        deadline = time.monotonic() + STOP_TIME
        for program, tree in trees.items():
            try:
                program.process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                pass
            _kill(program.pid, os.killpg)
            for pid, began in tree.items():
                if began is not None and start_time(pid) == began:
                    _kill(pid, os.kill)
            program.process.wait()
            self._running.remove(program)
            self._tell_guard("remove", program.pid)

    def _tell_guard(self, word: str, pid: int) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{word} {pid}\n".encode())
        self._guard.stdin.flush()


def settle_on(core: int) -> Callable[[], None]:
    """What a child does before it becomes the program: end with its parent, stay on one core."""
    prctl = ctypes.CDLL(None).prctl  # looked up here, because between fork and exec little is safe

    def settle() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, {core})

    return settle


def _kill(pid: int, how: Callable[[int, int], None]) -> None:
    try:
        how(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def wait_until(
    ready: Callable[[], bool], programs: Sequence[Program], what: str, seconds: float = 10.0
) -> None:
    """Poll ``ready`` until it is true; :class:`Failed` when a program ends or the time is up."""
    deadline = time.monotonic() + seconds
    while not ready():
        for program in programs:
            program.check()
        if time.monotonic() > deadline:
            logs = "; ".join(program.log.read_text(errors="replace")[-600:].strip() for program in programs)
            raise Failed(f"{what} did not come within {seconds:g} s: {logs}")
        time.sleep(0.02)
