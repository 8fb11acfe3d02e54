"""Which routes a request can reach: what one match leaves for another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from hostproxy.mesh.policy_tables import ROUTES
from hostproxy.mesh.routes import Match, Route
from hostproxy.mesh.templates import Template
from hostproxy.mesh.values import meets

Conditions = Iterable[tuple[str, str]]  # names, and the values that are wanted

# Every route is held against every other one of its service, so what takes work is kept for all of them.
_parsed = lru_cache(2 * ROUTES)(Template.parse)
_set = lru_cache(2 * ROUTES)(frozenset[str])


def unreached(routes: Sequence[Route]) -> list[tuple[Route, Route]]:
    """The routes that no request takes, each with the earlier one that takes all that it matches.

    One that several earlier routes leave nothing only together is not found.
    """
    found = []
    meant: list[tuple[Route, Match]] = []
    for route in routes:
        is_of_options = "OPTIONS" in route.match.methods
        by = next(
            (other for other, match in meant if covers(other.match if is_of_options else match, route.match)), None
        )
        if by is not None:
            found.append((route, by))
        meant.append((route, as_meant(route.match)))
    return found


def as_meant(match: Match) -> Match:
    """A prefix "/" as what it is written for, every path. ``OPTIONS *``, which alone has none, is in nobody's mind."""
    return msgspec.structs.replace(match, path_prefix="") if match.path_prefix == "/" else match


def covers(wide: Match, narrow: Match) -> bool:
    """Whether ``wide`` matches every request that ``narrow`` does. May miss that it does, but never says so wrongly."""
    return (
        _covers_paths(wide, narrow)
        and (not wide.methods or (bool(narrow.methods) and _set(narrow.methods) <= _set(wide.methods)))
        and _covers_values(wide.headers, narrow.headers)
        and _covers_values(wide.query, narrow.query)
    )


def _covers_values(wide: Conditions, narrow: Conditions) -> bool:
    """All that is asked by ``wide`` must follow from what is asked by ``narrow``."""
    asked = dict(narrow)
    # "a*" is met by what "ab*" is met by, and by "ab*" itself as a text.
    return all(name in asked and meets(asked[name].encode(), wanted.encode()) for name, wanted in wide)


def _covers_paths(wide: Match, narrow: Match) -> bool:
    if wide.path:
        return narrow.path == wide.path
    if wide.path_prefix:
        # No prefix has a brace, so of a template it is what comes before its first place that counts.
        return (narrow.path or narrow.path_prefix or narrow.path_template).startswith(wide.path_prefix)
    if wide.path_template:
        return _covers_form(_parsed(wide.path_template), narrow)
    return True


def _covers_form(wide: Template, narrow: Match) -> bool:
    """Whether all paths that ``narrow`` matches have the form of a template."""
    if narrow.path_template:
        other = _parsed(narrow.path_template)
        segments, is_open = other.segments, other.open
    elif narrow.path_prefix:
        # Whatever follows the last slash belongs to a segment that is not known whole.
        segments, is_open = tuple(narrow.path_prefix.split("/")[:-1]), True
    elif narrow.path:
        segments, is_open = tuple(narrow.path.split("/")), False
    else:
        return False
    length = len(wide.segments)
    if wide.open:
        # It wants another segment after its own, which what is open has.
        if len(segments) < length or (len(segments) == length and not is_open):
            return False
    elif is_open or len(segments) != length:
        return False
    # A place of the other is "{name}" here: equal to no segment that is given, and no empty one.
    return all(segments[index] == wide.segments[index] for index in wide.literals) and all(
        segments[index] for index in wide.places
    )
