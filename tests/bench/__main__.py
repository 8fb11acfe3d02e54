"""``python -m tests.bench``: run the comparison and print its tables.

Exit status: 0 measured; 2 wrong usage; 4 a request failed, or a proxy that had to be there was not.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import certificates, discovery, origin, pump, report
from tests.bench.cases import CASES, SERVICES, Case
from tests.bench.measure import Watch
from tests.bench.peers.envoy import Envoy
from tests.bench.peers.haproxy import HAProxy
from tests.bench.peers.hostproxy import Hostproxy, Routed
from tests.bench.peers.nginx import Nginx
from tests.bench.peers.peer import Peer, installed
from tests.bench.peers.traefik import Traefik
from tests.bench.processes import Failed, Processes, raise_descriptor_limit
from tests.bench.rounds import Outcome, Plan, run
from tests.bench.stage import Stage, service_names

PEERS: tuple[Peer, ...] = (Hostproxy(), HAProxy(), Nginx(), Envoy(), Traefik())
_TOOLS = {"wrk": "apt install wrk", "nginx": "apt install nginx"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    cases = _cases(arguments.case, quick=arguments.quick)
    if not cases:
        parser.error(
            f"no such case: {' '.join(arguments.case)} (there are: {', '.join(c.name for c in CASES)})"
        )
    peers = [peer for peer in PEERS if not arguments.proxy or peer.name in arguments.proxy]
    tools = [f"{tool} is missing: {remedy}" for tool, remedy in _TOOLS.items() if not installed(tool)]
    if tools:
        parser.error("; ".join(tools))
    if not any(peer.name == report.OURS for peer in peers):
        cases = [case for case in cases if case.kind != "discovery" and not case.routed]
    protocols = {case.protocol for case in cases}
    absent = sorted(
        {f"{peer.name} {peer.absent(each)}" for peer in peers for each in protocols if peer.absent(each)}
    )
    if absent and (arguments.require or os.environ.get("CI")):
        print("; ".join(absent), file=sys.stderr)
        return 4
    plan = Plan(
        arguments.rounds or (3 if arguments.quick else 5), arguments.seconds or (1 if arguments.quick else 2)
    )
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        results, about = _measure(cases, peers, plan)
    except KeyboardInterrupt:
        return 130
    except Failed as error:
        print(error, file=sys.stderr)
        return 4
    if arguments.json:
        Path(arguments.json).write_text(report.document(about, results))
    invalid = [
        f"{outcome.proxy} in {case.name}: {outcome.failure}"
        for case, outcomes in results
        for outcome in outcomes
        if outcome.failure
    ]
    for line in invalid:
        print(f"INVALID: {line}", file=sys.stderr)
    return 4 if invalid else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the main cases alone, 3 rounds of 1 second")
    parser.add_argument(
        "--case", nargs="+", default=[], metavar="NAME", help="cases, or patterns like 'two-hops*'"
    )
    parser.add_argument("--proxy", nargs="+", default=[], choices=[p.name for p in PEERS], metavar="NAME")
    parser.add_argument("--rounds", type=int, help="5, with --quick 3")
    parser.add_argument("--seconds", type=int, help="of one round: 2, with --quick 1; minor cases take half")
    parser.add_argument("--json", metavar="FILE", help="write every figure of every round there")
    parser.add_argument(
        "--require", action="store_true", help="status 4 when a proxy is absent (as with CI set)"
    )
    return parser


def _cases(patterns: Sequence[str], *, quick: bool) -> list[Case]:
    if patterns:
        return [case for case in CASES if any(fnmatch.fnmatch(case.name, each) for each in patterns)]
    return [case for case in CASES if case.main or not quick]


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _measure(
    cases: Sequence[Case], peers: Sequence[Peer], plan: Plan
) -> tuple[list[tuple[Case, list[Outcome]]], dict[str, Any]]:
    """Run the cases, printing each table as soon as it is there."""
    cores = sorted(os.sched_getaffinity(0))
    descriptors = raise_descriptor_limit()
    os.sched_setaffinity(0, {cores[0]})
    about = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "machine": f"{_processor()}, {len(cores)} cores, Linux {platform.release()}",
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "versions": {peer.name: peer.version() for peer in peers if peer.binary()},
    }
    results: list[tuple[Case, list[Outcome]]] = []
    began, watch = time.monotonic(), Watch()
    with Processes() as processes:
        stage = _stage(processes, cores[0], cores[-1], descriptors)
        for case in cases:
            if case.kind == "discovery":
                outcomes = discovery.run(case, stage, plan)
            else:
                outcomes = run(case, (Hostproxy(), Routed()) if case.routed else peers, stage, plan)
            results.append((case, outcomes))
            print(report.table(case, outcomes), end="\n\n", flush=True)
    disturbance = watch.disturbance()
    about["stolen_percent"] = 100 * disturbance.stolen
    about["others_percent"] = 100 * disturbance.others
    about["run_seconds"] = time.monotonic() - began
    print(report.notes(about, peers))
    return results, about


def _stage(processes: Processes, load_core: int, proxy_core: int, descriptors: int) -> Stage:
    nginx = installed("nginx")
    assert nginx is not None
    ports = origin.Ports()
    stage = Stage(
        processes,
        certificates.make(processes.directory / "certificates", service_names(SERVICES)),
        ports,
        ports.take(),
        ports.take(),
        load_core,
        proxy_core,
        descriptors,
    )
    origin.start(processes, nginx, stage.origin_port, load_core)
    pump.start(processes, origin.ADDRESSES[0], stage.pump_port, load_core)
    return stage


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
