from __future__ import annotations

import pytest

from hostproxy.health.judgement import Judgement


def states(answers: str, rise: int, fall: int, healthy: bool | None = None) -> str:
    """After each answer (+ or -): whether it is healthy (H) or not (u), in brackets where that has changed."""
    judgement = Judgement(rise, fall, healthy)
    shown = ""
    for answer in answers:
        changed = judgement.answered(answer == "+")
        state = "H" if judgement.healthy else "u"
        shown += f"({state})" if changed else state
    return shown


@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        ("+", "(H)"),  # the first one decides, whatever the counts are
        ("-", "(u)"),
        ("+--+", "(H)HHH"),
        ("+---", "(H)HH(u)"),
        ("+--+--+---", "(H)HHHHHHHH(u)"),  # in a row, not in all
        ("-+-++", "(u)uuu(H)"),
        ("---+", "(u)uuu"),
        ("+---++---", "(H)HH(u)u(H)HH(u)"),
    ],
)
def test_two_to_rise_three_to_fall(answers: str, shown: str) -> None:
    assert states(answers, rise=2, fall=3) == shown


def test_each_answer_counts_when_one_is_enough() -> None:
    assert states("+-+", rise=1, fall=1) == "(H)(u)(H)"


@pytest.mark.parametrize(
    ("healthy", "answers", "shown"), [(True, "+---", "HHH(u)"), (False, "-++", "uu(H)"), (False, "-", "u")]
)
def test_what_was_known_before_is_not_overturned_by_one_answer(healthy: bool, answers: str, shown: str) -> None:
    assert states(answers, rise=2, fall=3, healthy=healthy) == shown


def test_nothing_is_known_at_first() -> None:
    assert Judgement(2, 3).healthy is None
