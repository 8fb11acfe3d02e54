"""How far clocks are apart."""

from __future__ import annotations

import pytest

from hostproxy.mesh.clocks import Comparison, Skew, ahead

DATE = "Thu, 01 Jan 1970 00:16:40 GMT"  # 1000
HOUR, DAY = 3600.0, 86400.0


class Clocks:
    """A wall clock that may step, and one that does not."""

    def __init__(self) -> None:
        self.step = 0.0
        self.seconds = 1000.5
        self.comparison = Comparison(lambda: self.seconds + self.step, lambda: self.seconds)

    def answer(self, date: str = DATE, after: float = 0.1) -> None:
        asked = self.comparison.ask()
        self.seconds += after
        self.comparison.take(date, asked)

    @property
    def ahead(self) -> float | None:
        skew = self.comparison.skew
        return skew.ahead if skew is not None else None


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.mark.parametrize(
    ("asked", "seconds", "difference"),
    [
        (1000.0, 0.1, 0.0),
        (1000.9, 0.1, 0.0),  # a date is cut to whole seconds
        (999.0, 2.0, 0.0),  # it was written while the answer was waited for
        (990.0, 0.5, -9.5),
        (1011.0, 0.5, 10.0),
    ],
)
def test_how_far_a_clock_is_ahead(asked: float, seconds: float, difference: float) -> None:
    assert ahead(DATE, asked, seconds) == pytest.approx(difference)
    assert ahead("thu jan  1 00:16:40 1970", asked, seconds) == pytest.approx(difference), "RFC 9110 section 5.6.7"


@pytest.mark.parametrize(
    "date",
    [
        *("", "0", "yesterday", "\xff", "1," * 1000),
        *("Thu, 01 Jan 70000000000 00:16:40 GMT", "Thu, 99 Jan 1970 00:16:40 GMT"),
    ],
)
def test_what_is_no_date_tells_nothing(date: str) -> None:
    assert ahead(date, 1000.0, 1.0) is None


def test_nothing_is_known_before_an_answer(clocks: Clocks) -> None:
    assert clocks.ahead is None
    clocks.answer("")
    clocks.answer(after=60.0)  # it tells too little
    assert clocks.ahead is None


def test_what_was_told_goes_with_the_steps_of_our_clock(clocks: Clocks) -> None:
    clocks.answer()
    assert clocks.ahead == 0.0
    clocks.seconds += HOUR
    clocks.step = 0.5  # read one after the other, or slewed
    assert clocks.ahead == 0.0
    clocks.step = DAY
    assert clocks.ahead == DAY
    clocks.step = -DAY
    assert clocks.ahead == -DAY
    clocks.step = 0.0
    assert clocks.ahead == 0.0


def test_the_last_answer_counts(clocks: Clocks) -> None:
    clocks.answer()
    clocks.step = HOUR
    clocks.answer()
    assert clocks.ahead == pytest.approx(HOUR, abs=2)
    clocks.step = 0.0
    assert clocks.ahead == pytest.approx(0.0, abs=2)


def test_a_step_while_the_answer_is_on_its_way_is_seen(clocks: Clocks) -> None:
    asked = clocks.comparison.ask()
    clocks.step = DAY
    clocks.comparison.take(DATE, asked)
    assert clocks.ahead == DAY


@pytest.mark.parametrize("way", [1, -1])
def test_a_bound_counts_unless_more_is_known(clocks: Clocks, way: int) -> None:
    clocks.comparison.bound(way * HOUR)
    assert clocks.comparison.skew == Skew(way * HOUR, least=True)
    clocks.comparison.bound(way * 2 * HOUR)
    clocks.comparison.bound(way * HOUR)
    assert clocks.ahead == way * 2 * HOUR, "both hold"
    clocks.comparison.bound(-way * HOUR)
    assert clocks.ahead == -way * HOUR, "the last one contradicts"
    clocks.answer()
    assert clocks.comparison.skew == Skew(0.0)
    clocks.step = way * DAY
    clocks.comparison.bound(way * HOUR)
    assert clocks.comparison.skew == Skew(way * DAY), "it was told, and says more"


@pytest.mark.parametrize("way", [1, -1])
def test_a_bound_ends_with_a_step_beyond_it(clocks: Clocks, way: int) -> None:
    clocks.comparison.bound(way * 12 * HOUR)
    clocks.step = -way * HOUR
    assert clocks.comparison.skew == Skew(way * 11 * HOUR, least=True)
    clocks.step = -way * DAY
    assert clocks.comparison.skew is None, "it may be right now"


@pytest.mark.parametrize(
    ("skew", "text"),
    [
        (Skew(DAY), "24 h ahead"),
        (Skew(-0.9999 * DAY), "24 h behind"),
        (Skew(-0.9999 * DAY, least=True), "at least 23 h behind"),
        (Skew(3.2 * DAY), "3 d ahead"),
        (Skew(-299.8), "5 min behind"),
        (Skew(90.4), "90 s ahead"),
        (Skew(3559.0, least=True), "at least 50 min ahead"),
        (Skew(299.0, least=True), "at least 4 min ahead"),
        (Skew(-7.9, least=True), "at least 7 s behind"),
        (Skew(59.0, least=True), "at least 50 s ahead"),
    ],
)
def test_how_it_reads(skew: Skew, text: str) -> None:
    assert str(skew) == text


def test_whose_clock_it_is_against() -> None:
    assert Skew(DAY).against("consul") == "24 h ahead of that of consul"
    assert Skew(-DAY).against("consul") == "24 h behind that of consul"
