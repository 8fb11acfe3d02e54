"""What the writer of a policy expects of it.

A directory of policy may have a directory ``tests`` with files of their own:

    [[expect]]
    from = "cart"
    to = "payments"
    method = "POST"
    path = "/make-payment"
    decision = "allow"
    rule = "payments.toml:12"
    route = "canary"
    subsets = ["v1", "v2"]

They never reach a host. :mod:`controller.policy.rehearsal` decides them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Any

import msgspec

from controller.policy.files import TESTS
from hostproxy.mesh import names, rules
from hostproxy.mesh.bundle import FILES
from hostproxy.mesh.document import POLICY_SIZE, Document, Invalid, Problem, read
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import Duration, ListOf, MapOf, Text, did_you_mean
from hostproxy.mesh.policy_tables import route_name
from hostproxy.mesh.retries import CALL_TIMEOUT
from hostproxy.mesh.routes import NO_ROUTE
from hostproxy.mesh.schema import Key, Table, Tables
from hostproxy.mesh.subsets import SUBSETS
from hostproxy.mesh.units import Wrong

HOST = "host"  # calls in the name of a host, and not of a service
MOST = 10_000  # expectations of a file
HEADERS = 32  # of a request
ABOUT_REQUESTS = ("method", "path", "headers", "route", "timeout")

# What the HTTP parser of hosts takes as the target of a request.
_PATH = re.compile(r"/(?:[!\"$&->@-\[\]-~]|%[0-9A-Fa-f]{2}){0,8000}(?:\?[!\"$-~]{0,8000})?")
_VALUE = re.compile(r"[!-~](?:[ -~]{0,8000}[!-~])?")
_RULE = re.compile(r"[a-z0-9._-]{1,128}:[1-9][0-9]{0,8}")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call that somebody may make. Services whose requests nobody reads are called without method and path."""

    caller: str  # a service, or "host"
    service: str
    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.caller} {self.method} {self.service}{self.path}"


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be decided about a call."""

    call: Call
    allowed: bool
    rule: str = ""  # "payments.toml:12": what is to decide it; empty: whatever does
    route: str = ""  # its name, or "payments.toml:20"; "none": no route; empty: whatever there is
    subsets: tuple[str, ...] | None = None  # exactly those that can get it; empty: all instances; None: any
    timeout: float | None = None  # seconds for the whole call, 0 for none; None: whatever it is
    about_requests: bool = False  # it gives what only requests have
    source: str = ""  # "tests/payments.toml:1"


def request_path(text: str) -> str:
    """Return a path with its query, if it has one, as clients send it. Raises :class:`Wrong`."""
    if not _PATH.fullmatch(text):
        raise Wrong("is not the path of a request", 'it starts with "/", and has no space and no "#"')
    return text


def header_value(text: str) -> str:
    """Return the value of a header field of a request. Raises :class:`Wrong`."""
    if not _VALUE.fullmatch(text):
        raise Wrong("is not the value of a header field", "it has printable ASCII characters, no space outside")
    return text


def _caller(text: str) -> str:
    return text if text == HOST else names.service(text)


def _rule(text: str) -> str:
    if not _RULE.fullmatch(text):
        raise Wrong("is not a place in a policy", 'write "payments.toml:12"')
    return text


def _route(text: str) -> str:
    return text if text == NO_ROUTE or _RULE.fullmatch(text) else route_name(text)


def _expected(**values: Any) -> dict[str, Any]:
    return values


_EXPECT = Table(
    _expected,
    Key("from", Text(_caller), 'the service that calls, or "host"', field="caller"),
    Key("to", Text(names.service), "the service that is called", field="service"),
    Key("method", Text(rules.method), "its method", default="GET"),
    Key("path", Text(request_path), "its path", default="/"),
    Key("headers", MapOf(rules.header_name, Text(header_value), most=HEADERS), "its header fields", default={}),
    Key("decision", Text(choices=("allow", "deny")), "what is decided"),
    Key("rule", Text(_rule), "the rule, or the default, that decides it", default=""),
    Key("route", Text(_route), f'the route that it takes, by name or file and line; "{NO_ROUTE}" for none', default=""),
    Key("subsets", ListOf(Text(names.subset), most=SUBSETS), "the subsets that it may go to, all", default=None),
    Key("timeout", Duration(0.0, CALL_TIMEOUT), "the time for the whole call; 0s is none", default=None),
)

EXPECTATIONS = Table(dict, Key("expect", Tables(_EXPECT, least=1, most=MOST), "what is expected", default=()))


def collect(directory: str, services: Collection[str]) -> tuple[list[Expectation], list[str]]:
    """All expectations beside a policy, and what their writer may not have meant. Raises :class:`Invalid`.

    ``services`` are known to exist.
    """
    where = os.path.join(directory, TESTS)
    try:
        found = sorted(name for name in os.listdir(where) if name.endswith(".toml") and name[0] != ".")
    except OSError as error:
        raise Invalid([Problem(where, 0, 0, "", f"cannot be read: {error.strerror}")]) from None
    if not found:
        raise Invalid([Problem(where, 0, 0, "", "has no *.toml file", "write what is expected as [[expect]]")])
    if len(found) > FILES:
        raise Invalid([Problem(where, 0, 0, "", f"has {len(found)} *.toml files, the most is {FILES}")])
    expectations: list[Expectation] = []
    warnings: list[Problem] = []
    problems: list[Problem] = []
    for name in found:
        try:
            findings = Findings(read(os.path.join(where, name), POLICY_SIZE))
        except Invalid as invalid:
            problems += invalid.problems
            continue
        expectations += _read(findings, name, services)
        problems += findings.all_problems()
        warnings += findings.all_warnings()
    if problems:
        raise Invalid(problems)
    return expectations, [str(warning) for warning in warnings]


def _read(findings: Findings, name: str, services: Collection[str]) -> list[Expectation]:
    """Those of one file; with problems there may be fewer, and they count for nothing."""
    document = findings.document
    values = EXPECTATIONS.read(document.data, (), findings)["expect"]
    if findings.problems:
        return []
    if not values:
        findings.add(("expect",), "is missing", "write what is expected as [[expect]]")
    return [_made(document, name, index, each, services, findings) for index, each in enumerate(values)]


def _made(
    document: Document, name: str, index: int, values: dict[str, Any], services: Collection[str], findings: Findings
) -> Expectation:
    given = document.data["expect"][index]
    for key, what in (("from", values["caller"]), ("to", values["service"])):
        # Strangers are expected to be denied, so only what looks like a slip is told.
        near = did_you_mean(what, services) if what not in services and what != HOST else ""
        if near:
            findings.warn(("expect", index, key), f"nobody knows a service {what}", near)
    call = Call(
        caller=values["caller"],
        service=values["service"],
        method=values["method"],
        path=values["path"],
        headers=tuple(values["headers"].items()),
    )
    return Expectation(
        call=call,
        allowed=values["decision"] == "allow",
        rule=values["rule"],
        route=values["route"],
        subsets=values["subsets"],
        timeout=values["timeout"],
        about_requests=any(key in given for key in ABOUT_REQUESTS),
        source=f"{TESTS}/{name}:{document.place(('expect', index))[0]}",
    )
