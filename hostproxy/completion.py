"""Completion for shells: a static script out of the argparse tree of a command, for bash, zsh or fish.

The script asks nobody and runs nothing, so pressing Tab costs nothing.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import NamedTuple

SHELLS = ("bash", "zsh", "fish")
_FILES = re.compile(r"FILE.*|PROGRAM")
_DIRECTORIES = re.compile(r"DIR.*")


class Option(NamedTuple):
    """An option, or an argument by place when it has no names."""

    names: tuple[str, ...]
    help: str
    takes: str  # "": nothing; "files", "directories", "words", "value"
    words: tuple[str, ...] = ()


class Command(NamedTuple):
    """A command, or an action of one."""

    path: tuple[str, ...]  # ("hostproxy", "certs", "dev")
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Option, ...]
    parts: tuple[tuple[str, str], ...]  # names of what is below it, and their help


def tree(program: str, description: str, commands: Mapping[str, str], package: str) -> argparse.ArgumentParser:
    """The whole parser of a program whose ``commands`` are modules of ``package``."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in commands.items():
        module = importlib.import_module(f"{package}.{name.replace('-', '_')}")
        module.configure(subparsers.add_parser(name, help=text, description=text))
    return parser


def walk(parser: argparse.ArgumentParser, path: tuple[str, ...] = (), text: str = "") -> Iterator[Command]:
    """The program and all of its commands, each before what is below it."""
    path = path or (parser.prog,)
    options: list[Option] = []
    arguments: list[Option] = []
    below: list[tuple[str, argparse.ArgumentParser]] = []
    parts: list[tuple[str, str]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below = list(action.choices.items())
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            parts = [(name, helps.get(name, "")) for name, _ in below]
        elif action.help != argparse.SUPPRESS:
            option = _option(action)
            (options if option.names else arguments).append(option)
    yield Command(path, text, tuple(options), tuple(arguments), tuple(parts))
    for (name, child), (_, help_text) in zip(below, parts, strict=True):
        yield from walk(child, (*path, name), help_text)


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """What the shell is to load."""
    commands = list(walk(parser))
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def _option(action: argparse.Action) -> Option:
    names, help_text = tuple(action.option_strings), " ".join((action.help or "").split()).replace("%%", "%")
    if action.nargs == 0:
        return Option(names, help_text, "")
    if action.choices is not None:
        return Option(names, help_text, "words", tuple(map(str, action.choices)))
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if _FILES.fullmatch(metavar):
        return Option(names, help_text, "files")
    return Option(names, help_text, "directories" if _DIRECTORIES.fullmatch(metavar) else "value")


def _name(commands: list[Command]) -> str:
    return commands[0].path[0]


def _function(program: str) -> str:
    return "_" + program.replace("-", "_")


def _quoted(text: str) -> str:
    return shlex.quote(text)


# bash


def _bash(commands: list[Command]) -> str:
    program = _name(commands)
    function = _function(program)
    steps = "|".join(_quoted(" ".join(each.path)) for each in commands if len(each.path) > 1) or "''"
    values, words = [], []
    for each in commands:
        at = " ".join(each.path)
        for option in each.options:
            if option.takes:
                patterns = "|".join(_quoted(f"{at}:{name}") for name in option.names)
                values.append(f"        {patterns}) {_bash_value(option)}; return ;;")
        options = " ".join(name for option in each.options for name in option.names)
        parts = " ".join(name for name, _ in each.parts)
        line = f"        {_quoted(at)}) options={_quoted(options)}; words={_quoted(_plain_words(each, parts))}"
        words.append(f"{line}; places={_places(each)} ;;")
    return f"""\
# bash completion of {program}; made by `{program} completion bash`
{function}() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" at={program}
    local options="" words="" places="" index
    COMPREPLY=()
    # bash takes --name=value apart.
    if [[ $current == "=" ]]; then
        current=""
    elif [[ $previous == "=" ]]; then
        previous="${{COMP_WORDS[COMP_CWORD-2]}}"
    fi
    for ((index = 1; index < COMP_CWORD; index++)); do
        case "$at ${{COMP_WORDS[index]}}" in
        {steps}) at="$at ${{COMP_WORDS[index]}}" ;;
        esac
    done
    case "$at:$previous" in
{chr(10).join(values)}
    esac
    case "$at" in
{chr(10).join(words)}
    esac
    if [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    elif [[ -n $words ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    elif [[ -n $places ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen "$places" -- "$current")
    fi
}}
complete -F {function} {program}
"""


def _bash_value(option: Option) -> str:
    if option.takes == "words":
        return f'COMPREPLY=($(compgen -W {_quoted(" ".join(option.words))} -- "$current"))'
    if option.takes in ("files", "directories"):
        flag = "-f" if option.takes == "files" else "-d"
        return f'compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen {flag} -- "$current")'
    return ":"


def _plain_words(command: Command, parts: str) -> str:
    """What may stand where no option does."""
    return parts or " ".join(word for argument in command.arguments for word in argument.words)


def _places(command: Command) -> str:
    """How compgen names the files that may stand where no option does."""
    takes = {argument.takes for argument in command.arguments}
    return "-f" if "files" in takes else "-d" if "directories" in takes else '""'


# zsh


def _zsh(commands: list[Command]) -> str:
    program = _name(commands)
    function = _function(program)
    steps = "|".join(_quoted(" ".join(each.path)) for each in commands if len(each.path) > 1) or "''"
    values, words = [], []
    for each in commands:
        at = " ".join(each.path)
        for option in each.options:
            if option.takes:
                patterns = "|".join(_quoted(f"{at}:{name}") for name in option.names)
                values.append(f"        ({patterns}) {_zsh_value(option)}; return ;;")
        options = " ".join(_described(name, option.help) for option in each.options for name in option.names)
        parts = " ".join(_described(name, text) for name, text in each.parts)
        if not parts:
            parts = " ".join(_described(word, "") for argument in each.arguments for word in argument.words)
        places = {"-f": "_files", "-d": "_files -/", '""': ""}[_places(each)]
        words.append(f"        ({_quoted(at)}) options=({options}); parts=({parts}); places={_quoted(places)} ;;")
    return f"""\
#compdef {program}
# zsh completion of {program}; made by `{program} completion zsh`
{function}() {{
    local at={program} previous="${{words[CURRENT-1]}}" places="" index
    local -a options parts
    for ((index = 2; index < CURRENT; index++)); do
        case "$at ${{words[index]}}" in
        ({steps}) at="$at ${{words[index]}}" ;;
        esac
    done
    case "$at:$previous" in
{chr(10).join(values)}
    esac
    case "$at" in
{chr(10).join(words)}
    esac
    if [[ "${{words[CURRENT]}}" == -* ]]; then
        _describe -o option options
    elif (( $#parts )); then
        _describe command parts
    elif [[ -n "$places" ]]; then
        ${{=places}}
    fi
}}
if [[ "$funcstack[1]" == {function} ]]; then
    {function} "$@"
else
    compdef {function} {program}
fi
"""


def _zsh_value(option: Option) -> str:
    if option.takes == "words":
        return "compadd -- " + " ".join(map(_quoted, option.words))
    return {"files": "_files", "directories": "_files -/", "value": ":"}[option.takes]


def _described(name: str, text: str) -> str:
    """As _describe takes it: a colon divides the two."""
    escaped = name.replace(":", "\\:")
    return _quoted(f"{escaped}:{text}" if text else escaped)


# fish


def _fish(commands: list[Command]) -> str:
    program = _name(commands)
    lines = [f"# fish completion of {program}; made by `{program} completion fish`", f"complete -c {program} -f"]
    for each in commands:
        condition = _fish_condition(each)
        for name, text in each.parts:
            lines.append(f"complete -c {program} {condition} -a {_fished(name)} -d {_fished(text)}")
        for argument in each.arguments:
            if argument.takes == "words":
                lines.append(f"complete -c {program} {condition} -a {_fished(' '.join(argument.words))}")
            elif argument.takes in ("files", "directories"):
                lines.append(f"complete -c {program} {condition} -F")
        for option in each.options:
            lines.append(f"complete -c {program} {condition} {_fish_option(option)} -d {_fished(option.help)}")
    return "\n".join(lines) + "\n"


def _fish_condition(command: Command) -> str:
    """All words of its path have been typed, and none of what is below it."""
    tests = [f"__fish_seen_subcommand_from {name}" for name in command.path[1:]]
    below = " ".join(name for name, _ in command.parts)
    if below:
        tests.append(f"not __fish_seen_subcommand_from {below}")
    return f"-n {_fished('; and '.join(tests))}" if tests else ""


def _fish_option(option: Option) -> str:
    parts = [f"-s {name[1:]}" if len(name) == 2 else f"-l {name.removeprefix('--')}" for name in option.names]
    if option.takes == "words":
        parts.append(f"-x -a {_fished(' '.join(option.words))}")
    elif option.takes in ("files", "directories"):
        parts.append("-r -F")
    elif option.takes:
        parts.append("-x")
    return " ".join(parts)


def _fished(text: str) -> str:
    """In single quotes fish knows two escapes."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
