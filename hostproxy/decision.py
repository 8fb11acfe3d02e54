"""The whole decision on one call, explained: where its name leads, who allows or denies it, where it would go and how.

Pure, and made of what decides: the codec reads the request, the names of the HTTP proxy port find the service, the
authoriser of the callee's host judges, and the selection says which instances are used. Policy is the same on all
hosts, so this host can answer for a callee that runs on others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from hostproxy.codec.http1 import HeadLimits, RequestError, RequestHead, parse_request
from hostproxy.enforce.authorise import Audit, Authoriser, is_ambiguous
from hostproxy.enforce.authorise import Decision as Access
from hostproxy.enforce.retry import IDEMPOTENT, MAX_ATTEMPTS
from hostproxy.mesh import names
from hostproxy.mesh.policy import Policy, ServicePolicy
from hostproxy.mesh.rules import Rule
from hostproxy.mesh.spiffe import SpiffeId
from hostproxy.mesh.units import Wrong
from hostproxy.route.names import Names
from hostproxy.selection import Here, Verdict, explain, select
from hostproxy.snapshot import Service

if TYPE_CHECKING:
    from hostproxy.discovery.catalog import Catalog
    from hostproxy.snapshot import Snapshot

HOST = "host"  # asks in the name of this host itself
HEADERS = 32  # of a question
WHOLE = "the whole service"  # what a route is called where there are none

_URL = re.compile(r"(?:(http|tcp)://)?([^/?#]+)([!-~]*)")
_LIMITS = HeadLimits(8192, 8192, HEADERS + 1, 65536)


class Question(NamedTuple):
    """A call that somebody may make."""

    caller: str  # the name of a service, or "host"
    head: RequestHead


def question(caller: str, method: str, url: str, headers: Sequence[str] = ()) -> Question:
    """Put a question. ``headers`` are lines, as ``x-canary: yes``. Raises :class:`Wrong`."""
    if caller != HOST:
        names.service(caller)
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


class RuleVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one rule."""

    kind: str  # "deny" or "allow"
    source: str  # file:line
    audit: bool
    matches: bool
    decides: bool
    why: str  # why it does not match; empty: it does


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """All that is decided about a call."""

    allowed: bool
    reason: str  # in a sentence
    rule: str = ""  # file:line of the rule that decided, or the default; empty: no rule was asked
    caller: str  # SPIFFE ID
    name: str  # the host that the request names
    destination: str = ""  # what that is a name of: a service, or "subset.service"; empty: nothing
    service: str = ""
    subset: str = ""
    protocol: str = ""
    opaque: bool = False  # carried as bytes: who calls decides alone
    route: str = ""
    rules: tuple[RuleVerdict, ...] = ()
    audited: tuple[Audit, ...] = ()
    obstacle: str = ""  # why no instance can be used
    instances: tuple[Verdict, ...] = ()
    timeout: float = 0.0  # seconds for the whole call; 0: none
    attempts: int = 0  # instances that are tried at most when connecting fails
    repeatable: bool = False  # the method may be repeated on a connection that had served others and broke
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
    access = _access(rules.allow, rules.deny, world.policy.default(service.name), caller, head, opaque)
    callee = str(SpiffeId.service(snapshot.trust_domain, service.name))
    barred = [one for one in (uri, callee) if one in snapshot.denied]
    instances = world.catalog.get(service.name, ())
    here = Here(snapshot.host, snapshot.datacenter, snapshot.zone, world.bands)
    verdicts = explain(instances, rules, service.subset, here)
    return Decision(
        allowed=access.allowed and not barred,
        reason=f"the controller has barred {barred[0]}" if barred else _reason(access),
        rule=access.rule,
        caller=uri,
        name=name,
        destination=destination,
        service=service.name,
        subset=service.subset or rules.default_subset,
        protocol=service.protocol,
        opaque=opaque,
        route=WHOLE,
        rules=tuple(_rules(rules, access, caller, head, opaque)),
        audited=access.audited,
        obstacle=select(service.name, instances, rules, service.subset, here).obstacle,
        instances=verdicts,
        timeout=rules.timeout,
        attempts=MAX_ATTEMPTS,
        repeatable=head.method in IDEMPOTENT and not opaque,
        notes=tuple(_notes(question, snapshot, service.name, opaque, verdicts)),
    )


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


def _access(
    allow: Sequence[Rule],
    deny: Sequence[Rule],
    default: tuple[bool, str],
    caller: str,
    head: RequestHead,
    opaque: bool,
) -> Access:
    """What the inbound path of the callee's host decides."""
    authoriser = Authoriser(allow, deny, *default)
    if opaque:
        return authoriser.connection(caller)
    return authoriser.request(caller, head.method, head.target, head.fields)


def _reason(access: Access) -> str:
    verb = "allowed" if access.allowed else "denied"
    return f"{verb} by {access.rule}" if access.by_rule else f"{verb}, as no rule speaks of it: {access.rule}"


def _rules(
    rules: ServicePolicy, access: Access, caller: str, head: RequestHead, opaque: bool
) -> Iterator[RuleVerdict]:
    """Every rule, each asked alone."""
    for kind, some in (("deny", rules.deny), ("allow", rules.allow)):
        for rule in some:
            why = _mismatch(kind, rule, caller, head, opaque)
            yield RuleVerdict(
                kind=kind,
                source=rule.source,
                audit=rule.audit,
                matches=not why,
                decides=access.by_rule
                and not rule.audit
                and not why
                and (rule.source, kind == "allow") == (access.rule, access.allowed),
                why=why,
            )


def _mismatch(kind: str, rule: Rule, caller: str, head: RequestHead, opaque: bool) -> str:
    """Why a rule does not match: its first part that does not. The parts are added one by one until it is found."""
    method, path = head.method.decode("latin-1"), _path(head)
    partial = Rule(rule.callers)
    for part, values, why in (
        ("from", {}, f"{caller} is not among them"),
        ("methods", {"methods": rule.methods}, f"{method} is not among them"),
        ("paths", {"paths": rule.paths}, f"{path} is not among them"),
        ("headers", {"headers": rule.headers}, "the request has others"),
    ):
        partial = msgspec.structs.replace(partial, **values)
        some = (partial,)
        allow, deny = (some, ()) if kind == "allow" else ((), some)
        if not _access(allow, deny, (True, ""), caller, head, opaque).by_rule:
            return f"{part}: {'not known of bytes' if opaque and values else why}"
    return ""


def _path(head: RequestHead) -> str:
    return head.target.decode("latin-1").partition("?")[0]


def _notes(
    question: Question, snapshot: Snapshot, service: str, opaque: bool, verdicts: Sequence[Verdict]
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
    barred = {
        verdict.instance.host
        for verdict in verdicts
        if f"spiffe://{snapshot.trust_domain}/host/{verdict.instance.host}" in snapshot.denied
    }
    for host in sorted(barred):
        yield f"the controller has barred the host {host}: its instances can't be reached"
    plain = sum(verdict.used and not verdict.instance.mesh for verdict in verdicts)
    if plain:
        yield f"{plain} of the instances in use are reached in plain text, where nobody keeps the rules"
