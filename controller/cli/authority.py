"""``hostproxy-controller authority``: the roots of the mesh and the issuing authority, and how the next ones come."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable

from controller.cli import client, terminal
from controller.cli.client import Client, Document, Refused
from controller.cli.command import PARTLY, YES, Actions, perform
from controller.cli.terminal import left, moment, pairs, say, shown, table

NAMED = 10  # hosts in a message

run = perform


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    actions = Actions(parser)
    actions.add("status", _status, "show what is trusted, what signs, and which hosts do not know yet")
    text = "sign with a new issuing authority under the same root from now on"
    actions.add("rotate-issuing", _rotate_issuing, text)
    actions.add("add-root", _add_root, "make a new root, trusted by all and signing nothing yet")
    for name, act, text in (
        ("use-root", _use_root, "sign under this root from now on, once every host trusts it"),
        ("drop-root", _drop_root, "trust this root no more, once nobody uses what it signed"),
    ):
        action = actions.add(name, act, text)
        action.add_argument("number", metavar="N", type=_number, help="as status shows it")
        action.add_argument("--force", action="store_true", help="although it is too early: hosts may be lost")


def _status(arguments: argparse.Namespace) -> int:
    return show(arguments, client.connect(arguments).get("/v1/authority"))


def _rotate_issuing(arguments: argparse.Namespace) -> int:
    return show(arguments, client.connect(arguments).post("/v1/authority/rotate-issuing"))


def _add_root(arguments: argparse.Namespace) -> int:
    return announced(arguments, client.connect(arguments).post("/v1/authority/roots"))


def _use_root(arguments: argparse.Namespace) -> int:
    return show(arguments, forced(arguments, "POST", f"/v1/authority/roots/{arguments.number}/use"))


def _drop_root(arguments: argparse.Namespace) -> int:
    return announced(arguments, forced(arguments, "DELETE", f"/v1/authority/roots/{arguments.number}"))


def forced(arguments: argparse.Namespace, method: str, path: str) -> Document:
    """An act that can come too early."""
    asked: Client = client.connect(arguments)
    try:
        return asked.call(method, path, query={"force": "true"} if arguments.force else None)
    except Refused as refused:
        raise Refused(str(refused).replace("?force=true", "--force"), refused.problems) from None


Lines = Callable[[Document], Iterable[str]]


def show(arguments: argparse.Namespace, answer: Document, lines: Lines | None = None) -> int:
    """Print how it stands now, as every act is answered."""
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        terminal.write((lines or _lines)(answer))
    return YES


def announced(arguments: argparse.Namespace, answer: Document, lines: Lines | None = None) -> int:
    """Print how it stands after an act that hosts have to hear of, and whether they do."""
    show(arguments, answer, lines)
    if answer["problem"]:
        say(f"hosts DO NOT HEAR OF IT: {shown(answer['problem'])}")
    return PARTLY if answer["problem"] else YES


def _lines(answer: Document) -> Iterable[str]:
    now = time.time()
    rows = [
        (
            root["number"],
            "signs" if root["used"] else "trusted",
            moment(root["ends"]),
            root["fingerprint"],
        )
        for root in answer["roots"]
    ]
    yield from table(("ROOT", "STATE", "ENDS", "FINGERPRINT"), rows)
    yield ""
    ends, own = answer["issuing_ends"], answer["controller_certificate_ends"]
    yield from pairs(
        [
            ("trust domain", answer["trust_domain"]),
            ("issuing", f"{answer['issuing']}, until {moment(ends)} ({left(ends, now)})"),
            ("controller", f"certificate until {moment(own)} ({left(own, now)})"),
            *signing_rows(answer),
        ]
    )


def signing_rows(answer: Document) -> list[tuple[str, object]]:
    """What signs bundles, and who does not know yet what bundles say."""
    behind = answer["behind"]
    more = f" and {len(behind) - NAMED} more" if len(behind) > NAMED else ""
    because = f"; {answer['untold']}" if answer["untold"] else ""
    return [
        ("signing key", answer["signer"]),
        ("next", answer["next_signer"] or "-"),
        ("behind", f"{len(behind)} hosts: {', '.join(behind[:NAMED])}{more}{because}" if behind else "no host"),
    ]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise argparse.ArgumentTypeError(f"{text!r:.100} is not the number of a root")
    return int(text)
