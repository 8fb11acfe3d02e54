"""``hostproxy-controller token``: what lets a host join, once and soon."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterable

from controller.cli import client, terminal
from controller.cli.client import Document
from controller.cli.command import NO, YES, Actions, perform
from controller.cli.terminal import moment, pairs, shown, span, table
from hostproxy.mesh.units import Wrong

TOKEN_FILE = "/etc/hostproxy/join.token"  # noqa: S105  # a path
HEAD = ("ID", "HOST", "STATE", "FOR", "ENDS", "BY")

_ID = re.compile(r"[0-9a-f]{32}")

run = perform


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    actions = Actions(parser)
    create = actions.add("create", _create, "make a token for one host, and show what the host needs")
    create.add_argument("--host", metavar="NAME", type=client.host, required=True, help="the only one that it is for")
    create.add_argument("--ttl", metavar="TIME", type=_ttl, default=900.0, help="how long it can be used (15m)")
    create.add_argument("--reenrol", action="store_true", help="for a new machine under the name of an enrolled host")
    actions.add("list", _list, "show the tokens that have not expired")
    revoke = actions.add("revoke", _revoke, "make a token useless")
    revoke.add_argument("id", metavar="ID", type=client.checked(_id), help="as list shows it")


def _create(arguments: argparse.Namespace) -> int:
    body = {"host": arguments.host, "life": arguments.ttl, "reenrol": arguments.reenrol}
    made = client.connect(arguments).post("/v1/tokens", body)
    if arguments.output == "json":
        terminal.write_json(made)
    else:
        terminal.write(_told(made))
    return YES


def _told(made: Document) -> Iterable[str]:
    host = shown(made["host"])
    yield from pairs(
        [
            ("token", made["token"]),
            ("for", f"{host}, once, until {moment(made['expires'])}"),
            ("id", made["id"]),
            ("fingerprint", made["fingerprint"]),
        ]
    )
    yield ""
    yield f"On {host} the token goes into {TOKEN_FILE}, with mode 0600, and this into conf.toml:"
    yield ""
    yield "[identity]"
    yield 'mode = "controller"'
    yield ""
    yield "[controller]"
    yield f'url = "{shown(made["url"])}"'
    yield f'ca_fingerprint = "{shown(made["fingerprint"])}"'
    yield f'join_token_file = "{TOKEN_FILE}"'


def _list(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).get("/v1/tokens")
    now = time.time()
    if arguments.output == "json":
        terminal.write_json(answer)
        return YES
    rows = [
        (
            token["id"],
            token["host"],
            token["state"],
            "enrolling again" if token["reenrol"] else "enrolling",
            f"in {span(token['expires'] - now)}" if token["expires"] > now else f"{span(now - token['expires'])} ago",
            token["by"],
        )
        for token in answer["tokens"]
    ]
    terminal.write(table(HEAD, rows))
    return YES


def _revoke(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).call("DELETE", f"/v1/tokens/{arguments.id}")
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        terminal.write([f"{shown(answer['revoked'])} is no token any more"])
    if answer["used"]:
        host = shown(answer["host"])
        terminal.say(f"it had been used: {host} has enrolled with it; if that was somebody else, hosts deny {host}")
        return NO
    return YES


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise Wrong("is not the id of a token", "hostproxy-controller token list shows them")
    return text


def _ttl(text: str) -> float:
    seconds = client.duration(text)
    if not 1.0 <= seconds <= 86400.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 1s and 24h")
    return seconds
