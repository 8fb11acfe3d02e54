"""Steady requests from several clients while something changes; every failure is kept with its time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field

from tests.fakes.cases import get
from tests.fakes.client import connect, converse
from tests.stopwatch import Stopwatch


@dataclass(slots=True)
class Load:
    """Clients that send one GET after the other, on connections that they keep as long as the proxy does.

    A connection that the proxy announced to close is replaced; anything else that is not a 200 is a failure.
    """

    address: str
    clients: int = 4
    pause: float = 0.002  # seconds between two requests of a client
    patience: float = 5.0  # seconds that a client waits
    done: int = 0
    failures: list[str] = field(default_factory=list)
    connections: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def _run(self, number: int) -> None:
        sock: socket.socket | None = None
        count = 0
        while not self._stop.is_set():
            try:
                if sock is None:
                    sock = connect(self.address, self.patience)
                    self.connections += 1
                outcome = converse(sock, get(b"/load-%d-%d" % (number, count)), timeout=self.patience)
            except OSError as error:
                self._fail(f"client {number}: {error!r}")
                sock = self._drop(sock)
                continue
            count += 1
            if outcome.statuses != [200] or outcome.fault is not None:
                self._fail(f"client {number}: {outcome}")
                sock = self._drop(sock)
            else:
                self.done += 1
                if b"close" in [value.lower() for value in outcome.responses[0].values(b"connection")]:
                    sock = self._drop(sock)
            time.sleep(self.pause)
        self._drop(sock)

    def _fail(self, what: str) -> None:
        self.failures.append(f"{time.monotonic() - self._began:.3f} s: {what}")
        time.sleep(0.01)

    @staticmethod
    def _drop(sock: socket.socket | None) -> None:
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def more(self, count: int, timeout: float = 10.0) -> None:
        """Wait until ``count`` more requests have been answered."""
        goal, waiting = self.done + count, Stopwatch()
        while self.done < goal:
            assert waiting.seconds < timeout, f"requests no longer get through: {self.failures[-5:]}"
            time.sleep(0.005)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        self.more(20)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
