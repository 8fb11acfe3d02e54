"""HTTP/1.1 and 1.0 on the wire, strictly: every message that passes has one meaning.

    buffer --find_head_end--> index --parse_request / parse_response--> head
    bytes after it: ``length`` of them, or through a ChunkedReader, or (responses) until the close

What two parsers could read differently is refused with a ProtocolError. What has several spellings is given
out in one: lengths as numbers, the effective host, end-to-end field lines without those that framing,
routing, identity and the connection are made of, which the sender of the next hop writes anew.

Modules: ``head`` finds where a head ends, ``startline``, ``authority`` and ``fields`` read its parts,
``request`` and ``response`` put them together, ``body`` does chunks. Bytes in, values out: no I/O.
"""

from hostproxy.codec.http1.body import LAST_CHUNK, ChunkedReader, encode_chunk, encode_trailers
from hostproxy.codec.http1.errors import ProtocolError, RequestError, ResponseError
from hostproxy.codec.http1.head import HeadLimits, find_head_end
from hostproxy.codec.http1.request import CHUNKED, RequestHead, parse_request
from hostproxy.codec.http1.response import UNTIL_CLOSE, ResponseHead, parse_response

__all__ = [
    "CHUNKED",
    "LAST_CHUNK",
    "UNTIL_CLOSE",
    "ChunkedReader",
    "HeadLimits",
    "ProtocolError",
    "RequestError",
    "RequestHead",
    "ResponseError",
    "ResponseHead",
    "encode_chunk",
    "encode_trailers",
    "find_head_end",
    "parse_request",
    "parse_response",
]
