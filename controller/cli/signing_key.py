"""``hostproxy-controller signing-key``: the key that signs bundles, and how the next one comes.

A host believes the key that its last bundle named. So the next key is announced first, and signs when every host has a
bundle that names it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable

from controller.cli import client
from controller.cli.authority import announced, forced, show, signing_rows
from controller.cli.client import Client, Document
from controller.cli.command import PARTLY, Actions, perform
from controller.cli.terminal import pairs, say, shown

PATIENCE = 120.0  # seconds
PERIOD = 0.5  # seconds between two looks
NAMED = 10  # hosts in a message

run = perform


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    actions = Actions(parser)
    actions.add("status", _status, "show the key that signs, the next one, and which hosts do not know it yet")
    rotate = actions.add("rotate", _rotate, "announce a new key, wait until every host knows it, and use it")
    text = "how long to wait for hosts (2m); then the key stays announced, and the command can be repeated"
    rotate.add_argument("--patience", metavar="TIME", type=client.duration, default=PATIENCE, help=text)
    rotate.add_argument("--force", action="store_true", help="then use it all the same: hosts that are behind are lost")


def _status(arguments: argparse.Namespace) -> int:
    return show(arguments, client.connect(arguments).get("/v1/authority"), _lines)


def _rotate(arguments: argparse.Namespace) -> int:
    asked = client.connect(arguments)
    answer = asked.get("/v1/authority")
    if answer["next_signer"] is None:
        answer = asked.post("/v1/signing/next")
        say(f"{shown(answer['next_signer'])} is announced")
    with asked.held():
        answer = _wait(asked, answer, arguments.patience)
    behind = answer["behind"]
    if behind and not arguments.force:
        more = f" and {len(behind) - NAMED} more" if len(behind) > NAMED else ""
        say(f"{len(behind)} hosts do not know it yet: {shown(', '.join(behind[:NAMED]))}{more}")
        if answer["untold"]:
            say(f"hosts are not told: {shown(answer['untold'])}")
        say("the old key goes on signing: repeat the command when they are back, or forget them")
        show(arguments, answer, _lines)
        return PARTLY
    return announced(arguments, forced(arguments, "POST", "/v1/signing/use"), _lines)


def _wait(asked: Client, answer: Document, patience: float) -> Document:
    """Until every host knows the next key, nobody is told of it, or ``patience`` seconds are over; how it stands."""
    end = time.monotonic() + patience
    while answer["behind"] and not answer["problem"] and time.monotonic() < end:
        time.sleep(PERIOD)
        answer = asked.get("/v1/authority")
    return answer


def _lines(answer: Document) -> Iterable[str]:
    return pairs(signing_rows(answer))
