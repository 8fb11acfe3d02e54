"""``hostproxy debug-bundle``: what a bug report needs, in one file, without secrets."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from hostproxy.cli import admin
from hostproxy.cli.admin import NO, USAGE, YES

if TYPE_CHECKING:
    from hostproxy.config import Config

PARTLY = 4
LOGS = 1000  # lines


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "-c", "--config", metavar="FILE", default=admin.DEFAULT_PATH, help=f"conf.toml ({admin.DEFAULT_PATH})"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE.tar.gz", default="", help="where to (hostproxy-debug-TIME.tar.gz here)"
    )
    parser.add_argument("--logs", metavar="N", type=_count, default=LOGS, help="lines of the daemon's log (1000)")


def run(arguments: argparse.Namespace) -> int:
    """Make it. 0: with all of the daemon; 4: the daemon did not answer; 1: it could not be written; 2: wrong usage."""
    from hostproxy import config
    from hostproxy.cli import doctor
    from hostproxy.doctor import tokens
    from hostproxy.doctor.bundle import Bundle, collect, execute
    from hostproxy.doctor.redaction import Redaction
    from hostproxy.mesh import storage
    from hostproxy.mesh.document import Invalid

    path = os.path.abspath(arguments.config)
    if not os.path.exists(path):
        sys.stderr.write(f"{arguments.config}: there is no such file: name the conf.toml with -c\n")
        return USAGE
    doctor.take_credentials()
    loaded: Config | None = None
    try:
        loaded, _ = config.examine(path)
    except Invalid:
        pass  # what is wrong with it is in doctor.json
    address = (loaded.admin.listen if loaded is not None else "") or admin.DEFAULT_ADDRESS
    directory = os.path.dirname(path)
    bundle = Bundle(Redaction(tokens.secrets(path), lambda name: os.path.exists(os.path.join(directory, name))))
    now = time.time()
    collect(
        bundle,
        path,
        loaded,
        lambda: doctor.examine(path, doctor.WAIT),
        lambda page: _page(address, page),
        arguments.logs,
        execute,
    )
    output = arguments.output or time.strftime("hostproxy-debug-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime(now))
    try:
        storage.write(output, bundle.archive(now), 0o600)
    except OSError as error:
        sys.stderr.write(f"{output}: cannot be written: {error.strerror}\n")
        return NO
    for entry in bundle.entries:
        if entry.left_out:
            sys.stderr.write(f"left out: {entry.name}: {admin.shown(entry.left_out)}\n")
        elif entry.cut:
            sys.stderr.write(f"cut: {entry.name}: {entry.cut:,} bytes at its end\n")
    sys.stdout.write(f"{output}\n")
    sys.stderr.write(f"manifest.json in it says what there is; look before you hand it on: tar -xzOf {output} | less\n")
    answered = next(entry for entry in bundle.entries if entry.name == "admin/status.json")
    return PARTLY if answered.left_out else YES


def _page(address: str, page: str) -> bytes:
    """A page of the admin address, whatever its status: /ready has one of its own."""
    from hostproxy.doctor import http
    from hostproxy.mesh.addresses import is_unix

    try:
        return http.ask(address if is_unix(address) else f"http://{address}", page, admin.DEFAULT_TIMEOUT).body
    except http.NoAnswer as error:
        raise OSError(f"{address}: {error}") from None


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 100_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100000")
    return value
