"""Every hostile request is refused, however it arrives, and with the status that its sender can learn from."""

from __future__ import annotations

import pytest

from hostproxy.codec.http1 import RequestError
from tests.codec.hostile_requests import COMPLETE, FOREIGN
from tests.codec.reading import at_line_ends, refusal, single_bytes


def test_there_are_enough_cases() -> None:
    assert len({data for data, _, _ in COMPLETE}) == len(COMPLETE) >= 250


@pytest.mark.parametrize(("data", "status", "reason"), COMPLETE)
def test_whole(data: bytes, status: int, reason: str) -> None:
    error = refusal([data])
    assert isinstance(error, RequestError)
    assert (error.status, error.reason) == (status, reason)


@pytest.mark.parametrize(("data", "status", "reason"), COMPLETE)
def test_with_more_behind(data: bytes, status: int, reason: str) -> None:
    error = refusal([data + b"GET /next HTTP/1.1\r\nHost: b\r\n\r\n"])
    assert isinstance(error, RequestError)
    assert (error.status, error.reason) == (status, reason)


@pytest.mark.parametrize(("data", "status", "reason"), COMPLETE)
def test_split(data: bytes, status: int, reason: str) -> None:
    pieces = (data[at : at + 97] for at in range(0, len(data), 97)) if len(data) > 3000 else single_bytes(data)
    for way in (pieces, at_line_ends(data)):
        error = refusal(way)
        assert isinstance(error, RequestError), reason
        assert error.status == status


@pytest.mark.parametrize("data", FOREIGN)
def test_foreign_is_refused_before_a_head_is_complete(data: bytes) -> None:
    for way in ([data], single_bytes(data), at_line_ends(data)):
        error = refusal(way)
        assert isinstance(error, RequestError)
        assert error.status in (400, 505)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /?token=hidden# HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a:hidden@b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: user:hidden@a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nCookie: hidden\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nCookie : hidden\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nCookie hidden\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: hidden\r\n\r\n",
    ],
)
def test_no_refusal_repeats_what_may_be_secret(data: bytes) -> None:
    error = refusal([data])
    assert error is not None
    assert "hidden" not in f"{error} {error!r}"
