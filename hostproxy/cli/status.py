"""``hostproxy status``: what the running daemon of this host does, asked at its admin address."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from hostproxy.cli import admin
from hostproxy.cli.admin import BOLD, GREEN, NO, RED, YELLOW, YES, Document, Paint, shown, span, table


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    admin.configure(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show it. 0: ready; 1: up but not ready; 2: wrong usage; 3: out of reach."""
    return admin.show(arguments, "/status", "ready", lines, lambda document: YES if document["ready"] else NO)


def lines(document: Document, paint: Paint, now: float) -> Iterable[str]:
    """The whole status as text. ``now`` is Unix seconds."""
    host = document["host"]
    place = "/".join(part for part in (host["datacenter"], host["zone"]) if part)
    state = paint("ready", GREEN) if document["ready"] else paint("NOT READY", RED)
    name = paint(shown(host["name"]), BOLD)
    yield (
        f"{name} ({host['address']}, {shown(place)}, {host['trust_domain']})  hostproxy {document['version']}"
        f"  pid {document['pid']}  up {span(document['uptime_seconds'])}  {state}"
    )
    for reason in document["reasons"]:
        yield paint(f"  not ready: {shown(reason)}", RED)
    for problem in document["degraded"]:
        yield paint(f"  degraded: {shown(problem)}", YELLOW)
    yield ""
    yield from table(
        ("WORKER", "PID", "STATE", "UP", "RESTARTS", "CONNECTIONS", "REQUESTS", "PER SECOND", "LAG"),
        [
            (
                "old" if worker["place"] < 0 else worker["place"],
                worker["pid"] or "-",
                worker["phase"],
                span(worker["uptime_seconds"]) if worker["pid"] else "-",
                worker["restarts"],
                worker["connections"],
                worker["requests"],
                worker["requests_per_second"],
                f"{worker['lag_seconds'] * 1000:.1f} ms",
            )
            for worker in document["workers"]
        ],
    )
    yield from table(
        ("LISTENER", "ADDRESS", "SERVICE", "CALLER"),
        [
            (one["kind"], one["address"], one["service"] or "-", one["caller"] or "-")
            for one in document["listeners"]
        ],
    )
    yield from table(
        ("SERVICE", "INSTANCES", "HERE", "OUT", "OUT 5XX", "OUT TCP", "IN", "IN 5XX", "IN TCP"),
        [
            (
                one["name"],
                one["instances"],
                one["instances_here"],
                *(
                    one[way][what]
                    for way in ("outbound", "inbound")
                    for what in ("requests", "errors", "connections")
                ),
            )
            for one in document["services"]
        ],
    )
    services = document["services"]
    instances = sum(one["instances"] for one in services)
    yield f"catalog       {_source(document['catalog'], now)}; instances: {instances}"
    if document["discovery"]["backend"] != "file":
        yield f"discovery     {_discovery(document['discovery'], now)}"
    default = document["policy"]["default_access"] or "deny"
    yield f"policy        {_source(document['policy'], now)}; default: {default}"
    certificates = document["certificates"]
    first = certificates["next_expiry"]
    end = "none"
    if first is not None:
        left = first["expires_in_seconds"]
        end = f"{first['uri']} " + (f"ends in {span(left)}" if left > 0 else paint("HAS EXPIRED", RED))
    yield f"certificates  {_source(certificates, now)}; first to end: {end}"


def _source(source: dict[str, Any], now: float) -> str:
    if not source["path"]:
        return "not configured"
    if not source["loaded"]:
        return f"{shown(source['path'])}, never read"
    return f"{shown(source['path'])}, read {span(max(0.0, now - source['loaded']))} ago"



def _discovery(known: dict[str, Any], now: float) -> str:
    oldest = known["oldest_confirmed"]
    parts = [
        f"{known['services']} of {known['names']} services of Consul known",
        f"watches: {known['watches']}",
        f"registered: {len(known['registered'])}",
    ]
    if oldest is not None:
        parts.insert(1, f"all confirmed within {span(max(0.0, now - oldest))}")
    if known["unconfirmed"]:
        parts.insert(2, f"never confirmed: {known['unconfirmed']}")
    return "; ".join(parts)
