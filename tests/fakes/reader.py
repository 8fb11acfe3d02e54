"""Strict HTTP/1.1 readers for the two ends of a test, written apart from the codec that is being tested.

They take one way to say each thing (RFC 9112 without its leniencies): what they cannot read, a proxy should
not have sent. :class:`RequestReader` stands in an origin, :class:`ResponseReader` in a client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST_LINE = re.compile(rb"(%s) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])" % TOKEN)
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")
FIELD_LINE = re.compile(
    rb"(%s):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*" % TOKEN
)
QUOTED = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[ \t]*%s(?:[ \t]*=[ \t]*(?:%s|%s))?)*" % (TOKEN, TOKEN, QUOTED))
LENGTH = re.compile(rb"[0-9]{1,18}")

Fields = list[tuple[bytes, bytes]]  # names in lower case


class Malformed(Exception):
    """Bytes that a strict reader does not take."""


def read_fields(lines: list[bytes]) -> Fields:
    """Field lines without their line ends."""
    fields: Fields = []
    for line in lines:
        match = FIELD_LINE.fullmatch(line)
        if match is None:
            raise Malformed(f"field line {line[:200]!r}")
        fields.append((match[1].lower(), match[2]))
    return fields


def values(fields: Fields, name: bytes) -> list[bytes]:
    """All values of a field, in order."""
    return [value for key, value in fields if key == name]


def elements(fields: Fields, name: bytes) -> list[bytes]:
    """The elements of a list field in lower case."""
    return [
        part.strip(b" \t").lower() for value in values(fields, name) for part in value.split(b",") if part.strip(b" \t")
    ]


@dataclass(slots=True)
class Received:
    """One message as it came."""

    line: tuple[bytes, ...]
    fields: Fields
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields = field(default_factory=list)
    complete: bool = False
    framing: str = "none"  # none, length, chunked, close
    connection: int = 0  # which connection of the origin it came by

    @property
    def method(self) -> bytes:
        return self.line[0]

    @property
    def target(self) -> bytes:
        return self.line[1]

    @property
    def status(self) -> int:
        return int(self.line[1])

    def values(self, name: bytes) -> list[bytes]:
        return values(self.fields, name)

    def value(self, name: bytes) -> bytes | None:
        found = values(self.fields, name)
        return found[0] if found else None


class _Reader:
    """Bytes in, messages out: the states are methods, each returns whether it got any further."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.current: Received | None = None
        self.messages: list[Received] = []
        self._left = 0
        self._state = self._head
        self._searched = 0

    def feed(self, data: bytes) -> None:
        """Take ``data``; what it completes is in ``messages``. Raises :class:`Malformed`."""
        self.buffer += data
        while self._state():
            pass

    def begun(self) -> Received:
        """The message whose head has come and whose body has not."""
        assert self.current is not None
        return self.current

    def take(self) -> list[Received]:
        """The complete messages since the last call."""
        messages, self.messages = self.messages, []
        return messages

    def _begin(self, lines: list[bytes]) -> Received:
        raise NotImplementedError

    def _head(self) -> bool:
        end = self.buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0:
            self._searched = len(self.buffer)
            return False
        block = bytes(self.buffer[:end])
        del self.buffer[: end + 4]
        self._searched = 0
        self.current = self._begin(block.split(b"\r\n"))
        self._left = 0
        self._choose(self.current)
        return True

    def _choose(self, message: Received) -> None:
        """Set the state that reads the body by the framing of ``message``."""
        codings, lengths = message.values(b"transfer-encoding"), message.values(b"content-length")
        if codings and lengths:
            raise Malformed("Transfer-Encoding and Content-Length")
        if codings:
            if len(codings) > 1 or codings[0].lower() != b"chunked" or message.line[-1] == b"0":
                raise Malformed(f"Transfer-Encoding {codings!r}")
            message.framing, self._state = "chunked", self._chunk_size
        elif lengths:
            if len(lengths) > 1 or not LENGTH.fullmatch(lengths[0]):
                raise Malformed(f"Content-Length {lengths!r}")
            message.framing, self._left, self._state = "length", int(lengths[0]), self._length
        else:
            self._unframed(message)

    def _unframed(self, message: Received) -> None:
        raise NotImplementedError

    def _finish(self) -> bool:
        assert self.current is not None
        self.current.complete = True
        self.messages.append(self.current)
        self.current = None
        self._state = self._head
        return True

    def _take(self) -> None:
        assert self.current is not None
        part = self.buffer[: self._left]
        self.current.body += part
        del self.buffer[: len(part)]
        self._left -= len(part)

    def _length(self) -> bool:
        self._take()
        return self._finish() if self._left == 0 else False

    def _line(self) -> bytes | None:
        end = self.buffer.find(b"\n")
        if end < 0:
            return None
        if end == 0 or self.buffer[end - 1] != 13:
            raise Malformed(f"bare LF behind {bytes(self.buffer[:end][-80:])!r}")
        line = bytes(self.buffer[: end - 1])
        del self.buffer[: end + 1]
        return line

    def _chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        match = CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise Malformed(f"chunk size {line[:80]!r}")
        self._left = int(match[1], 16)
        self._state = self._chunk_data if self._left else self._trailers
        return True

    def _chunk_data(self) -> bool:
        self._take()
        if self._left or len(self.buffer) < 2:
            return False
        if self.buffer[:2] != b"\r\n":
            raise Malformed(f"chunk data ends in {bytes(self.buffer[:2])!r}")
        del self.buffer[:2]
        self._state = self._chunk_size
        return True

    def _trailers(self) -> bool:
        assert self.current is not None
        line = self._line()
        if line is None:
            return False
        if not line:
            return self._finish()
        self.current.trailers += read_fields([line])
        return True


class RequestReader(_Reader):
    """What an origin receives on one connection."""

    def _begin(self, lines: list[bytes]) -> Received:
        match = REQUEST_LINE.fullmatch(lines[0])
        if match is None:
            raise Malformed(f"request line {lines[0][:200]!r}")
        message = Received((match[1], match[2], match[3]), read_fields(lines[1:]))
        hosts = message.values(b"host")
        if len(hosts) > 1 or (not hosts and match[3] == b"1"):
            raise Malformed(f"Host {hosts!r}")
        return message

    def _unframed(self, message: Received) -> None:
        self._state = self._finish


class ResponseReader(_Reader):
    """What a client receives on one connection, for requests of these methods in order."""

    def __init__(self, methods: list[bytes] | None = None) -> None:
        super().__init__()
        self.methods = list(methods or [])
        self.interim: list[Received] = []
        self.tunnel = False  # a 101 came: what follows is no HTTP

    def _begin(self, lines: list[bytes]) -> Received:
        match = STATUS_LINE.fullmatch(lines[0])
        if match is None:
            raise Malformed(f"status line {lines[0][:200]!r}")
        return Received((match[3], match[2], match[1]), read_fields(lines[1:]))

    def _choose(self, message: Received) -> None:
        status = message.status
        if 100 <= status < 200:
            self.interim.append(message)
            message.complete = True
            self.current = None
            if status == 101:
                self.tunnel = True
                self._state = self._raw
            return
        method = self.methods.pop(0) if self.methods else b"GET"
        if method == b"HEAD" or status in (204, 304):
            self._state = self._finish
            return
        super()._choose(message)

    def _raw(self) -> bool:
        return False

    def _unframed(self, message: Received) -> None:
        message.framing, self._state = "close", self._until_close

    def _until_close(self) -> bool:
        assert self.current is not None
        self.current.body += self.buffer
        self.buffer.clear()
        return False

    def end(self, *, reset: bool) -> None:
        """The connection has ended; by a reset, nothing that waits for the end is complete."""
        if self.current is not None and self.current.framing == "close" and not reset:
            self._finish()
