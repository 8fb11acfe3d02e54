"""``hostproxy certs dev``: a development authority and certificates, for a mesh that has no other yet."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import tomli_w

from hostproxy.identity import development
from hostproxy.mesh import spiffe

DEFAULT_DAYS = 30
MAX_DAYS = 3650  # as long as the authority itself


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare ``certs`` and its one subcommand."""
    subparsers = parser.add_subparsers(dest="certs_command", metavar="KIND", required=True)
    text = "make certificates for one host, and the authority that signs them when there is none yet"
    dev = subparsers.add_parser(
        "dev",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. Run it again to renew the certificates. For a second host "
        "give another directory, and with --ca the directory that has the authority.",
    )
    dev.add_argument("directory", metavar="DIR", help="where the host's certificates and keys go")
    dev.add_argument(
        "--trust-domain",
        required=True,
        type=_checked(spiffe.check_trust_domain),
        metavar="NAME",
        help="the name of the mesh, as in [mesh] trust_domain",
    )
    dev.add_argument(
        "--host",
        required=True,
        type=_checked(spiffe.check_host),
        metavar="NAME",
        help="the name of the host, as in [host] name",
    )
    dev.add_argument(
        "--service",
        nargs="+",
        action="extend",
        default=[],
        type=_checked(spiffe.check_service),
        metavar="NAME",
        help="services that run on the host, or call from it",
    )
    dev.add_argument(
        "--ca",
        metavar="DIR",
        help="directory of the authority: ca.pem and ca.key (default: the host's directory)",
    )
    dev.add_argument(
        "--days",
        type=_days,
        default=DEFAULT_DAYS,
        help=f"how long the certificates are valid (default: {DEFAULT_DAYS})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the files. Statuses: 0 all are there, 1 nothing was written, 4 some were before it failed."""
    directory: str = arguments.directory
    authority: str = arguments.ca or directory
    written: list[str] = []

    def wrote(path: str, what: str) -> None:
        written.append(f"wrote {path}  {what}")

    try:
        development.provision(
            directory,
            authority,
            arguments.trust_domain,
            arguments.host,
            arguments.service,
            timedelta(days=arguments.days),
            datetime.now(UTC),
            wrote,
        )
    except development.Refused as refused:
        # What is told comes after what is done: a reader that leaves early must not stop the writing half-way.
        print("\n".join(written), flush=True)
        print(f"hostproxy certs dev: {refused}", file=sys.stderr)
        return 4 if written else 1
    print("\n".join(written))
    print(_what_next(directory, authority, arguments.trust_domain, arguments.host))
    return 0


def _what_next(directory: str, authority: str, trust_domain: str, host: str) -> str:
    absolute = os.path.abspath(directory)
    settings = {
        "host": {"name": host},
        "mesh": {"trust_domain": trust_domain},
        "identity": {
            "mode": "files",
            "files": {"ca": os.path.join(absolute, "ca.pem"), "directory": absolute},
        },
    }
    key = os.path.join(authority, "ca.key")
    return (
        f"\nIn conf.toml of {host}:\n\n{tomli_w.dumps(settings)}\n"
        f"For another host of this mesh, with the same authority:\n\n"
        f"  hostproxy certs dev DIR --ca {shlex.quote(authority)} --trust-domain {trust_domain}"
        " --host NAME --service NAME...\n\n"
        f"Whoever has {key} can be any service: it stays off the other hosts."
    )


def _checked(check: Callable[[str], None]) -> Callable[[str], str]:
    def name(text: str) -> str:
        try:
            check(text)
        except spiffe.InvalidName as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return name


def _days(text: str) -> int:
    # A pattern, because int() takes "+5", "0_5" and digits of other scripts.
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_DAYS):
        raise argparse.ArgumentTypeError(f"is a number of days from 1 to {MAX_DAYS}, not {ascii(text)[:40]}")
    return int(text)
