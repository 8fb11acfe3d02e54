"""``hostproxy-controller run``: the controller, in the foreground."""

from __future__ import annotations

import argparse
import sys

from controller import config
from hostproxy.mesh import journal
from hostproxy.mesh.document import Invalid

DEFAULT_PATH = "/etc/hostproxy-controller/controller.toml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be written on the command line."""
    parser.add_argument("-c", "--config", metavar="FILE", default=DEFAULT_PATH, help=f"configuration ({DEFAULT_PATH})")


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM. 0: ended; 1: not started."""
    try:
        loaded = config.load(arguments.config)
    except Invalid as invalid:
        for problem in invalid.problems:
            sys.stderr.write(journal.complaint(str(problem)))
        return 1
    from controller import running  # with Twisted, which no other command needs

    return running.run(loaded)
