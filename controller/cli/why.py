"""``hostproxy-controller why``: what policy says of a call, and which rule and which route, file and line.

The part of ``hostproxy why`` that no host is needed for. Which instances there are is not known to the controller.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from controller.cli import client, policy, terminal
from controller.cli.client import Document, Misused
from controller.cli.command import NO, YES, perform, single
from controller.cli.terminal import BOLD, GREEN, RED, YELLOW, painted, say, shown
from controller.policy.expectations import HEADERS, HOST, Call, header_value, request_path
from controller.policy.rehearsal import DEFAULT_PROTOCOL, Rehearsal
from hostproxy import explanation
from hostproxy.enforce.authorise import is_ambiguous
from hostproxy.enforce.explain import reason, retries, verdicts
from hostproxy.mesh import names, rules
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.policy import Policy, ServicePolicy, parse_files
from hostproxy.mesh.units import Wrong
from hostproxy.route.names import Names

COLOURS = {explanation.GOOD: GREEN, explanation.BAD: RED, explanation.DOUBTFUL: YELLOW}

_URL = re.compile(r"(?:(http|tcp)://)?([^/?#:]+)(?::[0-9]{1,5})?([/?#][!-~]*)?")

run = perform


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "--from", metavar="SERVICE", dest="caller", required=True, help='who calls: a service, or "host" for any host'
    )
    parser.add_argument("method", metavar="METHOD", nargs="?", default="GET", help="of HTTP (GET)")
    parser.add_argument("url", metavar="URL", help="http://SERVICE/PATH, or tcp://SERVICE")
    parser.add_argument(
        "-H", "--header", metavar="LINE", action="append", default=[], help='a header field: "x-canary: yes"'
    )
    parser.add_argument("--policy", metavar="DIR", help="by the policy in this directory, not the controller's newest")
    single(parser, _why)


class World(NamedTuple):
    """What is known."""

    policy: Policy
    where: str  # what policy that is
    services: frozenset[str] = frozenset()  # beside those that it speaks of
    denied: frozenset[str] = frozenset()


def _why(arguments: argparse.Namespace) -> int:
    try:
        name, call = question(arguments.caller, arguments.method, arguments.url, arguments.header)
    except Wrong as wrong:
        raise Misused(shown(wrong)) from None
    try:
        world = _from_directory(arguments.policy) if arguments.policy is not None else _from_controller(arguments)
    except Invalid as invalid:
        for problem in invalid.problems:
            say(shown(problem))
        return NO
    document = explain(name, call, world)
    if arguments.output == "json":
        terminal.write_json(document)
    else:
        terminal.write(_lines(document))
    return YES if document["allowed"] else NO


def question(caller: str, method: str, url: str, headers: Sequence[str]) -> tuple[str, Call]:
    """The name that is called, and the call without a service. Raises :class:`Wrong`."""
    if caller != HOST:
        try:
            names.service(caller)
        except Wrong as wrong:
            raise Wrong(f'--from "{caller:.100}" {wrong.message}', wrong.hint) from None
    match = _URL.fullmatch(url)
    if match is None:
        raise Wrong(f'"{url:.200}" is not a URL', "write http://SERVICE/PATH, or tcp://SERVICE for a connection")
    if len(headers) > HEADERS:
        raise Wrong(f"{len(headers)} header fields are given, the most is {HEADERS}")
    target = match[3] or "/"
    try:
        call = Call(
            caller=caller,
            service="",
            method=rules.method(method),
            path=request_path(target if target.startswith("/") else f"/{target}"),
            headers=tuple(_field(line) for line in headers),
        )
    except Wrong as wrong:
        raise Wrong(f"{method} {url:.200}: {wrong.message}", wrong.hint) from None
    return match[2].lower().removesuffix("."), call


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise Wrong(f'"{line:.100}" is not a header field', 'write "x-canary: yes"')
    try:
        return rules.header_name(name), header_value(value.strip())
    except Wrong as wrong:
        raise Wrong(f'"{line:.100}" {wrong.message}', wrong.hint) from None


def _from_directory(directory: str) -> World:
    return World(policy.policy_of(directory), directory)


def _from_controller(arguments: argparse.Namespace) -> World:
    asked = client.connect(arguments)
    answer = asked.get(f"/v1/policy/{policy.NEWEST}")
    services = asked.get("/v1/services")["services"]
    return World(
        parse_files({name: text.encode() for name, text in answer["files"].items()}),
        f"generation {answer['generation']}",
        frozenset(each["name"] for each in services),
        frozenset(each["name"] for each in services if each["denied"]),
    )


def explain(name: str, call: Call, world: World) -> Document:
    """The decision, and what became of each rule."""
    destination = _destination(name, world)
    document: Document = {"allowed": False, "policy": world.where, "from": call.caller, "name": name, "service": ""}
    if not destination:
        return document | {"reason": f"{name} is not the name of a service, or of a subset that policy has"}
    subset, _, service = destination.rpartition(".")
    call = msgspec.structs.replace(call, service=service)
    rehearsal = Rehearsal(world.policy)
    decision, asked, explainer = rehearsal.decide(call), rehearsal.asked(call), rehearsal.explainer(service)
    request = (subset, asked.method, asked.target, asked.fields)
    treatment = explainer.treatment(*request)
    own = world.policy.services.get(service, ServicePolicy())
    explained = explanation.document(
        tuple(verdicts(own.allow, own.deny, decision, asked, call.caller)),
        explainer.verdicts(*request),
        treatment,
        retries(treatment.retry, asked.method, asked.opaque),
    )
    barred = [each for each in (call.caller, service) if each in world.denied]
    return document | {
        "allowed": decision.allowed and not barred,
        "reason": f"the controller has barred {barred[0]}" if barred else reason(decision),
        "rule": decision.rule,
        "service": service,
        "subset": treatment.portions[0].subset if len(treatment.portions) == 1 else "",
        "protocol": own.protocol or DEFAULT_PROTOCOL,
        "opaque": asked.opaque,
        "method": call.method,
        "path": call.path,
        **explained,
        "audited": [each._asdict() for each in decision.audited],
        "notes": list(_notes(call, own, world, asked.opaque)),
    }


def _destination(name: str, world: World) -> str:
    services = world.policy.services
    subsets = {f"{subset}.{service}" for service, own in services.items() for subset in own.subsets}
    found = Names((), {*services, *world.services, *subsets})
    # Consul may know services that nobody here has heard of.
    host = name.encode("ascii", "replace")
    return found.service(host) or found.candidate(host) or ""


def _notes(call: Call, own: ServicePolicy, world: World, as_bytes: bool) -> Iterator[str]:
    if call.service not in world.policy.services:
        yield f"policy does not speak of {call.service}"
    if own.protocol is None:
        yield f"policy leaves the protocol of {call.service} to its hosts; here it is taken to be {DEFAULT_PROTOCOL}"
    if as_bytes:
        yield f"{call.service} is carried as bytes: methods, paths and header fields are not looked at"
    elif is_ambiguous(call.path.encode()):
        yield (
            f"servers read {call.path.partition('?')[0]} in different ways: prefixes and templates of allow rules do "
            "not match it, and deny rules about paths do"
        )


def _lines(document: Document) -> Iterable[str]:
    verdict = painted("ALLOWED", GREEN) if document["allowed"] else painted("DENIED", RED)
    yield f"{verdict}  {shown(document['reason'])}"
    yield ""
    yield f"policy    {shown(document['policy'])}"
    yield f"from      {shown(document['from'])}"
    if not document["service"]:
        return
    subset = f", subset {document['subset']}" if document["subset"] else ""
    service = painted(document["service"], BOLD)
    yield f"to        {shown(document['name'])}: service {service}{subset}, {document['protocol']}"
    for line in explanation.lines(document, document["method"], document["opaque"]):
        text, ending = shown(line.text), shown(line.verdict)
        yield f"{line.title:8}  {text}{painted(ending, COLOURS[line.mood]) if line.mood else ending}"
    for note in document["notes"]:
        yield painted(f"note      {shown(note)}", YELLOW)
