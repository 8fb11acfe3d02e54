"""All groups of checks, beside each other and within a time."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from hostproxy.doctor.findings import Around, Finding, Group

# In the order in which they are shown: what comes later often fails because of what comes before.
GROUPS = (
    "configuration",
    "kernel",
    "clock",
    "daemon",
    "ports",
    "certificates",
    "consul",
    "controller",
    "peers",
    "bypasses",
)

Examine = Callable[[Group, Around], None]


def examine(around: Around, names: Sequence[str] = GROUPS) -> list[Finding]:
    """Run these groups until all are done or ``around.deadline`` is there. Those that are not done say so."""
    work = [(Group(name), module(name)) for name in names]
    threads = []
    for group, function in work:
        thread = threading.Thread(target=_run, args=(group, function, around), name=group.name, daemon=True)
        thread.start()
        threads.append(thread)
    findings: list[Finding] = []
    for (group, _), thread in zip(work, threads, strict=True):
        thread.join(max(0.0, around.deadline - time.monotonic()))
        if thread.is_alive():
            group.warn("time", "not all of it was done in the time there was", "give it more: --wait 30s")
        group.close()
        findings += group.findings
    return findings


def module(name: str) -> Examine:
    """What does the checks of a group."""
    function: Examine = importlib.import_module(f"hostproxy.doctor.{name}").examine
    return function


def verdicts(findings: Sequence[Finding]) -> Iterator[tuple[str, int]]:
    """How many there are of each result."""
    for result in ("FAIL", "warn", "ok", "skip"):
        yield result, sum(finding.result == result for finding in findings)


def _run(group: Group, function: Examine, around: Around) -> None:
    try:
        function(group, around)
    except Exception as error:
        # One check that this machine is too strange for must not take the other answers with it.
        group.warn("check", f"could not be finished: {error!r}", "report this with hostproxy debug-bundle")
