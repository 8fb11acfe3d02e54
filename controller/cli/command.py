"""What all commands have in common: actions, their options, and the exit status of what goes wrong.

A module of a command has ``configure(parser)``, which names its actions, and ``run``, which is :func:`perform`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from controller.cli import client, terminal
from controller.cli.client import Misused, Refused, Unreachable

YES, NO, USAGE, UNREACHABLE, PARTLY = 0, 1, 2, 3, 4

Act = Callable[[argparse.Namespace], int]


class Actions:
    """The actions of one command: ``hosts deny``."""

    def __init__(self, parser: argparse.ArgumentParser, alone: Act | None = None) -> None:
        """``alone`` is done when no action is named."""
        _options(parser, None, "table")
        if alone is not None:
            parser.set_defaults(act=alone)
        self._parsers = parser.add_subparsers(dest="action", metavar="ACTION", required=alone is None)

    def add(self, name: str, act: Act, text: str) -> argparse.ArgumentParser:
        """Name one; the options of the command count for it too, before and after its name."""
        parser = self._parsers.add_parser(name, help=text, description=text)
        _options(parser, argparse.SUPPRESS, argparse.SUPPRESS)
        parser.set_defaults(act=act)
        return parser


def single(parser: argparse.ArgumentParser, act: Act) -> None:
    """A command without actions."""
    _options(parser, None, "table")
    parser.set_defaults(act=act)


def _options(parser: argparse.ArgumentParser, default: Any, output: str) -> None:
    parser.add_argument("-o", "--output", choices=("table", "json"), default=output, help="form (table)")
    client.options(parser, default)


def perform(arguments: argparse.Namespace) -> int:
    """Do it. Returns the exit status."""
    act: Act = arguments.act
    try:
        return act(arguments)
    except Misused as misused:
        terminal.say(f"{misused}")
        return USAGE
    except Refused as refused:
        complain(refused)
        return NO
    except Unreachable as unreachable:
        terminal.say(terminal.shown(unreachable))
        return UNREACHABLE


def complain(refused: Refused, about: str = "") -> None:
    """Say what the controller said."""
    terminal.say(about + terminal.shown(refused))
    for problem in refused.problems:
        terminal.say(f"  {terminal.shown(problem)}")
