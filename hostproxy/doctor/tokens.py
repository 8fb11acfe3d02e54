"""What is in the files of tokens that a conf.toml names, also one that is wrong, or no TOML at all."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from hostproxy.doctor.redaction import is_secret

CONF_SIZE = 1024 * 1024  # bytes
SIZE = 4096  # bytes of a file with a token
MOST = 100  # files
_FILE, _CREDENTIAL, _KEY = "_file", "_credential", "key"

# A key and its value, wherever in a line. The end of a string may be what is missing.
_PAIR = re.compile(
    r"([A-Za-z0-9_.-]{1,128})[\"']?[ \t]*=[ \t]*"
    r"(?:\"\"\"(?P<long>(?s:.*?))(?:\"\"\"|\Z)|'''(?P<plain>(?s:.*?))(?:'''|\Z)"
    r"|\"(?P<basic>(?:[^\"\\\n]|\\[^\n])*)|'(?P<literal>[^'\n]*)|(?P<bare>[^\s\"'#\[{,][^\n#]*))"
)


def secrets(path: str) -> Iterator[str]:
    """What is in the files that can be read. ``path`` is of conf.toml, whose directory relative names are from."""
    try:
        with open(path, "rb") as file:
            content = file.read(CONF_SIZE)
    except OSError:
        return
    wanted: dict[str, None] = {}
    for name, value in pairs(content):
        # Files of private keys are never read.
        if name.endswith(_FILE) and is_secret(stem := name.removesuffix(_FILE)) and not stem.endswith(_KEY):
            wanted[os.path.join(os.path.dirname(path), value)] = None
        elif name.endswith(_CREDENTIAL) and "CREDENTIALS_DIRECTORY" in os.environ:
            wanted[os.path.join(os.environ["CREDENTIALS_DIRECTORY"], value)] = None
    for each in list(wanted)[:MOST]:
        yield from _words(each)


def pairs(content: bytes) -> Iterator[tuple[str, str]]:
    """Keys and those of their values that are strings; of what is no TOML all that looks like them."""
    text = content.decode("utf-8", "replace")
    try:
        yield from _walk(tomllib.loads(text))
    except (ValueError, RecursionError):
        for match in _PAIR.finditer(text):
            yield match[1].rpartition(".")[2], _value(match)


def _walk(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, name)
    elif isinstance(value, str):
        yield name, value


def _value(match: re.Match[str]) -> str:
    basic = match["basic"]
    if basic is not None:
        with contextlib.suppress(ValueError):
            return str(tomllib.loads(f'value = "{basic}"')["value"])
    return next(each for each in match.group("long", "plain", "basic", "literal", "bare") if each is not None).strip()


def _words(path: str) -> Iterator[str]:
    with contextlib.suppress(OSError, ValueError):
        # Opening a pipe would wait for its other end.
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                yield from file.read(SIZE).decode("utf-8", "replace").split()
