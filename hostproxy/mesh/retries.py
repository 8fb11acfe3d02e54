"""Retries: when a request that failed is sent again, how often and how soon."""

from __future__ import annotations

import msgspec

# RFC 9110 section 9.2.2: methods whose repetition has the intended effect of one request.
IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")

# What a retry answers. Connecting is not among them: an instance that can't be reached is passed over for the next in
# any case, as nothing has been sent.
CONDITIONS = ("reset", "gateway-error", "5xx", "retriable-4xx")

CALL_TIMEOUT = 24 * 3600.0  # seconds, the longest of any call or try; what takes longer is no call but a job


class Retry(msgspec.Struct, frozen=True, omit_defaults=True):
    """When and how requests are sent again. The first try is not counted."""

    attempts: int = 1
    on: tuple[str, ...] = ("reset", "gateway-error")  # of CONDITIONS
    statuses: tuple[int, ...] = ()  # of responses, besides those of ``on``
    methods: tuple[str, ...] = IDEMPOTENT  # of requests that may be repeated once they have been sent
    try_timeout: float = 0.0  # seconds until a try without a response head is given up for another; 0: none is
    backoff: float = 0.025  # seconds; the Nth retry waits a random part of (2^N - 1) times this
    backoff_limit: float = 0.25  # seconds; the most it waits
    budget: int = 20  # percent of the requests under way that may be retries; 3 may in any case
