"""``hostproxy run``: the daemon of this host, in the foreground."""

from __future__ import annotations

import argparse
import sys

from hostproxy import config
from hostproxy.cli.admin import DEFAULT_PATH
from hostproxy.mesh import journal
from hostproxy.mesh.document import Invalid


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be written on the command line."""
    parser.add_argument("-c", "--config", metavar="FILE", default=DEFAULT_PATH, help=f"configuration ({DEFAULT_PATH})")
    # From a supervisor to its successor: descriptors of the channel between them, and of the log.
    parser.add_argument("--successor", metavar="CHANNEL,LOG", type=_descriptors, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM. 0: drained, by the end of [limits] drain; 1: not started, or killed."""
    try:
        loaded = config.load(arguments.config)
    except Invalid as invalid:
        for problem in invalid.problems:
            sys.stderr.write(journal.complaint(str(problem)))
        return 1
    from hostproxy import supervisor  # installs the reactor, which no other command needs

    return supervisor.run(loaded, config.load, arguments.successor)


def _descriptors(text: str) -> tuple[int, int]:
    channel, _, log = text.partition(",")
    return int(channel), int(log)
