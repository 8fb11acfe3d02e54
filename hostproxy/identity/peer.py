"""Who is at the other end of a handshake, and why it was refused.

OpenSSL verifies the chain, the times and the purpose. What makes a certificate an X.509-SVID of this mesh, it
does not know; :func:`peer_identity` checks that on the verified leaf. Every refusal, by OpenSSL or here, is
one word out of a fixed set, because the words are labels of counters; the sentence beside it is for the log.

In TLS 1.3 the client's handshake is complete before the server has looked at the client's certificate. A
server's refusal therefore reaches the client with its first read, as an alert:
:func:`handshake_failure_reason` names that one too.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Iterator, Set
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from hostproxy.mesh.spiffe import InvalidName, SpiffeId, host_of_dns_name

CALLER = ExtendedKeyUsageOID.CLIENT_AUTH  # the purpose that a calling peer's certificate must have
CALLEE = ExtendedKeyUsageOID.SERVER_AUTH  # the purpose that a called peer's certificate must have
PURPOSE_NAMES = {CALLER: "clientAuth", CALLEE: "serverAuth"}

# Verdicts remembered, per process: a mesh of thousands of hosts has some hundred services, and each
# certificate counts while it lives. At about 1 KiB each this stays near 1 MiB.
REMEMBERED = 1024
# A leaf as specified has 500 bytes; an RSA-4096 one with long names 2 KiB.
MAX_CERTIFICATE = 16 * 1024
MIN_RSA_BITS = 2048  # CA/Browser Forum baseline requirements 6.1.5; OpenSSL's security level 2

NO_CERTIFICATE = "no-certificate"
UNREADABLE = "unreadable"
NO_URI_SAN = "no-uri-san"
SEVERAL_URI_SANS = "several-uri-sans"
BAD_SPIFFE_ID = "bad-spiffe-id"
WRONG_TRUST_DOMAIN = "wrong-trust-domain"
WRONG_IDENTITY = "wrong-identity"
DENIED_IDENTITY = "denied-identity"
AUTHORITY_BIT = "authority-bit"
KEY_USAGE = "key-usage"
WRONG_PURPOSE = "wrong-purpose"
WEAK_KEY = "weak-key"
WRONG_PROTOCOL = "wrong-protocol"
EXPIRED = "expired"
NOT_YET_VALID = "not-yet-valid"
UNKNOWN_AUTHORITY = "unknown-authority"
SELF_SIGNED = "self-signed"
BAD_CERTIFICATE = "bad-certificate"
TOO_LARGE = "certificates-too-large"
SERVER_NAME = "wrong-server-name"
NO_SHARED_CIPHER = "no-shared-cipher"
PROTOCOL_VERSION = "protocol-version"
NOT_TLS = "not-tls"
PEER_CLOSED = "peer-closed"
OTHER = "other"

REMEDIES = {
    NO_CERTIFICATE: "the peer is no hostproxy, or its client was given no certificate",
    WRONG_TRUST_DOMAIN: "the peer belongs to another mesh: compare [mesh] trust_domain on both hosts",
    WRONG_IDENTITY: "the address belongs to another service by now: compare the catalog with what runs there",
    DENIED_IDENTITY: "the controller has barred this service or host; `hostproxy-controller hosts` shows who is",
    WRONG_PROTOCOL: "compare the protocol that policy and [[service]] give the service on both hosts",
    EXPIRED: "renew the peer's certificate; if it is not past its end, a clock is wrong (clock skew)",
    NOT_YET_VALID: "compare the clocks of both hosts (clock skew)",
    UNKNOWN_AUTHORITY: "both hosts need the same authorities in [identity.files] ca",
    SELF_SIGNED: "the peer's certificate has to come from an authority of the mesh",
    SERVER_NAME: "the caller asked for no [[service]] of this host, or for another datacenter",
    PROTOCOL_VERSION: "the mesh port speaks TLS 1.3 only",
    NOT_TLS: "something speaks plain text to the mesh port; apps call the outbound port instead",
}

# Whose traffic a mesh port takes: the certificates of controllers and operators are for another interface.
CARRIERS = ("service", "host")

NOBODY: frozenset[str] = frozenset()


class PeerRefused(Exception):
    """The peer's certificate is not one of this mesh, or not the one wanted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason  # a word for a counter
        self.detail = detail  # a sentence for the log


class Peer(NamedTuple):
    """Who the other end is."""

    uri: str  # SPIFFE ID
    identities: frozenset[str]  # that, and the SPIFFE IDs of the hosts that its certificate is for


def peer_identity(der: bytes | None, trust_domain: str, expected: str | None = None, denied: Set[str] = NOBODY) -> Peer:
    """Who a peer is whose chain OpenSSL has verified; raises :class:`PeerRefused`.

    Without ``expected`` the peer is a caller, and whether it may call is decided later by policy. With it the
    peer was called, and must be exactly that, because the address alone proves nothing. ``denied`` are the SPIFFE IDs
    of services and hosts that are refused.
    """
    if not der:
        raise PeerRefused(NO_CERTIFICATE, "the peer showed no certificate")
    peer = _identity(der, trust_domain, CALLER if expected is None else CALLEE)
    if expected is not None and peer.uri != expected:
        raise PeerRefused(WRONG_IDENTITY, f"the peer is {peer.uri}, not {expected}")
    if denied:
        for identity in sorted(peer.identities & denied):
            raise PeerRefused(DENIED_IDENTITY, f"{identity} is denied")
    return peer


def peer_protocol(tls: ssl.SSLObject) -> str:
    """The application protocol that both sides agreed on.

    The standard library's server goes on when there is none in common, where RFC 7301 section 3.2 wants the
    alert ``no_application_protocol``; so this has to be asked, on both sides, before a byte of the peer is
    read.
    """
    protocol = tls.selected_alpn_protocol()
    if protocol is None:
        raise PeerRefused(WRONG_PROTOCOL, "no application protocol (ALPN) that both sides know")
    return protocol


@lru_cache(maxsize=REMEMBERED)
def _identity(der: bytes, trust_domain: str, purpose: x509.ObjectIdentifier) -> Peer:
    # Remembered by the whole certificate, so nothing that differs in one bit shares a verdict. Refusals raise
    # and are not remembered.
    if len(der) > MAX_CERTIFICATE:
        raise PeerRefused(UNREADABLE, f"the certificate has {len(der)} bytes, more than {MAX_CERTIFICATE}")
    try:
        certificate = x509.load_der_x509_certificate(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PeerRefused(UNREADABLE, f"the certificate cannot be read: {error}") from None
    for fault in faults(certificate, trust_domain, (purpose,)):
        raise fault
    identity = spiffe_id(certificate)
    if identity.kind not in CARRIERS:
        raise PeerRefused(BAD_SPIFFE_ID, f"{identity} carries no traffic: services and hosts do")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = (host_of_dns_name(trust_domain, name) for name in names.get_values_for_type(x509.DNSName))
    return Peer(str(identity), frozenset([str(identity), *(str(host) for host in hosts if host is not None)]))


def spiffe_id(certificate: x509.Certificate) -> SpiffeId:
    """The one identity that the certificate holds; raises :class:`PeerRefused` when there is not one."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        uris: list[str] = []
    else:
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    # X509-SVID section 2: "An X.509 SVID MUST contain exactly one URI SAN".
    if not uris:
        raise PeerRefused(NO_URI_SAN, "the certificate has no URI among its subject alternative names")
    if len(uris) > 1:
        raise PeerRefused(SEVERAL_URI_SANS, f"the certificate has {len(uris)} URIs and must have exactly one")
    try:
        return SpiffeId.parse(uris[0])
    except InvalidName as error:
        raise PeerRefused(BAD_SPIFFE_ID, str(error)) from None


def faults(
    certificate: x509.Certificate, trust_domain: str, purposes: Iterable[x509.ObjectIdentifier]
) -> Iterator[PeerRefused]:
    """Everything that keeps this from being a leaf of the mesh with these purposes, its times excepted."""
    try:
        extensions = certificate.extensions
        key = certificate.public_key()
        identity = spiffe_id(certificate)
    except PeerRefused as refused:
        yield refused
    except (
        ValueError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        # Whatever cannot be read cannot be judged, so nothing else about it is worth saying.
        yield PeerRefused(UNREADABLE, f"the certificate cannot be read: {error}")
        return
    else:
        if identity.trust_domain != trust_domain:
            yield PeerRefused(WRONG_TRUST_DOMAIN, f"{identity} is not of the trust domain {trust_domain}")
    found = {extension.oid: extension.value for extension in extensions}
    constraints = found.get(ExtensionOID.BASIC_CONSTRAINTS)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        yield PeerRefused(AUTHORITY_BIT, "the certificate is an authority's, and the leaf has to stand first")
    usage = found.get(ExtensionOID.KEY_USAGE)
    # X509-SVID section 4.3: a leaf "MUST set digitalSignature" and not keyCertSign or cRLSign.
    if not isinstance(usage, x509.KeyUsage) or not usage.digital_signature:
        yield PeerRefused(KEY_USAGE, "the certificate has no key usage digitalSignature")
    elif usage.key_cert_sign or usage.crl_sign:
        yield PeerRefused(
            KEY_USAGE, "the certificate may sign certificates or revocations, as a leaf must not"
        )
    extended = found.get(ExtensionOID.EXTENDED_KEY_USAGE)
    granted = set(extended) if isinstance(extended, x509.ExtendedKeyUsage) else set()
    missing = [PURPOSE_NAMES[purpose] for purpose in purposes if purpose not in granted]
    if missing:
        yield PeerRefused(WRONG_PURPOSE, f"the certificate has no extended key usage {' and '.join(missing)}")
    weakness = weak_key(key)
    if weakness:
        yield PeerRefused(WEAK_KEY, weakness)


def weak_key(key: object) -> str:
    """What is wrong with a public key, or an empty string."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        known = isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)
        return "" if known else f"the key is on the curve {key.curve.name}, not on P-256, P-384 or P-521"
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            return f"the RSA key has {key.key_size} bits, and needs {MIN_RSA_BITS}"
        return ""
    return "" if isinstance(key, ed25519.Ed25519PublicKey) else "the key is not ECDSA, Ed25519 or RSA"


# X509_V_ERR_* of OpenSSL, include/openssl/x509_vfy.h.
_VERIFY_CODES = {
    2: UNKNOWN_AUTHORITY,  # UNABLE_TO_GET_ISSUER_CERT
    9: NOT_YET_VALID,
    10: EXPIRED,
    18: SELF_SIGNED,  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: UNKNOWN_AUTHORITY,  # SELF_SIGNED_CERT_IN_CHAIN: the peer sent a root that is not ours
    20: UNKNOWN_AUTHORITY,  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: UNKNOWN_AUTHORITY,  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    26: WRONG_PURPOSE,  # INVALID_PURPOSE
    66: WEAK_KEY,  # EE_KEY_TOO_SMALL
    67: WEAK_KEY,  # CA_KEY_TOO_SMALL
    68: WEAK_KEY,  # CA_MD_TOO_WEAK
}

# Reasons of OpenSSL's error queue, include/openssl/sslerr.h.
_ERRORS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": NO_CERTIFICATE,
    "CALLBACK_FAILED": SERVER_NAME,  # the only callback that refuses is the one for the server name
    "EXCESSIVE_MESSAGE_SIZE": TOO_LARGE,  # a chain over SSL_MAX_CERT_LIST_DEFAULT, 100 KiB
    "UNSUPPORTED_PROTOCOL": PROTOCOL_VERSION,
    "WRONG_SSL_VERSION": PROTOCOL_VERSION,
    "NO_PROTOCOLS_AVAILABLE": PROTOCOL_VERSION,
    "NO_SHARED_CIPHER": NO_SHARED_CIPHER,
    "NO_SUITABLE_KEY_SHARE": NO_SHARED_CIPHER,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": NO_SHARED_CIPHER,
    "HTTP_REQUEST": NOT_TLS,
    "HTTPS_PROXY_REQUEST": NOT_TLS,
    "WRONG_VERSION_NUMBER": NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": NOT_TLS,
    "RECORD_LAYER_FAILURE": NOT_TLS,
    "UNEXPECTED_EOF_WHILE_READING": PEER_CLOSED,
}

# An alert that the peer sent, as OpenSSL spells it: TLSV1_ALERT_UNKNOWN_CA,
# TLSV13_ALERT_CERTIFICATE_REQUIRED. The names are those of OpenSSL's table, never text of the peer, so the
# words stay few.
_ALERT = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?([A-Z_]+)")


def handshake_failure_reason(error: Exception) -> str:
    """The counter's word for what ended a handshake."""
    if isinstance(error, PeerRefused):
        return error.reason
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_CODES.get(error.verify_code, BAD_CERTIFICATE)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError):
        return PEER_CLOSED
    # An SSLError that does not come from OpenSSL's error queue has no reason.
    name = getattr(error, "reason", None)
    if not isinstance(error, ssl.SSLError) or not isinstance(name, str):
        return OTHER
    known = _ERRORS.get(name)
    if known is not None:
        return known
    alert = _ALERT.fullmatch(name)
    return f"alert-{alert[1].lower().replace('_', '-')}" if alert else OTHER
