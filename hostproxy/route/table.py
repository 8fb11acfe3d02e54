"""Which of a service's routes a request takes: the first that matches, in the order of the policy.

Most routes are told apart by how the path begins, so that is asked first and costs as little as it can; the rest of a
route is looked at only when that fits. Header fields and query are taken apart once for a request, and only when a
route that asks for them is reached.
"""

from __future__ import annotations

from collections.abc import Sequence

from hostproxy.mesh.routes import Match, Route
from hostproxy.mesh.templates import Template
from hostproxy.mesh.values import Values, all_meet, of_fields, of_query

NONE = -1  # no route matches


class RouteTable:
    """The routes of one service."""

    __slots__ = ("_names", "_rows")

    def __init__(self, routes: Sequence[Route]) -> None:
        self._names = _names(routes)
        self._rows = [_row(route.match) for route in routes]

    def find(self, method: bytes, target: bytes, fields: bytes) -> int:
        """The index of the first route that matches, or ``NONE``.

        ``target`` is in origin form, ``fields`` are the request's end-to-end field lines, each with its CRLF.
        """
        path, _, query = target.partition(b"?")
        request = None
        for index, (beginning, conditions) in enumerate(self._rows):
            if path.startswith(beginning):
                if conditions is None:
                    return index
                if request is None:
                    request = _Request(self._names, method, path, query, fields)
                if not conditions.unmet(request):
                    return index
        return NONE


def mismatch(route: Route, method: bytes, target: bytes, fields: bytes) -> str:
    """Why a route does not match: its first part that does not, and why; empty when it matches."""
    path, _, query = target.partition(b"?")
    beginning, conditions = _row(route.match)
    if not path.startswith(beginning):
        part = _part_of_path(route.match)
    else:
        request = _Request(_names([route]), method, path, query, fields)
        part = conditions.unmet(request) if conditions is not None else ""
    if not part:
        return ""
    shown = path.decode("latin-1")
    why = {
        "path": f"{shown} is another",
        "path_prefix": f"{shown} begins otherwise",
        "path_template": f"{shown} has another form",
        "methods": f"{method.decode('latin-1')} is not among them",
    }
    return f"{part}: {why.get(part, 'the request has others')}"


class _Request:
    """What conditions look at, taken apart when the first of them asks."""

    __slots__ = ("_fields", "_names", "_parameters", "_query", "_segments", "_values", "method", "path")

    def __init__(self, names: Sequence[bytes], method: bytes, path: bytes, query: bytes, fields: bytes) -> None:
        """``names`` are of the header fields that are asked for, each with its colon."""
        self._names = names
        self.method = method
        self.path = path
        self._query = query
        self._fields = fields
        self._segments: list[bytes] | None = None
        self._values: Values | None = None
        self._parameters: Values | None = None

    def segments(self) -> list[bytes]:
        """Of the path; the first, before its slash, is empty."""
        if self._segments is None:
            self._segments = self.path.split(b"/")
        return self._segments

    def values(self) -> Values:
        """Of the header fields; none when none is there that is asked for, which most requests are soon found to be."""
        if self._values is None:
            lines = self._fields.lower().replace(b"_", b"-")
            for name in self._names:
                if name in lines:
                    self._values = of_fields(self._fields)
                    break
            else:
                self._values = {}
        return self._values

    def parameters(self) -> Values:
        """Of the query."""
        if self._parameters is None:
            self._parameters = of_query(self._query)
        return self._parameters


class _Conditions:
    """What a route asks beside the beginning of the path."""

    __slots__ = ("_form", "_headers", "_methods", "_path", "_query")

    def __init__(self, match: Match) -> None:
        self._path = match.path.encode()
        self._form = _Form(Template.parse(match.path_template)) if match.path_template else None
        self._methods = frozenset(method.encode() for method in match.methods)
        self._headers = tuple((name.encode(), value.encode()) for name, value in match.headers)
        self._query = tuple((name.encode(), value.encode()) for name, value in match.query)

    def unmet(self, request: _Request) -> str:
        """The first part that the request does not meet; empty: it meets all."""
        if self._path and request.path != self._path:
            return "path"
        if self._form is not None and not self._form.fits(request.segments()):
            return "path_template"
        if self._methods and request.method not in self._methods:
            return "methods"
        if self._headers:
            values = request.values()
            for name, wanted in self._headers:
                if not all_meet(values, name, wanted):
                    return "headers"
        if self._query:
            values = request.parameters()
            for name, wanted in self._query:
                if not all_meet(values, name, wanted):
                    return "query"
        return ""


class _Form:
    """A template, as paths are held against it."""

    __slots__ = ("_length", "_literals", "_open", "_places")

    def __init__(self, template: Template) -> None:
        self._length = len(template.segments)
        self._open = template.open
        self._literals = tuple((index, template.segments[index].encode()) for index in template.literals)
        self._places = template.places

    def fits(self, segments: Sequence[bytes]) -> bool:
        """Whether a path of these segments has the form."""
        if len(segments) <= self._length if self._open else len(segments) != self._length:
            return False
        return all(segments[index] == text for index, text in self._literals) and all(
            segments[index] for index in self._places
        )


def _row(match: Match) -> tuple[bytes, _Conditions | None]:
    """How the path begins, and what else is asked; None: nothing is."""
    beginning = match.path or match.path_prefix or match.path_template.partition("{")[0]
    more = match.path or match.path_template or match.methods or match.headers or match.query
    return beginning.encode(), _Conditions(match) if more else None


def _names(routes: Sequence[Route]) -> tuple[bytes, ...]:
    """The names of header fields that routes ask for, each with its colon."""
    return tuple(dict.fromkeys(name.encode() + b":" for route in routes for name, _ in route.match.headers))


def _part_of_path(match: Match) -> str:
    return "path" if match.path else "path_prefix" if match.path_prefix else "path_template"
