"""Field lines: what each one is to a proxy, decided once per distinct line.

Most field lines repeat from request to request, so a :class:`FieldLines` remembers what it found out about a
line. A line that passed is end-to-end (``PLAIN``: it goes on as it came) or one that the proxy acts on.
Lines that may hold secrets, that never repeat, or that are long are judged afresh every time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hostproxy.codec.http1.authority import parse_authority
from hostproxy.codec.http1.errors import ProtocolError, RequestError, ResponseError
from hostproxy.codec.http1.syntax import TEXT_CLASS, TOKEN, find_control

REMEMBERED_LINES = 1024  # per generation, of two; with the length below at most about 0.7 MiB for each side
REMEMBERED_LENGTH = 256  # bytes of a line
REMEMBERED_NAMES = 1024  # field names as written
MOST_OPTIONS = 64  # of one Connection field; real ones hold one to four, and each costs a look-up
LONGEST_BODY = 2**63 - 1  # bytes; what a signed 64-bit length holds, as in nginx and HAProxy

# Kinds. A PLAIN line goes on as it came; each other kind is taken out, and what it said is acted on.
PLAIN, HOP, FORGED, HOST, LENGTH, ENCODING, CONNECTION, TE, UPGRADE, EXPECT, VIA = range(11)
FORWARDED_FOR, FORWARDED_PROTO, REQUEST_ID = range(11, 14)

# Options of the Connection field, as bits of a Field's number.
CLOSE, KEEP_ALIVE, UPGRADE_OPTION, TE_OPTION = 1, 2, 4, 8
_OPTIONS = {b"close": CLOSE, b"keep-alive": KEEP_ALIVE, b"upgrade": UPGRADE_OPTION, b"te": TE_OPTION}

RESPONSE_KINDS: dict[bytes, int] = {
    # RFC 9110 7.6.1: what an intermediary takes out whether Connection names it or not.
    b"connection": CONNECTION,
    b"keep-alive": HOP,
    b"proxy-connection": HOP,
    b"proxy-authenticate": HOP,
    b"proxy-authentication-info": HOP,
    b"proxy-authorization": HOP,
    b"te": TE,
    b"upgrade": UPGRADE,
    b"http2-settings": HOP,
    b"content-length": LENGTH,
    b"transfer-encoding": ENCODING,
    b"via": VIA,
    # Who is calling is what the certificate says; nobody else's word for it passes.
    b"x-forwarded-client-cert": FORGED,
}
REQUEST_KINDS = RESPONSE_KINDS | {
    b"host": HOST,
    b"expect": EXPECT,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-request-id": REQUEST_ID,
}

# Lines not worth remembering, or not safe: other in every message, or holding a secret or a URL that may.
_UNREPEATED = frozenset(
    b"location referer idempotency-key x-request-id traceparent tracestate baggage if-match if-none-match "
    b"x-amz-date x-amzn-trace-id x-b3-spanid x-b3-traceid x-b3-parentspanid".split()
)
_SECRET = re.compile(rb"auth|cookie|token|key|secret|session|passw|credential|signature|csrf|jwt").search
_FIELD = re.compile(rb"(%b):([%b]*+)" % (TOKEN, TEXT_CLASS)).fullmatch
_NAME = re.compile(TOKEN).fullmatch
_DIGITS = re.compile(rb"[0-9]{1,19}").fullmatch
# RFC 9112 7: a coding is a token, with parameters that no registered coding but the retired ones had.
_CODINGS = re.compile(rb"%b(?:[ \t]*+,[ \t]*+%b)*" % (TOKEN, TOKEN)).fullmatch
_PROTOCOLS = re.compile(rb"%b(?:/%b)?(?:[ \t]*+,[ \t]*+%b(?:/%b)?)*" % ((TOKEN,) * 4)).fullmatch


# What a line means: kind; value; LENGTH: bytes, CONNECTION: options as bits, TE: 1 when trailers are welcome;
# CONNECTION: further field names to take out, lower case. A plain tuple: it is unpacked for every line.
Field = tuple[int, bytes, int, frozenset[bytes]]
_NO_NAMES: frozenset[bytes] = frozenset()
PLAIN_FIELD: Field = (PLAIN, b"", 0, _NO_NAMES)


def field_name(line: bytes, error: type[ProtocolError]) -> bytes:
    """Return the lower-case name of a legal field line, else raise ``error``."""
    match = _FIELD(line)
    if match is None:
        raise _fault(line, error)
    return match[1].lower()


def _fault(line: bytes, error: type[ProtocolError]) -> ProtocolError:
    if line[:1] in (b" ", b"\t"):
        return error("obs-fold", "field line starts with white space")
    find_control(line, "field line", error)
    name, colon, _ = line.partition(b":")
    if not colon:
        return error("bad-field", "field line has no colon")
    if name.endswith((b" ", b"\t")):
        # RFC 9112 5.1: "A server MUST reject, with a response status code of 400, any received request
        # message that contains whitespace between a header field name and colon."
        return error("space-before-colon", "white space between field name and colon")
    return error("bad-field-name", "field name is not a token")


class FieldLines:
    """The meaning of every field line of one side's heads. Callers look in ``recent`` first, a plain dict.

    Two generations: a line asked for again moves to the younger, so a sender of ever new lines pushes out
    only what nobody repeats, at the cost of one insertion a line.
    """

    __slots__ = ("_error", "_kinds", "_names", "_older", "_reserved", "recent")

    def __init__(
        self, kinds: Mapping[bytes, int], error: type[ProtocolError], reserved: bytes | tuple[bytes, ...]
    ) -> None:
        """``reserved`` are beginnings (lower case) of names that are taken out: only a hostproxy may use them."""
        self._reserved = reserved
        self._kinds = kinds
        self._error = error
        self._names: dict[bytes, tuple[int, bool]] = {}  # legal names as written: kind, and whether lines repeat
        self._older: dict[bytes, Field] = {}
        self.recent: dict[bytes, Field] = {}

    def meaning(self, line: bytes) -> Field:
        """Return what ``line`` means, remembering it if it may be. Raises the side's error."""
        name, colon, value = line.partition(b":")
        known = self._names.get(name)
        if known is None or not colon or not (value.isascii() and value.decode("ascii").isprintable()):
            # (Asked in this way a value costs a third of what a search for control characters does.)
            known = self._meet(line, name)
        kind, repeats = known
        if repeats and len(line) <= REMEMBERED_LENGTH:
            field = self._older.get(line)
            if field is None:
                field = PLAIN_FIELD if kind == PLAIN else self._interpret(kind, value.strip(b" \t"))
            if len(self.recent) >= REMEMBERED_LINES:
                self._older = self.recent
                self.recent = {}
            self.recent[line] = field
            return field
        return PLAIN_FIELD if kind == PLAIN else self._interpret(kind, value.strip(b" \t"))

    def _meet(self, line: bytes, name: bytes) -> tuple[int, bool]:
        """A name that is not known yet, a value with tabs or obs-text, or an illegal line, which raises."""
        if _FIELD(line) is None:
            raise _fault(line, self._error)
        known = self._names.get(name)
        if known is not None:
            return known
        known = self._judge_name(name)
        if len(name) <= REMEMBERED_LENGTH:
            if len(self._names) >= REMEMBERED_NAMES:
                self._names.clear()  # as ``re`` does: whoever sends ever new names costs the others a look each
            self._names[name] = known
        return known

    def is_end_to_end(self, name: bytes) -> bool:
        """Whether a field of this name passes through the proxy untouched."""
        return self._judge_name(name)[0] == PLAIN

    def _judge_name(self, name: bytes) -> tuple[int, bool]:
        """Return a name's kind, and whether lines with it may be remembered."""
        name = name.lower()
        repeats = name not in _UNREPEATED and _SECRET(name) is None
        kind = self._kinds.get(name, PLAIN)
        if kind != PLAIN:
            return kind, repeats
        # To CGI, WSGI and their like "Content_Length" and "Content-Length" are one name. Such a field is legal, so
        # it is no reason to refuse; as in nginx it ends here, if it looks like one that the proxy acts on.
        dashed = name.replace(b"_", b"-")
        if dashed in self._kinds or dashed.startswith(self._reserved):
            return FORGED, repeats
        return PLAIN, repeats

    def _interpret(self, kind: int, value: bytes) -> Field:
        number = 0
        names = _NO_NAMES
        if kind == HOST:
            if value:
                parse_authority(value)
        elif kind == LENGTH:
            number = self._length(value)
        elif kind == ENCODING:
            self._check_encoding(value)
        elif kind == CONNECTION:
            number, names = self._connection(value)
        elif kind == TE:
            number = int(b"trailers" in _elements(value))
        elif kind == UPGRADE:
            value = self._upgrade(value)
        elif kind == EXPECT and value.lower() != b"100-continue":
            raise self._error("bad-expect", "Expect is not 100-continue", 417)
        return kind, value, number, names

    def _length(self, value: bytes) -> int:
        if _DIGITS(value) is None:
            raise self._error("bad-length", "Content-Length is not 1 to 19 digits")
        length = int(value)
        if length > LONGEST_BODY:
            raise self._error("bad-length", "Content-Length is 2^63 or more")
        return length

    def _check_encoding(self, value: bytes) -> None:
        codings = value.lower()
        if codings == b"chunked":
            return
        if _CODINGS(codings) is None:
            raise self._error("bad-encoding", "Transfer-Encoding is not a list of tokens")
        *others, last = _elements(codings)
        if last != b"chunked" or b"chunked" in others:
            # RFC 9112 6.3: with chunked not final "the message body length cannot be determined reliably".
            raise self._error("bad-encoding", "Transfer-Encoding does not end in exactly one chunked")
        # RFC 9112 6.1: "a transfer coding it does not understand SHOULD" be answered with 501.
        raise self._error("unsupported-encoding", "Transfer-Encoding other than chunked", 501)

    def _connection(self, value: bytes) -> tuple[int, frozenset[bytes]]:
        options = 0
        names = set()
        elements = _elements(value)
        if len(elements) > MOST_OPTIONS:
            raise self._error("bad-connection", f"Connection names more than {MOST_OPTIONS} options")
        for element in elements:
            if not element:
                continue
            if _NAME(element) is None:
                raise self._error("bad-connection", "Connection names something that is no token")
            option = _OPTIONS.get(element)
            if option is not None:
                options |= option
            elif self.is_end_to_end(element):
                # The fields that the proxy acts on are never taken out on a sender's word: that is how
                # X-Forwarded-For was once removed on its way (CVE-2022-31813).
                names.add(element)
        return options, frozenset(names)

    def _upgrade(self, value: bytes) -> bytes:
        if _PROTOCOLS(value) is None:
            raise self._error("bad-upgrade", "Upgrade is not a list of protocols")
        # An h2c upgrade would put HTTP/2 requests past every rule; RFC 9113 3.1 has retired it.
        protocols = (protocol.strip(b" \t") for protocol in value.split(b","))
        return b", ".join(protocol for protocol in protocols if protocol.lower() != b"h2c")


def _elements(value: bytes) -> list[bytes]:
    return [element.strip(b" \t") for element in value.lower().split(b",")]


def without_named(lines: list[bytes], names: frozenset[bytes]) -> list[bytes]:
    """Take out the fields that Connection named (RFC 9110 7.6.1)."""
    return [line for line in lines if line[: line.index(b":")].lower() not in names]


def block_of(lines: list[bytes]) -> bytes:
    """Put lines together, each with its CRLF."""
    lines.append(b"")
    return b"\r\n".join(lines)


def joined(values: bytes, value: bytes) -> bytes:
    """Join the values of two lines of one list field (RFC 9110 5.3)."""
    return b"%b, %b" % (values, value) if values and value else values or value


REQUEST_FIELDS = FieldLines(REQUEST_KINDS, RequestError, b"x-hostproxy-")
RESPONSE_FIELDS = FieldLines(RESPONSE_KINDS, ResponseError, (b"x-forwarded-client-", b"x-hostproxy-"))
# From another hostproxy: its X-Hostproxy-Reason is for the caller to read, and no instance behind it can forge one.
PEER_RESPONSE_FIELDS = FieldLines(RESPONSE_KINDS, ResponseError, b"x-forwarded-client-")
