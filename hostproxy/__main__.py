"""The command line entry: one subcommand per module of :mod:`hostproxy.cli`, imported only when asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

# name -> one-line help; the module hostproxy.cli.NAME has configure(parser) and run(arguments) -> exit status
COMMANDS = {
    "run": "run the daemon of this host",
    "reload": "have the running daemon take a new configuration",
    "upgrade": "let the installed code take over from the running daemon",
    "check": "check a conf.toml, and the catalog, policy and certificates that it names",
    "status": "show what the running daemon does",
    "services": "show the services that this host knows, and how it knows them",
    "endpoints": "show where a service runs, and which of its instances are used",
    "why": "show what would happen to a call, and which rule says so",
    "top": "show how much goes where now, how well and how fast",
    "tap": "show live requests as they end",
    "log-level": "show the level of the log, or set it for a while",
    "doctor": "look for everything that could be wrong with this host, and say what to do",
    "debug-bundle": "collect what a bug report needs into a file, without secrets",
    "completion": "print the completion of this command for a shell",
    "certs": "make a development authority and certificates",
    "demo": "see it work: two hosts, two services, mutual TLS between them",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command. Statuses: 0 ok, 1 no or invalid, 2 wrong usage, 3 daemon out of reach, 4 partly done."""
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            if sys.stdout is not None:  # it is when the descriptor was closed
                sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who reads us has seen enough, and Python would flush once more at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141  # as a shell says it of programs that SIGPIPE ends


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="hostproxy", description="A service mesh without Kubernetes.")
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    module = None
    for name, text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text)
        if name == wanted:
            module = importlib.import_module(f"hostproxy.cli.{name.replace('-', '_')}")
            module.configure(subparser)
    parsed = parser.parse_args(arguments)
    if parsed.version:
        from importlib.metadata import version

        sys.stdout.write(f"hostproxy {version('hostproxy')}\n")
        return 0
    if module is None:
        parser.print_usage(sys.stderr)
        return 2
    status: int = module.run(parsed)
    return status


if __name__ == "__main__":
    sys.exit(main())
