"""The demo's table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hostproxy.demo.load import Tally
from hostproxy.demo.site import TRUST_DOMAIN
from hostproxy.demo.story import Event

CALLER = f"spiffe://{TRUST_DOMAIN}/service/cart"
CALLEE = f"spiffe://{TRUST_DOMAIN}/service/payments"

_PEER = re.compile(r"By=([^;]+);URI=([^;]+)")


class Control(NamedTuple):
    """What is shown of the controller."""

    url: str
    events: Sequence[Event]


class Consul(NamedTuple):
    """What is shown of Consul."""

    title: str  # with its version
    agents: Mapping[str, str]  # by host: where they answer
    instances: Mapping[str, str]  # by name: what is known of them
    events: Sequence[Event]


class Identities(NamedTuple):
    """Who called and who was called, as the certificates of every call proved it."""

    caller: str
    callee: str
    mutual: bool  # every call so far was over mutual TLS, between exactly these two


def identities(tally: Tally) -> Identities:
    """Read what the instances were told. Nothing is assumed: no field, no mutual TLS."""
    pairs = {match.groups() if (match := _PEER.fullmatch(peer)) else ("", "") for peer in tally.peers}
    mutual = pairs == {(CALLEE, CALLER)}
    callee, caller = next(iter(pairs)) if len(pairs) == 1 else ("", "")
    return Identities(caller or "unknown", callee or "unknown", mutual)


def table(tally: Tally, rate: float, control: Control, consul: Consul | None = None) -> str:
    """The table as text; ``rate`` is calls a second."""
    seen = identities(tally)
    share = 100.0 * (tally.requests - tally.failed_count) / tally.requests if tally.requests else 0.0
    lines = [
        "hostproxy demo: cart on host shop (127.0.1.1) calls payments on host vault (127.0.1.2)",
        "",
        f"  caller     {seen.caller}",
        f"  callee     {seen.callee}",
        f"  between    {'mutual TLS 1.3, both identities verified' if seen.mutual else 'NOT mutual TLS'}",
        f"  policy     and certificates come from the controller, {control.url}",
    ]
    if consul is not None:
        agents = " and ".join(f"{url} on {host}" for host, url in consul.agents.items())
        lines.append(f"  found by   {consul.title}: agents {agents}")
    lines += [
        "",
        f"  {'requests':>9} {'requests/s':>11} {'success':>8} {'p50':>9} {'p99':>9}",
        f"  {tally.requests:9d} {rate:11.0f} {share:7.2f}%"
        f" {tally.percentile(0.50):6.2f} ms {tally.percentile(0.99):6.2f} ms",
        "",
        f"  {'instance':<12} {'requests':>9} {'share':>7}" + ("  in Consul" if consul is not None else ""),
    ]
    answered = tally.instances.total() or 1
    for name, count in sorted(tally.instances.items()):
        known = f"  {consul.instances.get(name, '')}" if consul is not None else ""
        lines.append(f"  {name:<12} {count:9d} {100.0 * count / answered:6.1f}%{known}".rstrip())
    for why, count in tally.failures.most_common(3):
        lines.append(f"  failed {count}: {why}")
    events = [*control.events, *(consul.events if consul is not None else ())]
    if events:
        lines += ["", f"  {'shown after':>11} {'calls then':>11} {'failed':>7}  what happened"]
    for event in events:
        lines.append(f"  {event.after:9.1f} s {event.calls:11d} {event.failed:7d}  {event.text}")
    return "\n".join(lines)


def document(tally: Tally, control: Control, consul: Consul | None = None) -> dict[str, object]:
    """The same for programs."""
    found: dict[str, object] = {
        "requests": tally.requests,
        "failures": tally.failed_count,
        "mtls": identities(tally).mutual,
        "p50_ms": round(tally.percentile(0.50), 3),
        "p99_ms": round(tally.percentile(0.99), 3),
        "instances": dict(sorted(tally.instances.items())),
        "controller": {"url": control.url, "events": _events(control.events)},
    }
    if consul is not None:
        found["consul"] = {
            "title": consul.title,
            "agents": dict(consul.agents),
            "events": _events(consul.events),
        }
    return found


def _events(events: Sequence[Event]) -> list[dict[str, object]]:
    return [
        {
            "event": event.text,
            "shown_after_seconds": round(event.after, 3),
            "requests": event.calls,
            "failures": event.failed,
        }
        for event in events
    ]
