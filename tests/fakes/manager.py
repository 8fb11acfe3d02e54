"""A service manager in a few lines: what systemd does for one service, as far as the service can tell.

It receives notifications, follows MAINPID, keeps descriptors that it is given, and passes them, with those of the
socket unit, to the next start. Notifications of processes that are not the main one are refused, as
``NotifyAccess=main`` has it.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_CREDENTIALS = struct.Struct("iII")
_DESCRIPTORS = 253  # SCM_MAX_FD

# Gives the descriptors that are named on its command line the numbers from 3 on and no others, or an address that the
# service has closed would be listened on until it ends, and becomes the service.
_STARTER = """
import os, sys
count = int(sys.argv[1])
given = [int(each) for each in sys.argv[2 : 2 + count]]
for number, descriptor in enumerate(given):
    os.dup2(descriptor, 3 + number)
    os.close(descriptor)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2 + count], sys.argv[2 + count :])
"""


class Manager:
    """One service."""

    def __init__(self, directory: Path, command: Sequence[str], output: Path, environment: Mapping[str, str]) -> None:
        """``command`` starts the service, which writes to ``output``."""
        self.command = command
        self.output = output
        self.environment = dict(environment)
        self.main = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.started: list[int] = []  # process ids: each leads a session
        self.messages: list[tuple[float, dict[str, str]]] = []
        self.refused: list[tuple[int, str]] = []
        self.aliens: list[int] = []  # became the main process as a child of another: a stop would not wait for them
        self.stored: dict[str, list[int]] = {}
        self.units: dict[str, socket.socket] = {}  # of the socket unit, by name
        self.nonblocking = False  # NonBlocking=
        self._path = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self._path)
        self._socket.settimeout(0.1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    # What it does

    def start(self) -> None:
        """Start the service with everything that is kept for it. What was started before has ended."""
        if self.process is not None:
            self.process.wait(5)
        for sock in self.units.values():
            sock.setblocking(not self.nonblocking)  # also for whoever has it open since the last start
        passed = [(name, sock.fileno()) for name, sock in self.units.items()]
        passed += [(name, each) for name, kept in self.stored.items() for each in kept]
        # High numbers: the starter must not overwrite one with another.
        high = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 200) for _, each in passed]
        environment = {**os.environ, **self.environment, "NOTIFY_SOCKET": self._path}
        if passed:
            environment |= {"LISTEN_FDS": str(len(passed)), "LISTEN_FDNAMES": ":".join(name for name, _ in passed)}
        wrapper = [sys.executable, "-I", "-S", "-c", _STARTER, str(len(passed)), *map(str, high)]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*wrapper, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=high,
                env=environment,
                start_new_session=True,
            )
        for each in high:
            os.close(each)
        self.main = self.process.pid
        self.started.append(self.main)

    def wait_ready(self, since: float = 0.0, timeout: float = 30.0) -> None:
        """Wait for READY=1, sent after ``since`` (monotonic)."""
        self.wait_for(lambda message: message.get("READY") == "1", since, timeout)

    def wait_for(self, wanted: object, since: float = 0.0, timeout: float = 30.0) -> dict[str, str]:
        """The first message after ``since`` for which ``wanted(message)`` is true."""
        assert callable(wanted)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for moment, message in list(self.messages):
                if moment > since and wanted(message):
                    return message
            assert alive(self.main) or self.process is None or self.process.poll() is None, "the service has ended"
            time.sleep(0.01)
        raise AssertionError(f"it was not notified: {[message for _, message in self.messages[-10:]]}")

    def stop(self, timeout: float = 40.0) -> None:
        """SIGTERM to the main process, and wait for its end."""
        ended(self.main, signal.SIGTERM, timeout)
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)

    def restart(self) -> None:
        """Stop and start: descriptors are kept over it."""
        self.stop()
        since = time.monotonic()
        self.start()
        self.wait_ready(since)

    def close(self) -> None:
        """Keep nothing any more."""
        self._stop.set()
        self._thread.join()
        self._socket.close()
        for kept in self.stored.values():
            for each in kept:
                os.close(each)
        for sock in self.units.values():
            sock.close()
        os.unlink(self._path)

    # What it hears

    def said(self, key: str, since: float = 0.0) -> list[tuple[float, str]]:
        """All values of ``key`` with their times."""
        return [(moment, message[key]) for moment, message in list(self.messages) if key in message and moment > since]

    def _listen(self) -> None:
        while not self._stop.is_set():
            space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * _DESCRIPTORS)
            try:
                data, ancillary, _, _ = self._socket.recvmsg(65536, space, socket.MSG_CMSG_CLOEXEC)
            except TimeoutError:
                continue
            pid, descriptors = 0, array.array("i")
            for _, kind, content in ancillary:
                if kind == socket.SCM_CREDENTIALS:
                    pid = _CREDENTIALS.unpack(content)[0]
                else:
                    descriptors.frombytes(content)
            self._heard(pid, data.decode(), list(descriptors))

    def _heard(self, pid: int, text: str, descriptors: list[int]) -> None:
        if pid != self.main:
            self.refused.append((pid, text))
            for each in descriptors:
                os.close(each)
            return
        message = dict(line.split("=", 1) for line in text.splitlines())
        name = message.get("FDNAME", "stored")
        if "FDSTOREREMOVE" in message:
            for each in self.stored.pop(name, []):
                os.close(each)
        if "FDSTORE" in message:
            kept = self.stored.setdefault(name, [])
            for each in descriptors:
                if any(os.path.sameopenfile(each, other) for other in kept):
                    os.close(each)
                else:
                    kept.append(each)
        if "MAINPID" in message:
            before, self.main = self.main, int(message["MAINPID"])
            if parent(self.main) == before:
                self.aliens.append(self.main)
        self.messages.append((time.monotonic(), message))


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent(pid: int) -> int:
    """Whose child it is; 0 when it has gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def ended(pid: int, number: signal.Signals, timeout: float) -> None:
    """Signal a process, which need not be a child of ours, and wait for its end."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, number)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        assert poll.poll(timeout * 1000), f"process {pid} has not ended within {timeout} s"
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)
