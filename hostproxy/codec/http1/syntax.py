"""Byte classes that the whole codec shares, written as pieces of regular expressions.

Repetitions of single classes are possessive, so a match that fails goes back over whole pieces only, which is linear.
Those of groups are not: CPython before 3.11.5, and so Debian 12's, matches possessive groups wrongly (gh-106052).
"""

from __future__ import annotations

import re

from hostproxy.codec.http1.errors import ProtocolError

TOKEN_CLASS = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"  # RFC 9110 5.6.2 tchar
TOKEN = rb"[%b]++" % TOKEN_CLASS
TEXT_CLASS = rb"\t\x20-\x7e\x80-\xff"  # RFC 9110 5.5: VCHAR, obs-text, SP, HTAB
# Wider than RFC 3986 by "<>[]^`{|} and, in queries, \ and stray %: clients send them and all parsers
# read them alike. A backslash or a malformed escape in a path is what path rules and servers disagree on.
PATH_AND_QUERY = rb"/(?:[!\"$&->@-\[\]-~]++|%[0-9A-Fa-f]{2})*(?:\?[!\"$-~]*+)?"

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search


def find_control(data: bytes, where: str, error: type[ProtocolError]) -> None:
    """Raise when ``data``, which lies between two CRLFs, holds a control character other than HTAB."""
    match = _CONTROL(data)
    if match is None:
        return
    found = match[0]
    # RFC 9112 2.2: "A recipient of such a bare CR MUST consider that element to be invalid"; a bare LF may be
    # taken for a line end ("MAY"), which is exactly what two parsers do differently.
    if found == b"\n":
        raise error("bare-lf", f"{where} holds a line feed without carriage return")
    if found == b"\r":
        raise error("bare-cr", f"{where} holds a carriage return without line feed")
    raise error("control-character", f"{where} holds control character {found[0]:#04x}")
