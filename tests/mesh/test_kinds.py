from __future__ import annotations

import datetime
from typing import Any

import pytest

from hostproxy.mesh import kinds, names
from hostproxy.mesh.document import parse
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import AnyTable, Duration, Flag, Fraction, Integer, Kind, ListOf, MapOf, Size, Text


def read(kind: Kind, value: Any) -> tuple[Any, list[str]]:
    findings = Findings(parse(b"key = 1", "f", 100))
    result = kind.read(value, ("key",), findings)
    return result, [problem.what().removeprefix("key") for problem in findings.all_problems()]


@pytest.mark.parametrize(
    ("kind", "value", "result"),
    [
        (Text(), "é x", "é x"),
        (Text(empty=True), "", ""),
        (Text(names.service), "cart", "cart"),
        (Text(choices=("a", "b")), "b", "b"),
        (Flag(), True, True),
        (Integer(0, 5), 5, 5),
        (Fraction(0, 1), 1, 1.0),
        (Fraction(0, 1), 0.5, 0.5),
        (Duration(0, 10), "250ms", 0.25),
        (Size(0, 1 << 20), "1MiB", 1 << 20),
        (ListOf(Integer(0, 5)), [1, 2], (1, 2)),
        (ListOf(Integer(0, 5)), [], ()),
        (MapOf(names.word, Text(), most=2), {"a": "b"}, {"a": "b"}),
        (AnyTable(), {"a": [1]}, {"a": [1]}),
    ],
)
def test_good_values(kind: Kind, value: Any, result: Any) -> None:
    assert read(kind, value) == (result, [])
    assert type(read(kind, value)[0]) is type(result)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Text(), 1, "expected a string, found the integer 1"),
        (Text(what="a path"), ["a"], "expected a path, found an array"),
        (Text(), "", "is empty"),
        (Text(), "a\x1b[2J", '"a\\u001b[2J" has control characters'),
        (Text(names.service), "Cart", '"Cart" is not the name of a service; did you mean "cart"?'),
        (
            Text(choices=("http", "tcp")),
            "htttp",
            'expected one of "http", "tcp", found "htttp"; did you mean "http"?',
        ),
        (Text(choices=("http", "tcp")), "zzz", 'expected one of "http", "tcp", found "zzz"'),
        (Flag(), "yes", 'expected true or false, found "yes"'),
        (Flag(), 1, "expected true or false, found the integer 1"),
        (Integer(0, 5), True, "expected a whole number, found the boolean true"),
        (Integer(0, 5), 1.0, "expected a whole number, found the number 1.0"),
        (Integer(0, 5), 6, "6 is too high; the most is 5"),
        (Integer(0, 5), -1, "-1 is too low; the least is 0"),
        (Fraction(0, 1), True, "expected a number, found the boolean true"),
        (Fraction(0, 1), float("nan"), "expected a number, found the number nan"),
        (Fraction(0, 1), float("inf"), "inf is too high; the most is 1"),
        (
            Duration(0, 10),
            5,
            'expected a duration like "250ms", found the integer 5; write "5s" if it means seconds',
        ),
        (
            Duration(0, 10),
            0.5,
            'expected a duration like "250ms", found the number 0.5; write "0.5s" if it means seconds',
        ),
        (Duration(0, 10), -5, 'expected a duration like "250ms", found the integer -5'),
        (Duration(0, 10), float("inf"), 'expected a duration like "250ms", found the number inf'),
        (Duration(0, 10), True, 'expected a duration like "250ms", found the boolean true'),
        (Duration(1, 10), "999ms", "999ms is too low; the least is 1s"),
        (Duration(1, 10), "1h", "1h is too high; the most is 10s"),
        (
            Size(0, 9),
            8192,
            'expected a size like "64KiB", found the integer 8192; write "8KiB" if it means bytes',
        ),
        (Size(1, 1024), "0B", "0B is too low; the least is 1B"),
        (Size(1, 1024), "1MiB", "1MiB is too high; the most is 1KiB"),
        (Size(1, 1024), "1mb", '"1mb" is not a size; did you mean "1MiB"?'),
        (ListOf(Text()), "blue", 'expected an array, found "blue"; put it into brackets'),
        (ListOf(Text()), {}, "expected an array, found a table"),
        (ListOf(Text(), least=1, if_empty="name one"), [], "is empty; name one"),
        (ListOf(Text(), most=1), ["a", "b"], "has 2 elements, the most is 1"),
        (MapOf(names.word, Text(), most=1), [], "expected a table, found an array"),
        (MapOf(names.word, Text(), most=1), {"a": "a", "b": "b"}, "has 2 keys, the most is 1"),
        (AnyTable(), datetime.date(2024, 1, 2), "expected a table, found the date or time 2024-01-02"),
    ],
)
def test_bad_values_say_what_was_found_and_expected(kind: Kind, value: Any, message: str) -> None:
    result, problems = read(kind, value)
    assert problems == [f": {message}"]
    assert result == kind.blank or result == ()


def test_an_array_tells_of_each_bad_element_and_keeps_the_places_of_the_others() -> None:
    result, problems = read(ListOf(Integer(0, 5)), [1, "x", 9, 1])
    assert problems == [
        '[1]: expected a whole number, found "x"',
        "[2]: 9 is too high; the most is 5",
        "[3]: the integer 1 is there twice",
    ]
    assert result == (1, 0, 0, 1)


def test_a_map_tells_of_each_bad_key_and_value() -> None:
    _, problems = read(MapOf(names.word, Text(), most=9), {"a b": "x", "c": 1})
    assert [problem.partition(";")[0] for problem in problems] == [
        '."a b": is not a word',
        ".c: expected a string, found the integer 1",
    ]


def test_what_an_operator_wrote_is_shown_short_and_harmless() -> None:
    assert kinds.shown("a" * 1000) == '"' + "a" * kinds.SHOWN_TEXT + '..."'
    assert kinds.shown("\x1b\u202e") == '"\\u001b\\u202e"'


def test_a_blank_map_is_not_shared() -> None:
    kind = MapOf(names.word, Text(), most=1)
    kind.blank["a"] = 1
    assert kind.blank == {}
