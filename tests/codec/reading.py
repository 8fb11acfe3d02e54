"""How the tests feed the codec: whole, in pieces, and with more behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hostproxy.codec.http1 import (
    ChunkedReader,
    HeadLimits,
    ProtocolError,
    RequestError,
    RequestHead,
    ResponseError,
    ResponseHead,
    find_head_end,
    parse_request,
    parse_response,
)

LIMITS = HeadLimits(request_line=8192, header_size=16384, header_count=100, head_size=61440)


def head(*lines: bytes) -> bytes:
    """Lines of a head, each ended by CRLF, and the empty line."""
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def lines_of(block: bytes) -> list[bytes]:
    """The field lines of a head, without CRLF."""
    *lines, rest = block.split(b"\r\n")
    assert not rest, "a block of field lines ends with CRLF"
    return lines


def single_bytes(data: bytes) -> Iterator[bytes]:
    return (data[index : index + 1] for index in range(len(data)))


def at_line_ends(data: bytes) -> Iterator[bytes]:
    """Split within and around every CR and LF."""
    piece = b""
    for byte in single_bytes(data):
        if byte in b"\r\n" and piece:
            yield piece
            piece = b""
        piece += byte
        if byte in b"\r\n":
            yield piece
            piece = b""
    if piece:
        yield piece


def find(
    pieces: Iterable[bytes], limits: HeadLimits = LIMITS, error: type[ProtocolError] = RequestError
) -> tuple[bytes, int]:
    """Look for the end of a head as data arrives; return the buffer and the end, or -1."""
    buffer = b""
    for piece in pieces:
        seen = len(buffer)
        buffer += piece
        end = find_head_end(buffer, seen, limits, error)
        if end >= 0:
            return buffer, end
    return buffer, -1


def read_request(pieces: Iterable[bytes], limits: HeadLimits = LIMITS) -> tuple[RequestHead | None, bytes]:
    buffer, end = find(pieces, limits)
    return (parse_request(buffer, end, limits), buffer[end:]) if end >= 0 else (None, buffer)


def read_response(
    pieces: Iterable[bytes], method: bytes = b"GET", limits: HeadLimits = LIMITS
) -> tuple[ResponseHead | None, bytes]:
    buffer, end = find(pieces, limits, ResponseError)
    return (parse_response(buffer, end, limits, method), buffer[end:]) if end >= 0 else (None, buffer)


def read_chunked(pieces: Iterable[bytes], limits: HeadLimits = LIMITS) -> tuple[bytes, ChunkedReader]:
    reader = ChunkedReader(limits)
    payload = b"".join(reader.feed(piece) for piece in pieces)
    return payload, reader


def refusal(pieces: Iterable[bytes], limits: HeadLimits = LIMITS) -> ProtocolError | None:
    """What the request in these pieces is refused for."""
    try:
        read_request(pieces, limits)
    except ProtocolError as error:
        return error
    return None
