"""The command line entry: one subcommand per module of :mod:`controller.cli`, imported only when asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

# name -> one-line help; the module controller.cli.NAME has configure(parser) and run(arguments) -> exit status
COMMANDS = {
    "init": "make the authority, the keys and the first operator of a new mesh",
    "run": "run the controller",
    "status": "show how the controller and the mesh stand",
    "token": "make join tokens, which let hosts enrol",
    "hosts": "show the hosts of the mesh and how each stands, refuse one, forget one",
    "service": "say which service runs on which hosts",
    "policy": "check, test, compare, apply and take back policy",
    "rollout": "follow or stop the rollout of a policy in waves",
    "why": "show what policy says of a call, and which rule says so",
    "authority": "show and rotate the roots and the issuing authority",
    "signing-key": "show and rotate the key that signs bundles",
    "operator": "let people use the controller from elsewhere",
    "audit": "show what was done, and verify the log of it",
    "completion": "print the completion of this command for a shell",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command. Statuses: 0 ok, 1 no or invalid, 2 wrong usage, 3 controller out of reach, 4 partly done."""
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
    parser = argparse.ArgumentParser(prog="hostproxy-controller", description="The control plane of hostproxy.")
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    module = None
    for name, text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text)
        if name == wanted:
            module = importlib.import_module(f"controller.cli.{name.replace('-', '_')}")
            module.configure(subparser)
    parsed = parser.parse_args(arguments)
    if parsed.version:
        from importlib.metadata import version

        sys.stdout.write(f"hostproxy-controller {version('hostproxy')}\n")
        return 0
    if module is None:
        parser.print_usage(sys.stderr)
        return 2
    status: int = module.run(parsed)
    return status


if __name__ == "__main__":
    sys.exit(main())
