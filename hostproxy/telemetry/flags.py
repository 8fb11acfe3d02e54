"""Response flags: in two letters, what hostproxy did to a request that its upstream did not.

The short forms are Envoy's, which operators and dashboards know. They stand in the access log and in the
``flags`` label of ``requests_total``. ``-`` means that the answer is the upstream's own; several are joined
by a comma, the first cause first.
"""

from __future__ import annotations

from typing import NamedTuple

NONE = "-"

DOWNSTREAM_CLOSED = "DC"
NO_HEALTHY_UPSTREAM = "UH"
UPSTREAM_CONNECT_FAILED = "UF"
UPSTREAM_OVERFLOW = "UO"
UPSTREAM_TIMEOUT = "UT"
UPSTREAM_CLOSED = "UC"
UPSTREAM_RESET = "UR"
UPSTREAM_PROTOCOL_ERROR = "UPE"
DOWNSTREAM_PROTOCOL_ERROR = "DPE"
NO_ROUTE = "NR"
DENIED = "UAEX"
RETRIES_USED_UP = "URX"
STREAM_IDLE = "SI"
LOCAL_RESET = "LR"
LOCAL_UNHEALTHY = "LH"
NOT_LOOKED_UP = "NC"
OVERLOADED = "OM"


class Meaning(NamedTuple):
    """What a flag says to the operator."""

    name: str  # Envoy's long name
    status: int  # of the answer that hostproxy makes; 0: it makes none
    text: str


MEANINGS: dict[str, Meaning] = {
    DOWNSTREAM_CLOSED: Meaning(
        "DownstreamConnectionTermination", 0, "the client went away before the answer was complete"
    ),
    NO_HEALTHY_UPSTREAM: Meaning(
        "NoHealthyUpstream", 503, "the catalog has no usable endpoint of the service"
    ),
    UPSTREAM_CONNECT_FAILED: Meaning(
        "UpstreamConnectionFailure", 503, "no endpoint could be connected to, or its TLS handshake failed"
    ),
    UPSTREAM_OVERFLOW: Meaning(
        "UpstreamOverflow", 503, "[limits] upstream_connections to the endpoint are all in use"
    ),
    UPSTREAM_TIMEOUT: Meaning(
        "UpstreamRequestTimeout",
        504,
        "the service's timeout passed before the answer ended, or a try's before it began",
    ),
    UPSTREAM_CLOSED: Meaning(
        "UpstreamConnectionTermination",
        502,
        "the endpoint closed the connection before its answer was complete",
    ),
    UPSTREAM_RESET: Meaning("UpstreamRemoteReset", 502, "the endpoint reset the connection"),
    UPSTREAM_PROTOCOL_ERROR: Meaning("UpstreamProtocolError", 502, "the endpoint's answer is not valid HTTP"),
    DOWNSTREAM_PROTOCOL_ERROR: Meaning(
        "DownstreamProtocolError", 400, "the client's request is not valid HTTP"
    ),
    NO_ROUTE: Meaning("NoRouteFound", 404, "no service has this name"),
    DENIED: Meaning("UnauthorizedExternalService", 403, "the policy denies it; denied_by names the rule"),
    RETRIES_USED_UP: Meaning(
        "UpstreamRetryLimitExceeded", 0, "the answer is the upstream's; the policy's retries of it are used up"
    ),
    STREAM_IDLE: Meaning("StreamIdleTimeout", 504, "no byte moved for [limits] stream_idle"),
    LOCAL_RESET: Meaning("LocalReset", 0, "hostproxy cut it: its drain time was over"),
    LOCAL_UNHEALTHY: Meaning(
        "FailedLocalHealthCheck", 503, "the checks of all instances on the service's host fail"
    ),
    NOT_LOOKED_UP: Meaning(
        "NoClusterFound", 503, "the service is named for the first time and could not be looked up"
    ),
    OVERLOADED: Meaning(
        "OverloadManagerTerminated", 503, "too many requests wait for services that are named for the first time"
    ),
}
