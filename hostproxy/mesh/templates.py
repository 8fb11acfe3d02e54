"""Templates of paths, ``/orders/{id}/items``: the segments that are given, and the places of the others."""

from __future__ import annotations

from typing import NamedTuple

from hostproxy.mesh.rules import is_template


class Template(NamedTuple):
    """A template taken apart at its slashes."""

    segments: tuple[str, ...]  # the empty one before the first slash included; without the final "*"
    open: bool  # it ends with "/*": at least one segment follows, which may be empty
    literals: tuple[int, ...]  # where segments are given; the first always is
    places: tuple[int, ...]  # where any one segment stands, which is not empty

    @classmethod
    def parse(cls, text: str) -> Template:
        """Take a template apart that :func:`hostproxy.mesh.rules.path` has accepted."""
        segments = text.split("/")
        is_open = segments[-1] == "*"
        if is_open:
            segments.pop()
        places = tuple(index for index, segment in enumerate(segments) if is_template(segment))
        literals = tuple(index for index, segment in enumerate(segments) if not is_template(segment))
        return cls(tuple(segments), is_open, literals, places)
