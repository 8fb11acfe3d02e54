"""Retries in a policy file."""

from __future__ import annotations

import pytest

from hostproxy.mesh import policy
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.retries import CONDITIONS, Retry

WHOLE = b"""
[service.payments.retry]
attempts = 2
on = ["reset", "5xx"]
statuses = [429, 400, 599]
methods = ["GET", "POST"]
try_timeout = "500ms"
backoff = "10ms"
backoff_limit = "1s"
budget = 0
"""


def read(text: str) -> Retry | None:
    return policy.parse_files({"p.toml": text.encode()}).services["a"].retry


def problems_of(text: str) -> list[str]:
    with pytest.raises(Invalid) as caught:
        read(text)
    return [str(problem).removeprefix("p.toml:") for problem in caught.value.problems]


def test_every_key() -> None:
    assert policy.parse_files({"p.toml": WHOLE}).services["payments"].retry == Retry(
        attempts=2,
        on=("reset", "5xx"),
        statuses=(429, 400, 599),
        methods=("GET", "POST"),
        try_timeout=0.5,
        backoff=0.01,
        backoff_limit=1.0,
        budget=0,
    )


def test_without_the_table_there_is_no_policy_of_retries() -> None:
    assert read("[service.a]\ntimeout = '2s'") is None


def test_an_empty_table_asks_for_the_usual() -> None:
    assert read("[service.a.retry]") == Retry()


def test_every_condition_is_taken_and_none_at_all() -> None:
    for condition in CONDITIONS:
        assert read(f"[service.a.retry]\non = ['{condition}']") == Retry(on=(condition,))
    assert read("[service.a.retry]\non = []") == Retry(on=())


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("attempts = 0", "2: service.a.retry.attempts: 0 is too low; the least is 1"),
        ("attempts = 11", "2: service.a.retry.attempts: 11 is too high; the most is 10"),
        ("attempts = '2'", '2: service.a.retry.attempts: expected a whole number, found "2"'),
        ("atempts = 2", '2: service.a.retry.atempts: unknown key; did you mean "attempts"?'),
        ("on = 'reset'", '2: service.a.retry.on: expected an array, found "reset"; put it into brackets'),
        ("on = ['gateway_error']", '2: service.a.retry.on[0]: expected one of "reset", "gateway-error", '),
        ("on = ['reset', 'reset']", '2: service.a.retry.on[1]: "reset" is there twice'),
        (
            "on = ['connect-failure']",
            '2: service.a.retry.on[0]: "connect-failure" is no condition here; leave it out: an instance that',
        ),
        ("on = ['retriable-status-codes']", '2: service.a.retry.on[0]: "retriable-status-codes" is no condition here'),
        ("on = ['timeout']", '2: service.a.retry.on[0]: "timeout" is no condition here; give try_timeout instead'),
        ("on = [1]", "2: service.a.retry.on[0]: expected one of"),
        ("statuses = [399]", "2: service.a.retry.statuses[0]: 399 is too low; the least is 400"),
        ("statuses = [600]", "2: service.a.retry.statuses[0]: 600 is too high; the most is 599"),
        ("statuses = ['429']", "2: service.a.retry.statuses[0]: expected a whole number"),
        ("statuses = [429, 429]", "2: service.a.retry.statuses[1]: the integer 429 is there twice"),
        ("methods = []", "2: service.a.retry.methods: is empty; leave the key out, and it means the idempotent ones"),
        ("methods = ['post']", '2: service.a.retry.methods[0]: "post" is not an HTTP method; did you mean "POST"?'),
        ("methods = ['*']", '2: service.a.retry.methods[0]: "*" is no method that anybody sends; name the methods'),
        ("try_timeout = 1", '2: service.a.retry.try_timeout: expected a duration like "250ms", found the integer 1'),
        ("try_timeout = '25h'", "2: service.a.retry.try_timeout: 25h is too high; the most is 24h"),
        ("backoff = '2m'", "2: service.a.retry.backoff: 2m is too high; the most is 1m"),
        ("backoff = '1s'", "1: service.a.retry.backoff_limit: 250ms is shorter than backoff, 1s; raise it too"),
        (
            "backoff_limit = '10ms'",
            "2: service.a.retry.backoff_limit: 10ms is shorter than backoff, 25ms; raise it too",
        ),
        ("budget = 101", "2: service.a.retry.budget: 101 is too high; the most is 100"),
        ("budget = 0.2", "2: service.a.retry.budget: expected a whole number, found the number 0.2"),
    ],
)
def test_a_wrong_retry_says_where_and_why(keys: str, problem: str) -> None:
    (found,) = problems_of(f"[service.a.retry]\n{keys}")
    assert found.startswith(problem)


def test_a_retry_without_a_wait_is_taken() -> None:
    assert read("[service.a.retry]\nbackoff = '0s'\nbackoff_limit = '0s'") == Retry(backoff=0.0, backoff_limit=0.0)


@pytest.mark.parametrize(
    "files",
    [
        {"p.toml": "[service.a]\nprotocol = 'tcp'\n[service.a.retry]"},
        {"p.toml": "\n\n[service.a.retry]", "q.toml": "[service.a]\nprotocol = 'tcp'"},
        {"o.toml": "[service.a]\nprotocol = 'tcp'", "p.toml": "\n\n[service.a.retry]"},
    ],
)
def test_connections_are_not_retried(files: dict[str, str]) -> None:
    with pytest.raises(Invalid) as caught:
        policy.parse_files({name: text.encode() for name, text in files.items()})
    assert [str(problem) for problem in caught.value.problems] == [
        'p.toml:3: service.a.retry: means nothing with protocol = "tcp"; leave it out'
    ]
