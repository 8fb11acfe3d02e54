"""Where a head ends, and how a bad one is refused before it does.

A sender that has already made its message illegal must not be waited for, and a head that comes one byte at
a time must not cost more than one that comes whole: each call looks only at what is new.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from hostproxy.codec.http1.errors import ProtocolError, RequestError, ResponseError
from hostproxy.codec.http1.fields import REQUEST_FIELDS, RESPONSE_FIELDS
from hostproxy.codec.http1.startline import parse_request_line, parse_status_line
from hostproxy.codec.http1.syntax import TOKEN, TOKEN_CLASS

NAME_PREFIX = 256  # bytes of an unfinished line within which its name is looked at again with every call

_ILLEGAL = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]").search
_ILLEGAL_IN_REQUEST_LINE = re.compile(rb"[^\x20-\x7e\r]").search
_NOT_TOKEN = re.compile(rb"[^%b]" % TOKEN_CLASS).search
_LINE_START = re.compile(rb"\r?\Z|%b(?::|\Z)" % TOKEN).match
_VERSION_LENGTH = len(b"HTTP/1.1")


class HeadLimits(NamedTuple):
    """Bounds of a head, and of trailers except for ``request_line``."""

    request_line: int  # bytes, without CRLF; status lines too
    header_size: int  # bytes of one field line, without CRLF
    header_count: int  # field lines
    head_size: int  # bytes from the first to the last, both CRLF included

    def after_a_hop(self) -> HeadLimits:
        """The same with room for what another hostproxy may have added to a head that was just within these."""
        return HeadLimits(
            self.request_line, self.header_size + 256, self.header_count + 8, self.head_size + 4096
        )


def find_head_end(
    buffer: bytes, start: int, limits: HeadLimits, error: type[ProtocolError] = RequestError
) -> int:
    """Return the index just after the CRLFCRLF that ends the head in front of ``buffer``, or -1: need more.

    ``start`` is the length that earlier calls have seen, ``error`` whose head it is: RequestError or
    ResponseError. It is raised as soon as the head can no longer become legal or is over a limit; a complete head
    is for the parsers to judge.
    """
    found = buffer.find(b"\r\n\r\n", start - 3 if start > 3 else 0, limits.head_size)
    if found >= 0:
        return found + 4
    _refuse_hopeless(buffer, start, limits, error)
    return -1


def check_sizes(lines: list[bytes], first_line: int, limits: HeadLimits, error: type[ProtocolError]) -> None:
    """Raise when a complete head, given as lines without CRLF, is over a limit."""
    if first_line > limits.request_line:
        raise _start_line_too_long(limits, error)
    if len(lines) > limits.header_count:
        raise _too_many_fields(limits, error)
    if lines and max(map(len, lines)) > limits.header_size:
        raise _field_too_long(limits, error)


def _start_line_too_long(limits: HeadLimits, error: type[ProtocolError]) -> ProtocolError:
    return error("start-line-too-long", f"first line is longer than {limits.request_line} bytes", 414)


def _field_too_long(limits: HeadLimits, error: type[ProtocolError]) -> ProtocolError:
    return error("field-too-long", f"a field line is longer than {limits.header_size} bytes", 431)


def _too_many_fields(limits: HeadLimits, error: type[ProtocolError]) -> ProtocolError:
    return error("too-many-fields", f"more than {limits.header_count} field lines", 431)


def _refuse_hopeless(buffer: bytes, start: int, limits: HeadLimits, error: type[ProtocolError]) -> None:
    is_response = error is ResponseError
    if is_response and not buffer.startswith(b"HTTP/"[: len(buffer)]):
        raise ResponseError("bad-status-line", "response does not start with HTTP/")
    # RFC 9112 2.2: "SHOULD ignore at least one empty line (CRLF) received prior to the request-line".
    begin = 2 if buffer.startswith(b"\r\n") else 0
    line_feed = buffer.find(b"\n", begin)
    length = (len(buffer) if line_feed < 0 else line_feed) - begin - 1
    if length > limits.request_line:
        raise _start_line_too_long(limits, error)
    if line_feed < 0:
        if is_response:
            refuse_hopeless_text(buffer, start, error)
        else:
            _refuse_hopeless_request_line(buffer, start, begin)
        return
    if line_feed >= start:
        line = buffer[begin : line_feed + 1]
        if not line.endswith(b"\r\n"):
            raise error("bare-lf", "first line ends without carriage return")
        if is_response:
            parse_status_line(line[:-2])
        else:
            parse_request_line(line[:-2])
    meaning = RESPONSE_FIELDS.meaning if is_response else REQUEST_FIELDS.meaning
    refuse_hopeless_fields(buffer, start, line_feed + 1, limits, error, meaning)


def _refuse_hopeless_request_line(buffer: bytes, start: int, begin: int) -> None:
    refuse_hopeless_text(buffer, start, RequestError)
    match = _ILLEGAL_IN_REQUEST_LINE(buffer, max(start, begin))
    if match is not None:
        raise RequestError("bad-request-line", f"byte {match[0][0]:#04x} in the request line")
    method, *rest = buffer[begin:].rstrip(b"\r").split(b" ", 2)
    if _NOT_TOKEN(method, max(start - begin, 0)) is not None or (rest and not method):
        raise RequestError("bad-method", "method is not a token")
    if len(rest) == 2:
        target, version = rest
        if not target or len(version) > _VERSION_LENGTH or not b"HTTP/".startswith(version[:5]):
            raise RequestError("bad-request-line", "request line is not method, target and version")


def refuse_hopeless_text(buffer: bytes, start: int, error: type[ProtocolError]) -> None:
    """Raise when what is new in an unfinished line can stand in no line."""
    match = _ILLEGAL(buffer, max(start - 1, 0))
    if match is None:
        return
    reason = {b"\n": "bare-lf", b"\r": "bare-cr"}.get(match[0], "control-character")
    raise error(reason, f"byte {match[0][0]:#04x} where no line may have it")


def refuse_hopeless_fields(
    buffer: bytes,
    start: int,
    first: int,
    limits: HeadLimits,
    error: type[ProtocolError],
    check: Callable[[bytes], object],
) -> None:
    """Raise when the field lines from index ``first`` on, the last of them unfinished, are hopeless.

    ``start`` is how far earlier calls have looked; ``check`` raises for a finished line that is illegal.
    """
    if len(buffer) >= limits.head_size:
        raise error("head-too-long", f"head or trailers longer than {limits.head_size} bytes", 431)
    refuse_hopeless_text(buffer, max(start, first), error)
    unfinished = max(buffer.rfind(b"\n", first) + 1, first)
    seen = max(buffer.rfind(b"\n", first, max(start, first)) + 1, first)
    if unfinished > seen:
        if buffer.count(b"\n", first) > limits.header_count:
            raise _too_many_fields(limits, error)
        for line in buffer[seen : unfinished - 2].split(b"\r\n"):
            if len(line) > limits.header_size:
                raise _field_too_long(limits, error)
            check(line)
    length = len(buffer) - unfinished
    if length > limits.header_size + 1:
        raise _field_too_long(limits, error)
    if length <= NAME_PREFIX and _LINE_START(buffer, unfinished) is None:
        check(buffer[unfinished:].removesuffix(b"\r"))  # raises: it holds no name with a colon behind
