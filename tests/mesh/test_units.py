from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.mesh.units import Wrong, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("0s", 0.0),
        ("0.5ms", 0.0005),
        ("1.1ms", 0.0011),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", "5 s", " 5s", "5s\n", "+5s", "-5s", "1_0s", "٣s", "1e3s", "5S", "1d", ".5s", "1m30s"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(Wrong, match="is not a duration; write a number and one unit"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("0B", 0), ("512B", 512), ("64KiB", 65536), ("1MiB", 1048576), ("2GiB", 2147483648)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert format_size(size) == text


@pytest.mark.parametrize(
    "text", ["", "5", "KiB", "1.5KiB", "+5B", "-5B", "1_0B", "٣B", "5 B", "5B\n", "5b", "9999999999999999B"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(Wrong, match="is not a size; write a whole number and one unit"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "meant"), [("64k", "64KiB"), ("64KB", "64KiB"), ("1 mb", "1MiB"), ("1kib", "1KiB")]
)
def test_a_size_in_another_spelling_is_told_the_right_one(text: str, meant: str) -> None:
    with pytest.raises(Wrong, match=f'did you mean "{meant}"'):
        parse_size(text)


@given(st.integers(0, 10**8).map(lambda milliseconds: milliseconds / 1000))
def test_a_duration_written_and_read_is_the_same(seconds: float) -> None:
    # Six significant digits are written, which every default and bound has.
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.01, "10ms"),
        (0.25, "250ms"),
        (1.0, "1s"),
        (1.5, "1.5s"),
        (60.0, "1m"),
        (90.0, "90s"),
        (3600.0, "1h"),
    ],
)
def test_a_duration_is_written_in_the_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**14))
def test_a_size_written_and_read_is_the_same(size: int) -> None:
    assert parse_size(format_size(size)) == size
