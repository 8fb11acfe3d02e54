"""The policy of the whole mesh: who may call which service, and how. A TOML file, or a directory of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from hostproxy.mesh import names
from hostproxy.mesh.document import POLICY_SIZE, Document, Invalid, Problem, parse, read
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import Duration, Flag, Integer, ListOf, Text, shown
from hostproxy.mesh.policy_tables import RETRY, ROUTE, ROUTES, RULE, check_retry, check_routes
from hostproxy.mesh.retries import CALL_TIMEOUT, Retry
from hostproxy.mesh.routes import Route
from hostproxy.mesh.rules import Rule
from hostproxy.mesh.scan import Path
from hostproxy.mesh.schema import Key, NamedTables, Table, Tables
from hostproxy.mesh.subsets import SUBSET, SUBSETS, Subset, check_subset, unknown_subset

PROTOCOLS = ("http", "http2", "grpc", "tcp")
BALANCE = ("least-request", "round-robin", "random")
PREFER = ("none", "zone", "round-trip")
ACCESS = ("allow", "deny")
RULE_KINDS = ("allow", "deny")

FILES = 1000  # of a policy directory; a file for each service of a large mesh
SERVICES = 10_000  # in a file
RULES = 1000  # of a service and kind
# Callers times paths, of all rules of a service: they are indexed by both, and 100,000 take a worker some 40 MB.
COMBINATIONS = 100_000
DATACENTERS = 16  # of failover


class ServicePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for calls to one service."""

    protocol: str | None = None  # None: what its hosts say
    permissive: bool = False  # plain text to instances whose host has no hostproxy
    timeout: float = 0.0  # seconds for a whole call, retries included; 0: none
    balance: str = BALANCE[0]
    access: str | None = None  # "allow", "deny"; None: as for all services
    access_source: str = ""  # "payments.toml:3"
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()  # wins over allow
    prefer: str = PREFER[0]  # what makes an instance of the own datacenter near
    failover: tuple[str, ...] | None = None  # datacenters after the own, in order; None: all others, at once
    panic_threshold: int = 50  # percent of healthy instances below which health is ignored; 0: never
    default_subset: str = ""  # what is meant when no subset is asked for; empty: all instances
    subsets: dict[str, Subset] = {}
    retry: Retry | None = None  # None: only what is safe for every request
    routes: tuple[Route, ...] = ()  # the first that matches decides


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """All policy of one moment."""

    default_access: str | None = None  # "allow", "deny"; None: nobody said, and that means "deny"
    default_source: str = ""  # "policy.toml:3"
    services: dict[str, ServicePolicy] = {}

    def default(self, service: str) -> tuple[bool, str]:
        """Whether calls of ``service`` that no rule speaks of are allowed, and what says so."""
        rules = self.services.get(service, _SILENT)
        if rules.access is not None:
            return rules.access == "allow", f"{rules.access_source}: [service.{service}] access"
        if self.default_access is not None:
            return self.default_access == "allow", f"{self.default_source}: [defaults] access"
        return False, UNSAID


_SILENT = ServicePolicy()
UNSAID = 'no policy gives [defaults] access, and without it that is "deny"'


_NO_RULE = "leave it out, and access decides"

SERVICE = Table(
    dict,
    Key("protocol", Text(choices=PROTOCOLS), "what its instances speak", default=None),
    Key(
        "permissive", Flag(), "whether instances without a hostproxy are reached in plain text", default=False
    ),
    Key("timeout", Duration(0.0, CALL_TIMEOUT), "the time for a whole call, retries included", default=0.0),
    Key("balance", Text(choices=BALANCE), "how an instance is picked", default=BALANCE[0]),
    Key("access", Text(choices=ACCESS), "what holds where no rule does, instead of [defaults] access", default=None),
    Key("allow", Tables(RULE, least=1, most=RULES, if_empty=_NO_RULE), "who may call", default=()),
    Key("deny", Tables(RULE, least=1, most=RULES, if_empty=_NO_RULE), "who may not, whatever is allowed", default=()),
    Key("prefer", Text(choices=PREFER), "which instances of the own datacenter are tried first", default=PREFER[0]),
    Key(
        "failover",
        ListOf(Text(names.datacenter), most=DATACENTERS),
        "the datacenters that follow the own one when it has no healthy instance",
        default=None,
    ),
    Key(
        "panic_threshold",
        Integer(0, 100),
        "the percentage of healthy instances below which health is ignored; 0 is never",
        default=50,
    ),
    Key("default_subset", Text(names.subset), "the subset that is meant when none is asked for", default=""),
    Key("subset", NamedTables(names.subset, SUBSET, most=SUBSETS), "some of its instances by name", default={}),
    Key("retry", RETRY, "when requests that failed are sent again", default=None),
    Key(
        "route",
        Tables(ROUTE, least=1, most=ROUTES, if_empty="leave it out, and all requests are treated alike"),
        "requests that are treated otherwise; the first that matches decides",
        default=(),
    ),
)

POLICY = Table(
    dict,
    Key(
        "defaults",
        Table(
            dict,
            Key("access", Text(choices=ACCESS), "what holds where no rule does", default=None),
        ),
        "what holds for every service",
    ),
    Key("service", NamedTables(names.service, SERVICE, most=SERVICES), "policy by service", default={}),
)


def load(path: str) -> Policy:
    """Read a policy file, or all ``*.toml`` of a directory as one. Raises :class:`Invalid`."""
    return _merged(partial(read, file, POLICY_SIZE) for file in _files(path))


def parse_files(files: Mapping[str, bytes]) -> Policy:
    """Make one policy of files in memory, by name; without any it is the policy that says nothing.

    Raises :class:`Invalid`.
    """
    if len(files) > FILES:
        raise Invalid([Problem("policy", 0, 0, "", f"has {len(files)} files, the most is {FILES}")])
    return _merged(partial(parse, files[name], name, POLICY_SIZE) for name in sorted(files))


def _merged(documents: Iterable[Callable[[], Document]]) -> Policy:
    problems: list[Problem] = []
    merge = _Merge()
    for document in documents:
        try:
            merge.add(document(), problems)
        except Invalid as invalid:
            problems.extend(invalid.problems)
    # What a file with a problem defines isn't known, so nothing can be said to be missing.
    problems = problems or merge.problems()
    if problems:
        raise Invalid(problems)
    return merge.policy()


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    try:
        entries = sorted(os.listdir(path))
    except OSError as error:
        raise Invalid([Problem(path, 0, 0, "", f"cannot be read: {error.strerror}")]) from None
    found = [os.path.join(path, name) for name in entries if name.endswith(".toml") and name[0] != "."]
    if not found:
        # An empty policy would deny everything; more likely something isn't mounted or copied yet.
        raise Invalid([Problem(path, 0, 0, "", "has no *.toml file", 'write one, or set [policy] path = ""')])
    if len(found) > FILES:
        raise Invalid([Problem(path, 0, 0, "", f"has {len(found)} *.toml files, the most is {FILES}")])
    return found


class _Merge:
    """Files becoming one policy. A key that two files give is refused: which one holds would be a riddle."""

    def __init__(self) -> None:
        self.given: dict[tuple[str, ...], Document] = {}  # key path -> where it is
        self.values: dict[tuple[str, ...], Any] = {}
        self.subsets: dict[str, list[str]] = {}  # by service: those defined

    def add(self, document: Document, problems: list[Problem]) -> None:
        findings = Findings(document)
        read = POLICY.read(document.data, (), findings)
        if not findings.problems:
            self._take(("defaults",), document.data.get("defaults", {}), read["defaults"], findings)
            for name, raw in document.data.get("service", {}).items():
                values = read["service"][name]
                self._check(name, raw, values, findings)
                for kind in RULE_KINDS:
                    values[kind] = tuple(
                        Rule(**rule, source=_source(document, ("service", name, kind, index)))
                        for index, rule in enumerate(values[kind])
                    )
                values["route"] = tuple(
                    msgspec.structs.replace(route, source=_source(document, ("service", name, "route", index)))
                    for index, route in enumerate(values["route"])
                )
                subsets = values.pop("subset")
                self._take(("service", name), {key: raw[key] for key in raw if key != "subset"}, values, findings)
                self._take(("service", name, "subset"), raw.get("subset", {}), subsets, findings)
                self.subsets.setdefault(name, []).extend(subsets)
        problems.extend(findings.all_problems())

    def _take(
        self, table: tuple[str, ...], raw: Mapping[str, Any], values: Mapping[str, Any], findings: Findings
    ) -> None:
        for key in raw:
            path = (*table, key)
            if path in self.given:
                place = _source(self.given[path], path)
                hint = "keep one of the two"
                if key == "route":
                    hint = "all routes of a service stand in one file, as their order counts"
                findings.add(path, f"is given at {place} as well", hint)
                continue
            self.given[path] = findings.document
            self.values[path] = values[key]

    @staticmethod
    def _check(name: str, raw: Mapping[str, Any], values: Mapping[str, Any], findings: Findings) -> None:
        for subset, criteria in raw.get("subset", {}).items():
            check_subset(criteria, ("service", name, "subset", subset), findings)
        if values["retry"] is not None:
            check_retry(values["retry"], ("service", name, "retry"), findings)
        check_routes(values["route"], raw.get("route", ()), ("service", name, "route"), findings)
        for kind in RULE_KINDS:
            combinations = 0
            for index, rule in enumerate(values[kind]):
                path = ("service", name, kind, index)
                combinations += len(rule["callers"]) * max(1, len(rule["paths"]))
                if combinations > COMBINATIONS:
                    findings.add(path, f"brings the callers times paths of this service to more than {COMBINATIONS}")
                    break
                if values["protocol"] == "tcp":
                    for key in ("methods", "paths", "headers"):
                        if rule[key]:
                            findings.add((*path, key), f"means nothing with protocol = {shown('tcp')}", "leave it out")

    def problems(self) -> list[Problem]:
        """What no file shows alone."""
        found: dict[str, Findings] = {}
        for path, document in self.given.items():
            if path[0] != "service":
                continue
            findings = found.setdefault(document.file, Findings(document))
            service, key = path[1:3]
            if key == "default_subset":
                self._find_subset(service, self.values[path], path, findings)
            elif key in ("route", "retry") and self.values.get(("service", service, "protocol")) == "tcp":
                findings.add(path, f"means nothing with protocol = {shown('tcp')}", "leave it out")
            elif key == "route":
                for index, route in enumerate(self.values[path]):
                    for place, share in enumerate(route.split):
                        self._find_subset(service, share.subset, (*path, index, "split", place, "subset"), findings)
        for service, subsets in self.subsets.items():
            if len(subsets) > SUBSETS:
                path = ("service", service, "subset", subsets[-1])
                document = self.given[path]
                findings = found.setdefault(document.file, Findings(document))
                findings.add(path, f"is one of {len(subsets)} subsets, the most is {SUBSETS}")
        return [problem for findings in found.values() for problem in findings.all_problems()]

    def _find_subset(self, service: str, subset: str, path: Path, findings: Findings) -> None:
        known = self.subsets[service]
        if subset not in known:
            # What is only counted needs no search for what was meant.
            wrong = unknown_subset(subset, () if findings.full() else known)
            findings.add(path, wrong.message, wrong.hint)

    def policy(self) -> Policy:
        services: dict[str, dict[str, Any]] = {}
        for path, value in self.values.items():
            if path[0] != "service":
                continue
            values = services.setdefault(path[1], {})
            if path[2] == "subset":
                values.setdefault("subsets", {})[path[3]] = value
            else:
                values["routes" if path[2] == "route" else path[2]] = value
            if path[2] == "access":
                values["access_source"] = _source(self.given[path], path)
        access = ("defaults", "access")
        return Policy(
            default_access=self.values.get(access),
            default_source=_source(self.given[access], access) if access in self.given else "",
            services={name: ServicePolicy(**values) for name, values in services.items()},
        )


def _source(document: Document, path: Path) -> str:
    """Return "policy.toml:12"; the directory is known from the configuration, and logs stay readable."""
    return f"{os.path.basename(document.file)}:{document.place(path)[0]}"
