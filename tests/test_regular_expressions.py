"""No pattern relies on what CPython before 3.11.5 gets wrong."""

from __future__ import annotations

import importlib
import pkgutil
import re
import re._constants as op  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Iterator

import pytest

import hostproxy.codec.http1
import hostproxy.mesh

SINGLE = {op.IN, op.LITERAL, op.NOT_LITERAL, op.ANY}


def patterns() -> Iterator[tuple[str, re.Pattern[bytes] | re.Pattern[str]]]:
    """Every compiled pattern, or bound method of one, at the top of a module of the rooms that face peers."""
    for package in (hostproxy.codec.http1, hostproxy.mesh):
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            for name, value in vars(importlib.import_module(found.name)).items():
                pattern = getattr(value, "__self__", value)
                if isinstance(pattern, re.Pattern):
                    yield f"{found.name}.{name}", pattern


def repeated_possessively(tree: object) -> Iterator[object]:
    """The contents of every possessive repetition."""
    if isinstance(tree, (list, tuple, parser.SubPattern)):
        if len(tree) == 2 and tree[0] is op.POSSESSIVE_REPEAT:
            yield tree[1][2]
        for part in tree:
            yield from repeated_possessively(part)


FOUND = dict(patterns())


def test_there_are_patterns_to_look_at() -> None:
    assert len(FOUND) > 15
    assert any(list(repeated_possessively(parser.parse(one.pattern, one.flags))) for one in FOUND.values())


@pytest.mark.parametrize("name", FOUND)
def test_only_single_characters_repeat_possessively(name: str) -> None:
    # gh-106052: a possessive group matches too much when one of its iterations fails part-way.
    pattern = FOUND[name]
    for content in repeated_possessively(parser.parse(pattern.pattern, pattern.flags)):
        assert len(content) == 1, content
        assert content[0][0] in SINGLE, content
