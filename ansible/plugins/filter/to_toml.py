"""The filter ``to_toml``: variables as the text of a TOML file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = """
name: to_toml
author: hostproxy
version_added: "0.1.0"
short_description: Variables as TOML
description:
  - Renders a mapping as a TOML document. Keys keep the order in which they were given, but those with a single value
    come before tables, as TOML needs it.
  - A null, and a key that is not a string or a number, have no form in TOML and are errors.
options:
  _input:
    description: The mapping.
    type: dict
    required: true
"""

EXAMPLES = """
- name: Show a table
  ansible.builtin.debug:
    msg: "{{ {'host': {'name': 'db-1'}} | hostproxy.mesh.to_toml }}"
"""

RETURN = """
_value:
  description: The document, which ends with a newline.
  type: str
"""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
_DEPTH = 16  # of tables in tables; conf.toml has three


def to_toml(document: Any) -> str:
    """The document of a mapping. Raises AnsibleFilterError, which names the key that can't be written."""
    if not isinstance(document, Mapping):
        raise AnsibleFilterError(f"to_toml takes a mapping, not {type(document).__name__}")
    return "\n".join(_table(document, ())).strip("\n") + "\n"


def _table(table: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[str]:
    """The lines of a table without its header: first what fits on a line, then tables."""
    if len(path) > _DEPTH:
        raise AnsibleFilterError(f"to_toml: {'.'.join(path)}: tables are more than {_DEPTH} deep")
    keys = [(_name(key, path), value) for key, value in table.items()]
    for key, value in keys:
        if not isinstance(value, Mapping) and not _tables(value):
            yield f"{_key(key)} = {_value(value, (*path, key))}"
    for key, value in keys:
        inner = (*path, key)
        header = ".".join(_key(part) for part in inner)
        if isinstance(value, Mapping):
            # A table that only holds tables needs no header of its own.
            if not value or not all(isinstance(each, Mapping) or _tables(each) for each in value.values()):
                yield from ("", f"[{header}]")
            yield from _table(value, inner)
        elif _tables(value):
            for each in value:
                yield from ("", f"[[{header}]]")
                yield from _table(each, inner)


def _tables(value: Any) -> bool:
    """Whether it becomes an array of tables."""
    return _is_array(value) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _is_array(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _value(value: Any, path: tuple[str, ...]) -> str:
    """What stands after the equals sign."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        if math.isfinite(value):
            return repr(float(value))
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        pairs = ((_name(key, path), each) for key, each in value.items())
        return "{ " + ", ".join(f"{_key(key)} = {_value(each, (*path, key))}" for key, each in pairs) + " }"
    if _is_array(value):
        return "[" + ", ".join(_value(each, path) for each in value) + "]"
    found = "null" if value is None else f"a {type(value).__name__}"
    where = ".".join(path)
    raise AnsibleFilterError(f"to_toml: {where}: {found} has no form in TOML: leave the key out, or give it a value")


def _name(key: Any, path: tuple[str, ...]) -> str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)  # YAML reads 404: as a number
    where = f"{'.'.join(path)}: " if path else ""
    raise AnsibleFilterError(f"to_toml: {where}the key {key!r} is not a string")


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    return '"' + "".join(_character(each) for each in text) + '"'


def _character(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xD800 <= code <= 0xDFFF:
        raise AnsibleFilterError("to_toml: half of a surrogate pair has no form in TOML")
    return f"\\u{code:04x}" if code < 32 or code == 127 else character


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """The filters of this file, by name."""
        return {"to_toml": to_toml}
