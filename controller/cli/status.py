"""``hostproxy-controller status``: everything at a glance."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from controller.cli import client, terminal
from controller.cli.client import Document
from controller.cli.command import NO, YES, perform, single
from controller.cli.terminal import left, pairs, shown, span

run = perform


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    single(parser, _status)


def _status(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).get("/v1/status")
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        terminal.write(_lines(answer))
    problems = answer["audit"]["failures"] or answer["problem"] or answer["catalog_problem"]
    return NO if answer["hosts"]["ERROR"] or problems else YES


def _lines(answer: Document) -> Iterable[str]:
    now = answer["now"]
    generation, rollout = answer["generation"], answer["rollout"]
    hosts = ", ".join(f"{count} {state}" for state, count in answer["hosts"].items() if count)
    leads = "leads" if answer["leading"] else f"{answer['leader'] or 'nobody'} leads"
    audit = answer["audit"]
    failures = f", {audit['failures']} COULD NOT BE WRITTEN" if audit["failures"] else ""
    problem = f"hosts are not told what they have to know: {shown(answer['problem'])}"
    wrong = [("PROBLEM", problem)] if answer["problem"] else []
    if answer["catalog_problem"]:
        wrong.append(("PROBLEM", f"[registry.consul]: {shown(answer['catalog_problem'])}"))
    return pairs(
        [
            *wrong,
            ("controller", f"{answer['name']} {answer['version']}, for {span(now - answer['started'])}, {leads}"),
            ("mesh", f"{answer['trust_domain']}, {answer['url']}"),
            ("fingerprint", answer["fingerprint"]),
            ("you may", answer["role"]),
            ("policy", f"generation {generation['generation']}" if generation is not None else "none yet"),
            ("rollout", f"{rollout['phase']}: {rollout['reason']}" if rollout is not None else "none yet"),
            ("hosts", hosts or "none yet"),
            ("not told", answer["told_in_vain"]),
            ("certificate", f"{left(answer['certificate_ends'], now)} left"),
            ("issuing", f"{left(answer['issuing_ends'], now)} left"),
            ("audit", f"{audit['lines']} lines{failures}"),
        ]
    )
