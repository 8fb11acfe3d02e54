"""Whatever this codec takes, a second parser takes too, and frames it the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hostproxy.codec.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    ChunkedReader,
    ProtocolError,
    RequestHead,
    encode_chunk,
    encode_trailers,
)
from tests.codec import hostile_requests, legal_requests, test_http1_body, test_http1_response
from tests.codec.reading import LIMITS, lines_of, read_request, read_response, single_bytes

FAST = settings(max_examples=300, deadline=None, derandomize=True)

LARGEST = 64 * 1024  # bytes that h11 may hold of one head; above every limit here


def h11_request(data: bytes) -> tuple[h11.Request, bytes, list[tuple[bytes, bytes]], bytes]:
    """Head, body, trailers and what is left over of the request at the start of ``data``, as h11 reads it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST)
    connection.receive_data(data)
    head = connection.next_event()
    assert isinstance(head, h11.Request)
    return head, *h11_body(connection)


def h11_body(connection: h11.Connection) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
    body = b""
    trailers: list[tuple[bytes, bytes]] = []
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            trailers = list(event.headers)
            break
        else:
            assert event is h11.NEED_DATA
            break
    return body, trailers, bytes(connection.trailing_data[0])


def our_body(length: int, rest: bytes) -> tuple[bytes, list[bytes], bytes]:
    if length == CHUNKED:
        reader = ChunkedReader(LIMITS)
        body = reader.feed(rest)
        return body, reader.trailers, reader.surplus
    return rest[:length], [], rest[length:]


def pairs(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Field lines as h11 gives them: lower-case name and trimmed value."""
    split = (line.partition(b":") for line in lines)
    return [(name.lower(), value.strip(b" \t")) for name, _, value in split]


def serialise(head: RequestHead) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (head.method, head.target), b"Host: " + head.authority, *lines_of(head.fields)]
    if head.length > 0:
        lines.append(b"Content-Length: %d" % head.length)
    elif head.length == CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def same_framing(data: bytes) -> None:
    """If we take the request at the start of ``data``, h11 does, finds the same body and leaves the same rest."""
    try:
        head, rest = read_request([data])
        if head is None:
            return
        body, _, surplus = our_body(head.length, rest)
    except ProtocolError:
        return
    if head.method == b"CONNECT":
        return  # h11 stops reading there, and so does the driver
    # RFC 9112 2.2 asks for one empty line before a request to be ignored, which h11 does not do.
    theirs, their_body, _, their_surplus = h11_request(data.removeprefix(b"\r\n"))
    assert theirs.method == head.method
    assert theirs.http_version == b"1.%d" % head.minor
    assert their_body == body
    assert their_surplus == surplus


@pytest.mark.parametrize(("name", "data"), [case[:2] for case in legal_requests.CASES])
def test_legal_requests_are_framed_alike(name: str, data: bytes) -> None:
    same_framing(data + b"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize(("name", "data"), [case[:2] for case in legal_requests.CASES])
def test_what_goes_on_means_the_same_to_h11(name: str, data: bytes) -> None:
    head, _ = read_request([data])
    assert head is not None
    theirs, *_ = h11_request(serialise(head))
    assert (theirs.method, theirs.target) == (head.method, head.target)
    expected = [(b"host", head.authority), *pairs(lines_of(head.fields))]
    assert [pair for pair in theirs.headers if pair[0] not in (b"content-length", b"transfer-encoding")] == expected
    lengths = [value for name, value in theirs.headers if name == b"content-length"]
    assert lengths == ([b"%d" % head.length] if head.length > 0 else [])
    again, _ = read_request([serialise(head)])
    assert again is not None
    assert (again.fields, again.length, again.host, again.port) == (
        head.fields,
        head.length,
        head.host,
        head.port,
    )


@pytest.mark.parametrize(("data", "payload", "trailers"), test_http1_body.LEGAL)
def test_legal_chunks_are_framed_alike(data: bytes, payload: bytes, trailers: list[bytes]) -> None:
    if data.startswith((b"5 ;", b"000000000000000a")):
        pytest.skip("h11 takes no white space before an extension; RFC 9112 7.1.1 asks recipients to")
    start = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, body, their_trailers, surplus = h11_request(start + data + b"rest")
    assert (body, their_trailers, surplus) == (payload, pairs(trailers), b"rest")


@pytest.mark.parametrize(("data", "method", "expected"), test_http1_response.LEGAL)
def test_legal_responses_are_framed_alike(data: bytes, method: bytes, expected: dict[str, object]) -> None:
    head, rest = read_response([data + b"5\r\nhello\r\n0\r\n\r\n"], method)
    assert head is not None
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=LARGEST)
    offer = [("Host", "a"), ("Connection", "upgrade"), ("Upgrade", "websocket")]
    target = "a:1" if method == b"CONNECT" else "/"
    connection.send(h11.Request(method=method, target=target, headers=offer))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data + b"5\r\nhello\r\n0\r\n\r\n")
    theirs = connection.next_event()
    assert isinstance(theirs, (h11.Response, h11.InformationalResponse))
    assert theirs.status_code == head.status
    if head.status < 200 or (method == b"CONNECT" and head.status < 300):
        return
    body, _, surplus = h11_body(connection)
    if head.length == UNTIL_CLOSE:
        assert (body, surplus) == (rest, b"")
    else:
        our, _, our_surplus = our_body(head.length, rest)
        assert (body, surplus) == (our, our_surplus)


def test_h11_alone_would_not_do() -> None:
    """Most hostile requests are complete messages to it: the corpus tests more than a parser."""
    taken = 0
    for data, _, _ in hostile_requests.COMPLETE:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST)
        connection.receive_data(data)
        try:
            taken += isinstance(connection.next_event(), h11.Request)
        except h11.RemoteProtocolError:
            continue
    assert taken > 150


# Properties.

FRAGMENTS = [
    *(b"GET POST OPTIONS CONNECT / * http://a/ a:1 HTTP/1.1 HTTP/1.0 HTTP/2.0 HTTP/1.1\r\n".split()),
    *(
        b" ",
        b"\t",
        b"\r\n",
        b"\r",
        b"\n",
        b"\r\n\r\n",
        b":",
        b": ",
        b",",
        b";",
        b"_",
        b"\x00",
        b"\xff",
        b"a",
        b"Name",
    ),
    *(
        b"Host: a\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length:",
        b"Transfer-Encoding: chunked\r\n",
        b"0",
        b"5",
        b"+",
    ),
    *(
        b"Transfer-Encoding:",
        b"chunked",
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: x\r\n",
    ),
    *(
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"5;a=b\r\n",
        b'"',
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"HTTP/1.1 200 OK\r\n",
    ),
]
soup = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=8), max_size=24).map(b"".join)
valid = st.sampled_from([data for _, data, _ in legal_requests.CASES if len(data) < 300])


def outcome(read: Callable[[Iterable[bytes]], tuple[object, bytes]], way: Iterable[bytes]) -> object:
    try:
        return read(way)[0]
    except ProtocolError as error:
        known = error.status in (400, 414, 417, 431, 501, 502, 505)
        return "refused" if known and re.fullmatch(r"[a-z0-9.-]+", error.reason) else error


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A legal request with a few bytes or fragments put in, taken out or replaced."""
    data = draw(valid) + b"5\r\nhello\r\n0\r\n\r\n"
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(start + 3, len(data))))
        data = data[:start] + draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=2)) + data[stop:]
    return data


@FAST
@given(soup | mutated() | st.binary(max_size=200))
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
def test_no_bytes_raise_anything_but_a_protocol_error_and_arrival_does_not_matter(data: bytes) -> None:
    for read in (read_request, read_response):
        assert outcome(read, [data]) == outcome(read, single_bytes(data))


@FAST
@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=8), max_size=24).map(b"".join))
def test_no_bytes_make_chunks_raise_anything_but_a_protocol_error(data: bytes) -> None:
    outcomes = []
    for way in ([data], single_bytes(data)):
        reader = ChunkedReader(LIMITS)
        try:
            payload = b"".join(map(reader.feed, way))
            outcomes.append((payload, reader.ended, reader.surplus, reader.trailers))
        except ProtocolError:
            outcomes.append((b"", False, b"", []))
    assert outcomes[0] == outcomes[1]


@FAST
@given(soup | mutated())
def test_what_we_take_h11_takes(data: bytes) -> None:
    same_framing(data)


names = st.text("abcXYZ-019!#", min_size=1, max_size=12).map(lambda name: b"x" + name.encode())
values = st.lists(st.sampled_from([bytes((byte,)) for byte in range(256)]), max_size=20).map(
    lambda parts: b"".join(part for part in parts if part[0] in (9, 32) or (part[0] > 32 and part[0] != 127)).strip()
)


def chunks_of(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, stop in pairwise(places):
        yield data[start:stop]


@FAST
@given(
    st.lists(st.tuples(names, values), max_size=8),
    st.binary(max_size=300),
    st.lists(st.integers(0, 300), max_size=5),
    st.lists(st.tuples(names, values), max_size=3),
    st.lists(st.integers(0, 900), max_size=12),
)
def test_a_message_written_by_h11_is_read_whole_and_written_back_the_same(
    fields: list[tuple[bytes, bytes]],
    payload: bytes,
    cuts: list[int],
    trailers: list[tuple[bytes, bytes]],
    arrival: list[int],
) -> None:
    client = h11.Connection(h11.CLIENT)
    framing = [(b"Host", b"a"), (b"Transfer-Encoding", b"chunked")]
    sent = client.send(h11.Request(method="POST", target="/x?y", headers=[*framing, *fields]))
    for piece in chunks_of(payload, cuts):
        sent += client.send(h11.Data(data=piece))
    sent += client.send(h11.EndOfMessage(headers=trailers))

    pieces = list(chunks_of(sent, arrival))
    head, rest = read_request(pieces)
    assert head is not None
    reader = ChunkedReader(LIMITS)
    got = reader.feed(rest)
    if not reader.ended:
        consumed = sent.index(b"\r\n\r\n") + 4 + len(rest)
        got += b"".join(map(reader.feed, single_bytes(sent[consumed:])))
    assert (got, reader.ended, reader.surplus) == (payload, True, b"")
    assert pairs(lines_of(head.fields)) == [(name.lower(), value) for name, value in fields]
    assert pairs(reader.trailers) == [(name.lower(), value) for name, value in trailers]

    theirs, body, their_trailers, surplus = h11_request(
        serialise(head) + encode_chunk(got) + encode_trailers(reader.trailers)
    )
    assert (theirs.target, body, surplus) == (b"/x?y", payload, b"")
    assert their_trailers == pairs(reader.trailers)
