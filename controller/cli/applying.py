"""``policy apply`` and ``policy rollback``: all hosts at once or in waves, and the wait until they have it."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from controller.cli import client, rollout, terminal
from controller.cli.client import Client, Document
from controller.cli.command import NO, PARTLY, YES
from controller.cli.terminal import say, shown
from controller.rollout.plan import Bounds, Plan, parse_waves
from hostproxy.mesh.units import Wrong, format_duration

PATIENCE = 120.0  # seconds that --wait waits for hosts without a plan that says otherwise
PERIOD = 0.5  # seconds between two looks
ASKED = 20  # hosts with an error that are looked at more closely each time
NAMED = 10  # hosts in a message

_PLANNED = ("waves", "hold", "patience")
_BOUNDED = ("success_drop", "p99_factor", "p99_floor", "denied_rise", "least_requests")
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4})?)%")
_FACTOR = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,4})?")


def options(parser: argparse.ArgumentParser) -> None:
    """Say how a generation can be brought to hosts. What is not given is as Plan and Bounds have it."""
    plan, bounds = Plan(), Bounds()
    parser.add_argument("--note", default="", help="why, for the history")
    parser.add_argument("--dry-run", action="store_true", help="have it checked by the controller, and apply nothing")
    text = "wait until hosts have it; 1: one refuses it, 4: one is away"
    parser.add_argument("--wait", action="store_true", help=text)

    def add(name: str, kind: Any, metavar: str, text: str, default: str) -> None:
        waves.add_argument(f"--{name}", type=kind, metavar=metavar, help=f"{text} ({default})")

    time = client.duration
    waves = parser.add_argument_group("in waves; a wave that is worse than the other hosts is taken back")
    add("waves", _waves, "N,P%,100%", "how many hosts have it after each wave", ",".join(plan.waves).replace("%", "%%"))
    add("hold", time, "TIME", "how long a wave has to be well", format_duration(plan.hold))
    add("patience", time, "TIME", "how long its hosts may take to acknowledge", format_duration(plan.patience))
    text = "how much lower the share of requests that succeed may be"
    add("success-drop", _share, "P%", text, f"{bounds.success_drop * 100:g}%%")
    add("p99-factor", _factor, "N", "how many times as long the slowest hundredth may take", f"{bounds.p99_factor:g}")
    add("p99-floor", time, "TIME", "below this durations are not compared", format_duration(bounds.p99_floor))
    text = "how much higher the share of requests that are denied may be"
    add("denied-rise", _share, "P%", text, f"{bounds.denied_rise * 100:g}%%")
    text = "how many requests of a wave make its shares count"
    add("least-requests", _count, "N", text, f"{bounds.least_requests}")


def plan_of(arguments: argparse.Namespace) -> Plan | None:
    """The plan that was asked for; None: all hosts at once, and nobody looks on."""
    given = {name: getattr(arguments, name) for name in (*_PLANNED, *_BOUNDED)}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return None
    bounds = Bounds(**{name: value for name, value in given.items() if name in _BOUNDED})
    return Plan(**{name: value for name, value in given.items() if name in _PLANNED}, bounds=bounds)


def texts(files: Mapping[str, bytes]) -> dict[str, str]:
    """Files as JSON can carry them: they were checked to be UTF-8, or the controller will see that they are not."""
    return {name: content.decode("utf-8", "replace") for name, content in files.items()}


def carry_out(arguments: argparse.Namespace, path: str, body: Document) -> int:
    """Have a generation applied, and wait for it if that is wanted. Returns the exit status."""
    plan = plan_of(arguments)
    body |= {"note": arguments.note, "dry_run": arguments.dry_run}
    if plan is not None:
        body["plan"] = msgspec.to_builtins(plan)
    asked = client.connect(arguments)
    answer = asked.post(path, body)
    for warning in answer["warnings"]:
        say(f"warning: {shown(warning)}")
    if arguments.output == "json":
        terminal.write_json(answer)
    elif "dry_run" in answer:
        terminal.write(["it would be applied" if answer["changed"] else "it is what the newest generation has already"])
    else:
        how = "is being rolled out" if answer["rollout"] else "is on its way to all hosts"
        terminal.write([f"generation {answer['generation']} {how}"])
    if "dry_run" in answer or not arguments.wait:
        return YES
    with asked.held():
        if answer["rollout"]:
            return rollout.watch(asked, PERIOD)
        return _wait(asked, (answer["epoch"], answer["generation"]), PATIENCE)


def _wait(asked: Client, version: tuple[int, int], patience: float) -> int:
    """Until every host has a generation or has refused it, or ``patience`` seconds are over."""
    end = time.monotonic() + patience
    said = ""
    while True:
        waiting, away, wrong = _standing(asked, version)
        over = time.monotonic() >= end
        if not waiting or over:
            break
        text = f"{len(waiting)} hosts do not have it yet: {_some(waiting)}"
        if text != said:
            say(text)
            said = text
        time.sleep(PERIOD)
    for host, problem in wrong.items():
        say(shown(f"{host}: {problem}"))
    if waiting:
        say(f"{len(waiting)} hosts do not have it after {patience:g} s: {_some(waiting)}")
    if away:
        say(f"{len(away)} hosts are away, and get it when they return: {_some(away)}")
    if not wrong and not waiting and not away:
        say("every host has it")
    return NO if wrong else PARTLY if waiting or away else YES


def _standing(asked: Client, version: tuple[int, int]) -> tuple[list[str], list[str], dict[str, str]]:
    """Hosts that are to have a generation and do not; those that are away; those with a problem, and which."""
    waiting, away = [], []
    wrong: dict[str, str] = {}
    looked = 0
    for host in asked.get("/v1/hosts")["hosts"]:
        name, state = host["name"], host["state"]
        has_it = (host["epoch"], host["generation"]) >= version
        if host["denied"]:
            continue
        if state == "AWAY":
            away.append(name)
        elif state == "ERROR" and has_it:
            wrong[name] = "; ".join(host["problems"]) or "it has it, and an error"
        elif state == "ERROR" and looked < ASKED:
            # It may be the generation before that it has refused.
            looked += 1
            report = asked.get(f"/v1/hosts/{name}")["host"]["report"] or {}
            if tuple(report.get("refused", ())) >= version:
                wrong[name] = "; ".join(report["problems"]) or "it refuses it"
            else:
                waiting.append(name)
        elif not has_it:
            waiting.append(name)
    return waiting, away, wrong


def _some(hosts: Collection[str]) -> str:
    more = f" and {len(hosts) - NAMED} more" if len(hosts) > NAMED else ""
    return shown(", ".join(list(hosts)[:NAMED])) + more


def _waves(text: str) -> tuple[str, ...]:
    try:
        return parse_waves(text)
    except Wrong as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None


def _share(text: str) -> float:
    match = _SHARE.fullmatch(text)
    if match is None or float(match[1]) > 100.0:
        raise argparse.ArgumentTypeError(f'{text!r:.100} is not a share; write "1%" or "0.5%"')
    return float(match[1]) / 100.0


def _factor(text: str) -> float:
    if not _FACTOR.fullmatch(text) or float(text) < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r:.100} is not a factor of at least 1")
    return float(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"{text!r:.100} is not a number of requests")
    return int(text)
