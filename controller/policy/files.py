"""A directory of TOML files, and whether hosts would take it."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from difflib import get_close_matches

from hostproxy.enforce.authorise import is_ambiguous
from hostproxy.mesh.bundle import BUNDLE_SIZE, FILES, file_name
from hostproxy.mesh.document import POLICY_SIZE, Invalid, Problem, parse
from hostproxy.mesh.policy import Policy, parse_files
from hostproxy.mesh.rules import EVERYONE, Rule

# Directories of a policy that hold no policy: expectations about it.
TESTS = "tests"
# A bundle holds more than files: certificates of roots, denied identities.
MOST = BUNDLE_SIZE * 3 // 4  # bytes


def collect(directory: str) -> dict[str, bytes]:
    """Read the ``*.toml`` of a directory. Raises :class:`Invalid` with everything that is wrong about the files."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".toml") and name[0] != ".")
    except OSError as error:
        raise Invalid([Problem(directory, 0, 0, "", f"cannot be read: {error.strerror}")]) from None
    problems: list[Problem] = []
    if not names:
        problems.append(Problem(directory, 0, 0, "", "has no *.toml file"))
    if len(names) > FILES:
        problems.append(Problem(directory, 0, 0, "", f"has {len(names)} *.toml files, the most is {FILES}"))
        names = []
    files: dict[str, bytes] = {}
    size = 0
    for name in names:
        path = os.path.join(directory, name)
        try:
            file_name(name)
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise ValueError("is no regular file")  # reading a pipe would wait for ever
                files[name] = file.read(MOST + 1)
        except ValueError as error:
            problems.append(Problem(path, 0, 0, "", str(error)))
        except OSError as error:
            problems.append(Problem(path, 0, 0, "", f"cannot be read: {error.strerror}"))
        size += len(files.get(name, b""))
        if size > MOST:
            problems.append(Problem(directory, 0, 0, "", f"has more than the {MOST} bytes that a bundle can carry"))
            break
    if problems:
        raise Invalid(problems)
    return files


def check(files: Mapping[str, bytes], services: Collection[str] = ()) -> tuple[Policy, list[str]]:
    """The policy of ``files``, and what its writer may not have meant. Raises :class:`Invalid`.

    ``services`` are known to exist, besides those that the policy speaks of.
    """
    policy = parse_files(files)
    known = {*policy.services, *services}
    warnings: list[str] = []
    for name, rules in policy.services.items():
        if services and name not in services:
            warnings.append(_unknown(f"{_place(files, name)}: [service.{name}]", name, services))
        for rule in (*rules.allow, *rules.deny):
            warnings += [
                _unknown(rule.source, caller, known) for caller in rule.callers if caller not in known | {EVERYONE}
            ]
        warnings += _never_reached(rules.allow, rules.deny)
        warnings += _shuts_nobody_out(policy, name)
    return policy, warnings


def _unknown(where: str, name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.7)
    return f"{where}: nobody knows a service {name}" + (f'; did you mean "{close[0]}"?' if close else "")


def _place(files: Mapping[str, bytes], service: str) -> str:
    """Where a service is first spoken of: file and line."""
    path = ("service", service)
    for name in sorted(files):
        document = parse(files[name], name, POLICY_SIZE)
        if service in document.data.get("service", {}):
            return f"{name}:{document.place(path)[0]}"
    raise KeyError(service)


def _shuts_nobody_out(policy: Policy, service: str) -> list[str]:
    """Allow rules that mean nothing, because whoever they do not name is allowed as well."""
    allowed, source = policy.default(service)
    deciding = [rule for rule in policy.services[service].allow if not rule.audit]
    if not allowed or not deciding:
        return []
    rules = "this allow rule shuts" if len(deciding) == 1 else f"this and {len(deciding) - 1} more allow rules shut"
    hint = f'[service.{service}] access = "deny" makes them the only ones'
    return [f"{deciding[0].source}: {rules} nobody out: {source} allows all others too; {hint}"]


def _never_reached(allow: tuple[Rule, ...], deny: tuple[Rule, ...]) -> list[str]:
    """Rules that decide nothing, because another covers every call that they match."""
    found = []
    for rules, covers in ((allow, _allows_all), (deny, _denies_all)):
        for index, rule in enumerate(rules):
            # Of two that say the same, the later one is too much.
            by = next(
                (
                    other
                    for place, other in enumerate(rules)
                    if place != index and covers(other, rule) and (place < index or not covers(rule, other))
                ),
                None,
            )
            if by is not None:
                found.append(f"{rule.source}: never decides: {by.source} covers all that it matches")
    for rule in allow:
        by = next((other for other in deny if _denies_all(other, rule)), None)
        if by is not None:
            found.append(f"{rule.source}: never allows: {by.source} denies all that it matches")
    return found


def _allows_all(wide: Rule, narrow: Rule) -> bool:
    """Whether every call that ``narrow`` matches is matched by the allow rule ``wide``. May miss some that are."""
    # A pattern of an allow rule matches no path that servers read in different ways: only one that says just that.
    doubtful = [path for path in narrow.paths if is_ambiguous(path.encode())]
    return _denies_all(wide, narrow) and (not wide.paths or set(doubtful) <= set(wide.paths))


def _denies_all(wide: Rule, narrow: Rule) -> bool:
    """The same of a deny rule, whose patterns match whatever begins like them."""
    if wide.audit:
        return False
    return (
        (EVERYONE in wide.callers or set(narrow.callers) <= set(wide.callers))
        and (not wide.methods or (bool(narrow.methods) and set(narrow.methods) <= set(wide.methods)))
        and (not wide.paths or (bool(narrow.paths) and all(_within(path, wide.paths) for path in narrow.paths)))
        and set(wide.headers) <= set(narrow.headers)
    )


def _within(path: str, patterns: tuple[str, ...]) -> bool:
    return any(path == each or (each.endswith("*") and path.startswith(each[:-1])) for each in patterns)
