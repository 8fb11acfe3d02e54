"""Random TOML documents, and every key path of what a parser made of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from hostproxy.mesh.scan import NESTING, Path

_KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12) | st.from_regex(
    r"[A-Za-z0-9_-]{1,8}", fullmatch=True
)
_SCALARS = (
    st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.dates()
    | st.datetimes()
    | st.times()
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
    | st.text(alphabet="\"'\\\n#[]{}=,. a", max_size=12)
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)
documents = st.dictionaries(_KEYS, _VALUES, max_size=6)

assert NESTING > 20  # deeper than max_leaves can make them


def paths(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the path of every table, key and array element of a parsed document, with its value."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for part, item in items:
        yield (*path, part), item
        yield from paths(item, (*path, part))
