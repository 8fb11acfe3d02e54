"""The decision on a call for people and programs: what ``hostproxy why`` and ``hostproxy-controller why`` share.

The part of their documents that is about rules, routes, timeout and retries, and the lines that it is shown as.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from hostproxy.enforce.explain import Retries, RuleVerdict
from hostproxy.mesh.units import format_duration
from hostproxy.route.explain import RouteVerdict, Treatment

Document = dict[str, Any]

GOOD, BAD, DOUBTFUL = "good", "bad", "doubtful"  # moods

_LOST = "a connection that is lost"


class Line(NamedTuple):
    """A line of text, not yet safe for a terminal."""

    title: str  # empty: more of what is above
    text: str
    verdict: str = ""  # the end of the line, which is to be seen first
    mood: str = ""  # of the verdict


def document(
    rules: Sequence[RuleVerdict], routes: Sequence[RouteVerdict], treatment: Treatment, retries: Retries
) -> Document:
    """The parts of a decision as JSON has them."""
    policy = retries.policy
    return {
        "rules": [msgspec.structs.asdict(rule) for rule in rules],
        "routes": [msgspec.structs.asdict(route) for route in routes],
        "route": {
            "matched": treatment.route,
            "source": treatment.source,
            "passed_over": treatment.passed_over,
        },
        "parts": [{"subset": each.subset, "share": round(each.share, 6)} for each in treatment.portions],
        "timeout_seconds": treatment.timeout or None,
        "timeout_from": treatment.timeout_from,
        "retries": {
            **msgspec.structs.asdict(retries),
            "policy": None if policy is None else msgspec.structs.asdict(policy),
            "policy_from": treatment.retry_from,
        },
    }


def lines(decision: Document, method: str, opaque: bool) -> Iterator[Line]:
    """Routes, rules, timeout and retries as text, from what :func:`document` made."""
    yield from _routes(decision)
    yield from _rules(decision)
    timeout, given = decision["timeout_seconds"], decision["timeout_from"]
    text = f"{format_duration(timeout)} for the whole call" if timeout else "none"
    yield Line("timeout", f"{text}, by {given}" if given else text)
    yield from _titled("retries", _retries(decision["retries"], method, opaque))


def percent(share: float) -> str:
    """A share between 0 and 1; small ones stay visible."""
    return f"{100 * share:.4g}%"


def _titled(title: str, texts: Iterable[str]) -> Iterator[Line]:
    for text in texts:
        yield Line(title, text)
        title = ""


def _routes(decision: Document) -> Iterator[Line]:
    route, routes = decision["route"], decision["routes"]
    if route["passed_over"] or not routes:
        yield Line("route", f"none: {route['passed_over']}" if route["passed_over"] else "none")
        return
    goes = _goes(decision["parts"])
    title = "route"
    for each in routes:
        label = each["name"] if each["name"] == each["source"] else f"{each['name']}  {each['source']}"
        if each["decides"]:
            yield Line(title, f"{label}  ", f"takes it: {goes}", GOOD)
        else:
            yield Line(title, f"{label}  {'matches as well' if each['matches'] else 'passed over: ' + each['why']}")
        title = ""
    if not route["matched"]:
        yield Line("", f"none of them: {goes}")


def _goes(parts: Sequence[Document]) -> str:
    if len(parts) > 1:
        return ", ".join(f"{percent(part['share'])} to subset {part['subset']}" for part in parts)
    return f"to subset {parts[0]['subset']}" if parts[0]["subset"] else "to all instances"


def _rules(decision: Document) -> Iterator[Line]:
    rules = decision["rules"]
    if not rules:
        yield Line("rules", f"none; {decision['rule']}")
    title = "rules"
    for rule in rules:
        verdict, mood = _verdict(rule)
        yield Line(title, f"{rule['kind']:5}  {rule['source']}  ", verdict, mood)
        title = ""


def _verdict(rule: Document) -> tuple[str, str]:
    if rule["decides"]:
        return ("allows it", GOOD) if rule["kind"] == "allow" else ("denies it", BAD)
    if not rule["matches"]:
        return f"passed over: {rule['why']}", ""
    return (f"would {rule['kind']} it: audit = true", DOUBTFUL) if rule["audit"] else ("matches as well", "")


def _retries(retries: Document, method: str, opaque: bool) -> Iterator[str]:
    policy, given = retries["policy"], retries["policy_from"]
    if policy is not None:
        if retries["method"]:
            conditions = [_LOST] if "reset" in policy["on"] else []
            conditions += [_statuses(retries["statuses"])] if retries["statuses"] else []
            if policy["try_timeout"]:
                conditions.append(f"{format_duration(policy['try_timeout'])} without an answer")
            yield f"{policy['attempts']} at most, by {given}: after {', '.join(conditions) or 'nothing'}"
            yield f"each after a random wait of at most {_waits(retries['waits'])}"
            budget, least = policy["budget"], retries["least"]
            yield f"no more at once than {budget}% of the requests under way, and {least} in any case"
        else:
            yield f"none for {method}: {given} retries {', '.join(policy['methods'])}"
    connecting = f"up to {retries['connecting']} instances are tried until one can be connected to"
    if opaque or (retries["method"] and not retries["reused"]):
        yield connecting
    elif retries["reused"]:
        yield f"{connecting}; {method} is repeated if a used connection breaks before the answer"
    else:
        yield f"{connecting}; {method} is never sent twice"


def _statuses(statuses: Sequence[int]) -> str:
    """Statuses as ranges: "409, 500-599"."""
    ranges: list[list[int]] = []
    for status in statuses:
        if ranges and ranges[-1][1] == status - 1:
            ranges[-1][1] = status
        else:
            ranges.append([status, status])
    texts = [f"{first}" if first == last else f"{first}-{last}" for first, last in ranges]
    return f"status {', '.join(texts)}"


def _waits(waits: Sequence[float]) -> str:
    """How long each retry may wait: one by one, as far as they differ."""
    texts = list(dict.fromkeys(format_duration(wait) for wait in waits))
    return ", ".join(texts)
