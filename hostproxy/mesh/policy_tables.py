"""The tables of policy that describe requests: rules, routes and retries. Their keys, and what values those take.

What they become is in :mod:`.rules`, :mod:`.routes` and :mod:`.retries`, which workers know too; they read no TOML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hostproxy.mesh import names, rules
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import Duration, Flag, Integer, ListOf, MapOf, Text, shown
from hostproxy.mesh.retries import CALL_TIMEOUT, CONDITIONS, Retry
from hostproxy.mesh.routes import NO_ROUTE, Match, Route, Share
from hostproxy.mesh.scan import Path
from hostproxy.mesh.schema import Key, Table, Tables
from hostproxy.mesh.units import Wrong, format_duration

ATTEMPTS = 10  # after the first: what ten instances in a row can't answer, no eleventh will
BACKOFF = 60.0  # seconds; few clients wait for longer, and a request that waits holds its body and its connection
FAILED = (400, 599)  # statuses: whatever is below them is an answer to pass on
ROUTES = 256  # of a service; they are tried in order, so the last costs a request as much as all before it
SHARES = 16  # of a split
WEIGHT = 10_000  # a hundredth of a percent is the smallest share that anybody asks for
PARAMETERS = 16  # of a query, in a match

_PATHS = ("path", "path_prefix", "path_template")
_PARAMETER = re.compile(r"[!-~]{1,128}")
_PARAMETER_VALUE = re.compile(r"[!-~]{1,256}")
_AS_SENT = 'parameters are compared as they are sent: write a space as it comes, "+" or "%20"'
_MEANS_ALL = "leave the key out, and it means all of them"


def _rule(**values: Any) -> dict[str, Any]:
    headers = tuple(sorted(values["headers"].items()))
    return {"callers": values.pop("from"), **values, "headers": headers}


RULE = Table(
    _rule,
    Key(
        "from",
        ListOf(Text(rules.caller), least=1, if_empty='write "*" to mean every service of the mesh'),
        "the services that call",
    ),
    Key("methods", ListOf(Text(rules.method), least=1, if_empty=_MEANS_ALL), "the methods they use", default=()),
    Key("paths", ListOf(Text(rules.path), least=1, if_empty=_MEANS_ALL), "the paths they ask for", default=()),
    Key(
        "headers",
        MapOf(rules.header_name, Text(rules.header_value), most=rules.HEADERS),
        "the header fields that their requests have",
        default={},
    ),
    Key("audit", Flag(), "whether the rule only logs and counts what it would do", default=False),
)


# Retries

# Conditions of other proxies, and what they are here.
_ELSEWHERE = {
    "connect-failure": "leave it out: an instance that can't be reached is passed over for the next in any case",
    "refused-stream": "leave it out: it is HTTP/2's, which is carried as bytes",
    "reset-before-request": "leave it out: what was not sent yet is sent to the next instance in any case",
    "retriable-status-codes": "leave it out, and list them: statuses = [429]",
    "timeout": "give try_timeout instead",
}


class _Condition(Text):
    """One of ``CONDITIONS``."""

    def __init__(self) -> None:
        super().__init__(choices=CONDITIONS)

    def convert(self, value: Any) -> str:
        if type(value) is str and value in _ELSEWHERE:
            raise Wrong(f"{shown(value)} is no condition here", _ELSEWHERE[value])
        return super().convert(value)


def method(text: str) -> str:
    """Return an HTTP method; ``*`` is one by the syntax, and never meant so. Raises :class:`Wrong`."""
    if text == "*":
        raise Wrong("is no method that anybody sends", "name the methods, or leave the key out")
    return rules.method(text)


RETRY = Table(
    Retry,
    Key("attempts", Integer(1, ATTEMPTS), "how many tries may follow the first"),
    Key("on", ListOf(_Condition()), "what is retried"),
    Key("statuses", ListOf(Integer(*FAILED), most=FAILED[1] - FAILED[0] + 1), "more statuses that are retried"),
    Key(
        "methods",
        ListOf(Text(method), least=1, if_empty="leave the key out, and it means the idempotent ones"),
        "the methods of requests that may be repeated once they have been sent",
    ),
    Key(
        "try_timeout",
        Duration(0.0, CALL_TIMEOUT),
        "the time for a try's response head, after which another follows; 0s is none",
    ),
    Key("backoff", Duration(0.0, BACKOFF), "what the Nth retry waits a random part of, times 2^N-1"),
    Key("backoff_limit", Duration(0.0, BACKOFF), "the longest that a retry waits"),
    Key("budget", Integer(0, 100), "the percentage of requests under way that may be retries; 3 may in any case"),
)


def check_retry(retry: Retry, path: Path, findings: Findings) -> None:
    """Refuse keys that contradict each other."""
    if retry.backoff > retry.backoff_limit:
        limit, backoff = format_duration(retry.backoff_limit), format_duration(retry.backoff)
        findings.add((*path, "backoff_limit"), f"{limit} is shorter than backoff, {backoff}", "raise it too")


# Routes


def route_name(text: str) -> str:
    """Return the name of a route. Raises :class:`Wrong`."""
    names.word(text)
    if text == NO_ROUTE or ":" in text:
        raise Wrong("is not the name of a route", f'"{NO_ROUTE}" and "file:line" have meanings of their own')
    return text


def exact_path(text: str) -> str:
    """Return a path without patterns. Raises :class:`Wrong`."""
    if text.endswith("*"):
        raise Wrong('ends with "*"', f'for all that begins so write path_prefix = "{text.rstrip("*")}"')
    if "{" in text or "}" in text:
        raise Wrong("has braces", "write it as path_template")
    return _path(text)


def path_prefix(text: str) -> str:
    """Return the beginning of paths. Raises :class:`Wrong`."""
    if text.endswith("*"):
        raise Wrong('ends with "*"', f'a prefix has none: "{text.rstrip("*")}"')
    if "{" in text or "}" in text:
        raise Wrong("has braces", f'write path_template = "{text.rstrip("/")}/*"')
    _path(f"{text}*")
    return text


def path_template(text: str) -> str:
    """Return a path with places for segments. Raises :class:`Wrong`."""
    _path(text)
    if not rules.is_template(text):
        raise Wrong('has no place like "{id}"', "write it as path or path_prefix")
    return text


def _path(text: str) -> str:
    if "?" in text:
        raise Wrong("has a query", 'a match has a key of its own for it: query = { name = "value" }')
    return rules.path(text)


def parameter_name(text: str) -> str:
    """Return the name of a parameter of the query. Raises :class:`Wrong`."""
    if not _PARAMETER.fullmatch(text) or any(mark in text for mark in "&=#"):
        raise Wrong("is not the name of a parameter", "it has at most 128 printable ASCII characters but &, = and #")
    return text


def parameter_value(text: str) -> str:
    """Return a value of a parameter, or a prefix that ends with ``*``. Raises :class:`Wrong`."""
    if not _PARAMETER_VALUE.fullmatch(text):
        raise Wrong("is not a value to compare with, of 256 printable ASCII characters", _AS_SENT)
    if "&" in text or "#" in text:
        raise Wrong('has "&" or "#", which no value has', _AS_SENT)
    if "*" in text[:-1]:
        raise Wrong('has "*" before its end', 'only "prefix*" is a pattern')
    return text


def _match(headers: dict[str, str], query: dict[str, str], **values: Any) -> Match:
    return Match(headers=tuple(sorted(headers.items())), query=tuple(sorted(query.items())), **values)


MATCH = Table(
    _match,
    Key("path", Text(exact_path), "the path, without the query", default=""),
    Key("path_prefix", Text(path_prefix), "how the path begins", default=""),
    Key("path_template", Text(path_template), "the path, with places for segments", default=""),
    Key("methods", ListOf(Text(method), least=1, if_empty=_MEANS_ALL), "the methods, one of them", default=()),
    Key(
        "headers",
        MapOf(rules.header_name, Text(rules.header_value), most=rules.HEADERS),
        "the header fields, all of them",
        default={},
    ),
    Key(
        "query",
        MapOf(parameter_name, Text(parameter_value), most=PARAMETERS),
        "the parameters of the query, all of them",
        default={},
    ),
)

SHARE = Table(
    Share,
    Key("subset", Text(names.subset), "the subset that these requests go to"),
    Key("weight", Integer(0, WEIGHT), "how many they are, in proportion to the other weights"),
)

ROUTE = Table(
    Route,
    Key("name", Text(route_name), "its name in metrics and logs, instead of file and line"),
    Key("match", MATCH, "the requests that it is for"),
    Key(
        "split",
        Tables(SHARE, least=1, most=SHARES, if_empty="leave it out, and they go where requests without a route go"),
        "the subsets that they go to",
    ),
    Key("timeout", Duration(0.0, CALL_TIMEOUT), "the time for a whole call, instead of the service's; 0s is none"),
    Key("retry", RETRY, "how they are retried, instead of the service's retry"),
)


def check_routes(routes: Sequence[Route], raw: Sequence[Mapping[str, Any]], path: Path, findings: Findings) -> None:
    """Refuse what no key alone shows; ``raw`` is what the file gives for ``routes``."""
    first: dict[str, int] = {}
    for index, (route, given) in enumerate(zip(routes, raw, strict=True)):
        here = (*path, index)
        _check_match(given.get("match", {}), (*here, "match"), findings)
        _check_split(route.split, given.get("split", ()), (*here, "split"), findings)
        if route.retry is not None:
            check_retry(route.retry, (*here, "retry"), findings)
        if route.name and first.setdefault(route.name, index) != index:
            line, _ = findings.document.place((*path, first[route.name]))
            findings.add((*here, "name"), f"{shown(route.name)} is the name of the route in line {line} as well")


def _check_match(given: Mapping[str, Any], path: Path, findings: Findings) -> None:
    paths = [key for key in _PATHS if key in given]
    for key in paths[1:]:
        findings.add((*path, key), f"is there beside {paths[0]}", "a route has one of them: write a route for each")


def _check_split(split: Sequence[Share], given: Sequence[Mapping[str, Any]], path: Path, findings: Findings) -> None:
    seen = set()
    for index, share in enumerate(split):
        if share.subset in seen:
            findings.add((*path, index, "subset"), f"{shown(share.subset)} is there twice", "add up its weights")
        seen.add(share.subset)
        if len(split) > 1 and "weight" not in given[index]:
            findings.add((*path, index, "weight"), "is missing; a split of several has one for each")
    if split and not any(share.weight for share in split):
        findings.add(path, "has no weight but 0, so its requests could go nowhere")
