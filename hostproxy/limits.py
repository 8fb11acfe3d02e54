"""Every bound that the data path keeps, with its default and the reason for it.

One frozen object, read from ``[limits]`` of conf.toml, travels inside the snapshot to the workers.
Times are seconds, sizes bytes, counts per worker unless said otherwise.
"""

from __future__ import annotations

import msgspec

KIB = 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the data path. Precedents: HAProxy 2.6, nginx 1.22, Envoy 1.40 defaults."""

    request_line: int = 8 * KIB  # nginx large_client_header_buffers 8k
    header_size: int = 16 * KIB  # one field line; HAProxy tune.bufsize 16k
    header_count: int = 100  # Envoy max_headers_count 100, Apache LimitRequestFields 100
    head_size: int = 60 * KIB  # a whole head, or the trailers; Envoy max_request_headers_kb 60
    head_time: float = 10.0  # first byte of a head to its end; HAProxy "timeout http-request 10s"
    idle: float = 60.0  # a client connection between requests; nginx keepalive_timeout 75s, HAProxy 60s
    stream_idle: float = 300.0  # no byte in either direction within a request; Envoy stream_idle_timeout 5m
    tunnel_idle: float = 3600.0  # TCP and WebSocket without a byte; Envoy tcp_proxy idle_timeout 1h
    connect: float = 1.0  # TCP connect to a peer or instance, each try
    handshake: float = 5.0  # TLS handshake, accepting or connecting
    handshakes: int = 256  # accepted handshakes under way; each costs about a millisecond of CPU
    connections: int = 20_000  # accepted connections
    upstream_connections: int = 1024  # to one endpoint; Envoy circuit breaker max_connections 1024
    upstream_idle: float = 30.0  # an unused keep-alive connection; below the 60-75 s of common servers
    upstream_idle_connections: int = 64  # kept unused per endpoint and caller
    drain: float = 30.0  # SIGTERM to the last forced close
