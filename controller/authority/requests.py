"""Requests for certificates (RFC 2986): what a host proves with one is that it has the key, and nothing else.

Names, constraints and purposes in a request are not looked at for the certificate. A request that asks for more than
a plain leaf is refused all the same: whoever makes one is not a host of this mesh.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

REQUEST_SIZE = 8 * 1024  # bytes; one with an EC key and no names has 400


class Refused(Exception):
    """No certificate for this request; the text says why."""


def public_key(csr: bytes) -> ec.EllipticCurvePublicKey:
    """The key that a PEM request proves to have. Raises :class:`Refused`."""
    if len(csr) > REQUEST_SIZE:
        raise Refused(f"the request has more than {REQUEST_SIZE} bytes")
    try:
        request = x509.load_pem_x509_csr(csr)
        key = request.public_key()
        proven = request.is_signature_valid
        extensions = request.extensions
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise Refused("the request can't be read: make one with an EC key on P-256, in PEM") from None
    if not proven:
        raise Refused("the request is not signed with its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        raise Refused("the key is not an EC key on P-256 or P-384")
    if len(extensions):
        raise Refused("the request asks for extensions: names come from the authority's records alone")
    return key


def key_fingerprint(key: CertificatePublicKeyTypes) -> str:
    """What tells keys apart: SHA-256 of the SubjectPublicKeyInfo, hexadecimal."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
