"""``hostproxy-controller rollout``: the waves of the newest generation."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable

from controller.cli import client, terminal
from controller.cli.client import Client, Document
from controller.cli.command import NO, YES, Actions, perform
from controller.cli.terminal import GREEN, RED, YELLOW, painted, pairs, say, shown, span

PERIOD = 1.0  # seconds between two looks
COLOURS = {"running": YELLOW, "done": GREEN, "stopped": RED}

run = perform


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    actions = Actions(parser)
    status = actions.add("status", _status, "show the rollout that is under way, or how the last one ended; 1: stopped")
    status.add_argument("--watch", action="store_true", help="until it has ended")
    stop = actions.add("stop", _stop, "stop the rollout; the hosts that have it go back")
    stop.add_argument("--reason", required=True, help="for the history and the audit log")


def _status(arguments: argparse.Namespace) -> int:
    asked = client.connect(arguments)
    if arguments.watch:
        with asked.held():
            watch(asked, PERIOD)
    return _shown(arguments, asked.get("/v1/rollout"))


def _stop(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).post("/v1/rollout/stop", {"reason": arguments.reason})
    _shown(arguments, answer)
    return YES


def _shown(arguments: argparse.Namespace, answer: Document) -> int:
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        terminal.write(_lines(answer))
    return _judged(answer["rollout"])


def _judged(rollout: Document | None) -> int:
    return NO if rollout is not None and rollout["phase"] == "stopped" else YES


def watch(asked: Client, period: float) -> int:
    """Say on stderr how it goes, until it has ended. Returns the exit status that its end means."""
    said = ""
    while True:
        rollout = asked.get("/v1/rollout")["rollout"]
        if rollout is None:
            return YES
        text = _line(rollout)
        if text != said:
            say(text)
            said = text
        if rollout["phase"] != "running":
            return _judged(rollout)
        time.sleep(period)


def _line(rollout: Document) -> str:
    waves = rollout["waves"]
    if rollout["phase"] != "running":
        return f"generation {_version(rollout['version'])}: {rollout['phase']}: {shown(rollout['reason'])}"
    hosts = sum(map(len, waves[: rollout["wave"] + 1]))
    where = f"wave {rollout['wave'] + 1} of {len(waves)}, {hosts} of {sum(map(len, waves))} hosts"
    # What counts down would be a line each second.
    reason = shown(rollout["reason"])
    return f"generation {_version(rollout['version'])}: {where}: {'held' if reason.startswith('held for') else reason}"


def _lines(answer: Document) -> Iterable[str]:
    rollout, now = answer["rollout"], answer["now"]
    if rollout is None:
        yield "there was no rollout yet"
        return
    phase = painted(rollout["phase"], COLOURS.get(rollout["phase"], YELLOW))
    before = rollout["before"]
    yield f"generation {_version(rollout['version'])}  {phase}"
    yield from pairs(
        [
            ("instead of", _version(before) if before is not None else "nothing"),
            ("by", rollout["actor"]),
            ("began", f"{span(now - rollout['began'])} ago"),
            ("ended", f"{span(now - rollout['ended'])} ago" if rollout["ended"] else "-"),
            ("reason", rollout["reason"]),
        ]
    )
    yield ""
    for number, hosts in enumerate(rollout["waves"]):
        yield f"wave {number + 1}  {_wave(rollout, number):8}  {len(hosts)} hosts: {shown(_some(hosts))}"


def _wave(rollout: Document, number: int) -> str:
    if rollout["phase"] == "done" or number < rollout["wave"]:
        return "passed"
    if number > rollout["wave"]:
        return "waiting" if rollout["phase"] == "running" else "untold"
    return "under way" if rollout["phase"] == "running" else "failed"


def _some(hosts: list[str]) -> str:
    more = f" and {len(hosts) - 8} more" if len(hosts) > 8 else ""
    return ", ".join(hosts[:8]) + more


def _version(version: Document) -> str:
    number = version["generation"]
    return f"{number}" if version["epoch"] == 1 else f"{version['epoch']}.{number}"
