"""The whole decision on one call, explained: where its name leads, who allows or denies it, where it would go and how.

Pure, and made of what decides: the codec reads the request, the names of the HTTP proxy port find the service, its
routes choose among the subsets, the authoriser of the callee's host judges, and the selection says which instances are
used. Policy is the same on all hosts, so this host can answer for a callee that runs on others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from hostproxy.codec.http1 import HeadLimits, RequestError, RequestHead, parse_request
from hostproxy.enforce.authorise import Audit, Authoriser, is_ambiguous
from hostproxy.enforce.explain import Asked, Retries, RuleVerdict, decided, reason, retries
from hostproxy.enforce.explain import verdicts as rule_verdicts
from hostproxy.levels import OTHER_SUBSET, judge
from hostproxy.mesh import names
from hostproxy.mesh.policy import Policy, ServicePolicy
from hostproxy.mesh.spiffe import SpiffeId
from hostproxy.mesh.units import Wrong
from hostproxy.route.explain import Explainer, RouteVerdict, Treatment
from hostproxy.route.names import Names
from hostproxy.selection import Here, Verdict, explain, select
from hostproxy.snapshot import Service

if TYPE_CHECKING:
    from hostproxy.discovery.catalog import Catalog
    from hostproxy.snapshot import Snapshot

HOST = "host"  # asks in the name of this host itself
HEADERS = 32  # of a question

_URL = re.compile(r"(?:(http|tcp)://)?([^/?#]+)([!-~]*)")
_LIMITS = HeadLimits(8192, 8192, HEADERS + 1, 65536)


class Question(NamedTuple):
    """A call that somebody may make."""

    caller: str  # the name of a service, or "host"
    head: RequestHead


def question(caller: str, method: str, url: str, headers: Sequence[str] = ()) -> Question:
    """Put a question. ``headers`` are lines, as ``x-canary: yes``. Raises :class:`Wrong`."""
    if caller != HOST:
        try:
            names.service(caller)
        except Wrong as wrong:
            raise Wrong(f"the caller {caller!r:.100} {wrong.message}", wrong.hint) from None
    match = _URL.fullmatch(url)
    if match is None or (not match[1] and "://" in url):
        raise Wrong(f'"{url:.200}" is not a URL', "write http://SERVICE/PATH, or tcp://SERVICE for a connection")
    if len(headers) > HEADERS:
        raise Wrong(f"{len(headers)} header fields are given, the most is {HEADERS}")
    for text in (method, *headers):
        if not text.isascii() or not text.isprintable():
            raise Wrong(f"{text!r:.200} has other characters than printable ASCII")
    host, target = match[2], match[3]
    if not target.startswith("/"):
        target = "/" + target
    if method == "CONNECT":
        raise Wrong("CONNECT asks for a connection", f"write tcp://{host} instead")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers, "", ""]
    data = "\r\n".join(lines).encode("ascii", "replace")
    try:
        head = parse_request(data, len(data), _LIMITS)
    except RequestError as error:
        raise Wrong(f"no request: {error.detail}") from None
    return Question(caller, head)


class World(NamedTuple):
    """What a host decides by."""

    policy: Policy
    catalog: Catalog
    snapshot: Snapshot
    bands: Mapping[str, int]


class Part(msgspec.Struct, frozen=True):
    """A part of the requests that are treated like this one, and whether they can go anywhere."""

    subset: str  # empty: all instances
    share: float  # 0 to 1
    obstacle: str  # why no instance can be used


class Candidate(NamedTuple):
    """An instance, and what was decided about it for the requests of one part."""

    subset: str  # of the part; empty: of the whole service, or the instance is in none that a split names
    verdict: Verdict  # its share is one of all requests that are treated alike


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """All that is decided about a call."""

    allowed: bool
    reason: str  # in a sentence
    rule: str = ""  # file:line of the rule that decided, or the default; empty: no rule was asked
    caller: str  # SPIFFE ID
    name: str  # the host that the request names
    destination: str = ""  # what that is a name of: a service, or "subset.service"; empty: nothing
    service: str = ""
    subset: str = ""  # that it goes to; empty: all instances, or several by a split
    protocol: str = ""
    opaque: bool = False  # carried as bytes: who calls decides alone
    rules: tuple[RuleVerdict, ...] = ()
    audited: tuple[Audit, ...] = ()
    routes: tuple[RouteVerdict, ...] = ()
    treatment: Treatment = Treatment()
    retries: Retries = Retries()
    parts: tuple[Part, ...] = ()  # where it may go; more than one by a split
    candidates: tuple[Candidate, ...] = ()
    notes: tuple[str, ...] = ()


def decide(question: Question, world: World) -> Decision:
    """Say what would happen to a call from this host."""
    snapshot = world.snapshot
    caller, uri = _caller(question, snapshot)
    head = question.head
    name = head.host.decode("latin-1")
    destination, service = _destination(head.host, world)
    if service is None:
        return Decision(allowed=False, reason=f"no service is known here as {name}", caller=uri, name=name)
    rules = world.policy.services.get(service.name, ServicePolicy())
    opaque = service.protocol != "http"
    asked = Asked(caller, head.method, head.target, head.fields, opaque)
    access = decided(Authoriser(rules.allow, rules.deny, *world.policy.default(service.name)), asked)
    callee = str(SpiffeId.service(snapshot.trust_domain, service.name))
    barred = [one for one in (uri, callee) if one in snapshot.denied]
    request = (service.subset, head.method, head.target, head.fields)
    explainer = Explainer(service.name, rules, opaque)
    treatment = explainer.treatment(*request)
    reached = _reached(service.name, rules, treatment, world)
    return Decision(
        allowed=access.allowed and not barred,
        reason=f"the controller has barred {barred[0]}" if barred else reason(access),
        rule=access.rule,
        caller=uri,
        name=name,
        destination=destination,
        service=service.name,
        subset=reached.parts[0].subset if len(reached.parts) == 1 else "",
        protocol=service.protocol,
        opaque=opaque,
        rules=tuple(rule_verdicts(rules.allow, rules.deny, access, asked, caller)),
        audited=access.audited,
        routes=explainer.verdicts(*request),
        treatment=treatment,
        retries=retries(treatment.retry, head.method, opaque),
        parts=reached.parts,
        candidates=reached.candidates,
        notes=tuple(_notes(question, snapshot, service.name, opaque, reached)),
    )


class _Reached(NamedTuple):
    """What a call may go to."""

    parts: tuple[Part, ...]
    candidates: tuple[Candidate, ...]
    mixed: tuple[str, ...]  # hosts with instances of the subset that is meant, and others


def _reached(service: str, rules: ServicePolicy, treatment: Treatment, world: World) -> _Reached:
    """The instances of every subset that the request may go to, and at the end those that are in none of them."""
    instances = world.catalog.get(service, ())
    host = world.snapshot
    here = Here(host.host, host.datacenter, host.zone, world.bands)
    parts, candidates = [], []
    elsewhere = dict.fromkeys(range(len(instances)))
    mixed: set[str] = set()
    split = len(treatment.portions) > 1
    for portion in treatment.portions:
        subset, share = portion.subset, portion.share
        level_of = judge(rules, subset if subset in rules.subsets else "", here)
        parts.append(Part(subset, share, select(service, instances, rules, subset, here).obstacle))
        verdicts = explain(instances, rules, subset, here)
        ports = {verdict.instance.mesh for verdict in verdicts if verdict.used and share}
        for index, verdict in enumerate(verdicts):
            instance = verdict.instance
            outside = level_of(instance) == OTHER_SUBSET
            if outside and instance.mesh and instance.mesh in ports:
                mixed.add(instance.host)
            if split and outside:
                continue
            elsewhere.pop(index, None)
            if verdict.used and not share:
                verdict = verdict._replace(used=False, why="weight 0 in this split")
            candidates.append(Candidate(subset, verdict._replace(share=verdict.share * share)))
    if split:
        names = ", ".join(portion.subset for portion in treatment.portions)
        none = f"in none of the subsets {names}"
        candidates += [Candidate("", Verdict(instances[index], False, -1, 0.0, none)) for index in elsewhere]
    return _Reached(tuple(parts), tuple(candidates), tuple(sorted(mixed)))


def _destination(host: bytes, world: World) -> tuple[str, Service | None]:
    """What a name leads to; a service that only policy knows as well, when the first call looks it up."""
    snapshot = world.snapshot
    known = Names(snapshot.domains, snapshot.services)
    destination = known.service(host)
    if destination is not None:
        return destination, snapshot.services[destination]
    candidate = known.candidate(host) if snapshot.first_use else None
    rules = world.policy.services.get(candidate) if candidate is not None else None
    if candidate is None or rules is None:
        return "", None
    return candidate, Service(candidate, protocol=rules.protocol or "http")


def _caller(question: Question, snapshot: Snapshot) -> tuple[str, str]:
    """The name that rules know the caller by, and its SPIFFE ID."""
    if question.caller == HOST:
        return f"host/{snapshot.host}", str(SpiffeId.host(snapshot.trust_domain, snapshot.host))
    return question.caller, str(SpiffeId.service(snapshot.trust_domain, question.caller))


def _path(head: RequestHead) -> str:
    return head.target.decode("latin-1").partition("?")[0]


def _notes(
    question: Question, snapshot: Snapshot, service: str, opaque: bool, reached: _Reached
) -> Iterator[str]:
    """What else to know."""
    if service not in snapshot.services:
        yield f"{service} is not known here yet: the first call looks it up"
    if question.caller != HOST and question.caller not in snapshot.identities:
        yield f"{question.caller} does not call from this host; from its own it may reach other instances"
    if opaque:
        yield f"{service} is carried as bytes: methods, paths and header fields are not looked at"
    elif is_ambiguous(question.head.target):
        yield (
            f"servers read {_path(question.head)} in different ways: prefixes and templates of allow rules do not "
            "match it, and deny rules about paths do"
        )
    verdicts = [candidate.verdict for candidate in reached.candidates]
    hosts = {verdict.instance.host for verdict in verdicts}
    for host in sorted(one for one in hosts if f"spiffe://{snapshot.trust_domain}/host/{one}" in snapshot.denied):
        yield f"the controller has barred the host {host}: its instances can't be reached"
    for host in reached.mixed:
        yield f"the host {host} has instances outside the subset too, and its hostproxy picks among all that it has"
    plain = len({one.instance for one in verdicts if one.used and not one.instance.mesh})
    if plain:
        yield f"{plain} of the instances in use are reached in plain text, where nobody keeps the rules"

