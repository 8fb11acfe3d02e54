from __future__ import annotations

import time

import pytest

from hostproxy.codec.http1 import ProtocolError, RequestError, ResponseError, find_head_end
from tests.codec.reading import LIMITS, find, head, single_bytes

REQUEST = head(b"GET / HTTP/1.1", b"Host: a", b"X: y")
RESPONSE = head(b"HTTP/1.1 200 OK", b"Content-Length: 0")


def side_of(data: bytes) -> type[ProtocolError]:
    """Whose head it is meant to be."""
    return ResponseError if data.startswith(b"HTTP/") else RequestError


@pytest.mark.parametrize("data", [REQUEST, RESPONSE, b"\r\n" + REQUEST])
def test_the_end_is_found_wherever_the_data_is_cut(data: bytes) -> None:
    for cut in range(1, len(data)):
        assert find_head_end(data[:cut], 0, LIMITS, side_of(data)) == -1
        assert find_head_end(data, cut, LIMITS, side_of(data)) == len(data)
    assert find(single_bytes(data), error=side_of(data)) == (data, len(data))


def test_the_first_of_several_heads_is_found() -> None:
    assert find_head_end(REQUEST + REQUEST, 0, LIMITS) == len(REQUEST)


def test_nothing_is_no_fault() -> None:
    assert find_head_end(b"", 0, LIMITS) == -1


@pytest.mark.parametrize(
    ("data", "hopeless_at"),
    [
        # The byte that makes it so is the last one looked at.
        (b" GET", 0),
        (b"\x16\x03\x01", 0),
        (b"\n", 0),
        (b"\rG", 1),
        (b"\r\n\n", 2),
        (b"GE\x00", 2),
        (b"G(", 1),
        (b"GET\n", 3),
        (b"GET  ", 4),
        (b"GET /\xe9", 5),
        (b"GET /\x00", 5),
        (b"GET / X", 6),
        (b"GET / HTTQ", 9),
        (b"GET / HTTP/1.1x", 14),
        (b"GET / HTTP/1.1\n", 14),
        (b"GET / HTTP/1.1\rX", 15),
        (b"GET / HTTP/2.0\r\n", 15),
        (b"GET / HTTP/1.1\r\n ", 16),
        (b"GET / HTTP/1.1\r\n:", 16),
        (b"GET / HTTP/1.1\r\nA ", 17),
        (b"GET / HTTP/1.1\r\nA: \x00", 19),
        (b"GET / HTTP/1.1\r\nA: b\n", 20),
        (b"GET / HTTP/1.1\r\nA: b\rc", 21),
        (b"GET / HTTP/1.1\r\nA\r\n", 17),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n", 34),
        (b"GET / HTTP/1.1\r\nA: b\r\n\n", 22),
        (b"HTTP/1.1 200 \x00", 13),
        (b"HTTP/1.1 99\r\n", 12),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n", 35),
    ],
)
def test_hopeless_at_the_first_byte_that_makes_it_so(data: bytes, hopeless_at: int) -> None:
    side = side_of(data)
    for seen in range(hopeless_at):
        assert find_head_end(data[: seen + 1], seen, LIMITS, side) == -1
    with pytest.raises(side):
        find_head_end(data[: hopeless_at + 1], hopeless_at, LIMITS, side)
    with pytest.raises(side):
        find_head_end(data[: hopeless_at + 1], 0, LIMITS, side)


def test_a_request_that_begins_like_a_response_is_the_clients_fault() -> None:
    with pytest.raises(RequestError):
        find_head_end(b"HTTP/1.1 200 OK\r\n", 0, LIMITS)


@pytest.mark.parametrize("data", [b"G", b"\r", b"\r\nHTTP/1.1 200", b"HTTX", b"\x16\x03\x01"])
def test_a_response_that_begins_like_none_is_the_servers_fault(data: bytes) -> None:
    with pytest.raises(ResponseError):
        find_head_end(data, 0, LIMITS, ResponseError)


def test_a_bad_status_line_is_the_servers_fault() -> None:
    with pytest.raises(ResponseError):
        find(single_bytes(b"HTTP/1.1 20\r\n"), error=ResponseError)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"G" * 8194, 414),
        (b"GET /" + b"a" * 8189, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 16384, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101, 431),
        (b"GET / HTTP/1.1\r\n" + (b"X: " + b"a" * 1000 + b"\r\n") * 62, 431),
    ],
)
def test_limits_hold_before_the_head_is_complete(data: bytes, status: int) -> None:
    for way in ([data], (data[at : at + 61] for at in range(0, len(data), 61))):
        with pytest.raises(ProtocolError) as caught:
            find(way)
        assert caught.value.status == status


def test_a_head_that_comes_byte_by_byte_costs_no_more_than_its_bytes() -> None:
    """Were every byte looked at again with every call, this would take minutes."""
    data = b"GET / HTTP/1.1\r\n" + (b"X: " + b"a" * 15000 + b"\r\n") * 4
    buffers = memoryview(data)
    spent = 0.0
    for length in range(1, len(data) + 1, 7):
        buffer = bytes(buffers[:length])
        begun = time.process_time()
        assert find_head_end(buffer, max(length - 7, 0), LIMITS) == -1
        spent += time.process_time() - begun
    assert spent < 1.0
