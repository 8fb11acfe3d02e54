"""Response flags."""

from __future__ import annotations

from hostproxy.telemetry import flags


def test_every_flag_has_a_meaning_and_the_absence_of_one_has_none():
    names = {value for name, value in vars(flags).items() if name.isupper() and isinstance(value, str)}
    assert names == {*flags.MEANINGS, flags.NONE}


def test_long_names_are_distinct_and_the_statuses_are_errors_or_absent():
    meanings = flags.MEANINGS.values()
    assert len({meaning.name for meaning in meanings}) == len(meanings)
    assert all(meaning.status == 0 or 400 <= meaning.status < 600 for meaning in meanings)
