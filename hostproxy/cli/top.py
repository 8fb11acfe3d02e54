"""``hostproxy top``: how much goes from whom to whom on this host, how well and how fast, renewed every second."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from math import isinf

import msgspec

from hostproxy.cli import admin
from hostproxy.cli.admin import BOLD, RED, UNREACHABLE, USAGE, YELLOW, YES, Document, Paint, Unreachable, shown
from hostproxy.cli.rates import SORTS, Rates, Row, TcpRow, between
from hostproxy.mesh.units import Wrong, parse_duration

PARTLY = 4
SHORTEST, LONGEST = 0.2, 3600.0  # seconds of an interval
AGAIN = 0.2  # seconds until the next look when workers have not reported anew
PATIENCE = 10.0  # seconds of such looks
OLDER = 5  # times in a row that the daemon may be out of reach: an upgrade or restart

HEAD = ("DIR", "CALLER", "SERVICE", "REQ/S", "SUCCESS", "DENIED/S", "P50", "P95", "P99", "ACTIVE", "IN/S", "OUT/S")
TCP_HEAD = ("DIR", "CALLER", "TCP SERVICE", "OPEN", "OPENED/S", "CLOSED/S", "IN/S", "OUT/S")

# Terminals: to the first column of the first row; clear to the end of the line; clear below; hide and show the cursor.
HOME, CLEAR_LINE, CLEAR_BELOW, HIDE, SHOW = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[?25l", "\x1b[?25h"
CLEAR = "\x1b[2J"


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("--sort", choices=tuple(SORTS), default="requests", help="largest first by this (requests)")
    parser.add_argument("--interval", metavar="TIME", default="1s", help="between two looks (1s)")
    parser.add_argument("--once", action="store_true", help="one table, of one interval")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form (text)")
    admin.configure_address(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show it. 0: done, or Ctrl-C; 2: wrong usage; 3: out of reach; 4: no worker reports."""
    try:
        address = admin.address_of(arguments.admin, arguments.config)
        interval = parse_duration(arguments.interval)
        if not SHORTEST <= interval <= LONGEST:
            raise Wrong("is not between 200ms and 1h")
    except Wrong as wrong:
        sys.stderr.write(f"--interval {arguments.interval}: {wrong}\n")
        return USAGE
    except ValueError as problem:
        sys.stderr.write(f"{problem}\n")
        return USAGE
    on_terminal = sys.stdout.isatty() and not arguments.once and arguments.output == "text"
    try:
        return _watch(arguments, address, interval, on_terminal)
    except Unreachable as problem:
        sys.stderr.write(f"{address}: {problem}\n")
        return UNREACHABLE
    except KeyboardInterrupt:
        return YES  # the ordinary end
    except BrokenPipeError:  # who reads us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return YES
    finally:
        if on_terminal:
            sys.stdout.write(SHOW)
            sys.stdout.flush()


def _watch(arguments: argparse.Namespace, address: str, interval: float, on_terminal: bool) -> int:
    if on_terminal:
        sys.stdout.write(HIDE + CLEAR)
    paint = admin.painter()
    for document, rates in looks(address, interval):
        if rates is None:
            sys.stderr.write("no worker reports: see hostproxy status\n")
            return PARTLY
        rates.rows.sort(key=lambda row: (-SORTS[arguments.sort](row), row[:3]))
        if arguments.output == "json":
            sys.stdout.write(msgspec.json.encode(as_document(document, rates)).decode() + "\n")
        elif on_terminal:
            sys.stdout.write(_screen(list(lines(document, rates, paint))))
        else:
            sys.stdout.writelines(line + "\n" for line in lines(document, rates, paint))
        sys.stdout.flush()
        if arguments.once:
            break
    return YES


def looks(address: str, interval: float) -> Iterator[tuple[Document, Rates | None]]:
    """What happened in each interval; None as the last one when workers report no more. Raises Unreachable."""
    before = _ask(address)
    failed = 0
    due = time.monotonic() + interval
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            after = _ask(address)
        except Unreachable:
            failed += 1
            if failed >= OLDER:
                raise
            due = time.monotonic() + interval
            continue
        failed = 0
        if after["started"] != before["started"]:
            before, due = after, time.monotonic() + interval
            continue
        rates = between(before, after)
        if rates is not None and rates.seconds >= min(interval, 1.0) / 2:
            yield after, rates
            before, due = after, max(due + interval, time.monotonic())
        elif time.monotonic() > due + PATIENCE:
            yield after, None
            return
        else:
            time.sleep(AGAIN)


def _ask(address: str) -> Document:
    return admin.fetch(address, "/traffic", "bounds", admin.DEFAULT_TIMEOUT)[1]


def as_document(document: Document, rates: Rates) -> Document:
    """One look as JSON has it: rates per second, times in seconds; what nothing is known of is null."""
    return {
        "now": document["now"],
        "seconds": rates.seconds,
        "total": _fields(rates.total),
        "requests": [_fields(row) for row in rates.rows],
        "tcp": [row._asdict() for row in rates.tcp],
        "retries": rates.retries,
        "malformed": rates.malformed,
        "connections": document["connections"],
    }


def _fields(row: Row) -> Document:
    """A quantile above the last bound of the histogram is null as well."""
    return {name: None if isinstance(value, float) and isinf(value) else value for name, value in row._asdict().items()}


def _screen(content: list[str]) -> str:
    """A whole terminal: what was there before goes without a flicker."""
    columns, rows = os.get_terminal_size(sys.stdout.fileno())
    if len(content) > rows - 1:
        hidden = len(content) - (rows - 2)
        content = [*content[: rows - 2], f"... {hidden} more lines: a higher terminal, or --once, has them"]
    return HOME + "".join(f"{_fit(line, columns)}{CLEAR_LINE}\n" for line in content) + CLEAR_BELOW


def _fit(line: str, columns: int) -> str:
    """Lines with colours are short."""
    return line if "\x1b" in line else line[:columns]


def lines(document: Document, rates: Rates, paint: Paint) -> Iterator[str]:
    """One look as text."""
    total, connections = rates.total, document["connections"]
    serving = sum(worker["phase"] == "serving" for worker in document["workers"])
    clock = time.strftime("%H:%M:%SZ", time.gmtime(document["now"]))
    yield (
        f"{paint(shown(document['name']), BOLD)}  hostproxy {document['version']}  {clock}"
        f"  workers serving: {serving} of {len(document['workers'])}  interval {rates.seconds:.1f} s"
    )
    success = _share(total.success)
    if total.success is not None and total.success < 1:
        success = paint(success, RED if total.success < 0.99 else YELLOW)
    yield (
        f"requests {total.requests:.1f}/s  success {success}  denied {total.denied:.1f}/s"
        f"  retries {rates.retries:.1f}/s  malformed {rates.malformed:.1f}/s"
        f"  p50 {_time(total.p50)}  p99 {_time(total.p99)}"
    )
    yield (
        f"connections: {connections['downstream']} accepted, {connections['upstream_active']} to endpoints in use,"
        f" {connections['upstream_idle']} idle"
    )
    yield ""
    yield from admin.table(HEAD, [_cells(row) for row in rates.rows])
    yield from admin.table(TCP_HEAD, [_tcp_cells(row) for row in rates.tcp])


_WAYS = {"inbound": "in", "outbound": "out"}


def _cells(row: Row) -> tuple[object, ...]:
    return (
        _WAYS[row.direction],
        row.caller,
        row.service,
        round(row.requests, 1),
        _share(row.success),
        round(row.denied, 1),
        *(_time(each) for each in (row.p50, row.p95, row.p99)),
        row.active,
        _bytes(row.received),
        _bytes(row.sent),
    )


def _tcp_cells(row: TcpRow) -> tuple[object, ...]:
    return (
        _WAYS[row.direction],
        row.caller,
        row.service,
        row.open,
        round(row.opened, 1),
        round(row.closed, 1),
        _bytes(row.received),
        _bytes(row.sent),
    )


def _share(value: float | None) -> str:
    """Never rounded up to all."""
    if value is None:
        return "-"
    return "100%" if value == 1 else f"{min(value * 100, 99.99):.2f}%"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if isinf(seconds):
        return ">10s"
    return f"{seconds * 1000:.1f}ms" if seconds < 1 else f"{seconds:.1f}s"


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f}{unit}"
        number /= 1024
    return f"{number:.1f}GiB"
