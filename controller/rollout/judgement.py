"""What becomes of a wave, from what hosts report. Pure functions; times are seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from controller.rollout.plan import Bounds, Plan
from hostproxy.mesh.messages import Figures, HostReport

Act = Literal["wait", "advance", "stop"]
SHOWN = 5  # hosts named in a reason


class Judgement(NamedTuple):
    """What to do, and why."""

    act: Act
    reason: str


class Seen(NamedTuple):
    """The newest report of a host, and when it came."""

    report: HostReport
    at: float


def judge(
    plan: Plan,
    version: tuple[int, int],
    wave: Iterable[str],
    others: Iterable[str],
    seen: Mapping[str, Seen],
    began: float,
    now: float,
) -> Judgement:
    """Whether a ``wave`` that was told ``version`` at ``began`` goes on.

    ``others`` still have the generation before: they are what it is compared with.
    """
    wave = tuple(wave)
    for host in wave:
        report = seen[host].report if host in seen else None
        if report is not None and report.refused == version and report.state in ("refused", "reverted"):
            problems = "; ".join(report.problems[:3]) or "it gave no reason"
            verb = "refuses it" if report.state == "refused" else "went back by itself"
            return Judgement("stop", f"{host} {verb}: {problems}")
    missing = [host for host in wave if not _has(seen.get(host), version)]
    if missing:
        if now - began > plan.patience:
            return Judgement("stop", f"no acknowledgement within {plan.patience:g} s from {_some(missing)}")
        return Judgement("wait", f"{len(missing)} of {len(wave)} hosts have not acknowledged: {_some(missing)}")
    fault = compare(
        plan.bounds,
        [seen[host].report.figures for host in wave],
        [seen[host].report.figures for host in others if host in seen],
    )
    if fault:
        return Judgement("stop", fault)
    if now - began < plan.hold:
        return Judgement("wait", f"held for {plan.hold - (now - began):.0f} s more")
    # A report of before its end tells nothing about the last seconds.
    silent = [host for host in wave if seen[host].at < began + plan.hold]
    if silent and now - began > plan.hold + plan.patience:
        return Judgement("stop", f"no report since the hold was over from {_some(silent)}")
    if silent:
        return Judgement("wait", f"a last report is missing from {_some(silent)}")
    return Judgement("advance", "every host has it and is well")


def compare(bounds: Bounds, wave: Iterable[Figures], others: Iterable[Figures]) -> str:
    """What is worse in the wave than with the others, beyond the bounds; "" when nothing is."""
    mine, theirs = _sum(wave), _sum(others)
    if mine.requests < bounds.least_requests:
        return ""
    # Without anybody to compare with, what is common sense: nothing fails, nothing is refused.
    known = theirs.requests >= bounds.least_requests
    failing, before = _share(mine.failures, mine), _share(theirs.failures, theirs) if known else 0.0
    if failing > before + bounds.success_drop:
        return f"{failing:.1%} of the requests fail, {_beside(before, known)}"
    denied, before = _share(mine.denied, mine), _share(theirs.denied, theirs) if known else 0.0
    if denied > before + bounds.denied_rise:
        return f"{denied:.1%} of the requests are refused by policy, {_beside(before, known)}"
    if known and mine.p99 > max(bounds.p99_floor, theirs.p99 * bounds.p99_factor):
        return f"one request in a hundred takes {mine.p99 * 1000:.0f} ms or more, {theirs.p99 * 1000:.0f} ms elsewhere"
    return ""


def _has(seen: Seen | None, version: tuple[int, int]) -> bool:
    report = seen.report if seen is not None else None
    return report is not None and report.state == "applied" and (report.epoch, report.generation) == version


def _sum(figures: Iterable[Figures]) -> Figures:
    """All together; the p99 of the worst, among those with requests."""
    each = list(figures)
    return Figures(
        requests=sum(one.requests for one in each),
        failures=sum(one.failures for one in each),
        denied=sum(one.denied for one in each),
        p99=max((one.p99 for one in each if one.requests), default=0.0),
    )


def _share(part: int, figures: Figures) -> float:
    return part / figures.requests if figures.requests else 0.0


def _beside(before: float, known: bool) -> str:
    return f"{before:.1%} elsewhere" if known else "and there is nothing to compare with"


def _some(hosts: list[str]) -> str:
    more = f" and {len(hosts) - SHOWN} more" if len(hosts) > SHOWN else ""
    return ", ".join(hosts[:SHOWN]) + more
