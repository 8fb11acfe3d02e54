"""Which live requests somebody wants to see, and what of them he gets to see."""

from __future__ import annotations

from typing import Any

import pytest

from hostproxy.telemetry import tap
from hostproxy.telemetry.tap import Facts, Filter, cut, fields_of, path_of, redacted, statuses

REQUEST = Facts(
    True,
    "outbound",
    "cart",
    "web",
    b"GET",
    b"/orders/7?id=1",
    503,
    "UF",
    0.25,
    ("127.0.0.1", "10.0.0.12:15443"),
)
CONNECTION = Facts(False, "inbound", "cart", "db", b"", b"", 0, "UAEX", 2.0, ("fd00::1", "[fd00::2]:5432"))


@pytest.mark.parametrize(
    ("fits", "other"),
    [
        ({"service": "web"}, {"service": "we"}),
        ({"caller": "cart"}, {"caller": "web"}),
        ({"direction": "outbound"}, {"direction": "inbound"}),
        ({"method": b"GET"}, {"method": b"get"}),
        ({"path": b"/orders/"}, {"path": b"/orders/8"}),
        ({"lowest": 500, "highest": 599}, {"lowest": 400, "highest": 499}),
        ({"lowest": 503, "highest": 503}, {"lowest": 502, "highest": 502}),
        ({"peer": "10.0.0.12"}, {"peer": "10.0.0.1"}),
        ({"peer": "10.0.0.12:15443"}, {"peer": "10.0.0.12:1544"}),
        ({"peer": "127.0.0.1"}, {"peer": "127.0.0.2"}),
        ({"slower": 0.2}, {"slower": 0.3}),
        ({}, {"denied": True}),
        ({"headers": True}, {"tcp": True}),
        ({"service": "web", "caller": "cart"}, {"service": "web", "caller": "host"}),
    ],
)
def test_requests(fits: dict[str, Any], other: dict[str, Any]) -> None:
    assert Filter(**fits).takes(REQUEST)
    assert not Filter(**other).takes(REQUEST)


@pytest.mark.parametrize(
    ("fits", "other"),
    [
        ({}, {"method": b"GET"}),
        ({"tcp": True}, {"path": b"/"}),
        ({"denied": True}, {"lowest": 100, "highest": 599}),
        ({"peer": "fd00::2"}, {"peer": "fd00:"}),
        ({"peer": "fd00::1"}, {"peer": "fd00::"}),
        ({"slower": 1.0, "direction": "inbound"}, {"service": "web"}),
    ],
)
def test_tcp_connections(fits: dict[str, Any], other: dict[str, Any]) -> None:
    assert Filter(**fits).takes(CONNECTION)
    assert not Filter(**other).takes(CONNECTION)


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (b"/a", "/a"),
        (b"/a?", "/a?"),
        (b"/a?b=c", "/a?b=*"),
        (b"/a?b=", "/a?b=*"),
        (b"/a?b=c&d=e=f&b=g", "/a?b=*&d=*&b=*"),
        (b"/a?c2VjcmV0", "/a?*"),
        (b"/a?=secret", "/a?*"),
        (b"/a?&&b=1&", "/a?b=*"),
        (b"/a?b=1;token=secret", "/a?b=*"),
        (b"/a?" + b"s" * 65 + b"=1", "/a?*"),
        (b"/a?b=1?token=secret", "/a?b=*"),
        (b"*", "*"),
        (b"/\xff", "/\xff"),
    ],
)
def test_queries_lose_their_values(target: bytes, shown: str) -> None:
    assert path_of(target) == shown


def test_long_targets_are_cut() -> None:
    assert len(path_of(b"/" + b"a" * 10_000)) == tap.PATH_LIMIT
    query = "&".join(f"name{number}=secret" for number in range(1000))
    assert redacted(query).count("=*") == tap.PARAMETERS
    assert redacted(query).endswith("&...")
    assert "secret" not in redacted(query)


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "X-Auth-Token"),
        *("Referer", "Location", "Sec-WebSocket-Protocol", "X-Anything", "X-Amz-Security-Token", "Baggage", "Origin"),
        *("Accept ", " Accept", "Accept\t"),
    ],
)
def test_values_that_may_be_secrets_are_hidden(name: str) -> None:
    assert fields_of(f"{name}: s3cret\r\n".encode()) == [(name, "*")]


def test_harmless_values_are_shown() -> None:
    block = b"Content-Type: text/plain\r\nACCEPT:*/*\r\nX-Request-Id:  7  \r\n"
    assert fields_of(block) == [("Content-Type", "text/plain"), ("ACCEPT", "*/*"), ("X-Request-Id", "7")]
    assert fields_of(b"") == []


def test_heads_are_bounded() -> None:
    fields = fields_of(b"".join(b"Accept: %d\r\n" % number for number in range(100)))
    assert len(fields) == tap.FIELDS + 1
    assert fields[-1] == ("...", "")
    assert len(fields_of(b"Accept: 1\r\n" * tap.FIELDS)) == tap.FIELDS
    ((name, value),) = fields_of(b"N" * 1000 + b": " + b"v" * 1000 + b"\r\n")
    assert (len(name), value) == (tap.NAME_LIMIT, "*")
    assert len(fields_of(b"Accept: " + b"v" * 1000 + b"\r\n")[0][1]) == tap.TEXT_LIMIT


def test_texts_are_cut() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcdef", 5) == "ab..."


@pytest.mark.parametrize(
    ("text", "found"), [("503", (503, 503)), ("5xx", (500, 599)), ("2XX", (200, 299)), ("100", (100, 100))]
)
def test_statuses(text: str, found: tuple[int, int]) -> None:
    assert statuses(text) == found


@pytest.mark.parametrize("text", ["", "5", "50", "600", "099", "5x", "5x3", "xxx", "5000", "٥٠٣", "-50"])
def test_what_is_no_status(text: str) -> None:
    with pytest.raises(ValueError, match="is no status"):
        statuses(text)
