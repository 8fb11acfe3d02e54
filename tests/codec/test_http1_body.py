from __future__ import annotations

import random

import pytest

from hostproxy.codec.http1 import (
    LAST_CHUNK,
    ChunkedReader,
    RequestError,
    ResponseError,
    encode_chunk,
    encode_trailers,
)
from tests.codec.reading import LIMITS, at_line_ends, read_chunked, single_bytes

# data, payload, trailers
LEGAL: list[tuple[bytes, bytes, list[bytes]]] = [
    (b"0\r\n\r\n", b"", []),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", []),
    (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world", []),
    (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789", []),
    (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", []),
    (b"000a\r\n0123456789\r\n0\r\n\r\n", b"0123456789", []),
    (b"000000000000000a\r\n0123456789\r\n0\r\n\r\n", b"0123456789", []),
    (b"5\r\nhello\r\n0000\r\n\r\n", b"hello", []),
    (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n", []),
    (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n", []),
    (b"3\r\n\x00\n\xff\r\n0\r\n\r\n", b"\x00\n\xff", []),
    (b"5;name\r\nhello\r\n0;last\r\n\r\n", b"hello", []),
    (b"5;name=value\r\nhello\r\n0\r\n\r\n", b"hello", []),
    (b"5;a=b;c;d=e\r\nhello\r\n0\r\n\r\n", b"hello", []),
    (b'5;a="b; \\" c\t\xe9\\\\"\r\nhello\r\n0\r\n\r\n', b"hello", []),
    (b'5;a=""\r\nhello\r\n0\r\n\r\n', b"hello", []),
    (b"5 ; a = b\t;c\r\nhello\r\n0\r\n\r\n", b"hello", []),
    (b"5;" + b"a" * 4000 + b"\r\nhello\r\n0\r\n\r\n", b"hello", []),
    (b"0\r\nChecksum: abc\r\n\r\n", b"", [b"Checksum: abc"]),
    (b"1\r\nx\r\n0\r\nA: 1\r\nb:2\r\nA:\r\n\r\n", b"x", [b"A: 1", b"b:2", b"A:"]),
    (
        b"0\r\nServer-Timing: db;dur=53\r\nGrpc-Status: 0\r\n\r\n",
        b"",
        [b"Server-Timing: db;dur=53", b"Grpc-Status: 0"],
    ),
    (b"1;" + b"a" * 8 + b"\r\nx\r\n", b"x", []),
]
LEGAL[-1] = (LEGAL[-1][0] * 500 + LAST_CHUNK, b"x" * 500, [])

HOSTILE: list[tuple[bytes, str]] = [
    (b"\r\n", "bad-chunk-size"),
    (b"\r\nhello", "bad-chunk-size"),
    (b"g\r\n", "bad-chunk-size"),
    (b"x5\r\n", "bad-chunk-size"),
    (b"+5\r\nhello\r\n", "bad-chunk-size"),
    (b"-5\r\nhello\r\n", "bad-chunk-size"),
    (b"-0\r\n\r\n", "bad-chunk-size"),
    (b" 5\r\nhello\r\n", "bad-chunk-size"),
    (b"\t5\r\nhello\r\n", "bad-chunk-size"),
    (b";a\r\n", "bad-chunk-size"),
    (b"\xd9\xa5\r\nhello\r\n", "bad-chunk-size"),
    (b'"5"\r\nhello\r\n', "bad-chunk-size"),
    (b"00000000000000005\r\nhello\r\n", "bad-chunk-size"),
    (b"10000000000000000\r\n", "bad-chunk-size"),
    (b"10000000000000005\r\nhello\r\n", "bad-chunk-size"),
    (b"8000000000000000\r\n", "bad-chunk-size"),
    (b"ffffffffffffffff\r\n", "bad-chunk-size"),
    (b"fffffffffffffffff\r\n", "bad-chunk-size"),
    (b"0x5\r\nhello\r\n", "bad-chunk-extension"),
    (b"0_5\r\nhello\r\n", "bad-chunk-extension"),
    (b"5_0\r\n", "bad-chunk-extension"),
    (b"5h\r\nhello\r\n", "bad-chunk-extension"),
    (b"5.0\r\nhello\r\n", "bad-chunk-extension"),
    (b"5,\r\nhello\r\n", "bad-chunk-extension"),
    (b"5 \r\nhello\r\n", "bad-chunk-extension"),
    (b"5\t\r\nhello\r\n", "bad-chunk-extension"),
    (b"0 \r\n\r\n", "bad-chunk-extension"),
    (b"5 5\r\nhello\r\n", "bad-chunk-extension"),
    (b"5 x\r\nhello\r\n", "bad-chunk-extension"),
    (b"5;\r\nhello\r\n", "bad-chunk-extension"),
    (b"5; \r\nhello\r\n", "bad-chunk-extension"),
    (b"5;;a\r\nhello\r\n", "bad-chunk-extension"),
    (b"5;a;\r\nhello\r\n", "bad-chunk-extension"),
    (b"5;a \r\nhello\r\n", "bad-chunk-extension"),
    (b"5;a=\r\nhello\r\n", "bad-chunk-extension"),
    (b"5;=b\r\nhello\r\n", "bad-chunk-extension"),
    (b"5;a==b\r\nhello\r\n", "bad-chunk-extension"),
    (b"5;a=b c\r\nhello\r\n", "bad-chunk-extension"),
    (b'5;a="b\r\nhello\r\n', "bad-chunk-extension"),
    (b'5;a="b"c\r\nhello\r\n', "bad-chunk-extension"),
    (b'5;a="\\\r\n"\r\nhello\r\n', "bad-chunk-extension"),
    (b"5;\xe9\r\nhello\r\n", "bad-chunk-extension"),
    (b"5;a=(b)\r\nhello\r\n", "bad-chunk-extension"),
    (b"5\nhello\r\n0\r\n\r\n", "bare-lf"),
    (b"5;a\nhello\r\n0\r\n\r\n", "bare-lf"),
    (b"5;\nhello\r\n", "bare-lf"),
    (b"0\n\n", "bare-lf"),
    (b"0\n\r\n", "bare-lf"),
    (b"5\rhello\r\n", "bare-cr"),
    (b"5\r\r\nhello\r\n", "bare-cr"),
    (b"5;a\r;b\r\nhello\r\n", "bare-cr"),
    (b"5\r;a\r\nhello\r\n", "bare-cr"),
    (b"5\x00\r\nhello\r\n", "control-character"),
    (b"5\x0b\r\nhello\r\n", "control-character"),
    (b"5;a=\x01\r\nhello\r\n", "control-character"),
    (b"5;a=\x7f\r\nhello\r\n", "control-character"),
    (b"5;" + b"a" * 5000, "bad-chunk-extension"),
    (b"5;" + b"a" * 5000 + b"\r\nhello\r\n", "bad-chunk-extension"),
    (b"5\r\nhello0\r\n\r\n", "bad-chunk-end"),
    (b"5\r\nhello\n0\r\n\r\n", "bad-chunk-end"),
    (b"5\r\nhello\r0\r\n\r\n", "bad-chunk-end"),
    (b"5\r\nhello!\r\n0\r\n\r\n", "bad-chunk-end"),
    (b"5\r\nhello \r\n0\r\n\r\n", "bad-chunk-end"),
    (b"4\r\nhello\r\n0\r\n\r\n", "bad-chunk-end"),
    (b"6\r\nhello\r\n0\r\n\r\n", "bad-chunk-end"),
    (b"5\r\nhello\n\r\n0\r\n\r\n", "bad-chunk-end"),
    (b"5\r\nhello\r\n\r\n0\r\n\r\n", "bad-chunk-size"),
    (b"0\r\nTrailer\r\n\r\n", "bad-field"),
    (b"0\r\nA : b\r\n\r\n", "space-before-colon"),
    (b"0\r\n: b\r\n\r\n", "bad-field-name"),
    (b"0\r\nA b: c\r\n\r\n", "bad-field-name"),
    (b"0\r\n A: b\r\n\r\n", "obs-fold"),
    (b"0\r\nA: b\r\n c\r\n\r\n", "obs-fold"),
    (b"0\r\nA: b\n\r\n\r\n", "bare-lf"),
    (b"0\r\nA: b\nC: d\r\n\r\n", "bare-lf"),
    (b"0\r\nA: b\rC: d\r\n\r\n", "bare-cr"),
    (b"0\r\nA: \x00\r\n\r\n", "control-character"),
    (b"0\r\n\nGET / HTTP/1.1\r\n\r\n", "bare-lf"),
    (b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "bad-field"),
    (b"0\r\nA: " + b"b" * 16384 + b"\r\n\r\n", "field-too-long"),
    (b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n", "too-many-fields"),
    (b"0\r\n" + (b"A: " + b"b" * 1000 + b"\r\n") * 62 + b"\r\n", "head-too-long"),
]

legal = pytest.mark.parametrize(("data", "payload", "trailers"), LEGAL)


@legal
def test_legal(data: bytes, payload: bytes, trailers: list[bytes]) -> None:
    for way in ([data], single_bytes(data), at_line_ends(data)):
        got, reader = read_chunked(way)
        assert got == payload
        assert reader.ended
        assert (reader.trailers, reader.dropped, reader.surplus) == (trailers, 0, b"")


@legal
def test_what_follows_is_handed_back(data: bytes, payload: bytes, trailers: list[bytes]) -> None:
    behind = b"GET / HTTP/1.1\r\n\r\n"
    got, reader = read_chunked([data + behind])
    assert (got, reader.ended, reader.surplus, reader.trailers) == (payload, True, behind, trailers)


@legal
def test_anything_less_has_not_ended(data: bytes, payload: bytes, trailers: list[bytes]) -> None:
    for at in range(max(len(data) - 20, 0), len(data)):
        _, reader = read_chunked([data[:at]])
        assert not reader.ended


@pytest.mark.parametrize(("data", "reason"), HOSTILE)
def test_hostile_whole(data: bytes, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_chunked([data])
    assert caught.value.reason == reason
    assert caught.value.status == (431 if reason in ("field-too-long", "too-many-fields", "head-too-long") else 400)


@pytest.mark.parametrize(("data", "reason"), HOSTILE)
def test_hostile_split(data: bytes, reason: str) -> None:
    pieces = (data[at : at + 97] for at in range(0, len(data), 97)) if len(data) > 10000 else single_bytes(data)
    for way in (pieces, at_line_ends(data)):
        with pytest.raises(RequestError) as caught:
            read_chunked(way)
        if reason not in ("bad-field", "bad-field-name", "space-before-colon", "obs-fold"):
            assert caught.value.reason == reason


def test_there_are_enough_cases() -> None:
    assert len(HOSTILE) >= 80


@pytest.mark.parametrize("data", [b"g", b"5x", b"5 x", b"-", b"5\r\nhellox", b"0\r\n folded", b"0\r\nA b", b"5;\x00"])
def test_hopeless_bytes_are_not_waited_on(data: bytes) -> None:
    with pytest.raises(RequestError):
        read_chunked(single_bytes(data))


@pytest.mark.parametrize(
    "name",
    [
        b"Content-Length",
        b"Content_Length",
        b"transfer-encoding",
        b"Host",
        b"Connection",
        b"Authorization",
        b"Cookie",
        b"Set-Cookie",
        b"Content-Type",
        b"Content-Encoding",
        b"Trailer",
        b"TE",
        b"Via",
        b"X-Forwarded-For",
        b"X-Forwarded-Client-Cert",
        b"X-Hostproxy-Caller",
        b"X_Hostproxy_Caller",
        b"X-Request-Id",
        b"Expect",
        b"Cache-Control",
        b"If-Match",
        b"Location",
        b"Upgrade",
        b"Proxy-Authorization",
    ],
)
def test_trailers_that_may_not_be_trailers_are_dropped_and_counted(name: bytes) -> None:
    data = b"0\r\n" + name + b": 5\r\nStays: 1\r\n\r\n"
    for error in (RequestError, ResponseError):
        reader = ChunkedReader(LIMITS, error)
        reader.feed(data)
        assert (reader.trailers, reader.dropped) == ([b"Stays: 1"], 1)


def test_a_server_is_blamed_as_one() -> None:
    for data in (b"g", b"0\r\nA : b\r\n\r\n", b"5\r\nhello\n"):
        with pytest.raises(ResponseError) as caught:
            ChunkedReader(LIMITS, ResponseError).feed(data)
        assert caught.value.status == 502


def test_extensions_may_not_outweigh_the_payload() -> None:
    chunk = b"1;" + b"a" * 1000 + b"\r\nx\r\n"
    for way in ([chunk * 100], [chunk] * 100):
        with pytest.raises(RequestError, match="chunk-overhead"):
            read_chunked(way)


def test_extensions_that_payload_excuses_pass() -> None:
    chunk = b"400;" + b"a" * 1000 + b"\r\n" + b"x" * 1024 + b"\r\n"
    payload, reader = read_chunked([chunk * 100 + LAST_CHUNK])
    assert (len(payload), reader.ended) == (102400, True)


def test_payload_of_a_large_chunk_is_not_copied() -> None:
    reader = ChunkedReader(LIMITS)
    assert reader.feed(b"100000\r\n") == b""
    data = bytes(65536)
    assert reader.feed(data) is data


def test_what_comes_after_the_end_is_all_surplus() -> None:
    reader = ChunkedReader(LIMITS)
    assert reader.feed(LAST_CHUNK + b"ab") == b""
    assert reader.feed(b"cd") == b""
    assert reader.surplus == b"abcd"


def test_the_largest_chunk_is_taken() -> None:
    reader = ChunkedReader(LIMITS)
    assert reader.feed(b"7fffffffffffffff\r\nabc") == b"abc"


@pytest.mark.parametrize("seed", range(20))
def test_encoded_payload_comes_back_over_any_split(seed: int) -> None:
    generator = random.Random(seed)
    parts = [generator.randbytes(generator.choice((0, 1, 2, 15, 16, 17, 255, 4096))) for _ in range(8)]
    trailers = [b"A: 1", b"B:"][: seed % 3]
    data = b"".join(map(encode_chunk, parts)) + encode_trailers(trailers) + b"surplus"
    cuts = sorted(generator.randrange(len(data)) for _ in range(30))
    pieces = [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    payload, reader = read_chunked(pieces)
    assert payload == b"".join(parts)
    assert (reader.ended, reader.trailers, reader.surplus) == (True, trailers, b"surplus")


def test_encoding() -> None:
    assert encode_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert encode_chunk(b"") == b""
    assert encode_trailers([]) == LAST_CHUNK == b"0\r\n\r\n"
    assert encode_trailers([b"A: 1", b"B: 2"]) == b"0\r\nA: 1\r\nB: 2\r\n\r\n"
