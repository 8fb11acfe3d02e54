"""What the daemon says of itself."""

from __future__ import annotations

import os

from hostproxy.doctor import remains
from hostproxy.doctor.findings import Around, Document, Group
from hostproxy.doctor.kernel import limit
from hostproxy.doctor.prometheus import samples

LAG = 1.0  # seconds that an event loop may be late
CROWDED = 0.8  # of the descriptors
RESTARTED = 600.0  # seconds: a worker that is younger than this, and was restarted, has just crashed


def examine(group: Group, around: Around) -> None:
    """Ask it."""
    status = around.status
    if status is None:
        _silent(group, around)
        return
    group.ok("running", f"hostproxy {status['version']}, pid {status['pid']}")
    if status["ready"]:
        group.ok("ready", "it takes traffic")
    for reason in status["reasons"]:
        group.fail("ready", reason, "see hostproxy status")
    _workers(group, status)
    for problem in status["degraded"]:
        group.warn("problems", problem, "see hostproxy status")
    if not status["degraded"]:
        group.ok("problems", "none")
    upgrade(group, status["upgrades"])
    _losses(group, around)
    _descriptors(group, around)


def _silent(group: Group, around: Around) -> None:
    """Of a process that hangs systemd thinks that it runs: starting it once more would do nothing."""
    pid = remains.supervisor(around)
    if pid is not None:
        found = f"process {pid} runs and does not answer: it hangs, unless it has only just started: {around.silence}"
        group.fail("running", found, "systemctl restart hostproxy; workers serve on until then")
    elif around.unit.get("ActiveState") == "active":
        fix = "run it as root; when the daemon hangs: systemctl restart hostproxy"
        group.fail("running", f"{around.silence} (for systemd it is active)", fix)
    else:
        group.fail("running", around.silence, "systemctl start hostproxy; journalctl -u hostproxy says why it ended")


def _workers(group: Group, status: Document) -> None:
    mine = [worker for worker in status["workers"] if worker["place"] >= 0]
    bad = [worker for worker in mine if worker["phase"] not in ("serving", "starting")]
    for worker in bad:
        why = f": {worker['problem']}" if worker["problem"] else ""
        found = f"worker {worker['place']} is {worker['phase']}{why}"
        group.fail("workers", found, "journalctl -u hostproxy; it is started again by itself")
    crashed = [worker for worker in mine if worker["restarts"] and worker["uptime_seconds"] < RESTARTED]
    for worker in crashed:
        found = f"worker {worker['place']} was replaced {worker['restarts']} times, the last time not long ago"
        group.warn("workers", found, "journalctl -u hostproxy says why")
    late = [worker for worker in mine if worker["lag_seconds"] > LAG]
    for worker in late:
        found = f"worker {worker['place']} is {worker['lag_seconds']:.1f} s late"
        group.warn("workers", found, "more [workers] count, or fewer programs on these cores")
    if not (bad or crashed or late):
        group.ok("workers", f"all {len(mine)} serve")


def upgrade(group: Group, upgrades: Document) -> None:
    """Look at how the last one went, as /status has it."""
    if upgrades["problems"]:
        reason = upgrades["problems"][0].partition("\n")[0]
        fix = "put right what journalctl -u hostproxy says of it, or make current the old version again; then reload"
        group.warn("upgrade", f"the last one failed, and the version before runs on: {reason}", fix)
    elif upgrades["running"]:
        group.ok("upgrade", "one is under way")
    else:
        done = upgrades["succeeded"]
        group.ok("upgrade", f"{done} since the last restart, the last one went well" if done else "none yet")


def _losses(group: Group, around: Around) -> None:
    """What was not written, and how often accepting had to pause."""
    figures = samples(around)
    if figures is None:
        group.skip("losses", "its metrics could not be had")
        return
    lost = figures.get("hostproxy_access_log_dropped_total", 0.0)
    paused = figures.get("hostproxy_connections_refused_total", 0.0)
    if lost:
        found = f"{lost:,.0f} lines of the access log were dropped"
        group.warn("losses", found, "a faster disk, or [log.access] sample")
    if paused:
        found = f"accepting paused {paused:,.0f} times for lack of connections or descriptors"
        group.warn("losses", found, "raise [limits] connections, or LimitNOFILE= in the unit")
    if not lost and not paused:
        group.ok("losses", "no log line dropped, no connection made to wait")


def _descriptors(group: Group, around: Around) -> None:
    have, _ = limit(around)
    used = {}
    for pid in around.processes():
        try:
            used[pid] = len(os.listdir(f"{around.proc}/{pid}/fd"))
        except OSError:
            group.skip("descriptors", "only root can count those in use", "run it as root")
            return
    most = max(used.values(), default=0)
    text = f"at most {most:,} in use by one process"
    if have is not None and most > CROWDED * have:
        group.warn("descriptors", f"{text}, of {have:,}", "LimitNOFILE= in the unit, or a lower [limits] idle")
    else:
        group.ok("descriptors", text)
