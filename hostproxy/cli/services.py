"""``hostproxy services``: the services that this host knows, and how it knows them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import partial
from typing import Any

from hostproxy.cli import admin
from hostproxy.cli.admin import RED, YES, Document, Paint, shown, span, table

HEAD = ("SERVICE", "DC", "PROTOCOL", "INSTANCES", "SOURCE", "AGE", "WANTED BY", "PROBLEM")
HELD = "Consul has no instance any more: the last ones are kept for a while"


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "--all", action="store_true", help="also those that Consul has and this host does not watch"
    )
    admin.configure(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show them. 0: done; 2: wrong usage; 3: out of reach."""
    return admin.show(arguments, "/discovery", "services", partial(lines, everything=arguments.all), lambda _: YES)


def lines(document: Document, paint: Paint, now: float, everything: bool = False) -> Iterable[str]:
    """The table as text. ``now`` is Unix seconds."""
    services = document["services"]
    rows = [_row(service, document["datacenter"]) for service in services]
    unwatched = sorted(set(document["names"]) - {service["service"] for service in services})
    if everything:
        rows = sorted([*rows, *((name, "-", "-", "-", "not watched", "-", "-", "") for name in unwatched)])
    yield from table(HEAD, rows)
    source = shown(document["source"]) or "no catalog is configured"
    yield f"{source}: {len({service['service'] for service in services})} services known here" + (
        f", {len(unwatched)} more there" + ("" if everything else " (--all)") if unwatched else ""
    )
    if document["problem"]:
        since = span(max(0.0, now - document["since"]))
        yield paint(f"no news for {since}: {shown(document['problem'])}", RED)


def _row(service: dict[str, Any], own: str) -> tuple[object, ...]:
    counts = service["instances"]
    healthy = counts["passing"] + counts["warning"]
    age = service["age_seconds"]
    problems = [HELD] if service["held"] else []
    problems += [text for text in (service["problem"], service["obstacle"]) if text]
    return (
        service["service"],
        service["datacenter"] or own or "-",
        service["protocol"] or "-",
        f"{healthy}/{sum(counts.values())}",
        service["source"] or "-",
        "never" if age is None else span(age),
        service["wanted_by"] or "-",
        "; ".join(problems),
    )
