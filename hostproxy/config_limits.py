"""The table ``[limits]``: bounds for each field of :class:`hostproxy.limits.Limits`, which has defaults."""

from __future__ import annotations

from hostproxy.limits import Limits
from hostproxy.mesh.kinds import Duration, Integer, Kind, Size
from hostproxy.mesh.schema import Key, Table

KIB, MIB = 1024, 1024 * 1024
MINUTE, DAY = 60.0, 86400.0

# Below some bytes not even a plain request passes; above some memory the limit protects nothing any more.
_HEAD_PART: Kind = Size(256, MIB)
# A network round trip within a region takes 1 to 10 ms, and less time than that refuses everybody.
_SHORT: Kind = Duration(0.010, 10 * MINUTE)
_LONG: Kind = Duration(0.010, 7 * DAY)

LIMITS = Table(
    Limits,
    Key("request_line", _HEAD_PART, "the most of a request line"),
    Key("header_size", _HEAD_PART, "the most of one header field"),
    Key("header_count", Integer(1, 10_000), "the most header fields of a message"),
    Key("head_size", Size(KIB, MIB), "the most of a whole head, or of the trailers"),
    Key("head_time", _SHORT, "the time for a whole head, from its first byte"),
    Key("idle", _LONG, "how long a client connection may wait between requests"),
    Key("stream_idle", _LONG, "how long a request may go without a byte in either direction"),
    Key("tunnel_idle", _LONG, "the same for TCP and WebSocket"),
    Key("connect", _SHORT, "the time to connect to a peer or an instance, each try"),
    Key("handshake", _SHORT, "the time for a TLS handshake"),
    Key("handshakes", Integer(1, 100_000), "the most handshakes under way that peers began, for each worker"),
    Key("connections", Integer(1, 1_000_000), "the most connections accepted, for each worker"),
    Key(
        "upstream_connections", Integer(1, 1_000_000), "the most connections to one endpoint, for each worker"
    ),
    Key("upstream_idle", _LONG, "how long an unused connection to an endpoint is kept"),
    Key(
        "upstream_idle_connections",
        Integer(0, 1_000_000),
        "the most unused connections kept for each endpoint and caller, for each worker; 0 keeps none",
    ),
    Key("drain", Duration(0.0, DAY), "how long requests may go on after SIGTERM"),
)
