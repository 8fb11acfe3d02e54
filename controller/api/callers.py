"""Who asks: the holder of a verified certificate, of a bearer token, or a user of this machine on the Unix socket."""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from controller.api.calls import OPERATORS, Caller, No, Role
from controller.api.operator_records import Operator
from controller.api.parts import Parts
from controller.authority.minting import BACK_DATED
from controller.authority.requests import key_fingerprint
from controller.registry.records import Refused
from hostproxy.mesh.spiffe import InvalidName, SpiffeId

_UNREADABLE = (
    ValueError,
    InvalidName,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class Peer(NamedTuple):
    """The other end of a connection."""

    address: str = ""  # IP address; "" on the Unix socket
    uid: int | None = None  # on the Unix socket: of the process that connected
    certificate: x509.Certificate | None = None  # of a verified chain


async def identify(parts: Parts, peer: Peer, authorization: list[str]) -> Caller:
    """Who it is. Raises :class:`No` for a credential that is not good; without any it is a stranger."""
    if peer.uid is not None:
        if authorization:
            raise No(400, "the Unix socket takes no tokens: who may use it, is root or the controller's user")
        return _local(peer.uid)
    if peer.certificate is not None:
        if authorization:
            raise No(400, "show a client certificate or a bearer token, not both")
        return await _certified(parts, peer.certificate)
    if authorization:
        return await _bearer(parts, peer.address, authorization)
    return Caller(Role.STRANGER, peer.address)


def _local(uid: int) -> Caller:
    if uid not in (0, os.geteuid()):
        raise No(403, "this user may not: root and the controller's own user may", code="uid")
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    return Caller(Role.ADMIN, f"uid {uid} ({name})" if name else f"uid {uid}")


async def _certified(parts: Parts, certificate: x509.Certificate) -> Caller:
    now = datetime.fromtimestamp(parts.now(), UTC)
    # A connection can outlive the certificate that it was opened with.
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise No(401, "the client certificate has expired", code="expired")
    identity = _identity(certificate)
    if identity.trust_domain != parts.trust_domain:
        raise No(403, f"{identity} is not of this mesh", code="mesh")
    if identity.kind == "host":
        key = key_fingerprint(certificate.public_key())
        try:
            host = await parts.registry.recognise(identity.name, key)
        except Refused as refused:
            raise No(403, str(refused), code=refused.code) from None
        return Caller(Role.HOST, str(identity), identity.name, key, host.times)
    if identity.kind == "operator":
        operator = await parts.operators.get(identity.name)
        issued = (certificate.not_valid_before_utc + BACK_DATED).timestamp()
        if operator is None or issued < int(operator.created):
            raise No(403, f"{identity} is no operator any more", code="operator")
        return Caller(_role(operator), str(identity), operator.name)
    raise No(403, f"{identity} has no business here: hosts and operators have", code="kind")


async def _bearer(parts: Parts, address: str, authorization: list[str]) -> Caller:
    scheme, _, token = authorization[0].partition(" ")
    if len(authorization) != 1 or scheme.lower() != "bearer" or not token:
        raise No(401, "Authorization is wanted once, as: Bearer TOKEN", code="authorization")
    try:
        operator = await parts.operators.with_token(token.strip())
    except Refused as refused:
        # Only what was wrong is counted: 256 bits are not guessed, and many right ones may come at a time.
        wait = parts.guesses.attempt(address, parts.clock())
        if wait:
            raise No(429, "too many wrong tokens from this address", retry_after=wait, code="guessing") from None
        raise No(401, str(refused), code="token") from None
    return Caller(_role(operator), f"spiffe://{parts.trust_domain}/operator/{operator.name}", operator.name)


def _role(operator: Operator) -> Role:
    try:
        return OPERATORS[operator.role]
    except KeyError:
        raise No(403, f"the role {operator.role!r:.40} of {operator.name} is not known here", code="role") from None


def _identity(certificate: x509.Certificate) -> SpiffeId:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1 or ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
            raise ValueError
        return SpiffeId.parse(uris[0])
    except _UNREADABLE:
        raise No(403, "the client certificate names nobody of a mesh", code="certificate") from None
