"""Join tokens: one host, once, and soon; and nothing to find of them afterwards."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.registry import tokens
from controller.registry.records import Refused
from controller.registry.tokens import Token, Tokens, token_id
from controller.store.sqlite import SqliteStore
from tests.controller.memory import MemoryStore
from tests.controller.stores import failure, outcomes, result
from tests.discovery.conftest import Loop, loop

__all__ = ("loop",)

KEY = "ab" * 32


class Now:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


def counting() -> Callable[[int], bytes]:
    """Randomness that never repeats and can be told."""
    numbers = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def store(loop: Loop, tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(loop.reactor, str(tmp_path / "store.db"))
    yield store
    result(loop, store.close())


def refused(loop: Loop, asked: object) -> str:
    error = failure(loop, asked)  # type: ignore[arg-type]
    assert isinstance(error, Refused), error
    return error.code


def test_a_token_is_used_once_by_its_host_and_in_time(loop: Loop, now: Now) -> None:
    all_tokens = Tokens(MemoryStore(), now, counting())
    secret, token = result(loop, all_tokens.create("web-1", by="ann"))
    assert token == Token(
        sha256=token.sha256, host="web-1", created=now.time, expires=now.time + 15 * 60, by="ann", reenrol=False
    )
    assert refused(loop, all_tokens.use(secret, "web-2", KEY)) == "other-host"
    assert refused(loop, all_tokens.use(secret + "x", "web-1", KEY)) == "token"
    assert refused(loop, all_tokens.use("", "web-1", KEY)) == "token"
    assert refused(loop, all_tokens.use("\udc80", "web-1", KEY)) == "token"
    assert result(loop, all_tokens.check(secret, "web-1")) == token
    used = result(loop, all_tokens.use(secret, "web-1", KEY))
    assert (used.used, used.used_by) == (now.time, KEY)
    assert refused(loop, all_tokens.use(secret, "web-1", KEY)) == "used"
    assert refused(loop, all_tokens.check(secret, "web-1")) == "used"

    late, _ = result(loop, all_tokens.create("web-1", by="ann"))
    now.time += 15 * 60
    assert refused(loop, all_tokens.use(late, "web-1", KEY)) == "expired"


def test_a_token_has_192_random_bits_and_lasts_a_day_at_most(loop: Loop, now: Now) -> None:
    asked = []

    def random_bytes(size: int) -> bytes:
        asked.append(size)
        return b"\xfb\xff" * (size // 2)

    all_tokens = Tokens(MemoryStore(), now, random_bytes)
    secret, _ = result(loop, all_tokens.create("web-1", by="ann", life=24 * 3600.0))
    assert asked == [24]
    assert secret.startswith("hpj_")
    assert base64.urlsafe_b64decode(secret[4:]) == b"\xfb\xff" * 12
    for life in (24 * 3600.0 + 1, 0.0, -1.0, float("nan")):
        assert refused(loop, all_tokens.create("web-1", by="ann", life=life)) == "expired"


def test_a_thousand_double_uses_have_a_thousand_single_winners(loop: Loop, now: Now, store: SqliteStore) -> None:
    all_tokens = Tokens(store, now, counting())
    # As two controllers would: each with its own object over the same store.
    others = Tokens(store, now, counting())
    winners = 0
    for _ in range(10):
        secrets = [result(loop, all_tokens.create(f"web-{number}", by="ann"))[0] for number in range(100)]
        asked = []
        for number, secret in enumerate(secrets):
            asked += [each.use(secret, f"web-{number}", KEY) for each in (all_tokens, others)]
        found = outcomes(loop, *asked)
        for pair in zip(found[::2], found[1::2], strict=True):
            assert sorted(type(each).__name__ for each in pair) == ["Refused", "Token"], pair
            assert next(each.code for each in pair if isinstance(each, Refused)) == "used"
            winners += 1
        now.time += 15 * 60
        assert result(loop, all_tokens.sweep()) == {}
    assert winners == 1000


def test_of_two_hundred_at_once_one_wins(loop: Loop, now: Now, store: SqliteStore) -> None:
    all_tokens = Tokens(store, now, counting())
    secret, _ = result(loop, all_tokens.create("web-1", by="ann"))
    found = outcomes(loop, *(all_tokens.use(secret, "web-1", f"{number:064x}") for number in range(200)))
    assert [type(each) for each in found].count(Token) == 1
    assert {each.code for each in found if isinstance(each, Refused)} == {"used"}


def test_the_disk_does_not_have_the_token(loop: Loop, now: Now, store: SqliteStore, tmp_path: Path) -> None:
    all_tokens = Tokens(store, now, lambda size: bytes(range(100, 100 + size)))
    secret, token = result(loop, all_tokens.create("web-1", by="ann"))
    result(loop, all_tokens.use(secret, "web-1", KEY))
    content = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert token.sha256.encode() in content
    assert secret[4:].encode() not in content
    assert bytes(range(100, 124)) not in content


def test_operators_see_and_revoke_them_by_an_id_that_opens_nothing(loop: Loop, now: Now) -> None:
    all_tokens = Tokens(MemoryStore(), now, counting())
    secret, token = result(loop, all_tokens.create("web-1", by="ann"))
    name = token_id(token)
    assert result(loop, all_tokens.all()) == {name: token}
    assert refused(loop, all_tokens.use(name, "web-1", KEY)) == "token"
    assert refused(loop, all_tokens.use(token.sha256, "web-1", KEY)) == "token"
    for unknown in ("", "0" * 32, "../hosts/web-1"):
        assert refused(loop, all_tokens.revoke(unknown)) == "token"
    assert result(loop, all_tokens.revoke(name)) == token
    assert refused(loop, all_tokens.use(secret, "web-1", KEY)) == "token"


def test_expired_ones_are_forgotten_and_their_number_has_a_limit(
    loop: Loop, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MOST", 3)
    store = MemoryStore()
    all_tokens = Tokens(store, now, counting())
    for number in range(3):
        result(loop, all_tokens.create(f"web-{number}", by="ann"))
    assert refused(loop, all_tokens.create("web-3", by="ann")) == "full"
    now.time += 15 * 60
    result(loop, all_tokens.create("web-3", by="ann"))
    assert len(store.entries) == 1


def test_making_one_does_not_read_all_others(loop: Loop, now: Now) -> None:
    store = MemoryStore()
    all_tokens = Tokens(store, now, counting())
    looks = []
    list_them = store.list
    store.list = lambda prefix: looks.append(prefix) or list_them(prefix)  # type: ignore[func-returns-value,method-assign]
    for number in range(100):
        result(loop, all_tokens.create(f"web-{number}", by="ann"))
    assert len(looks) == 1
    now.time += 20 * 60
    # Expired ones go although nobody makes any.
    result(loop, all_tokens.tidy())
    result(loop, all_tokens.tidy())
    assert (len(looks), store.entries) == (2, {})
