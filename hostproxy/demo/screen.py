"""The demo's table."""

from __future__ import annotations

import re
from typing import NamedTuple

from hostproxy.demo.load import Tally
from hostproxy.demo.site import TRUST_DOMAIN

CALLER = f"spiffe://{TRUST_DOMAIN}/service/cart"
CALLEE = f"spiffe://{TRUST_DOMAIN}/service/payments"

_PEER = re.compile(r"By=([^;]+);URI=([^;]+)")


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


def table(tally: Tally, rate: float) -> str:
    """The table as text; ``rate`` is calls a second."""
    seen = identities(tally)
    share = 100.0 * (tally.requests - tally.failed_count) / tally.requests if tally.requests else 0.0
    lines = [
        "hostproxy demo: cart on host shop (127.0.1.1) calls payments on host vault (127.0.1.2)",
        "",
        f"  caller     {seen.caller}",
        f"  callee     {seen.callee}",
        f"  between    {'mutual TLS 1.3, both identities verified' if seen.mutual else 'NOT mutual TLS'}",
        "",
        f"  {'requests':>9} {'requests/s':>11} {'success':>8} {'p50':>9} {'p99':>9}",
        f"  {tally.requests:9d} {rate:11.0f} {share:7.2f}%"
        f" {tally.percentile(0.50):6.2f} ms {tally.percentile(0.99):6.2f} ms",
        "",
        f"  {'instance':<12} {'requests':>9} {'share':>7}",
    ]
    answered = tally.instances.total() or 1
    for name, count in sorted(tally.instances.items()):
        lines.append(f"  {name:<12} {count:9d} {100.0 * count / answered:6.1f}%")
    for why, count in tally.failures.most_common(3):
        lines.append(f"  failed {count}: {why}")
    return "\n".join(lines)


def document(tally: Tally) -> dict[str, object]:
    """The same for programs."""
    return {
        "requests": tally.requests,
        "failures": tally.failed_count,
        "mtls": identities(tally).mutual,
        "p50_ms": round(tally.percentile(0.50), 3),
        "p99_ms": round(tally.percentile(0.99), 3),
        "instances": dict(sorted(tally.instances.items())),
    }
