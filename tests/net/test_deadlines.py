from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hostproxy.net.deadlines import NEVER, STALLED, TICK, Deadlines


class Entry:
    def __init__(self, deadlines: Deadlines | None = None, again: float | None = None) -> None:
        self.deadline = NEVER
        self.slot = 0
        self.fired: list[float] = []
        self.deadlines = deadlines
        self.again = again

    def expired(self, now: float) -> None:
        self.fired.append(now)
        if self.again is not None and self.deadlines is not None:
            self.deadlines.set(self, now + self.again)


def run(deadlines: Deadlines, start: float, end: float) -> None:
    """Tick as the process does."""
    now = start
    while now <= end:
        deadlines.tick(now)
        now += TICK


def test_an_entry_fires_once_at_most_a_tick_late_and_never_early() -> None:
    deadlines = Deadlines(100.0)
    entry = Entry()
    deadlines.set(entry, 103.1)
    run(deadlines, 100.0, 110.0)
    assert len(entry.fired) == 1
    assert 103.1 <= entry.fired[0] <= 103.1 + 2 * TICK
    assert len(deadlines) == 0


@given(st.lists(st.one_of(st.floats(0.0, 20.0), st.just(NEVER), st.just(-1.0)), min_size=1, max_size=12))
def test_only_the_last_deadline_counts(moves: list[float]) -> None:
    """However often it is moved, to and fro, to never, or forgotten (-1)."""
    deadlines = Deadlines(100.0)
    entry = Entry()
    for move in moves:
        if move < 0:
            deadlines.forget(entry)
            entry.deadline = NEVER
        else:
            deadlines.set(entry, 100.0 + move)
    run(deadlines, 100.0, 125.0)
    if moves[-1] < 0 or moves[-1] == NEVER:
        assert entry.fired == []
    else:
        assert len(entry.fired) == 1
        assert 0.0 <= entry.fired[0] - (100.0 + moves[-1]) <= 2 * TICK
    assert len(deadlines) == 0


def test_moving_a_deadline_later_while_time_passes_keeps_it_from_firing() -> None:
    deadlines = Deadlines(100.0)
    entry = Entry()
    now = 100.0
    while now < 110.0:
        deadlines.set(entry, now + 1.0)
        deadlines.tick(now)
        now += TICK
    assert entry.fired == []
    run(deadlines, now, now + 2.0)
    assert len(entry.fired) == 1


def test_a_deadline_that_has_passed_already_fires_with_the_next_tick() -> None:
    deadlines = Deadlines(100.0)
    run(deadlines, 100.0, 105.0)
    entry = Entry()
    deadlines.set(entry, 50.0)
    deadlines.tick(105.25)
    deadlines.tick(105.5)
    assert len(entry.fired) == 1


def test_an_entry_may_set_its_next_deadline_while_it_expires() -> None:
    deadlines = Deadlines(100.0)
    entry = Entry(deadlines, again=1.0)
    deadlines.set(entry, 101.0)
    run(deadlines, 100.0, 105.0)
    assert 3 <= len(entry.fired) <= 4
    assert len(deadlines) == 1


def test_an_entry_that_is_forgotten_by_the_expiry_of_another_does_not_fire() -> None:
    deadlines = Deadlines(100.0)
    entries = [Entry(), Entry()]
    for one, other in (entries, reversed(entries)):
        one.expired = lambda now, one=one, other=other: (  # type: ignore[method-assign]
            one.fired.append(now),
            deadlines.forget(other),
        )
        deadlines.set(one, 101.0)
    run(deadlines, 100.0, 103.0)
    assert len(entries[0].fired) + len(entries[1].fired) == 1


def test_the_fault_of_one_entry_does_not_stop_the_others() -> None:
    deadlines = Deadlines(100.0)
    entries = [Entry() for _ in range(5)]

    def fault(now: float) -> None:
        raise RuntimeError("a fault of ours")

    entries[2].expired = fault  # type: ignore[method-assign]
    for entry in entries:
        deadlines.set(entry, 101.0)
    run(deadlines, 100.0, 103.0)
    assert [len(entry.fired) for entry in entries] == [1, 1, 0, 1, 1]


def test_after_standing_still_nothing_fires_before_one_more_round_of_the_loop() -> None:
    """A process that was stopped for a minute has unread bytes: they may move the deadline."""
    deadlines = Deadlines(100.0)
    busy, dead = Entry(), Entry()
    deadlines.set(busy, 101.0)
    deadlines.set(dead, 101.0)
    deadlines.tick(100.0 + STALLED + 60.0)
    assert busy.fired == dead.fired == []
    deadlines.set(busy, 170.0)  # its bytes were read
    deadlines.tick(161.25)
    assert busy.fired == []
    assert len(dead.fired) == 1


def test_forgetting_what_was_never_set_is_harmless() -> None:
    deadlines = Deadlines(100.0)
    deadlines.forget(Entry())
    assert len(deadlines) == 0
