"""``hostproxy completion``: what a shell loads to complete this command."""

from __future__ import annotations

import argparse
import sys

from hostproxy.completion import SHELLS, script, tree


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.epilog = (
        "bash: hostproxy completion bash >"
        " /etc/bash_completion.d/hostproxy; zsh: hostproxy completion zsh > _hostproxy in a directory of $fpath; fish:"
        " hostproxy completion fish > /etc/fish/completions/hostproxy.fish"
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from hostproxy.__main__ import COMMANDS

    parser = tree("hostproxy", "A service mesh without Kubernetes.", COMMANDS, "hostproxy.cli")
    sys.stdout.write(script(arguments.shell, parser))
    return 0
