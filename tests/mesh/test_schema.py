from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hostproxy.mesh import names
from hostproxy.mesh.document import parse
from hostproxy.mesh.findings import PROBLEMS_SHOWN, Findings
from hostproxy.mesh.kinds import AnyTable, Integer, Text
from hostproxy.mesh.schema import REQUIRED, Key, NamedTables, Section, Table, Tables, walk


class Wheel(msgspec.Struct, frozen=True):
    size: int
    side: str = "left"


class Car(msgspec.Struct, frozen=True):
    name: str
    wheels: tuple[Wheel, ...] = ()
    doors: dict[str, Wheel] = {}
    spare: Wheel | None = None
    engine_power: int = 75


WHEEL = Table(Wheel, Key("size", Integer(1, 9), "the size of it"), Key("side", Text(), "where it is"))
CAR = Table(
    Car,
    Key("name", Text(), "the name of the car"),
    Key("wheel", Tables(WHEEL, least=1, most=2, if_empty="it would not roll"), "a wheel", field="wheels"),
    Key("door", NamedTables(names.word, WHEEL, most=2), "a door", field="doors"),
    Key("spare", WHEEL, "one more", default=None),
    Key("engine", Section(Key("power", Integer(0, 500), "in kW", field="engine_power")), "what drives it"),
    Key("radio", AnyTable(), "music", default=None, planned=True),
)


def read(text: str, table: Table = CAR) -> tuple[Any, list[str], list[str]]:
    findings = Findings(parse(text.encode(), "car.toml", 1 << 20))
    value = table.read(findings.document.data, (), findings)
    problems = [str(problem).removeprefix("car.toml:") for problem in findings.all_problems()]
    return value, problems, [str(warning).removeprefix("car.toml:") for warning in findings.warnings]


def test_what_is_not_written_has_the_default_of_the_struct() -> None:
    assert read('name = "x"') == (Car(name="x"), [], [])


def test_everything_written() -> None:
    value, problems, _ = read(
        """
        name = "x"
        wheel = [{ size = 1 }, { size = 2, side = "right" }]
        door.front = { size = 3 }
        spare = { size = 4 }
        engine.power = 100
        """
    )
    assert problems == []
    assert value == Car("x", (Wheel(1), Wheel(2, "right")), {"front": Wheel(3)}, Wheel(4), 100)


def test_every_problem_is_found_at_once() -> None:
    value, problems, _ = read(
        """nam = "x"
wheel = [{ size = 0 }, { sid = "right" }]
[door."a b"]
size = 1
[spare]
[engine]
power = "100"
colour = "red"
"""
    )
    assert problems == [
        '1: nam: unknown key; did you mean "name"?',
        "1: name: is missing; it is the name of the car",
        "2: wheel[0].size: 0 is too low; the least is 1",
        "2: wheel[1].size: is missing; it is the size of it",
        '2: wheel[1].sid: unknown key; did you mean "side"?',
        '3: door."a b": "a b" is not a word; it has at most 128 ASCII letters, digits and ._+~:/@=- with a '
        "letter or digit first",
        "5: spare.size: is missing; it is the size of it",
        '7: engine.power: expected a whole number, found "100"',
        "8: engine.colour: unknown key; known here: power",
    ]
    assert isinstance(value, Car)
    assert value.engine_power == 0  # blank, not a default that nobody wrote


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name = 'x'\n[wheel]", "2: wheel: expected an array of tables, found a table; write [[wheel]]"),
        ("name = 'x'\nwheel = []", "2: wheel: is empty; it would not roll"),
        ("name = 'x'\nwheel = [1]", "2: wheel[0]: expected a table, found the integer 1"),
        ("name = 'x'\nwheel = [{size=1},{size=1},{size=1}]", "2: wheel: there are 3, the most is 2"),
        ("name = 'x'\ndoor = 1", "2: door: expected a table, found the integer 1"),
        ("name = 'x'\ndoor = {a={size=1},b={size=1},c={size=1}}", "2: door: there are 3, the most is 2"),
        ("name = 'x'\nengine = 1", "2: engine: expected a table, found the integer 1"),
        ("name = 'x'\nradio = 1", "2: radio: expected a table, found the integer 1"),
    ],
)
def test_tables_of_the_wrong_shape(text: str, problem: str) -> None:
    assert read(text)[1] == [problem]


def test_what_is_planned_is_taken_with_a_warning() -> None:
    value, problems, warnings = read("name = 'x'\n[radio]\nanything = ['goes']")
    assert value == Car(name="x")
    assert problems == []
    assert warnings == ["2: radio: is not acted on in this version"]


def test_a_missing_table_is_read_as_an_empty_one() -> None:
    table = Table(dict, Key("wheel", WHEEL, "a wheel"))
    assert read("# nothing", table)[1] == ["1: wheel.size: is missing; it is the size of it"]


def test_thousands_of_unknown_keys_are_counted_without_a_search_for_each() -> None:
    _, problems, _ = read("name = 'x'\n" + "\n".join(f"key-{number} = 1" for number in range(20_000)))
    assert len(problems) == PROBLEMS_SHOWN + 1
    assert problems[-1] == f" has {20_000 - PROBLEMS_SHOWN} more problems"


def test_the_keys_of_a_table_with_their_defaults() -> None:
    found = {path: key.default for path, key in walk(CAR)}
    assert found["name",] is REQUIRED
    assert found["wheel", 0, "side"] == "left"
    assert found["engine", "power"] == 75
    assert found["spare", "size"] is REQUIRED
