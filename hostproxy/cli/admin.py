"""What the commands that ask the running daemon have in common: its admin address, and text for terminals.

Nothing here imports Twisted: a command is done before a reactor would be there.
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from hostproxy.mesh import addresses
from hostproxy.mesh.units import Wrong
from hostproxy.unixhttp import UnixConnection

DEFAULT_PATH = "/etc/hostproxy/conf.toml"
DEFAULT_ADDRESS = "127.0.0.1:15000"
DEFAULT_TIMEOUT = 5.0  # seconds; the daemon answers within one, and a person waits no longer
ANSWER_SIZE = 64 * 1024 * 1024  # bytes; what the admin address sends at most

YES, NO, USAGE, UNREACHABLE = 0, 1, 2, 3

GREEN, RED, YELLOW, BOLD = "32", "31", "33", "1"
Paint = Callable[[str, str], str]
Document = dict[str, Any]
Result = TypeVar("Result")


class Unreachable(Exception):
    """Nothing useful came from the admin address; the text says what to do."""


class Refused(Unreachable):
    """It answered, and not with what was asked for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what these commands take."""
    configure_address(parser)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form (table)")
    parser.add_argument(
        "--timeout", metavar="S", type=_seconds, default=DEFAULT_TIMEOUT, help="seconds to wait (5)"
    )


def configure_address(parser: argparse.ArgumentParser) -> None:
    """Say how the daemon is named: see :func:`address_of`."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "-c", "--config", metavar="FILE", help=f"conf.toml that names the admin address ({DEFAULT_PATH})"
    )
    where.add_argument("--admin", metavar="ADDRESS", help=f"ip:port or unix:/path ({DEFAULT_ADDRESS})")


def show(
    arguments: argparse.Namespace,
    path: str,
    key: str,
    lines: Callable[[Document, Paint, float], Iterable[str]],
    judge: Callable[[Document], int],
) -> int:
    """Ask for ``path``, whose answer has ``key``, and print it as ``lines`` or as it came. Returns the exit status."""
    try:
        address = address_of(arguments.admin, arguments.config)
    except ValueError as problem:
        sys.stderr.write(f"{problem}\n")
        return USAGE
    try:
        body, document = fetch(address, path, key, arguments.timeout)
    except Unreachable as problem:
        sys.stderr.write(f"{address}: {problem}\n")
        return UNREACHABLE
    if arguments.output == "json":
        sys.stdout.write(body.decode())
    else:
        for line in lines(document, painter(), time.time()):
            sys.stdout.write(line + "\n")
    return judge(document)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.0 < value <= 3600.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600 seconds")
    return value


def address_of(admin: str | None, config_path: str | None) -> str:
    """The admin address that was asked for. Raises ValueError."""
    if admin is not None:
        try:
            return addresses.reachable(admin)
        except Wrong as wrong:
            raise ValueError(f"--admin {admin}: {wrong}") from None
    if config_path is None and not os.access(DEFAULT_PATH, os.R_OK):
        return DEFAULT_ADDRESS
    from hostproxy import config
    from hostproxy.mesh.document import Invalid

    try:
        # Whatever else is wrong with the file by now, the daemon runs by what it said before.
        loaded, _ = config.examine(config_path or DEFAULT_PATH)
    except Invalid as invalid:
        problems = "\n".join(str(problem) for problem in invalid.problems)
        raise ValueError(f"{problems}\nname the daemon's address with --admin instead") from None
    return loaded.admin.listen or DEFAULT_ADDRESS


# Asking


def connect(address: str, timeout: float) -> http.client.HTTPConnection:
    """A connection to an admin address, which is made by the first request."""
    if addresses.is_unix(address):
        return UnixConnection(address.removeprefix(addresses.UNIX), timeout)
    host, port = addresses.split(address)
    return http.client.HTTPConnection(host, port, timeout=timeout)


def fetch(address: str, path: str, key: str, timeout: float, method: str = "GET") -> tuple[bytes, Document]:
    """Ask for ``path``: the answer as it came and decoded; it must have ``key``. Raises Unreachable."""
    connection = connect(address, timeout)
    try:
        response = ask(connection, method, path, timeout)
        body = read(response, timeout)
    finally:
        connection.close()
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        document = {}
    if response.status != 200 or key not in document:
        reason = document.get("error", "is this hostproxy's [admin] listen?")
        raise Refused(response.status, f"answered with status {response.status}: {shown(reason)}")
    return body, document


def ask(connection: http.client.HTTPConnection, method: str, path: str, timeout: float) -> http.client.HTTPResponse:
    """The head of the answer. Raises Unreachable."""

    def answer() -> http.client.HTTPResponse:
        connection.request(method, path)
        return connection.getresponse()

    return _tried(answer, timeout)


def read(response: http.client.HTTPResponse, timeout: float) -> bytes:
    """The whole body. Raises Unreachable."""
    return _tried(lambda: response.read(ANSWER_SIZE), timeout)


def _tried(action: Callable[[], Result], timeout: float) -> Result:
    try:
        return action()
    except TimeoutError:
        raise Unreachable(f"no answer within {timeout:g} s; --timeout waits longer") from None
    except (ConnectionRefusedError, FileNotFoundError):
        raise Unreachable("nobody listens: is hostproxy running, and is this its [admin] listen?") from None
    except PermissionError:
        raise Unreachable("not permitted: try as root, or as a member of the daemon's group") from None
    except (OSError, http.client.HTTPException) as problem:
        raise Unreachable(f"no valid answer ({problem!r}): is this hostproxy's [admin] listen?") from None


# Showing


def span(seconds: float) -> str:
    """A length of time in its two largest units: "3d4h", "2m5s", "12s"."""
    whole = int(seconds)
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    for index, (unit, size) in enumerate(units):
        if whole >= size:
            rest = whole % size
            if index + 1 < len(units):
                next_unit, next_size = units[index + 1]
                if rest >= next_size:
                    return f"{whole // size}{unit}{rest // next_size}{next_unit}"
            return f"{whole // size}{unit}"
    return "0s"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterable[str]:
    """Columns as wide as their widest cell, numbers to the right, an empty line at the end."""
    if not rows:
        return
    cells = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    to_right = [any(isinstance(cell, int | float) for cell in column) for column in zip(*rows, strict=True)]
    for row in (head, *cells):
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, to_right, strict=True)
        )
        yield "  ".join(padded).rstrip()
    yield ""


def shown(value: object) -> str:
    """Text without what could move the cursor or colour the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def painter() -> Paint:
    """What colours text for a terminal, and leaves it for others."""
    in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")  # no-color.org
    return _coloured if in_colour else lambda text, colour: text


def _coloured(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m"
