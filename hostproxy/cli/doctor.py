"""``hostproxy doctor``: everything that could be wrong with this host, looked at at once."""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from hostproxy.cli import admin
from hostproxy.cli.admin import BOLD, GREEN, NO, RED, YELLOW, YES, Document, Paint, Unreachable, shown
from hostproxy.mesh.units import Wrong, parse_duration

if TYPE_CHECKING:
    from hostproxy.config import Config
    from hostproxy.doctor.findings import Finding, User

UNIT = "hostproxy.service"
CREDENTIALS = f"/run/credentials/{UNIT}"  # of systemd 250 and newer, while the unit runs
WAIT = 5.0  # seconds for everything
COLOURS = {"ok": GREEN, "warn": YELLOW, "FAIL": RED, "skip": ""}
_PROPERTIES = (
    *("LoadState", "ActiveState", "SubState", "Result", "UnitFileState", "NRestarts", "WatchdogUSec", "User"),
    *("LimitNOFILE", "AmbientCapabilities", "NeedDaemonReload"),
    *("RuntimeDirectory", "StateDirectory", "LogsDirectory"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    from hostproxy.doctor.examination import GROUPS

    parser.add_argument(
        "-c", "--config", metavar="FILE", default=admin.DEFAULT_PATH, help=f"conf.toml ({admin.DEFAULT_PATH})"
    )
    parser.add_argument(
        "--group", metavar="GROUP", action="append", choices=GROUPS, help=f"only these checks: {', '.join(GROUPS)}"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form (text)")
    parser.add_argument("--wait", metavar="TIME", type=_time, default=WAIT, help="how long it may take (5s)")
    parser.add_argument("-q", "--quiet", action="store_true", help="show only what is not ok")


def run(arguments: argparse.Namespace) -> int:
    """Examine. 0: nothing fails; 1: something does, a daemon that is not running included; 2: wrong usage."""
    try:
        findings = examine(arguments.config, arguments.wait, arguments.group)
    except OSError as error:
        sys.stderr.write(f"{arguments.config}: {error.strerror}\n")
        return admin.USAGE
    if arguments.output == "json":
        sys.stdout.write(msgspec.json.encode(_document(findings)).decode() + "\n")
    else:
        in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")  # no-color.org
        for line in lines(findings, _coloured if in_colour else _plain, arguments.quiet):
            sys.stdout.write(line + "\n")
    return NO if any(finding.result == "FAIL" for finding in findings) else YES


def examine(path: str, wait: float = WAIT, groups: Sequence[str] | None = None) -> list[Finding]:
    """Run the checks of ``groups`` (all) for a conf.toml, in ``wait`` seconds at most. Raises OSError: no such file."""
    from hostproxy import config
    from hostproxy.cli import check
    from hostproxy.doctor.examination import GROUPS
    from hostproxy.doctor.examination import examine as examine_groups
    from hostproxy.doctor.findings import Around, Group
    from hostproxy.mesh.document import Invalid

    deadline = time.monotonic() + wait
    take_credentials()
    os.stat(path)  # that there is none is another mistake than that it is wrong
    try:
        loaded, _ = config.examine(path)
    except Invalid as invalid:
        group = Group("configuration")
        for problem in invalid.problems:
            group.fail("valid", str(problem), problem.hint or "see hostproxy check")
        group.skip("rest", "nothing else can be looked at before")
        return group.findings
    report, _ = check.examine(path)
    unit = _unit(min(2.0, wait / 2))
    address = loaded.admin.listen or admin.DEFAULT_ADDRESS
    status, silence = None, ""
    try:
        _, status = admin.fetch(address, "/status", "ready", max(0.1, min(3.0, wait / 2)))
    except Unreachable as unreachable:
        silence = f"{address}: {unreachable}"

    def ask(page: str, key: str) -> Document | None:
        if status is None:
            return None
        try:
            return admin.fetch(address, page, key, around.left())[1]
        except Unreachable:
            return None

    around = Around(
        config=loaded,
        problems=tuple(report.problems),
        warnings=tuple(report.warnings),
        status=status,
        silence=silence,
        ask=ask,
        user=_user(status, unit, loaded),
        unit=unit,
        deadline=deadline,
    )
    return examine_groups(around, [name for name in GROUPS if not groups or name in groups])


def take_credentials() -> None:
    """Look at what systemd has given the unit, where we may: at what the daemon reads, not at what it was made of."""
    if os.access(CREDENTIALS, os.R_OK | os.X_OK):
        os.environ.setdefault("CREDENTIALS_DIRECTORY", CREDENTIALS)


def lines(findings: Iterable[Finding], paint: Paint, quiet: bool = False) -> Iterable[str]:
    """The report as text."""
    findings = list(findings)
    shown_ones = [finding for finding in findings if not quiet or finding.result in ("warn", "FAIL")]
    width = max((len(finding.check) for finding in shown_ones), default=0)
    for name, several in itertools.groupby(shown_ones, key=lambda finding: finding.group):
        yield paint(name, BOLD)
        see = ""
        for finding in several:
            result = paint(finding.result.ljust(4), COLOURS[finding.result])
            yield f"  {result}  {finding.check.ljust(width)}  {shown(finding.found)}"
            if finding.fix:
                yield f"          {' ' * width}fix: {shown(finding.fix)}"
            see = finding.see or see
        if see:
            yield f"          {' ' * width}see: {see}"
        yield ""
    counts = {result: sum(finding.result == result for finding in findings) for result in COLOURS}
    parts = [f"{counts['FAIL']} FAIL", f"{counts['warn']} warn", f"{counts['ok']} ok"]
    if counts["skip"]:
        parts.append(f"{counts['skip']} not looked at")
    yield ", ".join(parts)


def _document(findings: Sequence[Finding]) -> Mapping[str, object]:
    from hostproxy.doctor.examination import verdicts

    return {
        "ok": not any(finding.result == "FAIL" for finding in findings),
        "counts": dict(verdicts(findings)),
        "findings": findings,
    }


def _coloured(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if colour else text


def _plain(text: str, colour: str) -> str:
    return text


def _time(text: str) -> float:
    try:
        value = float(text) if text.isdecimal() else parse_duration(text)
    except Wrong as wrong:
        raise argparse.ArgumentTypeError(f"{text} {wrong}") from None
    if not 0.5 <= value <= 300.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.5s and 5m")
    return value


def _unit(timeout: float, run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run) -> dict[str, str]:
    """What systemd knows of the unit; empty where there is no systemd."""
    if not os.path.isdir("/run/systemd/system"):
        return {}
    command = ["systemctl", "show", UNIT, f"--property={','.join(_PROPERTIES)}"]
    try:
        done = run(command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def _user(status: Document | None, unit: Mapping[str, str], loaded: Config) -> User:
    """Whom the daemon runs as: as the kernel says while it runs, else as its unit says, else we ourselves."""
    import pwd

    from hostproxy.doctor.findings import User

    if status is not None:
        try:
            with open(f"/proc/{status['pid']}/status", encoding="utf-8") as file:
                fields = dict(line.split(":", 1) for line in file if ":" in line)
        except OSError:
            pass
        else:
            groups = {int(fields["Gid"].split()[1]), *map(int, fields["Groups"].split())}
            return User(int(fields["Uid"].split()[1]), frozenset(groups), "of the daemon")
    if unit.get("LoadState") == "loaded" and unit.get("User"):
        try:
            entry = pwd.getpwnam(unit["User"])
        except KeyError:
            pass
        else:
            return User(entry.pw_uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)), "of the unit")
    return User(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}), "who asks")
