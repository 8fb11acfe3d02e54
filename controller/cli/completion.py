"""``hostproxy-controller completion``: what a shell loads to complete this command."""

from __future__ import annotations

import argparse

from controller.cli import terminal
from hostproxy.completion import SHELLS, script, tree


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.epilog = (
        "bash: into /etc/bash_completion.d; zsh: as"
        " _hostproxy-controller into a directory of $fpath; fish: as hostproxy-controller.fish into"
        " /etc/fish/completions"
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from controller.__main__ import COMMANDS

    parser = tree("hostproxy-controller", "The control plane of hostproxy.", COMMANDS, "controller.cli")
    terminal.write(script(arguments.shell, parser).splitlines())
    return 0
