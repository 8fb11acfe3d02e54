"""``hostproxy log-level``: shows the level of the running daemon's log, or sets it for a while, with no reload."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from urllib.parse import urlencode

from hostproxy.cli import admin
from hostproxy.cli.admin import NO, USAGE, YES, Document, Paint, Refused, Unreachable, span

LEVELS = ("debug", "info", "warn", "error")
DEFAULT = "15m"


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("level", metavar="LEVEL", nargs="?", choices=LEVELS, help=f"{', '.join(LEVELS)}; without: show")
    parser.add_argument(
        "--for",
        dest="time",
        metavar="TIME",
        help=f"until conf.toml's is back ({DEFAULT}); 0: until reload, upgrade or restart",
    )
    admin.configure(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show or set it. 0: done; 1: not permitted; 2: wrong usage; 3: out of reach."""
    if not arguments.level:
        if arguments.time is not None:
            sys.stderr.write("--for is for a LEVEL, and none is given\n")
            return USAGE
        return admin.show(arguments, "/log-level", "configured", lines, lambda document: YES)
    try:
        address = admin.address_of(arguments.admin, arguments.config)
    except ValueError as problem:
        sys.stderr.write(f"{problem}\n")
        return USAGE
    query = urlencode({"level": arguments.level, "for": arguments.time or DEFAULT})
    try:
        body, document = admin.fetch(address, f"/log-level?{query}", "configured", arguments.timeout, "POST")
    except Unreachable as problem:
        sys.stderr.write(f"{address}: {problem}\n")
        return status_of(problem)
    if arguments.output == "json":
        sys.stdout.write(body.decode())
    else:
        sys.stdout.writelines(line + "\n" for line in lines(document, admin.painter(), time.time()))
    return YES


def status_of(problem: Unreachable) -> int:
    """The exit status of a command that changes something, or shows what not everybody may see."""
    if isinstance(problem, Refused):
        return {400: USAGE, 403: NO, 503: NO}.get(problem.status, admin.UNREACHABLE)
    return admin.UNREACHABLE


def lines(document: Document, paint: Paint, now: float) -> Iterable[str]:
    """The level as text."""
    level, configured, left = document["level"], document["configured"], document["left_seconds"]
    if left is not None:
        yield f"{level} for another {span(left)}, then {configured} again, as in conf.toml"
    elif level == configured:
        yield f"{level}, as in conf.toml"
    else:
        yield f"{level} until reload, upgrade or restart, then {configured} again, as in conf.toml"
