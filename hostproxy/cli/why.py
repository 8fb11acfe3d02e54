"""``hostproxy why``: what would happen to a call, and which rule, file and line says so."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

from hostproxy import decision, explanation
from hostproxy.cli import admin
from hostproxy.cli.admin import BOLD, GREEN, NO, RED, USAGE, YELLOW, YES, Document, Paint, shown, table
from hostproxy.mesh.units import Wrong

COLOURS = {explanation.GOOD: GREEN, explanation.BAD: RED, explanation.DOUBTFUL: YELLOW}
HEAD = ("ADDRESS", "HOST", "ZONE", "DC", "HEALTH", "SHARE", "USED", "WHY")
OF_SPLIT = ("SUBSET", *HEAD)


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "--from", metavar="SERVICE", dest="caller", required=True, help='who calls: a service, or "host" for this host'
    )
    parser.add_argument("method", metavar="METHOD", nargs="?", default="GET", help="of HTTP (GET)")
    parser.add_argument("url", metavar="URL", help="http://SERVICE/PATH, or tcp://SERVICE")
    parser.add_argument(
        "-H", "--header", metavar="LINE", action="append", default=[], help='a header field: "x-canary: yes"'
    )
    admin.configure(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask and show it. 0: it is allowed; 1: it is not; 2: wrong usage; 3: out of reach."""
    try:
        decision.question(arguments.caller, arguments.method, arguments.url, arguments.header)
    except Wrong as wrong:
        sys.stderr.write(f"{shown(wrong)}\n")
        return USAGE
    query = [("from", arguments.caller), ("method", arguments.method), ("url", arguments.url)]
    query += [("header", line) for line in arguments.header]
    return admin.show(
        arguments, f"/why?{urlencode(query)}", "allowed", lines, lambda answer: YES if answer["allowed"] else NO
    )


def lines(document: Document, paint: Paint, now: float) -> Iterable[str]:
    """The decision as text."""
    verdict = paint("ALLOWED", GREEN) if document["allowed"] else paint("DENIED", RED)
    yield f"{verdict}  {shown(document['reason'])}"
    yield ""
    yield f"from      {shown(document['from'])}"
    if not document["destination"]:
        return
    subset = f", subset {document['subset']}" if document["subset"] else ""
    name, service = shown(document["name"]), paint(document["service"], BOLD)
    yield f"to        {name}: service {service}{subset}, {document['protocol']}"
    for line in explanation.lines(document, document["method"], document["opaque"]):
        text, ending = shown(line.text), shown(line.verdict)
        yield f"{line.title:8}  {text}{paint(ending, COLOURS[line.mood]) if line.mood else ending}"
    for note in document["notes"]:
        yield paint(f"note      {shown(note)}", YELLOW)
    yield ""
    parts = document["parts"]
    for part in parts:
        # What nobody is sent to is in nobody's way.
        if part["obstacle"] and (part["share"] or len(parts) == 1):
            yield paint(shown(_obstacle(part)), RED)
    rows = [_row(instance) for instance in document["instances"]]
    if len(parts) > 1:
        subsets = [instance["subset"] or "-" for instance in document["instances"]]
        yield from table(OF_SPLIT, [(subset, *row) for subset, row in zip(subsets, rows, strict=True)])
    else:
        yield from table(HEAD, rows)


def _obstacle(part: dict[str, Any]) -> str:
    if part["share"] == 1:
        return str(part["obstacle"])
    return f"{explanation.percent(part['share'])} of such requests get a 503: {part['obstacle']}"


def _row(instance: dict[str, Any]) -> tuple[object, ...]:
    return (
        instance["address"],
        instance["host"],
        instance["zone"] or "-",
        instance["datacenter"] or "-",
        instance["health"],
        f"{instance['share']:.1%}" if instance["used"] else "-",
        "yes" if instance["used"] else "no",
        instance["why"],
    )
