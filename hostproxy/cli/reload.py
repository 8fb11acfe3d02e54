"""``hostproxy reload``: have the running daemon take a new configuration, once that has been checked."""

from __future__ import annotations

import argparse
import signal
import sys

from hostproxy import config
from hostproxy.cli import check, running
from hostproxy.cli.admin import DEFAULT_PATH, NO, UNREACHABLE, YES, Document, Unreachable, shown
from hostproxy.cli.upgrade import upgrade
from hostproxy.config import Config

LIMIT = 30.0  # seconds; reading all files takes milliseconds, or seconds on a slow disk


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be written on the command line."""
    parser.add_argument("-c", "--config", metavar="FILE", default=DEFAULT_PATH, help=f"configuration ({DEFAULT_PATH})")
    parser.add_argument("--wait", action="store_true", help="wait for the outcome and print it")
    parser.add_argument(
        "--upgrade",
        action="store_true",
        help="where this command is of other code than what runs, let that code take over instead",
    )


def run(arguments: argparse.Namespace) -> int:
    """Reload. 0: taken, or asked for; 1: not fit, or refused; 3: out of reach."""
    report, _ = check.examine(arguments.config)
    if not report.valid:
        for problem in report.problems:
            sys.stderr.write(f"{problem}\n")
        return NO
    loaded = config.load(arguments.config)
    try:
        found = running.find(loaded)
        if arguments.upgrade and _is_other(found):
            return upgrade(loaded)
        return _reload(loaded, found, arguments.wait)
    except Unreachable as problem:
        sys.stderr.write(f"{problem}\n")
        return UNREACHABLE


def _is_other(found: running.Running) -> bool:
    from importlib.metadata import version

    from hostproxy.control.runtime import code_path

    return (found.version, found.code) != (version("hostproxy"), code_path())


def _reload(loaded: Config, found: running.Running, wait: bool) -> int:
    if not wait:
        running.send(found, signal.SIGHUP)
        return YES
    before = running.status(found)
    count = before["reloads"]["succeeded"] + before["reloads"]["refused"]
    running.send(found, signal.SIGHUP)

    def over(document: Document) -> bool:
        return bool(document["reloads"]["succeeded"] + document["reloads"]["refused"] != count)

    document = running.wait(loaded, before, over, "reload", LIMIT)
    if document is None:
        sys.stderr.write(f"no outcome within {LIMIT:g} s: see the log, and hostproxy status\n")
        return NO
    problems = document["reloads"]["problems"]
    for problem in problems:
        sys.stderr.write(f"not reloaded, everything stays as it was: {shown(problem)}\n")
    return NO if problems else YES
