"""A directory of TOML files, and whether hosts would take it."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from difflib import get_close_matches

from controller.policy.reach import as_meant, covers, unreached
from hostproxy.enforce.authorise import is_ambiguous
from hostproxy.mesh.bundle import BUNDLE_SIZE, FILES, file_name
from hostproxy.mesh.document import POLICY_SIZE, Document, Invalid, Problem, parse
from hostproxy.mesh.policy import Policy, ServicePolicy, parse_files
from hostproxy.mesh.retries import Retry
from hostproxy.mesh.routes import Match, Route
from hostproxy.mesh.rules import EVERYONE, Rule
from hostproxy.mesh.units import format_duration

# Directories of a policy that hold no policy: expectations about it.
TESTS = "tests"
# A bundle holds more than files: certificates of roots, denied identities.
MOST = BUNDLE_SIZE * 3 // 4  # bytes

WHOLES = (100, 1000, 10_000)  # what the weights of a split are meant to add up to
AS_BYTES = ("http2", "grpc")  # protocols with requests, which this version carries as bytes all the same


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
    places = _Places(files)
    warnings: list[str] = []
    for name, rules in policy.services.items():
        if services and name not in services:
            warnings.append(_unknown(f"{places.first('service', name)}: [service.{name}]", name, services))
        for rule in (*rules.allow, *rules.deny):
            warnings += [
                _unknown(rule.source, caller, known) for caller in rule.callers if caller not in known | {EVERYONE}
            ]
        warnings += _never_reached(rules.allow, rules.deny)
        warnings += _shuts_nobody_out(policy, name)
        warnings += _of_routes(name, rules)
        if rules.retry is not None:
            found = _of_retry(rules.retry, rules.timeout)
            if rules.protocol in AS_BYTES:
                found = [f"nothing is retried: {_carried(rules.protocol)}"]
            warnings += [f"{places.first('service', name, 'retry')}: {one}" for one in found]
    return policy, warnings


def _unknown(where: str, name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.7)
    return f"{where}: nobody knows a service {name}" + (f'; did you mean "{close[0]}"?' if close else "")


class _Places:
    """Where things stand in the files of a policy. Few are asked for, so files are parsed when the first one is."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self._documents: list[Document] = []

    def first(self, *path: str) -> str:
        """File and line where a key, or a table, is first spoken of."""
        if not self._documents:
            self._documents = [parse(self._files[name], name, POLICY_SIZE) for name in sorted(self._files)]
        document = next(each for each in self._documents if each.has(path))
        return f"{document.file}:{document.place(path)[0]}"


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
    for rules, takes_all in ((allow, _allows_all), (deny, _denies_all)):
        for index, rule in enumerate(rules):
            # Of two that say the same, the later one is too much.
            by = next(
                (
                    other
                    for place, other in enumerate(rules)
                    if place != index and takes_all(other, rule) and (place < index or not takes_all(rule, other))
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


def _of_routes(service: str, rules: ServicePolicy) -> list[str]:
    """What the writer of a service's routes may not have meant."""
    if not rules.routes:
        return []
    if rules.protocol in AS_BYTES:
        return [f"{rules.routes[0].source}: no request takes a route: {_carried(rules.protocol)}"]
    found = [
        f"{route.source}: never reached: {by.source} takes all that it matches" for route, by in unreached(rules.routes)
    ]
    for route in rules.routes:
        found += _of_split(route)
        if route.retry is not None:
            timeout = rules.timeout if route.timeout is None else route.timeout
            found += [f"{route.source}: {one}" for one in _of_retry(route.retry, timeout)]
    return found + _leaks(service, rules)


def _carried(protocol: str) -> str:
    return f'services with protocol = "{protocol}" are carried as bytes in this version'


def _of_split(route: Route) -> list[str]:
    """Weights that are meant as parts of another whole than they add up to."""
    total = sum(share.weight for share in route.split)
    # The others at 0 is how shares are taken back; one alone may be meant as a part of all.
    is_taken_back = len(route.split) > 1 and sum(share.weight > 0 for share in route.split) == 1
    if not route.split or total in WHOLES or is_taken_back:
        return []
    parts = ", ".join(f"{share.subset} is {100 * share.weight / total:.4g} %" for share in route.split)
    return [f"{route.source}: the weights of this split add up to {total}: {parts}"]


def _of_retry(retry: Retry, timeout: float) -> list[str]:
    """Times that no try has."""
    if not timeout or retry.try_timeout < timeout:
        return []
    limit = format_duration(retry.try_timeout)
    return [f"try_timeout does nothing: {limit} is no less than the timeout, {format_duration(timeout)}"]


def _leaks(service: str, rules: ServicePolicy) -> list[str]:
    """Subsets that are meant for some requests and get others as well: those that no route matches go to all."""
    first = next((route for route in rules.routes if route.split), None)
    if first is None or rules.default_subset or any(covers(as_meant(route.match), Match()) for route in rules.routes):
        return []
    subsets = sorted({share.subset for route in rules.routes for share in route.split})
    return [
        f"{first.source}: requests that no route matches go to all instances of {service}, those of"
        f" {', '.join(subsets)} too; give default_subset, or a last route without match if this is meant"
    ]
