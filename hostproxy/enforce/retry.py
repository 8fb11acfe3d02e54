"""Whether a request may be sent a second time, and how soon. Pure decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostproxy.mesh import retries

if TYPE_CHECKING:
    from hostproxy.mesh.retries import Retry

IDEMPOTENT = frozenset(method.encode() for method in retries.IDEMPOTENT)  # as they are on the wire

# How many endpoints are asked for a connection before giving up: the first and three more. HAProxy retries 3.
MAX_ATTEMPTS = 4

# Retries that may be under way at once however few requests there are: a budget in percent would allow a service that
# is seldom called none at all. Envoy min_retry_concurrency.
MIN_RETRIES = 3

# Statuses that a condition stands for. "reset" is none: there was no response.
_STATUSES: dict[str, frozenset[int]] = {
    "gateway-error": frozenset((502, 503, 504)),
    "5xx": frozenset(range(500, 600)),
    "retriable-4xx": frozenset((409,)),
}


def may_repeat(method: bytes, reused: bool, replayable: bool, unsent: bool, attempts: int) -> bool:
    """May a request be repeated whose connection ended before any byte of a response?

    RFC 9112 section 9.3.1 allows it for an idempotent method when "the underlying transport connection closed
    prematurely". Only on a connection that had served others (``reused``) is that the ordinary race with the
    server's keep-alive timeout; on a fresh one the request itself may be what breaks the server. ``replayable``
    says that the whole body, if any, is still here, ``unsent`` that nothing of the request has left this process: then
    repeating is no repetition.
    """
    if not replayable or attempts >= MAX_ATTEMPTS:
        return False
    return unsent or (reused and method in IDEMPOTENT)


class RetryPolicy:
    """What policy says of retries, and how many there are: one for the requests of one caller to one destination.

    Every request is told to it with :meth:`begin` and :meth:`end`, every retry with :meth:`allow` and :meth:`release`.
    Each worker process counts its own.
    """

    __slots__ = (
        "_backoff",
        "_backoff_limit",
        "_budget",
        "attempts",
        "methods",
        "resets",
        "retries",
        "source",
        "statuses",
        "try_timeout",
        "under_way",
    )

    def __init__(self, retry: Retry) -> None:
        self.source = retry  # what it was made of
        self.attempts = retry.attempts  # tries after the first
        self.methods = frozenset(method.encode() for method in retry.methods)
        self.statuses = frozenset(retry.statuses).union(*(_STATUSES.get(one, ()) for one in retry.on))
        self.resets = "reset" in retry.on
        self.try_timeout = retry.try_timeout  # seconds for a try's response head; 0: as long as the call may take
        self._backoff = retry.backoff
        self._backoff_limit = retry.backoff_limit
        self._budget = retry.budget
        self.under_way = 0  # requests
        self.retries = 0  # those of them that wait for a retry or for the response to one

    def begin(self) -> None:
        """A request has come."""
        self.under_way += 1

    def end(self) -> None:
        """A request is over."""
        self.under_way -= 1

    def allow(self) -> bool:
        """Whether one more request may be sent again within the budget; if so, it counts until :meth:`release`."""
        if self.retries >= MIN_RETRIES and self.retries >= self.under_way * self._budget // 100:
            return False
        self.retries += 1
        return True

    def release(self) -> None:
        """A request that was sent again has its answer, or does not wait for one any more."""
        self.retries -= 1

    def wait(self, number: int, random: float) -> float:
        """Seconds to wait before retry ``number``, from 1 on. ``random``, in [0, 1), spreads those of many callers."""
        limit: float = min(self._backoff_limit, (2**number - 1) * self._backoff)
        return random * limit
