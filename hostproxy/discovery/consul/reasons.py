"""Why a request failed, in words for whoever has to mend it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from twisted.internet import error as net
from twisted.internet.defer import TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed
from twisted.web.http import PotentialDataLoss

from hostproxy.discovery.consul import tls
from hostproxy.discovery.consul.connection import CONNECT, Stale
from hostproxy.discovery.consul.errors import AgentError

log = Logger()

_CUT = (net.ConnectionLost, net.ConnectionDone, net.ConnectionAborted, PotentialDataLoss, Stale)


def causes(failure: Failure) -> Iterator[BaseException]:
    """What is behind a failure of Twisted's HTTP client, which wraps one or several others."""
    reasons = getattr(failure.value, "reasons", None)
    if reasons is not None:
        for reason in reasons:
            yield from causes(reason)
    elif failure.value is not None:
        yield failure.value


def explained(failure: Failure, address: str) -> AgentError:
    """The failure as an :class:`AgentError`. ``address`` is the agent's."""
    found = list(causes(failure))
    for error in found:
        if isinstance(error, AgentError):
            if error.kind == "protocol":
                return not_http(address, str(error))
            return error if address in str(error) else AgentError(error.kind, f"Consul at {address}: {error}")
    for error in found:
        if isinstance(error, tls.ERRORS):
            return AgentError(
                "tls",
                f"TLS with the agent of Consul at {address} failed: {tls.text_of(error)}; look at ca, certificate and"
                " key in [discovery.consul]",
            )
    for error in found:
        if isinstance(error, (TimeoutError, net.TimeoutError)):  # ours, and the kernel's
            return AgentError("timeout", f"no connection to the agent of Consul at {address} within {CONNECT:g} s")
        if isinstance(error, (net.ConnectError, net.DNSLookupError)):
            return AgentError(
                "refused",
                f"no connection to the agent of Consul at {address}: {_reason(error)}; is it running, and is address"
                " in [discovery.consul] right?",
            )
    for error in found:
        if isinstance(error, _CUT):
            return AgentError("reset", f"the agent of Consul at {address} closed the connection without a whole answer")
    if not isinstance(failure.value, ResponseFailed):
        log.failure("A request to the agent of Consul failed unexpectedly.", failure)
    return not_http(address, "; ".join(str(error) or type(error).__name__ for error in found))


def not_http(address: str, detail: str) -> AgentError:
    """There is an answer, but not in HTTP."""
    return AgentError("protocol", f"what answers at {address} is no agent of Consul: {detail[:200]}")


def _reason(error: BaseException) -> str:
    number = getattr(error, "osError", None)
    return os.strerror(number).lower() if isinstance(number, int) else str(error).rstrip(".")
