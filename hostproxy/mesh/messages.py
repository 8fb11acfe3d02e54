"""What hosts and the controller say to each other over HTTPS: JSON bodies.

Both sides decode strictly: unknown fields, wrong types and values out of bounds are refused with a text that says
which. Certificates and requests for them are PEM.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec

BODY_SIZE = 256 * 1024  # bytes of any of these; a report of a host with a hundred services has 20 KiB
PEM_SIZE = 64 * 1024

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
HostName = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]  # it may be a full DNS name
Word = Annotated[str, msgspec.Meta(max_length=128)]
Line = Annotated[str, msgspec.Meta(max_length=1000)]
Pem = Annotated[str, msgspec.Meta(min_length=1, max_length=PEM_SIZE)]
# Numbers have bounds, so that whoever reckons with what a host says gets no error for an answer.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]
Moment = Annotated[float, msgspec.Meta(ge=0.0, le=1e11)]  # Unix seconds

# applied: the newest bundle is in force. refused: it was not taken, ``problems`` says why, the one before is in
# force. reverted: it was in force, and was not confirmed in time. kept: none has come since the start, in force is
# what the disk had. none: there is no bundle at all.
State = Literal["applied", "refused", "reverted", "kept", "none"]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all bodies."""


class EnrolRequest(Message, frozen=True):
    """A host without a certificate asks for its first one, with a token that names it."""

    host: HostName
    token: Annotated[str, msgspec.Meta(min_length=16, max_length=256)]
    csr: Pem


class Enrolled(Message, frozen=True):
    """The host's certificate with its chain, and what it is to trust from now on."""

    trust_domain: str
    certificate: Pem
    roots: tuple[Pem, ...]
    signers: tuple[str, ...]  # raw Ed25519 public keys, hexadecimal


class CertificateRequest(Message, frozen=True):
    """An enrolled host asks for a certificate: of its own ("host"), or of a service that runs there."""

    name: Name
    csr: Pem


class Issued(Message, frozen=True):
    """The certificate with its chain, and every root that is trusted now."""

    certificate: Pem
    roots: tuple[Pem, ...]


class Figures(Message, frozen=True):
    """How traffic went since a bundle came into force, on one host."""

    seconds: Seconds = 0.0  # since then
    requests: Count = 0
    failures: Count = 0  # answered 5xx, or not at all
    denied: Count = 0  # refused by policy
    p99: Seconds = 0.0  # of the durations of requests; 0.0: there were none


class HostReport(Message, frozen=True):
    """How a host stands. An acknowledgement is one with state "applied"."""

    software: Word
    listen: Word = ""  # where bundles can be pushed to, "10.0.0.12:15009"; empty: the host asks by itself
    epoch: Count = 0  # of the bundle in force
    generation: Count = 0
    digest: Word = ""
    state: State = "none"
    refused: tuple[Count, Count] = (0, 0)  # epoch and generation of the one that was refused or reverted last
    problems: Annotated[tuple[Line, ...], msgspec.Meta(max_length=100)] = ()
    confirmed: bool = True  # false: the bundle in force waits for its confirmation
    expired: bool = False  # the bundle in force is older than its signature allows
    certificates: dict[Name, Moment] = {}  # by service or "host": end of validity, Unix seconds
    figures: Figures = Figures()


class Reported(Message, frozen=True):
    """The answer to a report: what there is to fetch, and whether to stay with what is in force."""

    epoch: Count
    generation: Count
    confirm: bool  # the bundle that was reported as in force is to stay


class Confirm(Message, frozen=True):
    """The bundle with this version and digest is to stay in force."""

    epoch: Count
    generation: Count
    digest: Word


class Problem(Message, frozen=True):
    """The body of every refusal: what was wrong, and what to do."""

    error: str
    problems: tuple[str, ...] = ()


T = TypeVar("T", bound=Message)


class Malformed(ValueError):
    """A body is not the message that it should be."""


def encode(message: Message) -> bytes:
    """The body of a message."""
    return msgspec.json.encode(message)


def decode(body: bytes, kind: type[T]) -> T:
    """Read a body. Raises :class:`Malformed`."""
    if len(body) > BODY_SIZE:
        raise Malformed(f"the body has more than {BODY_SIZE} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None
