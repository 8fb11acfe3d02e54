"""Tables declared once, as data: what checks documents is also what the example file is held against.

    HOST = Table(Host, Key("name", Text(names.host), "the name of this host"), ...)
    host = HOST.read(document.data, (), findings)

A read always gives a complete value: what was refused is blank in it. So every problem of a file is found at
once, later checks between keys included; the value counts only when ``findings.problems`` is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import Kind, did_you_mean, shown, unexpected
from hostproxy.mesh.scan import Path, key_source
from hostproxy.mesh.units import Wrong

REQUIRED: Any = object()  # the default of a key that has none


class Key:
    """One key of a table."""

    __slots__ = ("default", "field", "help", "kind", "name", "planned")

    def __init__(
        self,
        name: str,
        kind: Kind,
        help: str,
        *,
        default: Any = REQUIRED,
        field: str = "",
        planned: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.help = help  # one phrase; conf.example.toml and the message for a missing key say it
        self.default = default
        self.field = field or name  # the keyword that the table's ``make`` takes it by
        self.planned = planned  # accepted with a warning, and not handed to ``make``


class Table(Kind):
    """A table with these keys; ``make`` turns their values into the result.

    When that is a struct, its fields have the defaults and a key has none of its own.
    """

    def __init__(self, make: Callable[..., Any], *keys: Key) -> None:
        self.make = make
        self.keys = {key.name: key for key in keys}
        self._take_defaults(_defaults(make))

    def _take_defaults(self, defaults: dict[str, Any]) -> None:
        for key in self.keys.values():
            if isinstance(key.kind, Section):
                key.kind._take_defaults(defaults)
            elif key.default is REQUIRED:
                key.default = defaults.get(key.field, REQUIRED)
        used = [key for key in self.keys.values() if not key.planned]
        self._defaults = {key.field: key.default for key in used if key.default is not REQUIRED}
        # A table that isn't there is read as an empty one, so that its own defaults and required keys count.
        self._without_default = [key for key in used if key.default is REQUIRED]
        self._sections = [key.field for key in used if isinstance(key.kind, Section)]

    @property
    def blank(self) -> Any:
        return self._made({key.field: key.kind.blank for key in self._without_default})

    def _made(self, values: dict[str, Any]) -> Any:
        values = self._defaults | values
        for section in self._sections:
            values.update(values.pop(section))
        return self.make(**values)

    def read(self, value: Any, path: Path, findings: Findings) -> Any:
        if type(value) is not dict:
            findings.add(path, unexpected("a table", value).message)
            return self.blank
        values = {}
        for name, item in value.items():
            key = self.keys.get(name)
            if key is None:
                self._refuse_unknown(name, path, findings)
            elif key.planned:
                key.kind.read(item, (*path, name), findings)
                findings.warn((*path, name), "is not acted on in this version")
            else:
                values[key.field] = key.kind.read(item, (*path, name), findings)
        for key in self._without_default:
            if key.field not in values:
                values[key.field] = self._absent(key, (*path, key.name), findings)
        return self._made(values)

    @staticmethod
    def _absent(key: Key, path: Path, findings: Findings) -> Any:
        if isinstance(key.kind, Table):
            return key.kind.read({}, path, findings)
        findings.add(path, "is missing", f"it is {key.help}")
        return key.kind.blank

    def _refuse_unknown(self, name: str, path: Path, findings: Findings) -> None:
        hint = "" if findings.full() else did_you_mean(name, self.keys)
        findings.add((*path, name), "unknown key", hint or "known here: " + ", ".join(self.keys))


class Section(Table):
    """A table whose values belong to the result of the table around it, which has their defaults too."""

    def __init__(self, *keys: Key) -> None:
        super().__init__(dict, *keys)


class Tables(Kind):
    """An array of tables."""

    blank: tuple[Any, ...] = ()

    def __init__(self, table: Table, *, least: int = 0, most: int, if_empty: str = "") -> None:
        self.table = table
        self.least = least
        self.most = most
        self.if_empty = if_empty  # hint for fewer than ``least``

    def read(self, value: Any, path: Path, findings: Findings) -> tuple[Any, ...]:
        if type(value) is not list:
            header = ".".join(key_source(part) for part in path if isinstance(part, str))
            findings.add(path, unexpected("an array of tables", value).message, f"write [[{header}]]")
            return self.blank
        if len(value) < self.least:
            findings.add(path, "is empty", self.if_empty)
        if len(value) > self.most:
            findings.add(path, f"there are {len(value)}, the most is {self.most}")
            return self.blank
        return tuple(self.table.read(item, (*path, index), findings) for index, item in enumerate(value))


class NamedTables(Kind):
    """A table of tables with names of the operator's choice: ``[service.NAME]``."""

    def __init__(self, name: Callable[[str], str], table: Table, *, most: int) -> None:
        self.name = name
        self.table = table
        self.most = most

    @property
    def blank(self) -> dict[str, Any]:
        return {}

    def read(self, value: Any, path: Path, findings: Findings) -> dict[str, Any]:
        if type(value) is not dict:
            findings.add(path, unexpected("a table", value).message)
            return self.blank
        if len(value) > self.most:
            findings.add(path, f"there are {len(value)}, the most is {self.most}")
            return self.blank
        tables = {}
        for name, item in value.items():
            try:
                self.name(name)
            except Wrong as wrong:
                findings.add((*path, name), f"{shown(name)} {wrong.message}", wrong.hint)
            tables[name] = self.table.read(item, (*path, name), findings)
        return tables


def _defaults(make: Callable[..., Any]) -> dict[str, Any]:
    if not isinstance(make, type) or not issubclass(make, msgspec.Struct):
        return {}
    defaults = {}
    for field in msgspec.structs.fields(make):
        if field.default is not msgspec.NODEFAULT:
            defaults[field.name] = field.default
        elif field.default_factory is not msgspec.NODEFAULT:
            defaults[field.name] = field.default_factory()
    return defaults


def walk(table: Table, path: Path = ()) -> Iterator[tuple[Path, Key]]:
    """Yield every key that a table can have, with its path; an array of tables as its first element."""
    for key in table.keys.values():
        here = (*path, key.name)
        yield here, key
        if isinstance(key.kind, Table):
            yield from walk(key.kind, here)
        elif isinstance(key.kind, Tables):
            yield from walk(key.kind.table, (*here, 0))
