"""``hostproxy upgrade``: let the installed code take over from the running daemon, without a lost connection."""

from __future__ import annotations

import argparse
import signal
import sys

from hostproxy import config
from hostproxy.cli import running
from hostproxy.cli.admin import DEFAULT_PATH, NO, UNREACHABLE, YES, Document, Unreachable, shown
from hostproxy.config import Config
from hostproxy.mesh.document import Invalid

# Beyond the 30 s that the new supervisor has to become healthy, and the 10 s to take over (seconds).
LIMIT = 60.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be written on the command line."""
    parser.add_argument("-c", "--config", metavar="FILE", default=DEFAULT_PATH, help=f"configuration ({DEFAULT_PATH})")


def run(arguments: argparse.Namespace) -> int:
    """Upgrade. 0: the installed code serves; 1: it does not, and the old one goes on; 3: out of reach."""
    try:
        loaded, _ = config.examine(arguments.config)
    except Invalid as invalid:
        for problem in invalid.problems:
            sys.stderr.write(f"{problem}\n")
        return NO
    try:
        return upgrade(loaded)
    except Unreachable as problem:
        sys.stderr.write(f"{problem}\n")
        return UNREACHABLE


def upgrade(loaded: Config) -> int:
    """Signal the daemon, wait for the outcome and print it. Raises Unreachable."""
    before = running.status(running.find(loaded))
    found = running.find(loaded)  # once more: a successor may have taken over meanwhile, and would have answered
    count = before["upgrades"]["succeeded"] + before["upgrades"]["failed"]
    running.send(found, signal.SIGUSR2)

    def over(document: Document) -> bool:
        now = document["upgrades"]
        return not now["running"] and bool(now["succeeded"] + now["failed"] != count)

    document = running.wait(loaded, before, over, "upgrade", LIMIT)
    if document is None:
        sys.stderr.write(f"no outcome within {LIMIT:g} s: see the log, and hostproxy status\n")
        return NO
    problems = document["upgrades"]["problems"]
    if problems:
        for problem in problems:
            text = "\n".join(map(shown, problem.splitlines()))
            sys.stderr.write(f"not upgraded, process {found.pid} goes on as before: {text}\n")
        return NO
    pid, version = document["pid"], shown(document["version"])
    sys.stdout.write(f"upgraded: process {pid} with hostproxy {version} has taken over\n")
    return YES
