"""The roots in force, and whether what was verified under other ones still stands.

OpenSSL verifies a chain once, in the handshake, and keeps what it found as long as the connection. So nothing is kept
here for each connection, and nothing is asked until a root is trusted no longer.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

_DER = 2  # _ssl.ENCODING_DER

# Certificates that are looked at of what a peer sent: leaf, issuing authority, and room for some that cross over.
SENT = 8
# Verdicts remembered for the connections of one sweep: a host has peers by the hundred, each with many connections.
REMEMBERED = 1024

_UNREADABLE = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class Trust:
    """The roots of one moment. Another moment has another one."""

    def __init__(self, authorities: bytes) -> None:
        """``authorities``: the roots in PEM; without any nobody is trusted."""
        roots = x509.load_pem_x509_certificates(authorities) if authorities else []
        self.roots = frozenset(root.public_bytes(Encoding.DER) for root in roots)

    def lacks(self, before: Trust) -> bool:
        """Whether a root that was trusted before is not any more."""
        return not before.roots <= self.roots

    def holds(self, tls: ssl.SSLObject) -> bool:
        """Whether the peer of a complete handshake would still be accepted, as far as its chain goes.

        Times are not looked at again: a certificate that ends ends no connection.
        """
        chain = _chain(tls, "get_verified_chain")  # leaf first, root last
        if not chain:
            return False
        if chain[-1] in self.roots:
            return True
        return _leads(chain[0], tuple(_chain(tls, "get_unverified_chain")[1 : SENT + 1]), self.roots)


def _chain(tls: ssl.SSLObject, method: str) -> list[bytes]:
    """Certificates in DER. The ssl module has these methods since 3.10, and in public since 3.13."""
    public = getattr(tls, method, None)
    if public is not None:
        return list(public())
    found = getattr(tls._sslobj, method)()  # type: ignore[attr-defined]
    return [certificate.public_bytes(_DER) for certificate in found or ()]


@lru_cache(maxsize=REMEMBERED)
def _leads(leaf: bytes, others: tuple[bytes, ...], roots: frozenset[bytes]) -> bool:
    """Whether a leaf (DER) that OpenSSL has accepted under another root is under one of ``roots``, too.

    Roots that were renewed with their key, and authorities that several roots have signed, lead there by another way
    than the one that OpenSSL took. On that way every authority has to be one beyond doubt: what cannot be judged here
    costs the connection, and its next handshake is judged by OpenSSL.
    """
    try:
        anchors = [x509.load_der_x509_certificate(root) for root in roots]
        left = [x509.load_der_x509_certificate(other) for other in others]
        reached = [x509.load_der_x509_certificate(leaf)]
    except _UNREADABLE:
        return False
    for below in range(len(left) + 1):
        if any(_issued(certificate, anchors, below) for certificate in reached):
            return True
        reached = [other for other in left if any(_issued(certificate, [other], below) for certificate in reached)]
        left = [other for other in left if other not in reached]
    return False


def _issued(certificate: x509.Certificate, authorities: Iterable[x509.Certificate], below: int) -> bool:
    """Whether one of ``authorities`` has signed it, and may with ``below`` other authorities under it."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
            if _may_issue(authority, below):
                return True
        except _UNREADABLE:
            pass  # by another one, perhaps
    return False


def _may_issue(authority: x509.Certificate, below: int) -> bool:
    found = {type(extension.value): extension for extension in authority.extensions}
    constraints, usage = found.pop(x509.BasicConstraints, None), found.pop(x509.KeyUsage, None)
    if constraints is None or usage is None or not constraints.value.ca or not usage.value.key_cert_sign:
        return False
    longest = constraints.value.path_length
    if longest is not None and longest < below:
        return False
    return not any(
        extension.critical or isinstance(extension.value, x509.NameConstraints | x509.ExtendedKeyUsage)
        for extension in found.values()
    )
