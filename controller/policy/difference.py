"""What one set of policy files says otherwise than another, line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import unified_diff


def difference(before: Mapping[str, bytes], after: Mapping[str, bytes], names: tuple[str, str]) -> Iterator[str]:
    """The lines of a unified diff of all files that differ. ``names`` say what is compared."""
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        yield from unified_diff(
            _lines(old),
            _lines(new),
            f"{names[0]}/{name}" if old is not None else "/dev/null",
            f"{names[1]}/{name}" if new is not None else "/dev/null",
            lineterm="",
        )


def _lines(content: bytes | None) -> list[str]:
    return content.decode("utf-8", "replace").splitlines() if content is not None else []
