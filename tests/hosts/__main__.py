"""``python -m tests.hosts``: the bed by hand."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.hosts import machine
from tests.hosts.bed import Bed

IMPOSSIBLE = 77  # as test programs say that they were skipped


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.hosts", description="Real hosts with systemd, for tests.")
    made.add_argument("--bed", default="hphosts", metavar="NAME", help="the bed, with a wire of its own (hphosts)")
    made.add_argument("--package", action="append", default=[], dest="packages", help="of Debian, in new hosts")
    commands = made.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="boot a host")
    up.add_argument("name")
    up.add_argument("address", help="IPv4, of a /24 whose first address is this machine's")
    run = commands.add_parser("run", help="run a command in a host, as root")
    run.add_argument("name")
    run.add_argument("arguments", nargs=argparse.REMAINDER)
    enter = commands.add_parser("enter", help="run a command of this machine on the wire")
    enter.add_argument("arguments", nargs=argparse.REMAINDER)
    down = commands.add_parser("down", help="cut the power of hosts, and remove them")
    down.add_argument("names", nargs="*")
    down.add_argument("--all", action="store_true", help="all of them, and the wire")
    commands.add_parser("inventory", help="print the path of an inventory for Ansible")
    return made


def main(words: list[str]) -> int:
    """0: done; 1: it didn't work; 2: wrong usage; 77: not on this machine. Of run and enter: the command's."""
    arguments = parser().parse_args(words)
    try:
        bed = Bed(arguments.bed, arguments.packages)
        if arguments.command == "up":
            start = time.monotonic()
            host = bed.up(arguments.name, arguments.address)
            print(f"{host.name} {host.address} running in {time.monotonic() - start:.1f} s")
        elif arguments.command in ("run", "enter"):
            line = bed.host(arguments.name).command if arguments.command == "run" else bed.enter
            command = list(line(*arguments.arguments))
            os.execvpe(command[0], command, dict(machine.environment()))
        elif arguments.command == "inventory":
            print(bed.inventory)
        elif arguments.all:
            bed.down_all()
        else:
            bed.down(*arguments.names)
    except machine.Impossible as impossible:
        print(f"no hosts here: {impossible}", file=sys.stderr)
        return IMPOSSIBLE
    except (machine.Failed, machine.Missing, OSError) as error:
        print(f"tests.hosts: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"tests.hosts: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
