from __future__ import annotations

import pytest

from hostproxy.enforce.retry import IDEMPOTENT, MAX_ATTEMPTS, may_repeat


@pytest.mark.parametrize("method", sorted(IDEMPOTENT))
def test_idempotent_methods_may_be_repeated(method: bytes) -> None:
    assert may_repeat(method, reused=True, replayable=True, unsent=False, attempts=1)


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"CONNECT", b"get", b"LOCK", b""])
def test_all_others_may_not(method: bytes) -> None:
    assert not may_repeat(method, reused=True, replayable=True, unsent=False, attempts=1)


@pytest.mark.parametrize(
    ("reused", "replayable", "attempts", "expected"),
    [
        (True, True, 1, True),
        (True, True, MAX_ATTEMPTS - 1, True),
        (True, True, MAX_ATTEMPTS, False),
        (False, True, 1, False),
        (True, False, 1, False),
    ],
)
def test_only_in_the_race_with_keep_alive(
    reused: bool, replayable: bool, attempts: int, expected: bool
) -> None:
    assert may_repeat(b"GET", reused, replayable, False, attempts) is expected


def test_what_was_never_sent_may_be_sent_whatever_it_is() -> None:
    assert may_repeat(b"POST", reused=False, replayable=True, unsent=True, attempts=1)
    assert not may_repeat(b"POST", reused=True, replayable=False, unsent=True, attempts=1)
    assert not may_repeat(b"POST", reused=True, replayable=True, unsent=True, attempts=MAX_ATTEMPTS)
