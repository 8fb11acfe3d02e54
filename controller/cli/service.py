"""``hostproxy-controller service``: which service runs on which host, and so may have its certificate there."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from controller.cli import client, hosts, terminal
from controller.cli.client import Client, Document, Refused, Unreachable
from controller.cli.command import NO, PARTLY, UNREACHABLE, YES, Actions, complain, perform
from controller.cli.terminal import shown, table

HEAD = ("SERVICE", "DENIED", "HOSTS")

run = perform


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    actions = Actions(parser)
    for name, act, text in (
        ("assign", _assign, "say that a service runs on hosts: they may have its certificate"),
        ("unassign", _unassign, "say that it does not run there: they get no other certificate"),
    ):
        action = actions.add(name, act, text)
        action.add_argument("name", metavar="NAME", type=client.service)
        action.add_argument("hosts", metavar="HOST", type=client.host, nargs="+")
    actions.add("list", _list, "show the hosts of each service")
    deny = actions.add("deny", _deny, "refuse a service everywhere, although its certificates are valid")
    deny.add_argument("name", metavar="NAME", type=client.service)
    deny.add_argument("--reason", default="", help="for the audit log")
    allow = actions.add("allow", _allow, "refuse a service no more")
    allow.add_argument("name", metavar="NAME", type=client.service)


def _assign(arguments: argparse.Namespace) -> int:
    return _for_each(arguments, "PUT", "runs on")


def _unassign(arguments: argparse.Namespace) -> int:
    return _for_each(arguments, "DELETE", "does not run any more on")


def _for_each(arguments: argparse.Namespace, method: str, done: str) -> int:
    """Host by host: what is refused for one is done for the others."""
    asked = client.connect(arguments)
    worked, failed, status = [], [], YES
    for host in arguments.hosts:
        try:
            _one(asked, method, arguments.name, host)
            worked.append(host)
        except Refused as refused:
            complain(refused, f"{host}: ")
            failed.append(host)
            status = max(status, NO)
        except Unreachable as unreachable:
            terminal.say(f"{host}: {shown(unreachable)}")
            failed.append(host)
            status = UNREACHABLE
            break
    if arguments.output == "json":
        terminal.write_json({"service": arguments.name, "done": worked, "failed": failed})
    elif worked:
        terminal.write([f"{arguments.name} {done} {', '.join(worked)}"])
    return PARTLY if worked and status else status


def _one(asked: Client, method: str, name: str, host: str) -> Document:
    return asked.call(method, f"/v1/services/{name}/hosts/{host}")


def _list(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).get("/v1/services")
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        terminal.write(_lines(answer))
    return YES


def _lines(answer: Document) -> Iterable[str]:
    rows = [
        (each["name"], "denied" if each["denied"] else "-", " ".join(each["hosts"]) or "-")
        for each in answer["services"]
    ]
    yield from table(HEAD, rows)


def _deny(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).post(f"/v1/services/{arguments.name}/deny", {"reason": arguments.reason})
    return hosts.denied(arguments, answer)


def _allow(arguments: argparse.Namespace) -> int:
    return hosts.allowed(arguments, client.connect(arguments).post(f"/v1/services/{arguments.name}/allow"))
