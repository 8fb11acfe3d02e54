"""``hostproxy why``: what would happen to a call, and which rule, file and line says so."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

from hostproxy import decision
from hostproxy.cli import admin
from hostproxy.cli.admin import BOLD, GREEN, NO, RED, USAGE, YELLOW, YES, Document, Paint, shown, table
from hostproxy.mesh.units import Wrong

HEAD = ("ADDRESS", "HOST", "ZONE", "DC", "HEALTH", "SHARE", "USED", "WHY")


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
    yield f"route     {document['route']['matched']}"
    yield from _rules(document, paint)
    timeout = document["timeout_seconds"]
    yield f"timeout   {f'{timeout:g} s for the whole call' if timeout else 'none'}"
    yield f"retries   {_retries(document)}"
    for note in document["notes"]:
        yield paint(f"note      {shown(note)}", YELLOW)
    yield ""
    if document["obstacle"]:
        yield paint(shown(document["obstacle"]), RED)
    yield from table(HEAD, [_row(instance) for instance in document["instances"]])


def _rules(document: Document, paint: Paint) -> Iterable[str]:
    rules = document["rules"]
    if not rules:
        yield f"rules     none; {shown(document['rule'])}"
    title = "rules"
    for rule in rules:
        if rule["decides"]:
            allows = rule["kind"] == "allow"
            what = paint("allows it", GREEN) if allows else paint("denies it", RED)
        elif not rule["matches"]:
            what = f"passed over: {shown(rule['why'])}"
        elif rule["audit"]:
            what = paint(f"would {rule['kind']} it: audit = true", YELLOW)
        else:
            what = "matches as well"
        yield f"{title:8}  {rule['kind']:5}  {shown(rule['source'])}  {what}"
        title = ""


def _retries(document: Document) -> str:
    connecting = f"up to {document['attempts']} instances are tried until one can be connected to"
    if document["opaque"]:
        return connecting
    if document["repeatable"]:
        return f"{connecting}; {document['method']} is repeated if a used connection breaks before the answer"
    return f"{connecting}; {document['method']} is never sent twice"


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
