"""Chunked bodies (RFC 9112 7.1): take one apart, write one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hostproxy.codec.http1.errors import ProtocolError, RequestError
from hostproxy.codec.http1.fields import LONGEST_BODY, REQUEST_FIELDS, field_name
from hostproxy.codec.http1.head import HeadLimits, check_sizes, refuse_hopeless_fields, refuse_hopeless_text
from hostproxy.codec.http1.syntax import TEXT_CLASS, TOKEN

CHUNK_LINE = 4096  # bytes of a chunk's size and extensions; Go net/http maxLineLength
# Framing that carries no payload: each chunk has 16 bytes and twice its payload free, and what it uses beyond
# adds up. Without a bound, one-byte chunks with long extensions make a small body cost megabytes
# (CVE-2023-39326; Go allows the same 16 KiB).
FREE_OVERHEAD = 16
OVERHEAD = 16 * 1024

LAST_CHUNK = b"0\r\n\r\n"

_BWS = rb"[ \t]*+"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]++|\\[%b])*"' % TEXT_CLASS
_EXTENSIONS = rb"(?:%b;%b%b(?:%b=%b(?:%b|%b))?)*" % (_BWS, _BWS, TOKEN, _BWS, _BWS, TOKEN, _QUOTED)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16}+)%b\r\n" % _EXTENSIONS).match
_CHUNK_START = re.compile(rb"[0-9A-Fa-f]{1,16}+(?:\r?\Z|%b(?:;|\Z))" % _BWS).match
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}+(?![0-9A-Fa-f])").match

# RFC 9110 6.5.1: no "message framing, routing, authentication, request modifiers, response controls, or
# content format" in trailers, since whoever merges them into the head would act on them too late or twice.
_NEVER_IN_TRAILERS = frozenset(
    b"age authentication-info authorization cache-control content-encoding content-location content-range "
    b"content-type cookie date expect expires forwarded host if-match if-modified-since if-none-match "
    b"if-range if-unmodified-since location max-forwards pragma range retry-after set-cookie "
    b"strict-transport-security trailer vary warning www-authenticate x-forwarded-for x-forwarded-host "
    b"x-forwarded-port x-forwarded-proto x-http-method-override x-real-ip x-request-id".split()
)


# What a reader waits for.
_SIZE, _PAYLOAD, _PAYLOAD_END, _TRAILERS, _NOTHING = range(5)


class ChunkedReader:
    """One chunked body, from the byte after its head to its end.

    Extensions are validated and dropped. A body whose connection closes before ``ended`` is truncated.
    """

    __slots__ = (
        "_error",
        "_excess",
        "_held",
        "_left",
        "_limits",
        "_seen",
        "_want",
        "dropped",
        "surplus",
        "trailers",
    )

    def __init__(self, limits: HeadLimits, error: type[ProtocolError] = RequestError) -> None:
        self.trailers: list[bytes] = []  # field lines without CRLF, once ended
        self.dropped = 0  # trailers that may not be trailers
        self.surplus = b""  # what came after the end: the next message, or garbage
        self._limits = limits
        self._error = error
        self._want = _SIZE
        self._held = b""  # an unfinished line, or CRLF and unfinished trailers
        self._seen = 0  # bytes of _held that were looked at
        self._left = 0  # bytes of the chunk still to come
        self._excess = 0  # overhead so far that payload does not excuse

    @property
    def ended(self) -> bool:
        return self._want == _NOTHING

    def feed(self, data: bytes) -> bytes:
        """Return the payload in ``data``, b"" when there is none yet. Raises ProtocolError.

        Payload that is all of ``data``, as in a large chunk, is handed back without a copy.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        position = 0
        end = len(data)
        while position < end:
            want = self._want
            if want == _SIZE:
                unfinished = self._seen and data.find(b"\n", self._seen) < 0
                match = None if unfinished else _CHUNK_LINE(data, position)
                if match is None:
                    self._hold_line(data[position:])
                    break
                size = int(match[1], 16)
                payload = match.end()
                self._count_overhead(size, payload - position)
                if not size:
                    # Trailers are looked for from the CRLF before them: CRLFCRLF ends them even when none.
                    position = payload - 2
                    self._want = _TRAILERS
                    continue
                position = payload + size
                if data.startswith(b"\r\n", position):
                    pieces.append(data[payload:position])
                    position += 2
                    continue
                position = payload
                self._left = size
                self._want = _PAYLOAD
            elif want == _PAYLOAD:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._want = _PAYLOAD_END
            elif want == _PAYLOAD_END:
                if data.startswith(b"\r\n", position):
                    position += 2
                    self._want = _SIZE
                elif data[position:] == b"\r":
                    self._held = b"\r"
                    break
                else:
                    raise self._error("bad-chunk-end", "chunk is not followed by CRLF")
            elif want == _TRAILERS:
                position = self._end(data, position)
                if self._want == _TRAILERS:
                    break
            else:
                self.surplus += data[position:]
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _count_overhead(self, size: int, line: int) -> None:
        self._seen = 0
        excess = self._excess + line + 2 - FREE_OVERHEAD - 2 * size
        self._excess = excess if excess > 0 else 0
        if line > CHUNK_LINE:
            raise self._error("bad-chunk-extension", f"chunk extensions longer than {CHUNK_LINE} bytes")
        if excess > OVERHEAD:
            raise self._error("chunk-overhead", "chunk extensions outweigh the payload")
        if size > LONGEST_BODY:
            raise self._error("bad-chunk-size", "chunk of 2^63 bytes or more")

    def _hold_line(self, line: bytes) -> None:
        """Keep an unfinished chunk line, unless it is hopeless."""
        refuse_hopeless_text(line, self._seen, self._error)
        if len(line) > CHUNK_LINE:
            raise self._error("bad-chunk-extension", f"chunk extensions longer than {CHUNK_LINE} bytes")
        if _CHUNK_START(line) is None and _CHUNK_SIZE(line) is None:
            raise self._error("bad-chunk-size", "chunk size is not 1 to 16 hexadecimal digits")
        if _CHUNK_START(line) is None or b"\n" in line:
            raise self._error("bad-chunk-extension", "chunk size is followed by no legal extension")
        self._held = line
        self._seen = len(line)

    def _end(self, data: bytes, start: int) -> int:
        """Take the trailers, if all are there, and return where the body ends; else hold them."""
        limits = self._limits
        found = data.find(b"\r\n\r\n", start + max(self._seen - 3, 0), start + limits.head_size)
        if found == start:
            self._want = _NOTHING
            return found + 4
        if found < 0:
            section = data[start:]
            refuse_hopeless_fields(section, self._seen, 2, limits, self._error, self._check)
            self._held = section
            self._seen = len(section)
            return len(data)
        lines = data[start + 2 : found].split(b"\r\n")
        check_sizes(lines, 0, limits, self._error)
        for line in lines:
            name = field_name(line, self._error)
            if name in _NEVER_IN_TRAILERS or not REQUEST_FIELDS.is_end_to_end(name):
                self.dropped += 1
            else:
                self.trailers.append(line)
        self._want = _NOTHING
        return found + 4

    def _check(self, line: bytes) -> None:
        field_name(line, self._error)


def encode_chunk(payload: bytes) -> bytes:
    """Frame ``payload`` as one chunk. Empty payload is no chunk, as that would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def encode_trailers(lines: Iterable[bytes]) -> bytes:
    """End a chunked body with these field lines; with none, the same as LAST_CHUNK."""
    return b"0\r\n%b\r\n" % b"".join(b"%b\r\n" % line for line in lines)
