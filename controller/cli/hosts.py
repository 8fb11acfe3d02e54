"""``hostproxy-controller hosts``: who is in the mesh, and how each stands."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from controller.cli import client, terminal
from controller.cli.client import Document
from controller.cli.command import NO, PARTLY, YES, Actions, perform
from controller.cli.terminal import GREEN, RED, YELLOW, left, painted, shown, span, table

HEAD = ("HOST", "STATE", "GENERATION", "REPORT", "CERTIFICATE", "VERSION", "ADDRESS", "PROBLEM")
STATES = {"SYNCED": GREEN, "STALE": YELLOW, "ERROR": RED, "AWAY": YELLOW, "DENIED": RED}

run = perform


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    actions = Actions(parser, _list)
    actions.add("list", _list, "show all hosts")
    deny = actions.add("deny", _deny, "refuse a host everywhere, although its certificates are valid")
    deny.add_argument("name", metavar="NAME", type=client.host)
    deny.add_argument("--reason", default="", help="for the audit log")
    allow = actions.add("allow", _allow, "refuse a host no more")
    allow.add_argument("name", metavar="NAME", type=client.host)
    forget = actions.add("forget", _forget, "forget a host that is gone; its name can enrol again")
    forget.add_argument("name", metavar="NAME", type=client.host)


def _list(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).get("/v1/hosts")
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        terminal.write(lines(answer))
    return NO if any(host["state"] == "ERROR" for host in answer["hosts"] if not host["denied"]) else YES


def lines(answer: Document) -> Iterable[str]:
    """All hosts as a table, and how many there are of each state."""
    now = answer["now"]
    yield from table(HEAD, [_row(host, now) for host in answer["hosts"]])
    states = [_state(host) for host in answer["hosts"]]
    counted = [painted(f"{states.count(state)} {state}", colour) for state, colour in STATES.items() if state in states]
    yield ""
    yield f"{len(states)} hosts: {', '.join(counted)}" if states else "no host has enrolled"


def _row(host: dict[str, Any], now: float) -> tuple[object, ...]:
    has, wanted = host["generation"], host["wanted"]
    return (
        host["name"],
        _state(host),
        f"{has}" if has == wanted else f"{has}, not {wanted}",
        f"{span(now - host['reported'])} ago" if host["reported"] is not None else "never",
        left(host["certificate_ends"], now),
        host["version"] or "-",
        host["address"] or "-",
        _problem(host),
    )


def _state(host: dict[str, Any]) -> str:
    return "DENIED" if host["denied"] else str(host["state"])


def _problem(host: dict[str, Any]) -> str:
    if host["denied"]:
        return f"denied: {host['denied_because']}" if host["denied_because"] else "denied"
    parts = list(host["problems"])
    if not host["confirmed"] and host["generation"]:
        parts.append("not confirmed yet: it goes back unless it is")
    if host["push_problem"]:
        parts.append(f"could not be told: {host['push_problem']}")
    return "; ".join(parts)


def _deny(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).post(f"/v1/hosts/{arguments.name}/deny", {"reason": arguments.reason})
    return denied(arguments, answer)


def _allow(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).post(f"/v1/hosts/{arguments.name}/allow")
    return allowed(arguments, answer)


def denied(arguments: argparse.Namespace, answer: Document) -> int:
    """Say that an identity is refused now."""
    if not answer["known"]:
        what = "nobody has enrolled under this name" if "/host/" in answer["denied"] else "nobody knows this service"
        terminal.say(f"warning: {what}: it is denied all the same; if it was mistyped, allow it again")
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        terminal.write([f"{shown(answer['denied'])} is denied", _told(answer)])
    return PARTLY if answer["problem"] else YES


def allowed(arguments: argparse.Namespace, answer: Document) -> int:
    """Say that an identity is refused no more."""
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        terminal.write([f"{shown(answer['allowed'])} is denied no more", _told(answer)])
    return PARTLY if answer["problem"] else YES


def _told(answer: Document) -> str:
    version = answer["generation"]
    if answer["problem"]:
        return f"hosts DO NOT HEAR OF IT: {shown(answer['problem'])}"
    if version is None:
        return "hosts hear of it with the next generation of policy"
    return f"hosts hear of it with generation {version['generation']}, which is on its way"


def _forget(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).call("DELETE", f"/v1/hosts/{arguments.name}")
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        what = "it gets no certificate any more, and those that it has are good until they end"
        terminal.write([f"{shown(answer['forgotten'])} is forgotten: {what}"])
    return YES
