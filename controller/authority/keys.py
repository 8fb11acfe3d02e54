"""Private keys on disk: encrypted, 0600, and never anywhere else."""

from __future__ import annotations

import os

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hostproxy.mesh import storage

FILE_SIZE = 64 * 1024  # bytes; a key has 300, a certificate 800
PASSPHRASE_LEAST = 16  # bytes

PrivateKey = ec.EllipticCurvePrivateKey | Ed25519PrivateKey


class Unusable(Exception):
    """Keys cannot be used as they are; the text says which file, why, and what to do."""


def passphrase_from(path: str) -> bytes:
    """Read the passphrase that keys are encrypted with. Raises :class:`Unusable`."""
    passphrase = _read(path, private=True, what="a passphrase").strip()
    if len(passphrase) < PASSPHRASE_LEAST:
        raise Unusable(f"{path}: a passphrase has at least {PASSPHRASE_LEAST} bytes")
    return passphrase


def save_key(path: str, key: PrivateKey, passphrase: bytes) -> None:
    """Write a key, encrypted with ``passphrase``. Raises OSError."""
    content = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase),
    )
    storage.write(path, content, 0o600)


def load_ec_key(path: str, passphrase: bytes) -> ec.EllipticCurvePrivateKey:
    """Read a key of a certificate. Raises :class:`Unusable`."""
    key = _load(path, passphrase)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Unusable(f"{path}: is not an EC key")
    return key


def load_signing_key(path: str, passphrase: bytes) -> Ed25519PrivateKey:
    """Read a key that signs bundles. Raises :class:`Unusable`."""
    key = _load(path, passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise Unusable(f"{path}: is not an Ed25519 key")
    return key


def save_certificate(path: str, certificate: x509.Certificate) -> None:
    """Write a certificate. Raises OSError."""
    storage.write(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def load_certificate(path: str) -> x509.Certificate:
    """Read a certificate. Raises :class:`Unusable`."""
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError:
        raise Unusable(f"{path}: is not a certificate") from None


def _load(path: str, passphrase: bytes) -> object:
    content = _read(path, private=True)
    try:
        return serialization.load_pem_private_key(content, passphrase)
    except TypeError:
        raise Unusable(f"{path}: is not encrypted; the passphrase protects every key of the authority") from None
    except ValueError:
        raise Unusable(f"{path}: the passphrase does not open it, or it is no key") from None


def _read(path: str, private: bool = False, what: str = "a private key") -> bytes:
    try:
        content = storage.read(path, FILE_SIZE, private, what)
        if private and os.stat(path).st_uid != os.geteuid() and not storage.is_credential(path):
            raise Unusable(f"{path}: belongs to another user than the one that the controller runs as")
    except storage.Unusable as error:
        hint = f"; {error.hint}" if error.hint else ""
        raise Unusable(f"{path}: {error}{hint}") from None
    return content
