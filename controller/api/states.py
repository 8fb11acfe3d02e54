"""How a host stands, for people."""

from __future__ import annotations

from typing import Any

from controller.api.interfaces import Wanted
from controller.api.parts import Parts
from controller.policy.generations import Version
from controller.registry.denied import Denial
from controller.registry.hosts import REPORT_KEPT, Host, Report

# Seconds without a report. Another controller learns of one that says nothing new only after REPORT_KEPT.
AWAY = REPORT_KEPT + 120.0


def state(report: Report | None, wanted: Wanted | None, now: float) -> str:
    """AWAY: not heard of. ERROR: it refused what it was told, or has a problem. STALE: not there yet. Else SYNCED."""
    if report is None or now - report.at > AWAY:
        return "AWAY"
    found = report.report
    if found.state in ("refused", "reverted") or found.expired:
        return "ERROR"
    has = Version(found.epoch, found.generation)
    if wanted is not None and has != wanted.version:
        return "STALE"
    return "ERROR" if found.problems else "SYNCED"


def row(
    parts: Parts, host: Host, report: Report | None, wanted: Wanted | None, denial: Denial | None
) -> dict[str, Any]:
    """One host in the list. Times are Unix seconds."""
    now = parts.now()
    found = report.report if report is not None else None
    ends = min(found.certificates.values(), default=None) if found is not None else None
    return {
        "name": host.name,
        "state": state(report, wanted, now),
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
        "problems": list(found.problems) if found is not None else [],
        "push_problem": parts.distribution.failures.get(host.name, ""),
    }
