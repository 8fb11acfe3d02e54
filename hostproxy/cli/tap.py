"""``hostproxy tap``: live requests of this host as they end, one line each."""

from __future__ import annotations

import argparse
import http.client
import os
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import msgspec

from hostproxy.cli import admin
from hostproxy.cli.admin import NO, RED, USAGE, YELLOW, YES, Document, Paint, Unreachable, shown
from hostproxy.cli.log_level import status_of
from hostproxy.mesh.units import Wrong, parse_duration

PARTLY = 4
LATE = 15.0  # seconds that the daemon may be late with the end
WITH_VALUE = ("service", "caller", "direction", "method", "path", "status", "peer", "slower", "duration")
WITHOUT = ("denied", "tcp", "headers")
RECORDS = frozenset(("request", "open", "close"))


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("--service", metavar="SERVICE", help="only calls of it")
    parser.add_argument("--caller", metavar="SERVICE", help="only calls by it")
    parser.add_argument("--direction", choices=("inbound", "outbound"), help="only what comes in, or goes out")
    parser.add_argument("--method", metavar="METHOD", help="only requests with it")
    parser.add_argument("--path", metavar="PREFIX", help="only requests whose path begins so")
    parser.add_argument("--status", metavar="STATUS", help="only requests answered so: 503, or a class: 5xx")
    parser.add_argument("--peer", metavar="ADDRESS", help="only what came from, or was sent to, this IP, or IP:PORT")
    parser.add_argument("--slower", metavar="TIME", help="only what took longer: 200ms")
    parser.add_argument("--denied", action="store_true", help="only what policy denied")
    parser.add_argument("--tcp", action="store_true", help="only TCP connections")
    parser.add_argument("--headers", action="store_true", help="with header fields; values that may be secrets are not")
    parser.add_argument("--count", metavar="N", type=_count, default=0, help="end after so many")
    parser.add_argument("--duration", metavar="TIME", help="end after this long (1h, which is the longest)")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form (text)")
    admin.configure_address(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show them. 0: some came; 1: none did, or not permitted; 2: wrong usage; 3: out of reach; 4: the daemon left."""
    try:
        address = admin.address_of(arguments.admin, arguments.config)
        limit = parse_duration(arguments.duration) if arguments.duration else 3600.0
    except Wrong as wrong:
        sys.stderr.write(f"--duration {arguments.duration}: {wrong}\n")
        return USAGE
    except ValueError as problem:
        sys.stderr.write(f"{problem}\n")
        return USAGE
    connection = admin.connect(address, admin.DEFAULT_TIMEOUT)
    try:
        response = begin(connection, arguments)
        if connection.sock is not None:
            connection.sock.settimeout(limit + LATE)
        return _show(arguments, response)
    except Unreachable as problem:
        sys.stderr.write(f"{address}: {problem}\n")
        return status_of(problem)
    except KeyboardInterrupt:
        return YES  # the ordinary end
    except BrokenPipeError:  # who reads us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return YES
    finally:
        connection.close()


def begin(connection: http.client.HTTPConnection, arguments: argparse.Namespace) -> http.client.HTTPResponse:
    """The answer of the daemon, whose body is the requests. Raises Unreachable."""
    query = {name: getattr(arguments, name) for name in WITH_VALUE if getattr(arguments, name) is not None}
    query |= {name: "" for name in WITHOUT if getattr(arguments, name)}
    timeout = admin.DEFAULT_TIMEOUT
    response = admin.ask(connection, "GET", f"/tap?{urlencode(query)}", timeout)
    if response.status != 200:
        try:
            reason = msgspec.json.decode(admin.read(response, timeout), type=Document)["error"]
        except (msgspec.DecodeError, KeyError):
            reason = "is this hostproxy's [admin] listen?"
        raise admin.Refused(response.status, shown(reason))
    return response


def _show(arguments: argparse.Namespace, response: http.client.HTTPResponse) -> int:
    paint = admin.painter()
    count = 0
    for line in _lines(response):
        event: dict[str, Any] = msgspec.json.decode(line)
        kind = event["event"]
        if arguments.output == "json":
            sys.stdout.write(line.decode())
            sys.stdout.flush()
        elif kind in RECORDS:
            sys.stdout.writelines(each + "\n" for each in text(event, paint))
            sys.stdout.flush()
        if kind == "begin":
            sys.stderr.write(f"watching {event['workers']} workers; Ctrl-C ends it\n")
        elif kind == "dropped":
            sys.stderr.write(f"{event['records']} more fitted and are not shown: too many at once; filter more\n")
        elif kind == "end":
            return YES if count else NO
        elif kind in RECORDS:
            count += 1
            if count == arguments.count:
                return YES
    sys.stderr.write("the daemon has ended it: it stopped, was upgraded, or waited too long for this command to read\n")
    return PARTLY


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            line = response.readline()
        except BrokenPipeError:
            return
        except (OSError, http.client.HTTPException):
            return
        if not line.endswith(b"\n"):
            return
        yield line


def text(event: dict[str, Any], paint: Paint) -> Iterator[str]:
    """One request or connection for people."""
    way = {"inbound": "in ", "outbound": "out"}[event["dir"]]
    what = f"{event['method']} {event['path']}" if event["event"] == "request" else f"TCP {event['event']}"
    parts = [
        event["ts"][11:],
        way,
        f"{event['source']} -> {event['dest'] or event['authority'] or '?'}",
        what,
    ]
    flags, status = event["flags"], event["status"]
    if event["event"] == "request":
        outcome = str(status) if flags == "-" else f"{status} {flags}"
        parts.append(paint(outcome, RED if status >= 500 or not status else YELLOW) if _bad(event) else outcome)
    elif flags != "-":
        parts.append(paint(flags, RED))
    if event["details"]:
        parts.append(f"({event['details']})")
    if event["event"] != "open":
        parts.append(f"{event['dur_ms']:.1f} ms")
        parts.append(f"in {event['bytes_in']} out {event['bytes_out']}")
    for word, key in (("from", "client"), ("at", "upstream"), ("by", "rule")):
        if event[key]:
            parts.append(f"{word} {event[key]}")
    if event["request_id"]:
        parts.append(event["request_id"])
    yield "  ".join(_clean(part) for part in parts)
    for mark, key in ((">", "request_headers"), ("<", "response_headers")):
        for name, value in event.get(key, ()):
            yield f"    {mark} {shown(name)}: {shown(value)}"


def _bad(event: dict[str, Any]) -> bool:
    return bool(event["flags"] != "-" or event["status"] >= 400)


def _clean(part: str) -> str:
    """Without control characters, but for the colours of ours."""
    return part if part.startswith("\x1b[") else shown(part)


def _count(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return number
