"""The demo's processes: none of them outlives it, however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

# How long those that may end in order have for it before they are killed.
STOP_TIME = 5.0

_PR_SET_PDEATHSIG = 1


class SiteError(Exception):
    """The demo can't go on; the text says why."""


class Processes:
    """Processes by name, each with a log in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._ending: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start ``command``. Call it in the main thread: the process gets SIGTERM when the thread ends."""
        with (self._directory / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the demo, which ends the others in order
                preexec_fn=_die_with_parent,
            )

    def dismiss(self, *names: str) -> None:
        """Ask them to end in order."""
        for name in names:
            if name in self._running:
                process = self._ending[name] = self._running.pop(name)
                process.terminate()

    def wait(self) -> None:
        """Until those that were dismissed have ended."""
        deadline = time.monotonic() + STOP_TIME
        while self._ending:
            _, process = self._ending.popitem()
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill(process)

    def kill(self, *names: str) -> None:
        """End them without a word."""
        for name in names:
            _kill(self._running.pop(name))

    def kill_all(self) -> None:
        """End all that are left."""
        for processes in (self._running, self._ending):
            while processes:
                _, process = processes.popitem()
                _kill(process)

    def check(self) -> None:
        """Raise :class:`SiteError` when one of them has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise SiteError(f"{name} ended with status {process.returncode}:\n{self.log_of(name)}")

    def log_of(self, name: str) -> str:
        """The last lines that it wrote."""
        return "\n".join((self._directory / f"{name}.log").read_text(errors="replace").splitlines()[-20:])


def _kill(process: subprocess.Popen[bytes]) -> None:
    # Workers of a daemon are in its session: none of them may outlive the demo.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _die_with_parent() -> None:
    """In the child: SIGTERM when the demo dies without saying goodbye."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
