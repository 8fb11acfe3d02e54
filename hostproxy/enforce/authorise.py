"""May this caller make this request? A pure decision that names the rule, or the default, that took it.

A deny rule that matches decides; else an allow rule that matches; else the default. Rules with ``audit`` decide
nothing: what they would do is told beside the decision.

Rules are indexed when a policy is taken (:mod:`hostproxy.enforce.patterns`), so that a request costs the same with one
rule as with a thousand: its caller, then its path, lead to the few that can match.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from hostproxy.enforce.patterns import Patterns
from hostproxy.mesh.rules import EVERYONE, Rule


class Audit(NamedTuple):
    """What a rule with ``audit`` would have done."""

    decision: str  # "allow" or "deny"
    rule: str  # file:line


class Decision(NamedTuple):
    """Allowed or not, and why."""

    allowed: bool
    rule: str  # file:line of the rule that decided, or the default
    by_rule: bool = False  # not the default
    audited: tuple[Audit, ...] = ()


# What servers read differently from one another: dot segments, doubled slashes, back slashes, and separators or
# dots that are percent-encoded. A prefix or a template of an allow rule matches no such path, and a deny rule about
# paths matches them all: whatever the server makes of one, nothing passes that was not meant to.
_AMBIGUOUS = re.compile(rb"//|/\.|\\|%2[ef]|%5c|%25|%00|;", re.I).search
_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})")


def is_ambiguous(target: bytes) -> bool:
    """Whether servers read the path of this target in different ways."""
    return _AMBIGUOUS(target.partition(b"?")[0]) is not None


class _Rules:
    """Rules of one kind and the same callers."""

    __slots__ = ("_denying", "_elsewhere", "_first", "_patterns")

    def __init__(self, denying: bool, rules: Sequence[Rule]) -> None:
        self._denying = denying
        decided = [(rule, Decision(not denying, rule.source, True)) for rule in rules]
        self._first = decided[0][1]
        if not denying:
            self._patterns = Patterns(decided)
            return
        self._patterns = Patterns(decided, True, _decoded, str.upper)
        self._elsewhere = Patterns(
            [(msgspec.structs.replace(rule, paths=()), decision) for rule, decision in decided if rule.paths],
            True,
            method=str.upper,
        )

    def find(self, method: bytes, path: bytes, fields: bytes) -> Decision | None:
        """The decision of a rule that matches."""
        patterns = self._patterns
        if not self._denying:
            found = patterns.plain(method, path, fields)
            if found is None and patterns.patterned and _AMBIGUOUS(path) is None:
                found = patterns.pattern(method, path, fields)
            return found
        # Servers may take methods in any case, and paths decoded: a rule must not be got round so.
        method = method.upper()
        ambiguous = _AMBIGUOUS(path) is not None
        if b"%" in path:
            path = _decoded(path)
            ambiguous = ambiguous or _AMBIGUOUS(path) is not None
        found = patterns.plain(method, path, fields)
        if found is None and ambiguous:
            found = self._elsewhere.plain(method, path, fields)
        if found is None and patterns.patterned:
            found = patterns.pattern(method, path, fields)
        return found

    def find_for_bytes(self) -> Decision | None:
        """The decision for a connection whose requests nobody reads.

        An allow rule about some requests can't allow it, and a deny rule about some denies them all.
        """
        return self._first if self._denying else self._patterns.unconditional()


class _Plan(NamedTuple):
    """What is asked for a caller: rules that name it, and rules for everyone."""

    deny: tuple[_Rules, ...] = ()
    allow: tuple[_Rules, ...] = ()
    audit_deny: tuple[_Rules, ...] = ()
    audit_allow: tuple[_Rules, ...] = ()


class Authoriser:
    """The rules of one service."""

    __slots__ = ("_anyone", "_default", "_plans", "trivial")

    def __init__(
        self, allow: Sequence[Rule], deny: Sequence[Rule], default_allow: bool, default_reason: str
    ) -> None:
        self._default = Decision(default_allow, default_reason)
        kinds = [
            _by_caller(False, deny, True),
            _by_caller(False, allow, False),
            _by_caller(True, deny, True),
            _by_caller(True, allow, False),
        ]
        callers = dict.fromkeys(caller for kind in kinds for caller in kind if caller != EVERYONE)
        self._plans = {caller: _plan(kinds, caller, EVERYONE) for caller in callers}
        self._anyone = _plan(kinds, EVERYONE)
        # Nothing to look at: the path may skip the call.
        self.trivial = default_allow and not any(kinds)

    def request(self, caller: str, method: bytes, target: bytes, fields: bytes = b"") -> Decision:
        """Decide on an HTTP request.

        ``caller`` is a verified service name, ``target`` in origin form, ``fields`` the field lines that pass on to the
        instance, each with its CRLF.
        """
        path = target.partition(b"?")[0]
        deny, allow, audit_deny, audit_allow = self._plans.get(caller, self._anyone)
        decision = None
        if deny:
            decision = _first(deny, method, path, fields)
        if decision is None:
            for rules in allow:
                decision = rules.find(method, path, fields)
                if decision is not None:
                    break
            else:
                decision = self._default
        if audit_deny or audit_allow:
            would = _first(audit_deny, method, path, fields), _first(audit_allow, method, path, fields)
            return _audited(decision, would)
        return decision

    def connection(self, caller: str) -> Decision:
        """Decide on a connection whose bytes nobody reads, by who calls alone."""
        deny, allow, audit_deny, audit_allow = self._plans.get(caller, self._anyone)
        decision = _first_for_bytes(deny) or _first_for_bytes(allow) or self._default
        return _audited(decision, (_first_for_bytes(audit_deny), _first_for_bytes(audit_allow)))


def _by_caller(audit: bool, rules: Iterable[Rule], denying: bool) -> dict[str, _Rules]:
    found: dict[str, list[Rule]] = {}
    for rule in rules:
        if rule.audit is audit:
            for caller in rule.callers:
                found.setdefault(caller, []).append(rule)
    return {caller: _Rules(denying, some) for caller, some in found.items()}


def _plan(kinds: list[dict[str, _Rules]], *callers: str) -> _Plan:
    return _Plan(*(tuple(kind[caller] for caller in callers if caller in kind) for kind in kinds))


def _first(some: tuple[_Rules, ...], method: bytes, path: bytes, fields: bytes) -> Decision | None:
    for rules in some:
        found = rules.find(method, path, fields)
        if found is not None:
            return found
    return None


def _first_for_bytes(some: tuple[_Rules, ...]) -> Decision | None:
    return next((found for rules in some if (found := rules.find_for_bytes()) is not None), None)


def _audited(decision: Decision, would: Iterable[Decision | None]) -> Decision:
    """``decision`` with what else would have been decided."""
    audited = tuple(Audit("allow" if one.allowed else "deny", one.rule) for one in would if one is not None)
    return decision._replace(audited=audited) if audited else decision


def _decoded(path: bytes) -> bytes:
    return _ENCODED.sub(lambda match: bytes((int(match[1], 16),)), path)
