"""How a host stands, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controller.api.parts import Parts
from controller.evidence import Claims
from controller.policy.generations import Version
from controller.registry.denied import Denial
from controller.registry.hosts import REPORT_KEPT, Host, Report, ahead
from controller.rollout.view import Wanted

# Seconds without a report. Another controller learns of one that says nothing new only after REPORT_KEPT.
AWAY = REPORT_KEPT + 120.0

RESTORED = (
    "if the store was restored from a backup, hostproxy-controller policy raise-epoch;"
    " if not, deny the host, which says what is not true"
)
LIES = "deny them, unless the store was restored from a backup and they cannot be reached: then raise-epoch"
DIFFERS = (
    "it has this generation with other content than this controller makes of it: two controllers disagree, or the"
    " store was restored from a backup; hostproxy-controller policy raise-epoch makes all hosts take what is here"
)


def named(hosts: Sequence[str]) -> str:
    """The first, and how many more."""
    return hosts[0] if len(hosts) == 1 else f"{hosts[0]} and {len(hosts) - 1} more hosts"


def restored(claims: Claims) -> str:
    """Why nothing can be applied when hosts have shown later generations; "" when they have not."""
    if not claims.believed:
        return ""
    more = len(claims.shown) + len(claims.others) - 1
    others = f", and {more} more hosts say to have one" if more else ""
    return (
        f"{claims.shown[0]} has shown a generation that this controller never made{others}: the store was restored from"
        " a backup; hostproxy-controller policy raise-epoch"
    )


def state(report: Report | None, wanted: Wanted | None, newest: Version | None, now: float) -> str:
    """AWAY: not heard of. ERROR: it refused what it was told, or has a problem. STALE: not there yet. Else SYNCED.

    ``newest`` is the latest generation that there is.
    """
    if report is None or now - report.at > AWAY:
        return "AWAY"
    found = report.report
    if found.state in ("refused", "reverted") or found.expired or ahead(report, newest) or report.differs:
        return "ERROR"
    has = Version(found.epoch, found.generation)
    if wanted is not None and has != wanted.version:
        return "STALE"
    return "ERROR" if found.problems else "SYNCED"


def row(
    parts: Parts,
    host: Host,
    report: Report | None,
    wanted: Wanted | None,
    newest: Version | None,
    denial: Denial | None,
) -> dict[str, Any]:
    """One host in the list. Times are Unix seconds."""
    now = parts.now()
    found = report.report if report is not None else None
    ends = min(found.certificates.values(), default=None) if found is not None else None
    return {
        "name": host.name,
        "state": state(report, wanted, newest, now),
        "denied": denial is not None,
        "denied_because": denial.reason if denial is not None else "",
        "address": report.address if report is not None else "",
        "version": found.software if found is not None else "",
        "epoch": found.epoch if found is not None else 0,
        "generation": found.generation if found is not None else 0,
        "wanted": wanted.version.generation if wanted is not None else 0,
        "confirmed": found.confirmed if found is not None else False,
        "reported": report.at if report is not None else None,
        "certificate_ends": ends if ends is not None else host.leaf.not_after if host.leaf is not None else None,
        "enrolled": host.enrolled,
        "problems": _problems(report, newest),
        "push_problem": parts.distribution.failures.get(host.name, ""),
    }


def _problems(report: Report | None, newest: Version | None) -> list[str]:
    if report is None:
        return []
    found = list(report.report.problems)
    if report.differs:
        found.insert(0, DIFFERS)
    if ahead(report, newest):
        has = Version(report.report.epoch, report.report.generation)
        found.insert(0, f"it has generation {has}, which this controller never made: {RESTORED}")
    return found
