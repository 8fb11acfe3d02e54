"""Generations of policy: numbers never go back, and of two operators at once one wins."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred

from controller.policy.generations import HEAD, KEPT, Generations, Unchanged, Unknown, Version
from controller.store import Conflict
from tests.controller.memory import MemoryStore

T = TypeVar("T")
ONE = {"a.toml": b"# one\n"}
TWO = {"a.toml": b"# two\n", "b.toml": b"# b\n"}


def done(work: Coroutine[Deferred[Any], Any, T]) -> T:
    """What a coroutine gives that waits for nothing."""
    results: list[T] = []
    failures: list[Any] = []
    Deferred.fromCoroutine(work).addCallbacks(results.append, failures.append)
    if failures:
        raise failures[0].value
    return results[0]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def generations(store: MemoryStore) -> Generations:
    return Generations(store)


def test_numbers_count_up(generations: Generations) -> None:
    assert done(generations.newest()) is None
    assert done(generations.apply(ONE, "ann", 1.0)).version == Version(1, 1)
    second = done(generations.apply(TWO, "bob", 2.0, "because"))
    assert second.version == Version(1, 2)
    assert done(generations.newest()) == second
    assert [(each.version.generation, each.actor) for each in done(generations.history())] == [(2, "bob"), (1, "ann")]


def test_the_same_files_are_no_new_generation(generations: Generations) -> None:
    done(generations.apply(ONE, "ann", 1.0))
    with pytest.raises(Unchanged, match="generation 1"):
        done(generations.apply(dict(ONE), "ann", 2.0))


def test_back_is_forward_with_old_files(generations: Generations) -> None:
    done(generations.apply(ONE, "ann", 1.0))
    done(generations.apply(TWO, "ann", 2.0))
    back = done(generations.rollback(1, "bob", 3.0))
    assert (back.version, back.restored, back.files) == (Version(1, 3), 1, ONE)
    with pytest.raises(Unknown):
        done(generations.rollback(9, "bob", 4.0))


def test_of_two_at_once_one_comes_after_the_other(generations: Generations, store: MemoryStore) -> None:
    done(generations.apply(ONE, "ann", 1.0))
    raced = []

    def race(key: str) -> None:
        if key == HEAD and not raced:
            raced.append(True)
            done(Generations(store).apply(TWO, "bob", 2.0))

    store.before_put = race
    third = {"a.toml": b"# three\n"}
    assert done(generations.apply(third, "ann", 2.0)).version == Version(1, 3)
    assert [each.files for each in done(generations.history())] == [third, TWO, ONE]


def test_who_loses_every_time_is_told(generations: Generations, store: MemoryStore) -> None:
    done(generations.apply(ONE, "ann", 1.0))
    count = [0]

    def race(key: str) -> None:
        if key == HEAD:
            store.before_put = lambda key: None
            count[0] += 1
            done(Generations(store).apply({"a.toml": b"# %d\n" % count[0]}, "bob", 2.0))
            store.before_put = race

    store.before_put = race
    with pytest.raises(Conflict, match="others"):
        done(generations.apply(TWO, "ann", 2.0))
    assert done(generations.newest()).actor == "bob"  # type: ignore[union-attr]


def test_what_never_held_is_in_no_history(generations: Generations, store: MemoryStore) -> None:
    done(generations.apply(ONE, "ann", 1.0))

    def fall(key: str) -> None:
        if key == HEAD:
            raise RuntimeError("the power went")

    store.before_put = fall
    with pytest.raises(RuntimeError):
        done(generations.apply(TWO, "ann", 2.0))
    store.before_put = lambda key: None
    assert done(generations.newest()).files == ONE  # type: ignore[union-attr]
    third = {"a.toml": b"# three\n"}
    done(generations.apply(third, "ann", 3.0))
    done(generations.apply(ONE, "ann", 4.0))
    assert [each.files for each in done(generations.history())] == [ONE, third, ONE]
    with pytest.raises(Unknown):
        done(generations.get(4))
    assert len([key for key in store.entries if key.startswith("generations/")]) == 3


def test_old_ones_are_forgotten(generations: Generations, store: MemoryStore) -> None:
    for number in range(KEPT + 5):
        done(generations.apply({"a.toml": b"# %d\n" % number}, "ann", float(number)))
    assert len(done(generations.history())) == KEPT
    assert len([key for key in store.entries if key.startswith("generations/")]) == KEPT


def test_a_new_epoch_comes_after_everything_that_hosts_may_have(generations: Generations) -> None:
    done(generations.apply(ONE, "ann", 1.0))
    assert done(generations.raise_epoch("ann", 2.0)).version == Version(2, 2)
    assert Version(2, 2) > Version(1, 999)
    assert done(generations.apply(TWO, "ann", 3.0)).version == Version(2, 3)


def test_a_file_has_a_name_that_hosts_take(generations: Generations) -> None:
    with pytest.raises(ValueError, match="cannot be a file"):
        done(generations.apply({"../x.toml": b"#"}, "ann", 1.0))


def test_large_ones_are_forgotten_sooner(generations: Generations, store: MemoryStore) -> None:
    for number in range(14):
        done(generations.apply({"a.toml": b"#%d" % number + b"x" * 3_000_000}, "ann", float(number)))
    kept = [entry for key, entry in store.entries.items() if key.startswith("generations/")]
    assert 1 < len(kept) < 14
    assert sum(len(entry.value) for entry in kept) <= 32 * 1024 * 1024
    assert done(generations.newest()).version.generation == 14  # type: ignore[union-attr]
