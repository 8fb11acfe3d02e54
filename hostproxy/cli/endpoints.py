"""``hostproxy endpoints``: where a service runs, which of its instances this host uses, and why not the others."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from functools import partial
from typing import Any
from urllib.parse import urlencode

from hostproxy.cli import admin
from hostproxy.cli.admin import BOLD, NO, RED, USAGE, YELLOW, YES, Document, Paint, shown, span, table
from hostproxy.mesh import names
from hostproxy.mesh.units import Wrong

HEAD = ("ADDRESS", "HOST", "ZONE", "DC", "VERSION", "HEALTH", "WEIGHT", "SHARE", "USED", "WHY")


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("service", metavar="SERVICE", help="its name")
    parser.add_argument("--subset", metavar="NAME", default="", help="a subset that policy defines")
    admin.configure(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show them. 0: there is one to use; 1: there is none; 2: wrong usage; 3: out of reach."""
    service, subset = arguments.service, arguments.subset
    try:
        names.service(service)
        if subset:
            names.subset(subset)
    except Wrong as wrong:
        sys.stderr.write(f"{subset or service}: {wrong}\n")
        return USAGE
    query = {"service": service, **({"subset": subset} if subset else {})}
    return admin.show(
        arguments,
        f"/catalog?{urlencode(query)}",
        "services",
        partial(lines, service=service),
        partial(_judge, service=service),
    )


def _judge(document: Document, service: str) -> int:
    return YES if any(instance["used"] for instance in document["services"][service]["instances"]) else NO


def lines(document: Document, paint: Paint, now: float, service: str) -> Iterable[str]:
    """The table as text."""
    entry = document["services"][service]
    if not entry["known"]:
        yield _unknown(service, entry["listed"])
        return
    instances = entry["instances"]
    used = sum(instance["used"] for instance in instances)
    subset = f", subset {entry['subset']}" if entry["subset"] else ""
    yield f"{paint(service, BOLD)}{subset}  {entry['protocol'] or '-'}  used: {used} of {len(instances)} instances"
    for knowledge in entry["knowledge"]:
        yield from _knowledge(knowledge, paint)
    if entry["obstacle"]:
        yield paint(f"  {shown(entry['obstacle'])}", RED)
    yield ""
    yield from table(HEAD, [_row(instance) for instance in instances])


def _unknown(service: str, listed: bool) -> str:
    if listed:
        return (
            f"{service} is in Consul, but not watched here: it will be once a program names it on the HTTP proxy port,"
            " or an upstream or policy does"
        )
    return f"{service}: no such service is known here"


def _knowledge(known: dict[str, Any], paint: Paint) -> Iterable[str]:
    where = f"{shown(known['datacenter'])}: " if known["datacenter"] else ""
    parts = [known["source"] + (f" for {known['wanted_by']}" if known["wanted_by"] else "")]
    age, unchanged = known["age_seconds"], known["unchanged_seconds"]
    verb = "read" if known["source"] == "file" else "confirmed"
    parts.append(f"never {verb}" if age is None else f"{verb} {span(age)} ago")
    if unchanged is not None:
        parts.append(f"changed {span(unchanged)} ago")
    if known["index"]:
        parts.append(f"index {known['index']}")
        parts.append(f"{known['behind_seconds']:.1f} s behind the leader")
    yield f"  {where}{', '.join(parts)}"
    if known["held"]:
        yield paint("  Consul has no instance any more: the last ones are kept for a while", YELLOW)
    if known["problem"]:
        yield paint(f"  {shown(known['problem'])}", YELLOW)


def _row(instance: dict[str, Any]) -> tuple[object, ...]:
    return (
        instance["address"],
        instance["host"],
        instance["zone"] or "-",
        instance["datacenter"] or "-",
        instance["version"] or "-",
        instance["health"],
        instance["weight"],
        f"{instance['share']:.1%}" if instance["used"] else "-",
        "yes" if instance["used"] else "no",
        instance["why"] or instance["reason"],
    )
