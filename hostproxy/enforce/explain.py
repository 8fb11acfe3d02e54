"""Why a call is allowed or denied: every rule, and the part of it that the call does not meet. What may be repeated.

Pure, and made of what decides: each rule is put to an :class:`~hostproxy.enforce.authorise.Authoriser` of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from hostproxy.enforce.authorise import Authoriser, Decision
from hostproxy.enforce.retry import IDEMPOTENT, MAX_ATTEMPTS, MIN_RETRIES, RetryPolicy
from hostproxy.mesh.retries import Retry
from hostproxy.mesh.rules import Rule


class Asked(NamedTuple):
    """A call, as rules see it."""

    caller: str  # as rules know it: the name of a service, or "host/NAME"
    method: bytes
    target: bytes
    fields: bytes
    opaque: bool = False  # carried as bytes: who calls decides alone


class RuleVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one rule."""

    kind: str  # "deny" or "allow"
    source: str  # file:line
    audit: bool
    matches: bool
    decides: bool
    why: str  # why it does not match; empty: it does


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """What happens when a try fails."""

    connecting: int = 0  # instances that are tried at most until one can be connected to
    reused: bool = False  # the request is repeated when a connection that had served others breaks before the answer
    policy: Retry | None = None  # None: nothing else is done
    method: bool = False  # policy has this method repeated once it has been sent
    statuses: tuple[int, ...] = ()  # of responses that policy has retried
    waits: tuple[float, ...] = ()  # seconds that each retry waits at most
    least: int = 0  # retries that may be under way whatever policy's budget is


def decided(authoriser: Authoriser, asked: Asked) -> Decision:
    """What the inbound path of the callee's host decides."""
    if asked.opaque:
        return authoriser.connection(asked.caller)
    return authoriser.request(asked.caller, asked.method, asked.target, asked.fields)


def reason(decision: Decision) -> str:
    """The decision in a sentence."""
    verb = "allowed" if decision.allowed else "denied"
    return f"{verb} by {decision.rule}" if decision.by_rule else f"{verb}, as no rule speaks of it: {decision.rule}"


def verdicts(
    allow: Sequence[Rule], deny: Sequence[Rule], decision: Decision, asked: Asked, caller: str
) -> Iterator[RuleVerdict]:
    """Every rule, each asked alone. ``caller`` is what the caller is called in reasons."""
    for kind, some in (("deny", deny), ("allow", allow)):
        for rule in some:
            why = _mismatch(kind, rule, asked, caller)
            yield RuleVerdict(
                kind=kind,
                source=rule.source,
                audit=rule.audit,
                matches=not why,
                decides=decision.by_rule
                and not rule.audit
                and not why
                and (rule.source, kind == "allow") == (decision.rule, decision.allowed),
                why=why,
            )


def retries(policy: Retry | None, method: bytes, opaque: bool) -> Retries:
    """What is retried of a request with this method, by ``policy`` and always."""
    found = Retries(connecting=MAX_ATTEMPTS, reused=method in IDEMPOTENT and not opaque)
    if policy is None:
        return found
    used = RetryPolicy(policy)
    return msgspec.structs.replace(
        found,
        policy=policy,
        method=method in used.methods,
        statuses=tuple(sorted(used.statuses)),
        waits=tuple(round(used.wait(number, 1.0), 6) for number in range(1, used.attempts + 1)),
        least=MIN_RETRIES,
    )


def _mismatch(kind: str, rule: Rule, asked: Asked, caller: str) -> str:
    """Why a rule does not match: its first part that does not. The parts are added one by one until it is found."""
    method = asked.method.decode("latin-1")
    path = asked.target.decode("latin-1").partition("?")[0]
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
        if not decided(Authoriser(allow, deny, True, ""), asked).by_rule:
            return f"{part}: {'not known of bytes' if asked.opaque and values else why}"
    return ""
