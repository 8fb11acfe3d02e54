"""Who calls: what one look-up costs that a worker makes for each connection of a local app.

    python -m tests.bench.callers [--rounds N]

Connections of this process are looked up, so the answer is this process's user and cgroup. The cgroup of a caller is
known after its first connection.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from hostproxy.identity.workload import Workloads
from hostproxy.snapshot import Workload

CONNECTIONS = 500


@contextmanager
def _connected(family: int, address: tuple[str, int] | str) -> Iterator[list[socket.socket]]:
    """The accepted ends of connections."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        listener.bind(address)
        listener.listen(CONNECTIONS)
        accepted = []
        for _ in range(CONNECTIONS):
            client = stack.enter_context(socket.socket(family))
            client.connect(listener.getsockname())
            accepted.append(stack.enter_context(listener.accept()[0]))
        yield accepted


def measure(rule: Workload, family: int, address: tuple[str, int] | str, rounds: int) -> tuple[float, float, str]:
    """Median and longest (microseconds) of a look-up, and what it found."""
    workloads = Workloads([rule], time.monotonic)
    times = []
    found = ""
    try:
        with _connected(family, address) as accepted:
            for _ in range(rounds):
                for sock in accepted:
                    begin = time.perf_counter()
                    verdict = workloads.caller(sock)
                    times.append((time.perf_counter() - begin) * 1e6)
                found = verdict.service or verdict.reason
    finally:
        workloads.close()
    return statistics.median(times), max(times), found


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.callers")
    parser.add_argument("--rounds", type=int, default=10, help=f"of {CONNECTIONS} look-ups each (10)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as directory:
        sys.stdout.write(f"{'connection':<12} {'known by':<9} {'found':<12} {'median us':>10} {'longest us':>11}\n")
        for name, family, address in (
            ("TCP", socket.AF_INET, ("127.0.0.1", 0)),
            ("TCP, IPv6", socket.AF_INET6, ("::1", 0)),
            ("Unix socket", socket.AF_UNIX, ""),
        ):
            for kind, rule in (
                ("user", Workload("me", "", os.getuid())),
                ("unit", Workload("me", "some.service", None)),
            ):
                place = os.path.join(directory, f"{kind}.sock") if family == socket.AF_UNIX else address
                median, longest, found = measure(rule, family, place, rounds)
                sys.stdout.write(f"{name:<12} {kind:<9} {found:<12} {median:>10.1f} {longest:>11.1f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
