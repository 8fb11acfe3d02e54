"""Methods, paths and header fields of rules, indexed: what a request costs does not grow with the number of rules.

An exact path is one look-up. Of prefixes, a binary search finds the longest that can match, and each knows the next
shorter one that it begins with. Templates of one shape, with their places at the same segments, are one look-up
together. Nothing here is a regular expression of the operator's, so nothing takes more than linear time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

from hostproxy.mesh.rules import PRESENT, Rule, is_template
from hostproxy.mesh.templates import Template
from hostproxy.mesh.values import Values, all_meet, meets, of_fields

T = TypeVar("T")

Condition = tuple[bytes, bytes]  # name of a field in lower case, and the value of a rule


class Choice(Generic[T]):
    """Rules that agree on the path."""

    __slots__ = ("_always", "_by_method", "_conditional", "_strict")

    def __init__(self, strict: bool) -> None:
        """``strict``: with several values of a field, or several elements of one, each counts alone."""
        self._strict = strict
        self._always: T | None = None
        self._by_method: dict[bytes, T] = {}
        self._conditional: list[tuple[frozenset[bytes], tuple[Condition, ...], T]] = []

    def add(self, methods: frozenset[bytes], conditions: tuple[Condition, ...], result: T) -> None:
        """Add a rule; of those that can't be told apart, the first stays."""
        if conditions:
            self._conditional.append((methods, conditions, result))
        elif methods:
            for method in methods:
                self._by_method.setdefault(method, result)
        elif self._always is None:
            self._always = result

    def find(self, method: bytes, fields: bytes) -> T | None:
        """The result of a rule that matches; ``fields`` are field lines, each with its CRLF."""
        if self._always is not None:
            return self._always
        found = self._by_method.get(method)
        if found is not None or not self._conditional:
            return found
        values = of_fields(fields)
        for methods, conditions, result in self._conditional:
            if (not methods or method in methods) and all(self._meets(values, *each) for each in conditions):
                return result
        return None

    def _meets(self, values: Values, name: bytes, wanted: bytes) -> bool:
        if not self._strict:
            return all_meet(values, name, wanted)
        found = values.get(name)
        if found is None:
            return False
        return wanted == _PRESENT or any(
            meets(value, wanted) or any(meets(element.strip(), wanted) for element in value.split(b","))
            for value in found
        )

    @property
    def always(self) -> T | None:
        """The result of a rule without any condition."""
        return self._always

    def results(self) -> Iterator[T]:
        """The results of all rules."""
        if self._always is not None:
            yield self._always
        yield from self._by_method.values()
        yield from (result for _, _, result in self._conditional)


_PRESENT = PRESENT.encode()


class _Shape(NamedTuple):
    """Templates whose places are at the same segments."""

    length: int  # segments, the empty one before the first slash included; without the final "*"
    open: bool  # it ends with "/*"
    literals: tuple[int, ...]  # the segments that are given; the first always is


class _Templates(Generic[T]):
    """The templates of one shape."""

    __slots__ = ("_choices", "_last_is_place", "_pick", "shape")

    def __init__(self, shape: _Shape) -> None:
        self.shape = shape
        self._pick: Callable[[Sequence[bytes]], Any] = itemgetter(*shape.literals)
        self._last_is_place = not shape.open and shape.length - 1 not in shape.literals
        self._choices: dict[Any, Choice[T]] = {}

    def at(self, segments: Sequence[bytes], strict: bool) -> Choice[T]:
        key = self._pick(segments)
        if key not in self._choices:
            self._choices[key] = Choice(strict)
        return self._choices[key]

    def find(self, segments: Sequence[bytes]) -> Choice[T] | None:
        """The rules whose templates match; a place takes no empty segment."""
        if self._last_is_place and not segments[-1]:
            return None
        return self._choices.get(self._pick(segments))


class Patterns(Generic[T]):
    """Rules by what they say of requests, each with a result."""

    __slots__ = ("_closed", "_everywhere", "_exact", "_open", "_parents", "_prefixes", "_strict", "_texts", "patterned")

    def __init__(
        self,
        rules: Iterable[tuple[Rule, T]],
        strict: bool = False,
        literal: Callable[[bytes], bytes] = lambda text: text,
        method: Callable[[str], str] = lambda text: text,
    ) -> None:
        """``literal`` and ``method`` turn what rules say into the form that requests are given in."""
        self._strict = strict
        self._everywhere: Choice[T] | None = None
        self._exact: dict[bytes, Choice[T]] = {}
        prefixes: dict[bytes, Choice[T]] = {}
        templates: dict[_Shape, _Templates[T]] = {}
        for rule, result in rules:
            methods = frozenset(method(one).encode() for one in rule.methods)
            conditions = tuple((name.encode(), value.encode()) for name, value in rule.headers)
            for choice in self._places(rule, literal, prefixes, templates):
                choice.add(methods, conditions, result)
        self._texts = sorted(prefixes)
        self._prefixes = [prefixes[text] for text in self._texts]
        self._parents = _parents(self._texts)
        self._closed: dict[int, list[_Templates[T]]] = {}
        for of_shape in templates.values():
            if not of_shape.shape.open:
                self._closed.setdefault(of_shape.shape.length, []).append(of_shape)
        self._open = [of_shape for of_shape in templates.values() if of_shape.shape.open]
        self.patterned = bool(prefixes or templates)  # pattern() may find something

    def _places(
        self,
        rule: Rule,
        literal: Callable[[bytes], bytes],
        prefixes: dict[bytes, Choice[T]],
        templates: dict[_Shape, _Templates[T]],
    ) -> Iterator[Choice[T]]:
        """Where a rule belongs."""
        if not rule.paths:
            if self._everywhere is None:
                self._everywhere = Choice(self._strict)
            yield self._everywhere
        for path in rule.paths:
            if is_template(path):
                template = Template.parse(path)
                shape = _Shape(len(template.segments), template.open, template.literals)
                if shape not in templates:
                    templates[shape] = _Templates(shape)
                segments = [literal(segment.encode()) for segment in template.segments]
                yield templates[shape].at(segments, self._strict)
                continue
            where = prefixes if path.endswith("*") else self._exact
            text = literal(path.removesuffix("*").encode())
            if text not in where:
                where[text] = Choice(self._strict)
            yield where[text]

    def plain(self, method: bytes, path: bytes, fields: bytes) -> T | None:
        """The result of a rule about all paths, or about exactly this one."""
        choice = self._everywhere
        if choice is not None:
            found = choice.find(method, fields)
            if found is not None:
                return found
        choice = self._exact.get(path)
        return choice.find(method, fields) if choice is not None else None

    def pattern(self, method: bytes, path: bytes, fields: bytes) -> T | None:
        """The result of a rule with a prefix or a template that the path matches."""
        texts = self._texts
        index = bisect_right(texts, path) - 1
        while index >= 0:
            # All prefixes of the path among the texts are prefixes of this one too.
            if path.startswith(texts[index]):
                found = self._prefixes[index].find(method, fields)
                if found is not None:
                    return found
            index = self._parents[index]
        if self._closed or self._open:
            segments = path.split(b"/")
            for templates in self._closed.get(len(segments), ()):
                choice = templates.find(segments)
                if choice is not None and (found := choice.find(method, fields)) is not None:
                    return found
            for templates in self._open:
                if len(segments) > templates.shape.length:
                    choice = templates.find(segments)
                    if choice is not None and (found := choice.find(method, fields)) is not None:
                        return found
        return None

    def unconditional(self) -> T | None:
        """The result of a rule about all requests."""
        return self._everywhere.always if self._everywhere is not None else None


def _parents(texts: Sequence[bytes]) -> list[int]:
    """For each text, in order, the index of the longest other one that it begins with; -1: there is none."""
    parents = []
    line: list[int] = []  # the last text, the one it begins with, and so on
    for index, text in enumerate(texts):
        while line and not text.startswith(texts[line[-1]]):
            line.pop()
        parents.append(line[-1] if line else -1)
        line.append(index)
    return parents
