"""What one set of policy files says otherwise than another, line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import unified_diff

_NO_NEWLINE = "\\ No newline at end of file"  # as diff writes it


def difference(before: Mapping[str, bytes], after: Mapping[str, bytes], names: tuple[str, str]) -> Iterator[str]:
    """The lines of a unified diff of all files that differ. ``names`` say what is compared."""
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        ours = f"{names[0]}/{name}" if old is not None else "/dev/null"
        theirs = f"{names[1]}/{name}" if new is not None else "/dev/null"
        if not (old or new):  # an empty file is more than none
            yield from (f"--- {ours}", f"+++ {theirs}")
        for line in unified_diff(_lines(old), _lines(new), ours, theirs):
            yield line.removesuffix("\n")
            if not line.endswith("\n"):
                yield _NO_NEWLINE


def _lines(content: bytes | None) -> list[str]:
    """Each with its newline, if it has one. Not splitlines(): what else it splits at is within a line of TOML."""
    parts = content.decode("utf-8", "replace").split("\n") if content is not None else [""]
    return [f"{part}\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
