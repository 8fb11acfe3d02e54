"""Rules of access: who may call, and with what. What a rule is, and the syntax of its parts."""

from __future__ import annotations

import re

import msgspec

from hostproxy.mesh import names
from hostproxy.mesh.units import Wrong

EVERYONE = "*"  # in ``from``: every caller with an identity of the mesh
PRESENT = "*"  # in ``headers``: the field is there, with any value

HEADERS = 16  # of a rule

# Fields that no rule can see: they belong to one connection, or the proxy takes them out and writes them itself.
UNSEEN = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-forwarded-client-cert",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
    )
)
_OURS = "x-hostproxy-"  # the beginning of names that are taken out as well

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # token, RFC 9110 section 9.1
_STANDARD_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"}
_PATH = re.compile(r"/[!-~]{0,1023}")
_PLACE = re.compile(r"\{[A-Za-z_][A-Za-z0-9_-]{0,63}\}")  # in a template: it takes the place of one segment
_HEADER = re.compile(r"[0-9a-z-]{1,64}")
_VALUE = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """Calls that are allowed, or denied: those that all its parts match. Empty methods, paths or headers match all."""

    callers: tuple[str, ...]  # names of services, or "*"
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()  # exact; a prefix when it ends with "*"; a template when it has "{name}"
    source: str = ""  # "payments.toml:12"
    headers: tuple[tuple[str, str], ...] = ()  # name, and the value: exact, a prefix when it ends with "*", or "*"
    audit: bool = False  # it decides nothing: what it would do is logged and counted


def caller(text: str) -> str:
    """Return the name of a calling service, or ``*``. Raises :class:`Wrong`."""
    return text if text == EVERYONE else names.service(text)


def method(text: str) -> str:
    """Return an HTTP method, which is case-sensitive. Raises :class:`Wrong`."""
    if not _METHOD.fullmatch(text):
        raise Wrong("is not an HTTP method")
    if text not in _STANDARD_METHODS and text.upper() in _STANDARD_METHODS:
        raise Wrong("is not an HTTP method", f'did you mean "{text.upper()}"?')
    return text


def path(text: str) -> str:
    """Return a path, a prefix of paths that ends with ``*``, or a template. Raises :class:`Wrong`."""
    if not _PATH.fullmatch(text):
        raise Wrong("is not a path", 'it starts with "/" and has printable ASCII characters, at most 1024')
    if "?" in text or "#" in text:
        raise Wrong("has more than a path", "rules see the path only: leave out the query and the fragment")
    if "*" in text[:-1]:
        raise Wrong('has "*" before its end', 'write "{name}" for one segment, and "*" only at the end')
    segments = text.split("/")
    if any(segment in (".", "..") for segment in segments):
        raise Wrong('has "." or ".." segments, which no request has when rules see it')
    if "{" in text or "}" in text:
        if any(("{" in one or "}" in one) and not _PLACE.fullmatch(one) for one in segments):
            raise Wrong('has a brace that is not part of "/{name}/"', "a place takes one whole segment of the path")
        if text.endswith("*") and segments[-1] != "*":
            raise Wrong('is a template with "*" within a segment', 'end it with "/*"')
    return text


def is_template(pattern: str) -> bool:
    """Whether a path of a rule has places for segments."""
    return "{" in pattern


def header_name(text: str) -> str:
    """Return the name of a header field in lower case. Raises :class:`Wrong`."""
    name = text.lower()
    if not _HEADER.fullmatch(name):
        raise Wrong("is not the name of a header field", "it has at most 64 letters, digits and hyphens")
    if name in UNSEEN or name.startswith(_OURS):
        why = "hostproxy takes it out of requests, or writes it itself"
        raise Wrong("is a field that neither rules nor routes see", why)
    return name


def header_value(text: str) -> str:
    """Return a value of a header field, or a prefix that ends with ``*``. Raises :class:`Wrong`."""
    if not _VALUE.fullmatch(text):
        raise Wrong("is not a value to compare with", "it has at most 256 printable ASCII characters, no space outside")
    if "*" in text[:-1]:
        raise Wrong('has "*" before its end', 'only "prefix*" is a pattern')
    return text
