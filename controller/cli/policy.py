"""``hostproxy-controller policy``: what services may do, tried before any host sees it, applied, and taken back."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from controller.cli import applying, client, terminal
from controller.cli.client import Document, Misused, Refused, Unreachable
from controller.cli.command import NO, PARTLY, YES, Actions, perform
from controller.cli.terminal import GREEN, RED, moment, painted, pairs, say, shown, span, table
from controller.policy import expectations, files
from controller.policy.rehearsal import Outcome, Rehearsal
from hostproxy.mesh.document import Invalid, Problem
from hostproxy.mesh.policy import Policy
from hostproxy.mesh.routes import NO_ROUTE

HEAD = ("GENERATION", "APPLIED", "BY", "FILES", "NOTE")
NEWEST = 0

run = perform


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    actions = Actions(parser)
    _directory(actions.add("check", _check, "say what is wrong with a policy"))
    _directory(actions.add("test", _test, "hold a policy against its expectations, DIR/tests/*.toml"))
    diff = actions.add("diff", _diff, "compare a policy with one that was applied; 1: they differ")
    _directory(diff)
    _numbered(diff, "the newest by default", nargs="?", default=NEWEST)

    apply = actions.add("apply", _apply, "make a policy the newest generation, on all hosts")
    _directory(apply)
    text = "apply only if this is the newest now; 0: if there is none"
    apply.add_argument("--expect", metavar="N", type=_number, help=text)
    applying.options(apply)
    rollback = actions.add("rollback", _rollback, "make an earlier policy the newest generation again")
    _numbered(rollback, "its number")
    applying.options(rollback)

    actions.add("history", _history, "show the generations that are kept")
    show = actions.add("show", _show, "show a generation")
    _numbered(show, 'its number, or "newest"')
    show.add_argument("file", metavar="FILE", nargs="?", help="only this file, as it is")
    actions.add("raise-epoch", _raise_epoch, "after the store was restored from a backup: replace what hosts have")


def _directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="the directory with the *.toml files")


def _numbered(parser: argparse.ArgumentParser, text: str, **keywords: Any) -> None:
    parser.add_argument("generation", metavar="GENERATION", type=_generation, help=text, **keywords)


# Without a controller


def _check(arguments: argparse.Namespace) -> int:
    services, unknown = _services(arguments)
    try:
        _, warnings = examined(arguments.directory, services)
    except Invalid as invalid:
        _complain(arguments, invalid)
        return NO
    if arguments.output == "json":
        terminal.write_json({"valid": True, "problems": [], "warnings": warnings})
    else:
        for warning in warnings:
            say(f"warning: {shown(warning)}")
        terminal.write([f"{arguments.directory} can be applied" + (f", {len(warnings)} warnings" if warnings else "")])
    return PARTLY if unknown else YES


def _services(arguments: argparse.Namespace) -> tuple[Collection[str], bool]:
    """The services that the controller knows, and whether they were asked for in vain.

    Nobody is blamed for a controller that was not named and is not there.
    """
    try:
        answer = client.connect(arguments).get("/v1/services")
    except (Unreachable, Refused, Misused) as error:
        if isinstance(error, Misused):
            raise
        if client.named(arguments):
            say(f"the controller's services are not known: {shown(error)}")
        return (), client.named(arguments)
    return [service["name"] for service in answer["services"]], False


def examined(directory: str, services: Collection[str] = ()) -> tuple[Mapping[str, bytes], list[str]]:
    """The files of a policy that can be applied, and warnings. Raises Invalid, with the paths as they were given."""
    found = files.collect(directory)
    try:
        _, warnings = files.check(found, services)
    except Invalid as invalid:
        raise Invalid([_placed(directory, problem) for problem in invalid.problems]) from None
    return found, warnings


def _placed(directory: str, problem: Problem) -> Problem:
    return msgspec.structs.replace(problem, file=os.path.join(directory, problem.file))


def _complain(arguments: argparse.Namespace, invalid: Invalid) -> None:
    if arguments.output == "json":
        terminal.write_json({"valid": False, "problems": invalid.problems, "warnings": []})
    for problem in invalid.problems:
        say(shown(problem))


def policy_of(directory: str) -> Policy:
    """The policy in a directory. Raises Invalid."""
    found, _ = examined(directory)
    return files.check(found)[0]


def _test(arguments: argparse.Namespace) -> int:
    try:
        policy = policy_of(arguments.directory)
        expected, warnings = expectations.collect(arguments.directory, _known(policy))
    except Invalid as invalid:
        _complain(arguments, invalid)
        return NO
    rehearsal = Rehearsal(policy)
    outcomes = [rehearsal.judge(each) for each in expected]
    failed = [outcome for outcome in outcomes if outcome.fault]
    for warning in warnings:
        say(f"warning: {shown(warning)}")
    if arguments.output == "json":
        passed = len(outcomes) - len(failed)
        terminal.write_json({"passed": passed, "failed": [_document(each) for each in failed], "warnings": warnings})
    else:
        terminal.write(_verdict(outcomes, failed))
    return NO if failed else YES


def _known(policy: Policy) -> set[str]:
    callers = {
        caller
        for service in policy.services.values()
        for rule in (*service.allow, *service.deny)
        for caller in rule.callers
    }
    return {*policy.services, *callers}


def _verdict(outcomes: list[Outcome], failed: list[Outcome]) -> Iterable[str]:
    for outcome in failed:
        expectation = outcome.expectation
        yield f"{expectation.source}: {shown(expectation.call)}: {shown(outcome.fault)}"
    met = f"{len(outcomes) - len(failed)} of {len(outcomes)} expectations are met"
    yield painted(met, RED if failed else GREEN)


def _document(outcome: Outcome) -> dict[str, Any]:
    expectation, decision, treatment = outcome.expectation, outcome.decision, outcome.treatment
    return {
        "source": expectation.source,
        "call": str(expectation.call),
        "fault": outcome.fault,
        "decision": "allow" if decision.allowed else "deny",
        "rule": decision.rule,
        "route": treatment.route or NO_ROUTE,
        "subsets": [each.subset for each in treatment.portions if each.share and each.subset],
        "timeout_seconds": treatment.timeout or None,
    }


# With one


def _diff(arguments: argparse.Namespace) -> int:
    try:
        found = files.collect(arguments.directory)
    except Invalid as invalid:
        _complain(arguments, invalid)
        return NO
    query = {"generation": arguments.generation} if arguments.generation != NEWEST else {}
    answer = client.connect(arguments).post("/v1/policy/diff", {"files": applying.texts(found)}, **query)
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        terminal.write(_coloured(line) for line in answer["difference"])
        if answer.get("cut"):  # older controllers do not tell
            say(f"only the first {len(answer['difference'])} lines are shown: there are more")
    return NO if answer["difference"] else YES


def _coloured(line: str) -> str:
    colour = GREEN if line.startswith("+") else RED if line.startswith("-") else ""
    text = line.replace("\t", "    ")
    return painted(shown(text), colour) if colour else shown(text)


def _apply(arguments: argparse.Namespace) -> int:
    try:
        found, _ = examined(arguments.directory)
    except Invalid as invalid:
        _complain(arguments, invalid)
        return NO
    body: Document = {"files": applying.texts(found)}
    if arguments.expect is not None:
        body["expect"] = arguments.expect
    return applying.carry_out(arguments, "/v1/policy", body)


def _rollback(arguments: argparse.Namespace) -> int:
    if arguments.generation == NEWEST:
        raise Misused('"newest" is what hosts have or are about to have: name an earlier generation')
    return applying.carry_out(arguments, f"/v1/policy/{arguments.generation}/rollback", {})


def _raise_epoch(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).post("/v1/policy/epoch")
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        epoch, generation = answer["epoch"], answer["generation"]
        terminal.write([f"epoch {epoch} begins with generation {generation}: hosts take it whatever they have"])
    return YES


def _history(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).get("/v1/policy")
    if arguments.output == "json":
        terminal.write_json(answer)
        return YES
    rows = [
        (
            _version(each),
            f"{span(answer['now'] - each['applied'])} ago",
            each["actor"],
            len(each["names"]),
            f"the files of {each['restored']} again{'; ' if each['note'] else ''}{each['note']}"
            if each["restored"]
            else each["note"],
        )
        for each in answer["generations"]
    ]
    terminal.write(table(HEAD, rows) if rows else ["no policy has been applied yet"])
    return YES


def _show(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).get(f"/v1/policy/{arguments.generation}")
    if arguments.file is not None:
        if arguments.file not in answer["files"]:
            raise Refused(f"generation {_version(answer)} has no file {arguments.file}", tuple(answer["files"]))
        answer = {**answer, "files": {arguments.file: answer["files"][arguments.file]}}
    if arguments.output == "json":
        terminal.write_json(answer)
    elif arguments.file is not None:
        terminal.write(answer["files"][arguments.file].splitlines())
    else:
        terminal.write(_generation_shown(answer))
    return YES


def _generation_shown(answer: Document) -> Iterable[str]:
    yield from pairs(
        [
            ("generation", _version(answer)),
            ("applied", f"{moment(answer['applied'])} by {answer['actor']}"),
            ("note", answer["note"] or "-"),
            ("digest", answer["digest"]),
        ]
    )
    for name, text in answer["files"].items():
        yield ""
        yield f"==> {shown(name)} <=="
        for line in text.splitlines():
            yield shown(line.replace("\t", "    "))


def _version(row: Document) -> str:
    return f"{row['generation']}" if row["epoch"] == 1 else f"{row['epoch']}.{row['generation']}"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise argparse.ArgumentTypeError(f"{text!r:.100} is not the number of a generation")
    return int(text)


def _generation(text: str) -> int:
    number = NEWEST if text == "newest" else _number(text)
    if number == NEWEST and text != "newest":
        raise argparse.ArgumentTypeError('there is no generation 0; write "newest" for the newest')
    return number
