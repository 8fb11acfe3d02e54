"""Request line and status line (RFC 9112 3 and 4)."""

from __future__ import annotations

import re
from functools import lru_cache

from hostproxy.codec.http1.authority import Authority, parse_authority
from hostproxy.codec.http1.errors import RequestError, ResponseError
from hostproxy.codec.http1.syntax import PATH_AND_QUERY, TOKEN, find_control

CACHED_STATUS_LINES = 64  # distinct status lines; servers use a few dozen

_ORIGIN_FORM = re.compile(rb"(%b) (%b) HTTP/1\.([01])" % (TOKEN, PATH_AND_QUERY)).fullmatch
_METHOD = re.compile(TOKEN).fullmatch
_PATH_AND_QUERY = re.compile(PATH_AND_QUERY).fullmatch
_VERSION = re.compile(rb"HTTP/([0-9])\.([0-9])").fullmatch
_ABSOLUTE_FORM = re.compile(rb"([A-Za-z][A-Za-z0-9+.\-]*+)://([^/?#]*+)(.*)", re.DOTALL).fullmatch
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*+))?").fullmatch
_STATUS_VERSION = re.compile(rb"HTTP/1\.[01] ").match

RequestLine = tuple[bytes, bytes, int, bytes, Authority | None]


def parse_request_line(line: bytes) -> RequestLine:
    """Return method, target to send upstream, minor version, scheme and authority of an absolute target.

    Raises RequestError 400 or 505.
    """
    match = _ORIGIN_FORM(line)
    if match is not None:
        method, target, minor = match.groups()
        if method != b"CONNECT":
            return method, target, 1 if minor == b"1" else 0, b"", None
    return _parse_other_form(line)


def _parse_other_form(line: bytes) -> RequestLine:
    find_control(line, "request line", RequestError)
    parts = line.split(b" ")
    if len(parts) != 3:
        raise RequestError("bad-request-line", "request line is not method, target and version")
    method, target, version = parts
    if _METHOD(method) is None:
        raise RequestError("bad-method", "method is not a token")
    match = _VERSION(version)
    if match is None:
        raise RequestError("bad-version", "version is not HTTP/digit.digit")
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise RequestError("unsupported-version", "version is neither HTTP/1.0 nor HTTP/1.1", 505)
    minor = 1 if version == b"HTTP/1.1" else 0
    if method == b"CONNECT":
        # RFC 9112 3.2.3: "The authority-form of request-target is only used for CONNECT requests".
        authority = parse_authority(target)
        if not authority.port:
            raise RequestError("bad-target", "CONNECT needs host:port")
        return method, authority.text, minor, b"", authority
    if target == b"*":
        if method != b"OPTIONS":
            raise RequestError("bad-target", "only OPTIONS may have the target *")
        return method, target, minor, b"", None
    match = _ABSOLUTE_FORM(target)
    if match is None:
        raise RequestError("bad-target", "target has no legal form, or holds a character that no URI may")
    scheme, place, path = match.groups()
    scheme = scheme.lower()
    if scheme not in (b"http", b"https"):
        raise RequestError("bad-target", "scheme of the target is neither http nor https")
    authority = parse_authority(place)
    if not path:
        # RFC 9112 3.2.4: OPTIONS with "an empty path and no query component" goes on as "*".
        path = b"*" if method == b"OPTIONS" else b"/"
    else:
        path = path if path.startswith(b"/") else b"/" + path
        if _PATH_AND_QUERY(path) is None:
            raise RequestError("bad-target", "path or query holds a character that no URI may")
    return method, path, minor, scheme, authority


@lru_cache(CACHED_STATUS_LINES)
def parse_status_line(line: bytes) -> tuple[int, int, bytes]:
    """Return minor version, status and reason phrase. Raises ResponseError.

    The space before an empty reason may be missing, as common servers leave it out; it is written back.
    RFC 9110 15: "values outside the range 100..599 are invalid", so they are an invalid response here.
    """
    match = _STATUS_LINE(line)
    if match is None:
        find_control(line, "status line", ResponseError)
        if _STATUS_VERSION(line) is None:
            raise ResponseError("bad-status-line", "response does not start with HTTP/1.0 or HTTP/1.1 and a space")
        raise ResponseError("bad-status", "status is not three digits from 100 to 599")
    minor, status, reason = match.groups()
    return 1 if minor == b"1" else 0, int(status), reason.strip(b" \t") if reason else b""
