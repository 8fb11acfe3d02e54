from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.enforce.retry import IDEMPOTENT, MAX_ATTEMPTS, RetryPolicy, may_repeat
from hostproxy.mesh.retries import CONDITIONS, Retry


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


def test_the_methods_that_may_be_repeated_are_the_policy_s_default() -> None:
    assert {method.encode() for method in Retry().methods} == IDEMPOTENT


@pytest.mark.parametrize(
    ("on", "statuses", "retried", "not_retried"),
    [
        ((), (), set(), {409, 429, 500, 502, 503, 504}),
        (("gateway-error",), (), {502, 503, 504}, {500, 501, 505, 409}),
        (("5xx",), (), set(range(500, 600)), {499, 409}),
        (("retriable-4xx",), (), {409}, {408, 429, 500}),
        (("reset",), (429,), {429}, {409, 502, 503, 504}),
        (("retriable-4xx", "gateway-error"), (425, 500), {409, 425, 500, 502, 503, 504}, {501}),
    ],
)
def test_which_statuses_are_retried(
    on: tuple[str, ...], statuses: tuple[int, ...], retried: set[int], not_retried: set[int]
) -> None:
    policy = RetryPolicy(Retry(on=on, statuses=statuses))
    assert policy.statuses == retried
    assert not policy.statuses & not_retried
    assert policy.resets == ("reset" in on)


def test_every_condition_is_known() -> None:
    policy = RetryPolicy(Retry(on=CONDITIONS))
    assert policy.resets
    assert policy.statuses == {409, *range(500, 600)}


def test_the_backoff_doubles_up_to_its_limit_and_is_random_in_full() -> None:
    policy = RetryPolicy(Retry(backoff=0.1, backoff_limit=1.0))
    assert [policy.wait(number, 1.0) for number in range(1, 6)] == pytest.approx([0.1, 0.3, 0.7, 1.0, 1.0])
    assert policy.wait(3, 0.0) == 0.0
    assert policy.wait(3, 0.5) == pytest.approx(0.35)


@given(
    budget=st.integers(0, 100),
    steps=st.lists(st.sampled_from(("begin", "end", "allow", "release")), max_size=200),
)
def test_retries_never_exceed_the_budget_that_held_when_they_began(budget: int, steps: list[str]) -> None:
    policy = RetryPolicy(Retry(budget=budget))
    for step in steps:
        under_way, retries = policy.under_way, policy.retries
        if step == "begin":
            policy.begin()
            assert (policy.under_way, policy.retries) == (under_way + 1, retries)
        elif step == "end" and under_way:
            policy.end()
            assert (policy.under_way, policy.retries) == (under_way - 1, retries)
        elif step == "release" and retries:
            policy.release()
            assert (policy.under_way, policy.retries) == (under_way, retries - 1)
        elif step == "allow":
            room = retries < max(3, under_way * budget // 100)
            assert policy.allow() is room
            assert (policy.under_way, policy.retries) == (under_way, retries + room)


def test_three_retries_are_allowed_in_any_case_and_more_when_there_are_many_requests() -> None:
    policy = RetryPolicy(Retry(budget=20))
    assert [policy.allow() for _ in range(4)] == [True, True, True, False]
    for _ in range(24):
        policy.begin()
    assert [policy.allow() for _ in range(2)] == [True, False]
