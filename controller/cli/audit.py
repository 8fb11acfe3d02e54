"""``hostproxy-controller audit``: what was done, by whom, and whether the log of it is as it was written."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import Any

from controller.cli import client, terminal
from controller.cli.client import Document
from controller.cli.command import NO, YES, Actions, perform
from controller.cli.terminal import RED, painted, shown, table

HEAD = ("LINE", "TIME", "ACTOR", "ACT", "OBJECT", "RESULT", "DETAIL")
MOST = 1000  # lines shown

_KEPT = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})")

run = perform


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    actions = Actions(parser)
    show = actions.add("show", _show, "show the last lines of the controller's audit log")
    show.add_argument("--last", metavar="N", type=_count, default=100, help=f"how many (100), at most {MOST}")
    verify = actions.add("verify", _verify, "find the first line that is not as it was written; 1: there is one")
    text = "a log that no controller writes at the moment; without it the controller is asked for its own"
    verify.add_argument("file", metavar="FILE", nargs="?", help=text)
    text = "a line that was noted elsewhere, as this command shows the last one; more than one can be given"
    verify.add_argument("--head", metavar="LINE:HASH", type=_head, action="append", default=[], help=text)


def _show(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).get("/v1/audit", count=arguments.last)
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        terminal.write(table(HEAD, [_row(line) for line in answer["lines"]]))
    return YES


def _row(line: dict[str, Any]) -> tuple[object, ...]:
    result = line["result"]
    time = line["time"].replace("T", " ").partition(".")[0] + "Z"
    return line["number"], time, line["actor"], line["act"], line["object"], result, line["detail"]


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.file is not None:
        answer = _on_disk(arguments.file, arguments.head)
        if answer is None:
            return NO
    else:
        answer = client.connect(arguments).post("/v1/audit/verify", {"kept": dict(arguments.head)})
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        terminal.write(_lines(answer))
    return NO if answer["broken"] is not None else YES


def _on_disk(path: str, kept: list[tuple[str, str]]) -> Document | None:
    """The same of a file; None when it cannot be read."""
    from controller.audit import chain  # its package brings Twisted with it

    try:
        broken = chain.verify(path, [chain.Head(int(number), found) for number, found in kept])
        beside = chain.noted(path)
    except OSError as error:
        terminal.say(f"{error.filename or path}: {error.strerror}")
        return None
    head = beside.head if beside is not None else None
    return {
        "broken": {"line": broken.line, "why": broken.why} if broken is not None else None,
        "number": head.number if head is not None else 0,
        "hash": head.hash if head is not None else "",
    }


def _lines(answer: Document) -> Iterable[str]:
    broken = answer["broken"]
    if broken is not None:
        yield f"{painted('BROKEN', RED)}  line {broken['line']}: {shown(broken['why'])}"
        return
    yield f"{answer['number']} lines, each as it was written"
    yield f"head {answer['number']}:{shown(answer['hash'])}"


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MOST):
        raise argparse.ArgumentTypeError(f"{text!r:.100} is not a number from 1 to {MOST}")
    return int(text)


def _head(text: str) -> tuple[str, str]:
    match = _KEPT.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r:.100} is not LINE:HASH, as this command shows them")
    return match[1], match[2]
