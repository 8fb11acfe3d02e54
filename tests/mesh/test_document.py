from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.mesh.document import CONFIG_SIZE, Document, Invalid, Problem, key_text, parse, read


def refused(content: bytes, size_limit: int = CONFIG_SIZE) -> Problem:
    with pytest.raises(Invalid) as caught:
        parse(content, "conf.toml", size_limit)
    (problem,) = caught.value.problems
    return problem


def test_a_good_document_has_its_data_and_knows_its_places() -> None:
    document = parse(b"[a]\r\nb = 1\r\n  c = [1,\r\n 2]\r\n", "conf.toml", CONFIG_SIZE)
    assert document.data == {"a": {"b": 1, "c": [1, 2]}}
    assert document.place(("a", "b")) == (2, 1)
    assert document.place(("a", "c", 1)) == (4, 2)
    assert document.has(("a", "c", 1))


def test_the_place_of_what_is_not_there_is_the_table_around_it() -> None:
    document = parse(b"\n[a]\nb = 1\n", "conf.toml", CONFIG_SIZE)
    assert document.place(("a", "missing", "deeper")) == (2, 1)
    assert document.place(("missing",)) == (1, 1)
    assert not document.has(("a", "missing"))


def test_a_problem_reads_as_file_line_key_message_and_hint() -> None:
    document = parse(b"[a]\ntimout = 1\n", "conf.toml", CONFIG_SIZE)
    problem = document.problem(("a", "timout"), "unknown key", 'did you mean "timeout"?')
    assert problem == Problem("conf.toml", 2, 1, "a.timout", "unknown key", 'did you mean "timeout"?')
    assert str(problem) == 'conf.toml:2: a.timout: unknown key; did you mean "timeout"?'
    assert str(Problem("conf.toml", 0, 0, "", "is empty")) == "conf.toml: is empty"


def test_invalid_says_every_problem() -> None:
    problems = [Problem("a", 1, 1, "k", "one"), Problem("b", 0, 0, "", "two")]
    assert str(Invalid(problems)) == "a:1: k: one\nb: two"
    assert Invalid(problems).problems == problems


@pytest.mark.parametrize(
    ("content", "line", "column", "message"),
    [
        (b"a = 1\nb = = 2\n", 2, 5, "Invalid value"),
        (b"a = 1\na = 2\n", 2, 6, "Cannot overwrite a value"),
        (b"a = 1\n[b\n", 2, 3, "Expected ']'"),
        (b'a = 1\nb = "', 2, 6, "at the end of the file"),
        (b"a = 2021-02-30", 1, 5, "Invalid date"),
        (b"\xef\xbb\xbfa = 1", 1, 1, "byte order mark"),
        (b"\xff\xfea\x00", 1, 1, "0xff is not UTF-8"),
        ("é = 1\nü\xff".encode("latin-1"), 1, 1, "0xe9 is not UTF-8"),
        ("a = 1\nb = 'ü".encode() + b"\xed\xa0\x80'", 2, 7, "0xed is not UTF-8"),
        (b"a = 1\n  b = " + b"[" * 500, 2, 39, "within each other"),
        (b"x = 1\n" + b"a." * 300 + b"a = 1", 2, 1, "more than 256 bytes"),
        (b"x = 1\ny = " + b"9" * 5000, 2, 5, "more than 40 digits"),
        (b"", 0, 0, "is empty"),
        (b" \n\t\n", 0, 0, "is empty"),
    ],
)
def test_a_bad_document_says_where_and_why(content: bytes, line: int, column: int, message: str) -> None:
    problem = refused(content)
    assert (problem.line, problem.column) == (line, column)
    assert message in problem.message


def test_a_file_larger_than_the_limit_is_refused() -> None:
    assert parse(b"a = 1", "x", 5).data == {"a": 1}
    assert refused(b"a = 12", 5).message == "is larger than 5B, the most that is read"


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "conf.toml"
    file.write_bytes(b"a = 1\n")
    assert read(str(file), 100).data == {"a": 1}


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "conf.toml"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(Invalid, match="larger than 1MiB"):
        read(str(file), CONFIG_SIZE)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, message in (("fifo", "not a regular file"), ("", "not a regular file"), ("none", "No such file")):
        with pytest.raises(Invalid, match=message):
            read(str(tmp_path / name), 100)


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_either_a_document_or_invalid(content: bytes) -> None:
    try:
        document = parse(content, "x", CONFIG_SIZE)
    except Invalid:
        return
    assert isinstance(document, Document)


def test_a_key_path_reads_as_toml_would_have_it() -> None:
    assert key_text(("outbound", "upstream", 0, "listen")) == "outbound.upstream[0].listen"
    assert key_text(("service", "a b\n")) == 'service."a b\\n"'
