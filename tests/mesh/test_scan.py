from __future__ import annotations

import time
import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.mesh import scan
from tests.mesh.documents import documents, paths

BOMB = "[" * 40


def test_every_kind_of_key_is_found_where_it_stands() -> None:
    text = "\n".join(
        [
            "# a comment with [brackets] = 1",  # 1
            "title = 'x'",  # 2
            "fruit.apple . color = 1",  # 3
            "\"quoted \\u0041\".'lit.eral' = 2",  # 4
            "[table]  # [not.this]",  # 5
            "  day = 1979-05-27 07:32:00",  # 6
            "list = [ 1, [ 2 ], # ]",  # 7
            "  { inline = 3, a.b = 4 } , ]",  # 8
            "text = '''",  # 9
            "[no.table]'''",  # 10
            'more = """a \\""" [no] "" """""',  # 11
            "[[array]]",  # 12
            "name = 1",  # 13
            "[array.sub]",  # 14
            "k = 1",  # 15
            "[[array]]",  # 16
            "[[array.inner]]",  # 17
            "[[ array . inner ]]",  # 18
            "k = 2",  # 19
            "[table.'x.y'.z]",  # 20
        ]
    )
    tomllib.loads(text)
    found = {}
    for path, offset in scan.offsets(text).items():
        line = text.count("\n", 0, offset) + 1
        found[path] = (line, offset - (text.rfind("\n", 0, offset) + 1) + 1)
    assert found == {
        ("title",): (2, 1),
        ("fruit",): (3, 1),
        ("fruit", "apple"): (3, 7),
        ("fruit", "apple", "color"): (3, 15),
        ("quoted A",): (4, 1),
        ("quoted A", "lit.eral"): (4, 17),
        ("table",): (5, 1),
        ("table", "day"): (6, 3),
        ("table", "list"): (7, 1),
        ("table", "list", 0): (7, 10),
        ("table", "list", 1): (7, 13),
        ("table", "list", 1, 0): (7, 15),
        ("table", "list", 2): (8, 3),
        ("table", "list", 2, "inline"): (8, 5),
        ("table", "list", 2, "a"): (8, 17),
        ("table", "list", 2, "a", "b"): (8, 19),
        ("table", "text"): (9, 1),
        ("table", "more"): (11, 1),
        ("array",): (12, 1),
        ("array", 0): (12, 1),
        ("array", 0, "name"): (13, 1),
        ("array", 0, "sub"): (14, 1),
        ("array", 0, "sub", "k"): (15, 1),
        ("array", 1): (16, 1),
        ("array", 1, "inner"): (17, 1),
        ("array", 1, "inner", 0): (17, 1),
        ("array", 1, "inner", 1): (18, 1),
        ("array", 1, "inner", 1, "k"): (19, 1),
        ("table", "x.y"): (20, 8),
        ("table", "x.y", "z"): (20, 1),
    }


@given(documents, st.booleans())
def test_every_key_of_a_random_document_is_found(document: dict[str, object], multiline: bool) -> None:
    text = tomli_w.dumps(document, multiline_strings=multiline).replace("\r\n", "\n")
    offsets = scan.offsets(text)
    for path, value in paths(tomllib.loads(text)):
        offset = offsets[path]
        if isinstance(path[-1], int):
            assert_value_stands_at(text, offset, value)
        else:
            assert_key_stands_at(text, offset, path[-1])


def assert_key_stands_at(text: str, offset: int, key: str) -> None:
    line = text[offset:].partition("\n")[0]
    if line[0] == "[":  # a header, whose last part is the key
        parsed = tomllib.loads(line)
        name = ""
        while parsed:
            ((name, inner),) = parsed.items()
            parsed = inner[0] if isinstance(inner, list) else inner
    else:
        # The first of one or more dotted parts, before a value or another part.
        part = scan._KEY_PART.match(line)
        assert part
        (name,) = tomllib.loads(f"{part[0]} = 1")
    assert name == key


def assert_value_stands_at(text: str, offset: int, value: object) -> None:
    starts = {str: "\"'", list: "[", dict: "{[", bool: "tf"}.get(type(value), "+-0123456789in")
    assert text[offset] in starts


@given(documents, st.booleans())
def test_nothing_in_a_good_document_hides_a_bomb_behind_it(
    document: dict[str, object], multiline: bool
) -> None:
    text = tomli_w.dumps(document, multiline_strings=multiline).replace("\r\n", "\n")
    scan.refuse_harmful(text)
    with pytest.raises(scan.Harmful) as caught:
        scan.refuse_harmful(f"{text}\n['a bomb']\nkey = {BOMB}")
    assert caught.value.offset > len(text)


FRAGMENTS = [
    "a",
    "b.c",
    "'q'",
    '"d\\""',
    " = ",
    "=",
    "1",
    "1.5",
    "'s'",
    '"t"',
    '"""',
    "'''",
    "[",
    "]",
    "[[",
    "]]",
]
FRAGMENTS += ["{", "}", ",", "#", "\n", "\\", " ", "1979-05-27 07:32:00", "true", '"', "'", "é"]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join))
def test_whatever_tomllib_takes_is_walked_to_its_end(text: str) -> None:
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        scan.refuse_harmful(text)  # it may stop early, but has nothing to say
        return
    offsets = scan.offsets(text)
    assert {path for path, _ in paths(parsed)} == set(offsets)
    with pytest.raises(scan.Harmful):
        scan.refuse_harmful(f"{text}\nbomb = {BOMB}")


DOTTED = ".".join("a" * 8192)
HARMFUL = {
    "nested arrays": ("a = " + "[" * 500, "arrays and inline tables within each other"),
    "nested inline tables": ("a = " + "{a = " * 500, "arrays and inline tables within each other"),
    "nested in turn": ("a = " + "[{a = " * 17, "arrays and inline tables within each other"),
    "long dotted key": (f"{DOTTED} = 1", "a key of more than 256 bytes"),
    "long dotted key with an end that is no key": (f"{DOTTED}.!", "a key of more than 256 bytes"),
    "long table name": (f"[{DOTTED}]", "a key of more than 256 bytes"),
    "long array name": (f"[[{DOTTED}]]", "a key of more than 256 bytes"),
    "long key in an inline table": (f"a = {{ {DOTTED} = 1 }}", "a key of more than 256 bytes"),
    "long quoted key": (f"'{'é' * 130}' = 1", "a key of more than 256 bytes"),
    "many parts": (f"{'a . ' * 16}a = 1", "a key of more than 16 dotted parts"),
    "growing tables": (
        "\n".join(f"[{'.'.join('abcdefghijklmnopqrstuvwxyz'[:size])}]" for size in range(1, 27)),
        "a key of more than 16 dotted parts",
    ),
    "long integer": (f"a = {'9' * 5000}", "a number of more than 40 digits"),
    "long hexadecimal integer": (f"a = 0x{'f' * 50}", "a number of more than 40 digits"),
    "long integer with underscores": (f"a = {'1_' * 50}1", "a number of more than 40 digits"),
    "long integer in an array": (f"a = [1, -{'9' * 41}]", "a number of more than 40 digits"),
    "behind ordinary lines": ('[a]\nb = "c"\nd = 1\n# e\n\n' * 3 + f"a = {BOMB}", "within each other"),
    "behind a string that looks unended": (f'a = """"b"""\nc = {BOMB}', "within each other"),
    "behind an escaped quote": (f'a = "\\""\nc = {BOMB} # "', "within each other"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_what_would_hurt_tomllib_is_refused_at_once(name: str) -> None:
    text, message = HARMFUL[name]
    began = time.process_time()
    with pytest.raises(scan.Harmful, match=message):
        scan.refuse_harmful(text)
    assert time.process_time() - began < 0.05


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 32 + "]" * 32,
        "a = " + "9" * 40,
        "a = 0x" + "f" * 16,
        "a = 1979-05-27T07:32:00.999999999-07:00",
        ".".join("abcdefghijklmnop") + " = 1",
        f"{'a' * 256} = 1",
        f"a = '{BOMB}'",
        f"a = '''\n{BOMB}'''",
        f"# {BOMB}",
        f'a = "{DOTTED}"',
    ],
)
def test_the_largest_allowed_is_taken(text: str) -> None:
    scan.refuse_harmful(text)
    tomllib.loads(text)


@pytest.mark.parametrize(
    "text", ["a", "a =", "= 1", "[", "[a", "a = [1", "a = {", "a = {b", "a = 'x", "a = [1 2]", "\x00"]
)
def test_broken_text_is_left_to_tomllib(text: str) -> None:
    scan.refuse_harmful(text)
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(text)


def test_ten_thousand_lines_are_located_well_under_a_second() -> None:
    table = (
        '[[instance]]\nservice = "payments"\nhost = "db-1"\naddress = "10.0.0.12:9001"\ntags = ["a", "b"]\n'
    )
    text = table * 2000
    began = time.process_time()
    assert scan.offsets(text)["instance", 1999, "tags", 1] == len(text) - len('"b"]\n')
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("part", "source"), [("a-1", "a-1"), ("", '""'), ("a.b", '"a.b"'), ("é\n", '"\\u00e9\\n"')]
)
def test_a_key_is_shown_as_toml_would_write_it(part: str, source: str) -> None:
    assert scan.key_source(part) == source
    assert tomllib.loads(f"{source} = 1") == {part: 1}
