"""What the writer of a policy expects of it, held against what the proxies will decide.

A directory of policy may have a directory ``tests`` with files of their own:

    [[expect]]
    from = "cart"
    to = "payments"
    method = "POST"
    path = "/make-payment"
    decision = "allow"
    rule = "payments.toml:12"

They never reach a host. Each is decided by :class:`hostproxy.enforce.authorise.Authoriser`, which decides on hosts too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec

from controller.policy.files import TESTS
from hostproxy.enforce.authorise import Authoriser, Decision
from hostproxy.mesh import names, rules
from hostproxy.mesh.bundle import FILES
from hostproxy.mesh.document import POLICY_SIZE, Document, Invalid, Problem, read
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import MapOf, Text, did_you_mean
from hostproxy.mesh.policy import Policy, ServicePolicy
from hostproxy.mesh.schema import Key, Table, Tables
from hostproxy.mesh.units import Wrong

HOST = "host"  # calls in the name of a host, and not of a service
MOST = 10_000  # expectations of a file
HEADERS = 32  # of a request
DEFAULT_PROTOCOL = "http"  # where policy leaves it to the hosts
ABOUT_REQUESTS = ("method", "path", "headers")

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
    about_requests: bool = False  # it gives what only requests have
    source: str = ""  # "tests/payments.toml:1"


class Outcome(NamedTuple):
    """What became of an expectation."""

    expectation: Expectation
    decision: Decision
    fault: str  # why it is not met; "" when it is


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
        about_requests=any(key in given for key in ABOUT_REQUESTS),
        source=f"{TESTS}/{name}:{document.place(('expect', index))[0]}",
    )


class Rehearsal:
    """A policy, asked as hosts would ask it."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._authorisers: dict[str, Authoriser] = {}

    def is_bytes(self, service: str) -> bool:
        """Whether connections to a service are carried without a look at requests."""
        return (self._rules(service).protocol or DEFAULT_PROTOCOL) != "http"

    def decide(self, call: Call) -> Decision:
        """What the callee's host decides."""
        authoriser = self._authorisers.get(call.service)
        if authoriser is None:
            own = self._rules(call.service)
            authoriser = Authoriser(own.allow, own.deny, *self.policy.default(call.service))
            self._authorisers[call.service] = authoriser
        return ask(authoriser, call, self.is_bytes(call.service))

    def judge(self, expectation: Expectation) -> Outcome:
        """Whether one is met."""
        decision = self.decide(expectation.call)
        return Outcome(expectation, decision, self._fault(expectation, decision))

    def _fault(self, expectation: Expectation, decision: Decision) -> str:
        service = expectation.call.service
        if expectation.about_requests and self.is_bytes(service):
            return f"{service} is carried as bytes: leave out {', '.join(ABOUT_REQUESTS)}"
        found = f"{'allowed' if decision.allowed else 'denied'}: {decision.rule}"
        if decision.allowed != expectation.allowed:
            return f"is to be {'allowed' if expectation.allowed else 'denied'}, and is {found}"
        # A default says more than its place: "mesh.toml:2: [defaults] access".
        if expectation.rule and decision.rule.partition(": ")[0] != expectation.rule:
            return f"is to be decided by {expectation.rule}, and is {found}"
        return ""

    def _rules(self, service: str) -> ServicePolicy:
        return self.policy.services.get(service, _SILENT)


_SILENT = ServicePolicy()


def ask(authoriser: Authoriser, call: Call, as_bytes: bool) -> Decision:
    """The decision on one call."""
    # Only "*" means hosts in rules, and no service has a slash in its name.
    caller = f"{HOST}/any" if call.caller == HOST else call.caller
    if as_bytes:
        return authoriser.connection(caller)
    return authoriser.request(caller, call.method.encode(), call.path.encode(), _fields(call.headers))


def _fields(headers: Sequence[tuple[str, str]]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode()
