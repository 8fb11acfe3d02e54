"""The demo's traffic: cart calls payments, and what came of it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter, deque

# Connections that call at the same time: enough for both instances to be busy, few enough to watch.
CALLERS = 4
# Calls a second in the live table; unhurried, so that a laptop stays cool.
LIVE_RATE = 200.0
# Latencies that the percentiles look back on.
WINDOW = 2000

CALL_TIMEOUT = 5.0  # seconds; policy gives payments 2


class Tally:
    """What the callers saw. Safe to use from their threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        self.failures: Counter[str] = Counter()
        self.instances: Counter[str] = Counter()
        self.peers: Counter[str] = Counter()  # what instances were told of their caller
        self._latencies: deque[float] = deque(maxlen=WINDOW)

    def succeeded(self, instance: str, peer: str, seconds: float) -> None:
        """A call was answered."""
        with self._lock:
            self.requests += 1
            self.instances[instance] += 1
            self.peers[peer] += 1
            self._latencies.append(seconds)

    def failed(self, why: str) -> None:
        """A call was not."""
        with self._lock:
            self.requests += 1
            self.failures[why] += 1

    def percentile(self, share: float) -> float:
        """Of the last calls, in milliseconds; 0 before the first."""
        with self._lock:
            ordered = sorted(self._latencies)
        if not ordered:
            return 0.0
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000

    @property
    def failed_count(self) -> int:
        """Calls that failed."""
        return self.failures.total()


class Load:
    """``CALLERS`` threads that call until ``total`` is reached, or until stopped."""

    def __init__(self, address: tuple[str, int], tally: Tally, total: int | None = None) -> None:
        self._address = address
        self._tally = tally
        self._left = total
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(CALLERS)]

    def start(self) -> None:
        """Begin to call."""
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Until all calls have been made."""
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """End after the calls under way."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(CALL_TIMEOUT)

    def _take(self) -> bool:
        if self._stopped.is_set():
            return False
        if self._left is None:
            return True
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _call(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=CALL_TIMEOUT)
        while self._take():
            began = time.perf_counter()
            try:
                connection.request("POST", "/make-payment", body=b'{"amount": 42}')
                response = connection.getresponse()
                body = response.read()
                seconds = time.perf_counter() - began
                if response.status == 200:
                    told = json.loads(body)
                    self._tally.succeeded(told["instance"], told["peer"], seconds)
                else:
                    reason = response.headers.get("X-Hostproxy-Reason", response.reason)
                    self._tally.failed(f"{response.status} {reason}")
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._tally.failed(f"{type(error).__name__}: {error}")
                connection.close()
            if self._left is None:
                self._stopped.wait(max(0.0, CALLERS / LIVE_RATE - (time.perf_counter() - began)))
        connection.close()
