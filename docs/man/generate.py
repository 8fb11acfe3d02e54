"""Writes the man pages, out of the commands and of the tables that check the files: python docs/man/generate.py.

A test holds the pages against what this makes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from controller import config as controller_config
from controller.__main__ import COMMANDS as CONTROLLER_COMMANDS
from hostproxy import config
from hostproxy.__main__ import COMMANDS
from hostproxy.completion import tree
from hostproxy.mesh import policy
from hostproxy.mesh.kinds import Duration, Flag, Fraction, Integer, Kind, ListOf, MapOf, Size, Text
from hostproxy.mesh.schema import REQUIRED, Key, NamedTables, Table, Tables
from hostproxy.mesh.units import format_duration, format_size

HERE = Path(__file__).parent

STATUSES = (
    ("0", "yes, or done"),
    ("1", "no: invalid, denied, refused, or something fails"),
    ("2", "wrong usage"),
    ("3", "the {peer} cannot be reached"),
    ("4", "only part of it was done"),
)
DAEMON = (
    "One daemon on each host carries the traffic of all services there: out of a local program, through mutual TLS,"
    " into the daemon of the other host, to the instance. It checks who calls, by certificate, and whether they may,"
    " by a policy; it counts and logs every request and names the rule that refused one.",
    "SIGHUP has it take a changed configuration, whole, or refuse it and go on as before. SIGTERM drains and ends it.",
)
CONTROLLER = (
    "The controller gives hosts their certificates and their policy. No traffic passes through it, and none stops"
    " without it. Most commands ask a running controller: on its host by its operator socket, from elsewhere with an"
    " operator's certificate.",
)
CONF = (
    "Everything that one host is told, in TOML. Relative paths start at the directory of the file. Durations have a"
    ' unit ("250ms", "1.5s", "2m", "1h"), and so have sizes ("512B", "64KiB", "1MiB"). Addresses are "ip:port",'
    ' "[ipv6]:port" or "unix:/path", never host names.',
    "An unknown key is an error. hostproxy check says what is wrong with a file, and with every file that it names.",
)
CONTROLLER_CONF = ("Everything that a controller is told, in TOML. Relative paths start at the directory of the file.",)
POLICY = (
    "Who may call whom, with what, and how calls are made: a TOML file, or a directory of them that are read as one."
    " It is named by [policy] path in conf.toml, or applied to a controller with hostproxy-controller policy apply."
    " Without a policy every call is denied.",
)


def pages() -> dict[str, str]:
    """Every page by the name of its file."""
    daemon = tree("hostproxy", "", COMMANDS, "hostproxy.cli")
    controller = tree("hostproxy-controller", "", CONTROLLER_COMMANDS, "controller.cli")
    conf_files = [
        ("/etc/hostproxy/conf.toml", "the configuration: hostproxy-conf.toml(5)"),
        ("/var/lib/hostproxy", "what has to outlive a reboot"),
        ("/run/hostproxy", "sockets"),
    ]
    controller_files = [("controller.toml", "the configuration: hostproxy-controller.toml(5)")]
    see = "hostproxy(8), hostproxy-controller(8), hostproxy-conf.toml(5), hostproxy-policy.toml(5)"
    see += ", hostproxy-controller.toml(5)"
    return {
        "hostproxy.8": _program(
            daemon, "service mesh for virtual machines and bare metal", DAEMON, conf_files, see, "daemon"
        ),
        "hostproxy-controller.8": _program(
            controller, "certificates and policy for hostproxy", CONTROLLER, controller_files, see, "controller"
        ),
        "hostproxy-conf.toml.5": _file("hostproxy-conf.toml", "configuration of a host", CONF, config.CONFIG, see),
        "hostproxy-controller.toml.5": _file(
            "hostproxy-controller.toml", "configuration of a controller", CONTROLLER_CONF, controller_config.CONFIG, see
        ),
        "hostproxy-policy.toml.5": _file("hostproxy-policy.toml", "who may call whom", POLICY, policy.POLICY, see),
    }


# Commands


def _program(
    parser: argparse.ArgumentParser,
    what: str,
    description: tuple[str, ...],
    files: list[tuple[str, str]],
    see: str,
    peer: str,
) -> str:
    lines = _head(parser.prog, 8, what)
    lines += [".SH SYNOPSIS", f".B {_escaped(parser.prog)}", ".I COMMAND", "[\\fIOPTION\\fR ...]"]
    lines += _paragraphs(".SH DESCRIPTION", description)
    lines.append(".SH COMMANDS")
    commands = list(_commands(parser))
    counts = Counter(_entry(action) for _, child, _ in commands for action in child._actions if not _left_out(action))
    common = [entry for entry, count in counts.items() if count > len(commands) / 2]
    for path, child, text in commands:
        lines += [f".SS {_escaped(' '.join(path))}", _escaped(_sentence(text))]
        lines += [".PP", f".B {_escaped(' '.join(path))}", _synopsis(child, common)]
        for action in child._actions:
            if not _left_out(action) and _entry(action) not in common:
                lines += [".TP", *_entry(action)]
    if common:
        lines += [".SH COMMON OPTIONS", "Most commands take these."]
        for entry in common:
            lines += [".TP", *entry]
    lines.append(".SH EXIT STATUS")
    for number, text in STATUSES:
        lines += [".TP", f".B {number}", _escaped(_sentence(text.format(peer=peer)))]
    lines.append(".SH FILES")
    for name, text in files:
        lines += [".TP", f".I {_escaped(name)}", _escaped(_sentence(text))]
    lines += [".SH SEE ALSO", _escaped(see)]
    return "\n".join(lines) + "\n"


def _commands(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser, str]]:
    """Every command, and under it its actions."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, child in action.choices.items():
                here = (*(path or (parser.prog,)), name)
                yield here, child, child.description or helps.get(name, "")
                yield from _commands(child, here)


def _entry(action: argparse.Action) -> tuple[str, str]:
    """How an option is told."""
    return _called(action), _escaped(_sentence(action.help or ""))


def _synopsis(parser: argparse.ArgumentParser, common: list[tuple[str, str]]) -> str:
    parts = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parts.append("\\fIACTION\\fR ...")
        if _left_out(action) or _entry(action) in common:
            continue
        text = _called(action, first_only=True)
        parts.append(text if action.required else f"[{text}]")
    return " ".join(parts) or "\\&"


def _left_out(action: argparse.Action) -> bool:
    """Whether it is told elsewhere, or by every command's --help only."""
    hidden = action.help == argparse.SUPPRESS or "-h" in action.option_strings
    return hidden or isinstance(action, argparse._SubParsersAction)


def _called(action: argparse.Action, first_only: bool = False) -> str:
    """An option with what it takes, or an argument by place."""
    names = action.option_strings[:1] if first_only else action.option_strings
    takes = "" if action.nargs == 0 else f"\\fI{_escaped(_metavar(action))}\\fR"
    if action.nargs in ("+", "*") and takes:
        takes += " ..."
    if action.nargs == "?" and names:
        takes = f"[{takes}]"
    if not names:
        return takes
    return ", ".join(f"\\fB{_escaped(name)}\\fR" for name in names) + (f" {takes}" if takes else "")


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.dest.upper()


# Files


def _file(name: str, what: str, description: tuple[str, ...], table: Table, see: str) -> str:
    lines = _head(name, 5, what) + _paragraphs(".SH DESCRIPTION", description)
    lines.append(".SH KEYS")
    lines += _table(table, "")
    lines += [".SH SEE ALSO", _escaped(see)]
    return "\n".join(lines) + "\n"


def _table(table: Table, path: str) -> Iterator[str]:
    """The plain keys of a table first, as TOML wants them, and then what is below it."""
    below = []
    for key in table.keys.values():
        if key.planned:
            continue
        if isinstance(key.kind, Table | Tables | NamedTables):
            below.append(key)
            continue
        yield from (".TP", f"\\fB{_escaped(key.name)}\\fR = \\fI{_escaped(_kind(key.kind))}\\fR")
        yield _escaped(_sentence(key.help) + _default(key))
    for key in below:
        here = f"{path}.{key.name}" if path else key.name
        inner: Any = key.kind
        if isinstance(key.kind, Tables):
            heading, inner = f"[[{here}]]", key.kind.table
        elif isinstance(key.kind, NamedTables):
            here += ".NAME"
            heading, inner = f"[{here}]", key.kind.table
        else:
            heading = f"[{here}]"
        yield from (f".SS {_escaped(heading)}", _escaped(_sentence(key.help)))
        yield from _table(inner, here)


def _kind(kind: Kind) -> str:
    """What may be written."""
    if isinstance(kind, Text):
        return " | ".join(json.dumps(each) for each in kind.choices) if kind.choices else "string"
    if isinstance(kind, Flag):
        return "true | false"
    if isinstance(kind, Integer):
        return f"number from {kind.least} to {kind.most}"
    if isinstance(kind, Fraction):
        return f"number from {kind.least:g} to {kind.most:g}"
    if isinstance(kind, Duration):
        return f"duration from {format_duration(kind.least)} to {format_duration(kind.most)}"
    if isinstance(kind, Size):
        return f"size from {format_size(kind.least)} to {format_size(kind.most)}"
    if isinstance(kind, ListOf):
        return f"[{_kind(kind.item)}, ...]"
    if isinstance(kind, MapOf):
        return "{ name = string, ... }"
    return "value"


def _default(key: Key) -> str:
    if key.default is REQUIRED:
        return ""
    if key.default is None:
        return ""
    return f" Default: {_shown(key.kind, key.default)}."


def _shown(kind: Kind, value: Any) -> str:
    if isinstance(kind, Duration):
        return json.dumps(format_duration(value))
    if isinstance(kind, Size):
        return json.dumps(format_size(value))
    return json.dumps(msgspec.to_builtins(value))


# roff


def _head(name: str, number: int, what: str) -> list[str]:
    return [
        '.\\" Made by docs/man/generate.py; changes here are lost.',
        f'.TH {name.upper()} {number} "" "hostproxy" ""',
        ".SH NAME",
        f"{_escaped(name)} \\- {_escaped(what)}",
    ]


def _paragraphs(heading: str, texts: tuple[str, ...]) -> list[str]:
    lines = [heading]
    for number, text in enumerate(texts):
        lines += [*([".PP"] if number else []), _escaped(text)]
    return lines


def _sentence(text: str) -> str:
    text = " ".join(text.replace("%%", "%").split())
    if "." not in text.split(" ")[0]:  # conf.toml stays
        text = text[:1].upper() + text[1:]
    return text + ("" if text.endswith((".", "?")) or not text else ".")


def _escaped(text: str) -> str:
    """Text that is no markup: hyphens can be copied, and no line begins like a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    text = re.sub(r"^([.'])", r"\\&\1", text)
    return text or "\\&"


def main() -> int:
    """Write those that have changed, or with --check only say which."""
    stale = 0
    for name, text in pages().items():
        path = HERE / name
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        if "--check" not in sys.argv:
            path.write_text(text)
        sys.stdout.write(f"{path}\n")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
