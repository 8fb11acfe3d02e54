"""The policy of the whole mesh: who may call which service, and how. A TOML file, or a directory of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from hostproxy.mesh import names
from hostproxy.mesh.document import POLICY_SIZE, Document, Invalid, Problem, read
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import Duration, Flag, Integer, ListOf, Text, shown
from hostproxy.mesh.schema import Key, NamedTables, Table, Tables
from hostproxy.mesh.subsets import SUBSET, SUBSETS, Subset, check_subset, unknown_subset
from hostproxy.mesh.units import Wrong

PROTOCOLS = ("http", "http2", "grpc", "tcp")
BALANCE = ("least-request", "round-robin", "random")
PREFER = ("none", "zone", "round-trip")
EVERYONE = "*"  # in ``from``: every caller with an identity of the mesh

FILES = 1000  # of a policy directory; a file for each service of a large mesh
SERVICES = 10_000  # in a file
RULES = 1000  # of a service; they are tried one after the other
DATACENTERS = 16  # of failover
HOUR = 3600.0

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # token, RFC 9110 section 9.1
_STANDARD_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"}
_PATH = re.compile(r"/[!-~]{0,1023}")


class AllowRule(msgspec.Struct, frozen=True):
    """Callers, methods and paths that may pass. Empty methods or paths mean all."""

    callers: tuple[str, ...]  # service names, or "*"
    methods: tuple[str, ...]
    paths: tuple[str, ...]  # exact, or a prefix when it ends with "*"
    source: str  # "policy.toml:12"


class ServicePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for calls to one service."""

    protocol: str | None = None  # None: what its hosts say
    permissive: bool = False  # plain text to instances whose host has no hostproxy
    timeout: float = 0.0  # seconds for a whole call, retries included; 0: none
    balance: str = BALANCE[0]
    allow: tuple[AllowRule, ...] = ()
    prefer: str = PREFER[0]  # what makes an instance of the own datacenter near
    failover: tuple[str, ...] | None = None  # datacenters after the own, in order; None: all others, at once
    panic_threshold: int = 50  # percent of healthy instances below which health is ignored; 0: never
    default_subset: str = ""  # what is meant when no subset is asked for; empty: all instances
    subsets: dict[str, Subset] = {}


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """All policy of one moment."""

    default_access: str | None = None  # "allow", "deny"; None: nobody said
    default_source: str = ""  # "policy.toml:3"
    services: dict[str, ServicePolicy] = {}


def method(text: str) -> str:
    """Return an HTTP method, which is case-sensitive. Raises :class:`Wrong`."""
    if not _METHOD.fullmatch(text):
        raise Wrong("is not an HTTP method")
    if text not in _STANDARD_METHODS and text.upper() in _STANDARD_METHODS:
        raise Wrong("is not an HTTP method", f'did you mean "{text.upper()}"?')
    return text


def path_pattern(text: str) -> str:
    """Return a path, or a prefix of paths that ends with ``*``. Raises :class:`Wrong`."""
    if not _PATH.fullmatch(text):
        raise Wrong("is not a path", 'it starts with "/" and has printable ASCII characters, at most 1024')
    if "?" in text or "#" in text:
        raise Wrong("has more than a path", "rules see the path only: leave out the query and the fragment")
    if "*" in text[:-1]:
        raise Wrong('has "*" before its end', 'only "/prefix*" is a pattern')
    if any(segment in (".", "..") for segment in text.split("/")):
        raise Wrong('has "." or ".." segments, which no request has when rules see it')
    return text


def caller(text: str) -> str:
    """Return the name of a calling service, or ``*``. Raises :class:`Wrong`."""
    return text if text == EVERYONE else names.service(text)


def _rule(**values: Any) -> dict[str, Any]:
    return {"callers": values["from"], "methods": values["methods"], "paths": values["paths"]}


_MEANS_ALL = "leave the key out to allow all of them"

ALLOW = Table(
    _rule,
    Key(
        "from",
        ListOf(Text(caller), least=1, if_empty='write "*" to allow every service of the mesh'),
        "the services that may call",
    ),
    Key(
        "methods", ListOf(Text(method), least=1, if_empty=_MEANS_ALL), "the methods they may use", default=()
    ),
    Key(
        "paths",
        ListOf(Text(path_pattern), least=1, if_empty=_MEANS_ALL),
        "the paths they may ask for",
        default=(),
    ),
)

SERVICE = Table(
    dict,
    Key("protocol", Text(choices=PROTOCOLS), "what its instances speak", default=None),
    Key(
        "permissive", Flag(), "whether instances without a hostproxy are reached in plain text", default=False
    ),
    Key("timeout", Duration(0.0, 24 * HOUR), "the time for a whole call, retries included", default=0.0),
    Key("balance", Text(choices=BALANCE), "how an instance is picked", default=BALANCE[0]),
    Key(
        "allow",
        Tables(ALLOW, least=1, most=RULES, if_empty="leave it out, and [defaults] access decides"),
        "who may call",
        default=(),
    ),
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
)

POLICY = Table(
    dict,
    Key(
        "defaults",
        Table(
            dict,
            Key("access", Text(choices=("allow", "deny")), "what holds where no rule does", default=None),
        ),
        "what holds for every service",
    ),
    Key("service", NamedTables(names.service, SERVICE, most=SERVICES), "policy by service", default={}),
)


def load(path: str) -> Policy:
    """Read a policy file, or all ``*.toml`` of a directory as one. Raises :class:`Invalid`."""
    problems: list[Problem] = []
    merge = _Merge()
    for file in _files(path):
        try:
            merge.add(read(file, POLICY_SIZE), problems)
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
        # An empty policy would allow everything; more likely something isn't mounted or copied yet.
        raise Invalid([Problem(path, 0, 0, "", "has no *.toml file", 'write one, or set [policy] path = ""')])
    if len(found) > FILES:
        raise Invalid([Problem(path, 0, 0, "", f"has {len(found)} *.toml files, the most is {FILES}")])
    return found


class _Merge:
    """Files becoming one policy. A key that two files give is refused: which one holds would be a riddle."""

    def __init__(self) -> None:
        self.given: dict[tuple[str, ...], str] = {}  # key path -> "file:line" that gave it
        self.values: dict[tuple[str, ...], Any] = {}
        self.subsets: dict[str, dict[str, Document]] = {}  # by service: those defined, with where
        self.defaults: dict[str, Document] = {}  # by service: where its default_subset is

    def add(self, document: Document, problems: list[Problem]) -> None:
        findings = Findings(document)
        read = POLICY.read(document.data, (), findings)
        if not findings.problems:
            self._take(("defaults",), document.data.get("defaults", {}), read["defaults"], findings)
            for name, raw in document.data.get("service", {}).items():
                values = read["service"][name]
                self._check(name, raw, values, findings)
                values["allow"] = tuple(
                    AllowRule(**rule, source=_source(document, ("service", name, "allow", index)))
                    for index, rule in enumerate(values["allow"])
                )
                subsets = values.pop("subset")
                self._take(("service", name), {key: raw[key] for key in raw if key != "subset"}, values, findings)
                self._take(("service", name, "subset"), raw.get("subset", {}), subsets, findings)
                self.subsets.setdefault(name, {}).update(dict.fromkeys(subsets, document))
                if "default_subset" in raw:
                    self.defaults[name] = document
        problems.extend(findings.all_problems())

    def _take(
        self, table: tuple[str, ...], raw: Mapping[str, Any], values: Mapping[str, Any], findings: Findings
    ) -> None:
        for key in raw:
            path = (*table, key)
            if path in self.given:
                findings.add(path, f"is given at {self.given[path]} as well", "keep one of the two")
                continue
            self.given[path] = _source(findings.document, path)
            self.values[path] = values[key]

    @staticmethod
    def _check(name: str, raw: Mapping[str, Any], values: Mapping[str, Any], findings: Findings) -> None:
        for subset, criteria in raw.get("subset", {}).items():
            check_subset(criteria, ("service", name, "subset", subset), findings)
        if values["protocol"] != "tcp":
            return
        for index, rule in enumerate(values["allow"]):
            for key in ("methods", "paths"):
                if rule[key]:
                    path = ("service", name, "allow", index, key)
                    findings.add(path, f"means nothing with protocol = {shown('tcp')}", "leave it out")

    def problems(self) -> list[Problem]:
        """What no file shows alone."""
        problems = []
        for name, document in self.defaults.items():
            path = ("service", name, "default_subset")
            if self.values[path] not in self.subsets[name]:
                wrong = unknown_subset(self.values[path], self.subsets[name])
                problems.append(document.problem(path, wrong.message, wrong.hint))
        for name, subsets in self.subsets.items():
            if len(subsets) > SUBSETS:
                last, document = subsets.popitem()
                message = f"is one of {len(subsets) + 1} subsets, the most is {SUBSETS}"
                problems.append(document.problem(("service", name, "subset", last), message))
        return problems

    def policy(self) -> Policy:
        services: dict[str, dict[str, Any]] = {}
        for path, value in self.values.items():
            if path[0] != "service":
                continue
            values = services.setdefault(path[1], {})
            if path[2] == "subset":
                values.setdefault("subsets", {})[path[3]] = value
            else:
                values[path[2]] = value
        access = ("defaults", "access")
        return Policy(
            default_access=self.values.get(access),
            default_source=self.given.get(access, ""),
            services={name: ServicePolicy(**values) for name, values in services.items()},
        )


def _source(document: Document, path: tuple[str | int, ...]) -> str:
    """Return "policy.toml:12"; the directory is known from the configuration, and logs stay readable."""
    return f"{os.path.basename(document.file)}:{document.place(path)[0]}"
