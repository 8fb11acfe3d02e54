"""Many upgrades, reloads and restarts under load, as a program: ``python -m tests.integration.upgrades``.

Prints a table, and exits with status 1 when a request failed or a long connection broke. Long TCP and WebSocket
sessions stay open over all upgrades and reloads; a restart ends the workers and with them the sessions, so there are
none during those.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.integration.load import Load
from tests.integration.site_of_upgrades import Session, Site


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be written on the command line."""
    parser.add_argument("--upgrades", type=int, default=50)
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--sessions", type=int, default=4, help="of each kind, open all the time (4)")
    parser.add_argument("--clients", type=int, default=4, help="that send one request after the other (4)")
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between two requests of a client (0.01)")
    parser.add_argument("--workers", type=int, default=2)


class Row:
    """What happened during one kind of change."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.times: list[float] = []
        self.requests = 0
        self.failures: list[str] = []
        self.sessions = 0
        self.broken: list[str] = []

    def __str__(self) -> str:
        longest = max(self.times, default=0.0)
        mean = sum(self.times) / max(1, len(self.times))
        return (
            f"{self.name:10} {len(self.times):6} {mean:9.2f} {longest:9.2f} {self.requests:10} {len(self.failures):8}"
            f" {self.sessions:9} {len(self.broken):7}"
        )


HEAD = "             done    mean s longest s   requests   failed  sessions  broken"


def measure(
    site: Site, options: argparse.Namespace, name: str, count: int, sessions: int, act: Callable[[], object]
) -> Row:
    """Do ``act`` again and again under load."""
    row = Row(name)
    long: list[Session] = [site.session(kind) for kind in (False, True) for _ in range(sessions)]
    row.sessions = len(long)
    load = Load(site.addresses["web"], clients=options.clients, pause=options.pause, patience=30)
    with load:
        for _ in range(count):
            began = time.monotonic()
            act()
            row.times.append(time.monotonic() - began)
            load.more(20, 60)
    row.requests, row.failures = load.done, load.failures
    row.broken = [failure for failure in [each.close() for each in long] if failure]
    return row


def main() -> int:
    """Do all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    configure(parser)
    options = parser.parse_args()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # As long as all upgrades may take: sessions are to outlive them.
        site = stack.enter_context(Site(directory, drain="3600s", workers=options.workers)).start()
        rows = [
            measure(site, options, "upgrades", options.upgrades, options.sessions, site.upgrade),
            measure(site, options, "reloads", options.reloads, options.sessions, site.reload),
            measure(site, options, "restarts", options.restarts, 0, site.restart),
        ]
    sys.stdout.write(HEAD + "\n" + "".join(f"{row}\n" for row in rows))
    sys.stdout.write(f"{time.monotonic() - began:.0f} s\n")
    failures = [failure for row in rows for failure in (*row.failures, *row.broken)]
    for failure in failures[:20]:
        sys.stderr.write(f"{failure}\n")
    complete = [len(row.times) for row in rows] == [options.upgrades, options.reloads, options.restarts]
    return 1 if failures or not complete else 0


if __name__ == "__main__":
    sys.exit(main())
