"""Tables in Markdown, ready for the README, and the same figures in JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.cases import INSTANCES, SERVICES, Case, Kind
from tests.bench.load import CONNECTIONS, RATE
from tests.bench.measure import Spread, paired_ratio
from tests.bench.peers.peer import Peer
from tests.bench.rounds import DIRECT, Outcome

OURS = "hostproxy"


@dataclass(frozen=True, slots=True)
class Column:
    """One figure."""

    title: str
    figure: str
    spread: bool = False  # lowest and highest round in brackets
    ratio: bool = False  # followed by a column with ours to theirs
    added: bool = False  # less what the client measures without a proxy


_MEMORY = (Column("PSS MiB", "pss_mib"), Column("peak RSS MiB", "peak_mib"))
_PACED = (
    Column("at 1,000/s: CPU us/request", "paced_cpu_us", spread=True),
    Column("p50 ms", "paced_p50_ms"),
    Column("p99 ms", "paced_p99_ms", spread=True),
    Column("added p99 ms", "paced_p99_ms", added=True),
)
_COLUMNS: Mapping[Kind, tuple[Column, ...]] = {
    "http": (
        Column("CPU us/request", "cpu_us", spread=True, ratio=True),
        Column("requests/s", "rate"),
        Column("core used %", "busy_percent"),
        Column("p50 ms", "p50_ms"),
        Column("p99 ms", "p99_ms"),
        *_MEMORY,
    ),
    "tcp": (
        Column("CPU s/GB", "cpu_s_per_gb", spread=True, ratio=True),
        Column("GB/s", "gb_per_second"),
        Column("core used %", "busy_percent"),
        *_MEMORY,
    ),
    "idle": (
        Column("connections", "connections"),
        Column("bytes each", "bytes_each", ratio=True),
        Column("CPU ms/s meanwhile", "idle_cpu_ms"),
        *_MEMORY,
    ),
    "discovery": (
        Column("ms until the worker is told", "told_ms", spread=True),
        Column("ms until it takes traffic", "effect_ms", spread=True),
        Column("longest stall of the supervisor ms", "stall_ms", spread=True),
        Column("of which without a CPU ms", "waited_ms", spread=True),
        Column("PSS MiB of the supervisor", "pss_mib"),
        Column("peak RSS MiB", "peak_mib"),
    ),
    "update": (
        Column("ms until it takes traffic", "effect_ms", spread=True, ratio=True),
        Column("CPU ms", "update_cpu_ms", spread=True, ratio=True),
        *_MEMORY,
    ),
}


def table(case: Case, outcomes: Sequence[Outcome]) -> str:
    """One case as a Markdown table."""
    columns = _COLUMNS[case.kind] + (_PACED if case.paced else ())
    ours = next((each for each in outcomes if each.proxy == OURS), None)
    direct = next((each for each in outcomes if each.proxy == DIRECT), None)
    titles = ["proxy"]
    for column in columns:
        titles.append(column.title)
        if column.ratio:
            titles.append(f"{OURS} / it")
    lines = [f"### {case.title}", "", _row(titles), _row(["---", *["---:"] * (len(titles) - 1)])]
    for outcome in outcomes:
        cells = [outcome.proxy]
        if outcome.absent or outcome.failure:
            cells.append(outcome.absent or f"INVALID: {_one_line(outcome.failure)}")
            cells += [""] * (len(titles) - 2)
        else:
            for column in columns:
                cells.append(_cell(column, outcome, direct))
                if column.ratio:
                    cells.append(_ratio(column.figure, ours, outcome))
        lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:160]


def number(value: float) -> str:
    """Three significant digits, thousands with a comma: ``0.0421``, ``13.5``, ``71,400``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:,.{max(digits, 0)}f}"


def _cell(column: Column, outcome: Outcome, direct: Outcome | None) -> str:
    spread = outcome.spread(column.figure)
    if spread is None:
        return ""
    if column.added:
        base = direct.spread(column.figure) if direct is not None else None
        if base is None or outcome is direct:
            return ""
        return number(spread.median - base.median)
    if column.spread:
        return f"{number(spread.median)} ({number(spread.low)}-{number(spread.high)})"
    return number(spread.median)


def _ratio(figure: str, ours: Outcome | None, theirs: Outcome) -> str:
    ratio = ratio_of(figure, ours, theirs)
    return "" if ratio is None else number(ratio.median)


def ratio_of(figure: str, ours: Outcome | None, theirs: Outcome) -> Spread | None:
    """Ours to theirs, paired by round; None where there is nothing to compare."""
    if ours is None or ours is theirs or ours.failure or theirs.failure:
        return None
    mine, other = ours.samples.get(figure, []), theirs.samples.get(figure, [])
    if not mine or len(mine) != len(other) or min(other) <= 0:
        return None
    return paired_ratio(mine, other)


def document(about: Mapping[str, Any], results: Sequence[tuple[Case, Sequence[Outcome]]]) -> str:
    """Everything that was measured, every round of it, as JSON."""
    cases = []
    for case, outcomes in results:
        ours = next((each for each in outcomes if each.proxy == OURS), None)
        ratios: dict[str, dict[str, Any]] = {}
        for outcome in outcomes:
            found = {figure: ratio_of(figure, ours, outcome) for figure in outcome.samples}
            ratios[outcome.proxy] = {
                figure: dataclasses.asdict(ratio) for figure, ratio in found.items() if ratio is not None
            }
        cases.append(
            {
                "name": case.name,
                "title": case.title,
                "proxies": [
                    {**dataclasses.asdict(outcome), "ours_to_it": ratios[outcome.proxy]}
                    for outcome in outcomes
                ],
            }
        )
    return json.dumps({**about, "cases": cases}, indent=1)


def notes(about: Mapping[str, Any], peers: Sequence[Peer]) -> str:
    """What the tables mean, and what makes them fair."""
    versions = about["versions"]
    lines = [
        f"{about['machine']}; {about['date']}; {about['run_seconds']:.0f} s in all, of whose CPU time other "
        f"programs used {about['others_percent']:.0f} % and the hypervisor stole {about['stolen_percent']:.1f} %. "
        f"Medians of {about['rounds']} interleaved rounds (lowest-highest); ratios are medians of the ratios "
        "within each round.",
        "",
        "- CPU is what the scheduler counted for all processes of a proxy (both proxies of a pair, hostproxy's "
        "supervisors too), all on one core; client and origin have the other. Where 'core used' is well below "
        "100 %, client or origin set the pace, not the proxy. Kernel work that loopback does in the client's "
        "or origin's context is theirs. At 1,000/s both cores sleep between requests, and waking the other "
        "one, dear in a virtual machine, is part of every request.",
        f"- Every proxy: {SERVICES} services x {INSTANCES} instances, routed by Host to one of them, power of "
        "two choices, keep-alive pools upstream, X-Forwarded-For and -Proto set, X-Request-Id kept or made, "
        "X-Forwarded-Client-Cert taken away and after mutual TLS set, statistics on, access log off. TLS 1.3, "
        "both sides verified, P-256, no resumption, HTTP/1.1 inside; OpenSSL's proxies agree on AES-256-GCM, "
        "Envoy's and Traefik's on AES-128-GCM.",
        f"- Client: wrk, {CONNECTIONS} connections, one thread, 500 different requests of ten header fields; "
        f"at {RATE:,}/s an open loop, latency from the moment at which a request was due; '{DIRECT}' is that "
        "client at the origin itself. A single failed or non-200 request makes a row invalid.",
        "- Changes in Consul: hostproxy alone, from a scripted Consul on the client's core. Time runs from when "
        "that is told of the change; the stall is the longest time that a GET of /live, asked every 5 ms, waited.",
        "- PSS and peak RSS (VmHWM) are sums over the processes. Idle connections: growth of PSS, kernel "
        "buffers not included.",
    ]
    lines += [
        f"- {peer.name} {versions[peer.name]}: {peer.notes}." for peer in peers if peer.name in versions
    ]
    return "\n".join(lines)
