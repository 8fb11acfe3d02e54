"""May this caller make this request? A pure decision that names the rule, or the default, that took it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Rule(Protocol):
    """An allow rule, as :class:`hostproxy.snapshot.AllowRule` has it."""

    @property
    def callers(self) -> tuple[str, ...]: ...

    @property
    def methods(self) -> tuple[str, ...]: ...

    @property
    def paths(self) -> tuple[str, ...]: ...

    @property
    def source(self) -> str: ...


class Decision(NamedTuple):
    """Allowed or not, and why."""

    allowed: bool
    rule: str  # file:line of the rule or default that decided


class _Compiled(NamedTuple):
    methods: frozenset[bytes]  # empty: all
    exact: frozenset[bytes]
    prefixes: tuple[bytes, ...]
    any_path: bool
    decision: Decision


ANYONE = "*"

# What servers read differently from one another: dot segments, doubled slashes, back slashes, and separators or
# dots that are percent-encoded. A rule about paths decides nothing about such a path.
_AMBIGUOUS = re.compile(rb"//|/\.|\\|%2[ef]|%5c|%25|%00|;", re.I)


class Authoriser:
    """The allow rules of one service. Without rules the default decides."""

    __slots__ = ("_by_caller", "_default", "_for_anyone", "trivial")

    def __init__(self, rules: Iterable[Rule], default_allow: bool, default_reason: str) -> None:
        self._by_caller: dict[str, list[_Compiled]] = {}
        self._for_anyone: list[_Compiled] = []
        self._default = Decision(default_allow, default_reason)
        for rule in rules:
            compiled = _Compiled(
                frozenset(method.encode() for method in rule.methods),
                frozenset(path.encode() for path in rule.paths if not path.endswith("*")),
                tuple(path[:-1].encode() for path in rule.paths if path.endswith("*")),
                not rule.paths,
                Decision(True, rule.source),
            )
            for caller in rule.callers:
                if caller == ANYONE:
                    self._for_anyone.append(compiled)
                else:
                    self._by_caller.setdefault(caller, []).append(compiled)
        # Nothing to look at: the path may skip the call.
        self.trivial = default_allow and not self._by_caller and not self._for_anyone

    def request(self, caller: str, method: bytes, target: bytes) -> Decision:
        """Decide on an HTTP request. ``caller`` is a verified service name; ``target`` in origin form."""
        path = target.partition(b"?")[0]
        clear: bool | None = None
        for rules in (self._by_caller.get(caller, ()), self._for_anyone):
            for rule in rules:
                if rule.methods and method not in rule.methods:
                    continue
                if rule.any_path:
                    return rule.decision
                if path in rule.exact or path.startswith(rule.prefixes):
                    if clear is None:
                        clear = _AMBIGUOUS.search(path) is None
                    if clear or path in rule.exact:
                        return rule.decision
        return self._default

    def connection(self, caller: str) -> Decision:
        """Decide on a TCP connection, for which only rules without methods and paths can speak."""
        for rules in (self._by_caller.get(caller, ()), self._for_anyone):
            for rule in rules:
                if rule.any_path and not rule.methods:
                    return rule.decision
        return self._default
