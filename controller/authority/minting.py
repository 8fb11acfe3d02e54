"""Certificates of the mesh, each built whole from what the authority knows. X.509-SVID and RFC 5280."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hostproxy.mesh.spiffe import SpiffeId

RandomBits = Callable[[int], int]

ROOT_LIFE = timedelta(days=3650)
ISSUING_LIFE = timedelta(days=365)
# Clocks of hosts may be behind that of the controller by this much.
BACK_DATED = timedelta(minutes=10)
SERIAL_BITS = 128


def root(
    trust_domain: str, key: ec.EllipticCurvePrivateKey, now: datetime, random_bits: RandomBits
) -> x509.Certificate:
    """A root: it signs issuing authorities, and they sign nothing but leaves."""
    serial = random_bits(SERIAL_BITS)
    name = _authority_name("root", serial)
    builder = _builder(key.public_key(), serial, name, name, now, now + ROOT_LIFE)
    return _authority(builder, trust_domain, 1).sign(key, hashes.SHA256())


def issuing(
    trust_domain: str,
    key: ec.EllipticCurvePrivateKey,
    by: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    now: datetime,
    random_bits: RandomBits,
) -> x509.Certificate:
    """An issuing authority under a root."""
    certificate, root_key = by
    serial = random_bits(SERIAL_BITS)
    until = min(now + ISSUING_LIFE, certificate.not_valid_after_utc)
    builder = _builder(
        key.public_key(), serial, _authority_name("issuing", serial), certificate.subject, now, until
    ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
    return _authority(builder, trust_domain, 0).sign(root_key, hashes.SHA256())


def leaf(
    identity: SpiffeId,
    dns: str,
    key: ec.EllipticCurvePublicKey,
    by: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    now: datetime,
    life: timedelta,
    random_bits: RandomBits = secrets.randbits,
) -> x509.Certificate:
    """A certificate of somebody, which ends with its issuer's at the latest."""
    issuer, issuer_key = by
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(identity))]
    if dns:
        names.append(x509.DNSName(dns))
    until = min(now + life, issuer.not_valid_after_utc).replace(microsecond=0)
    return (
        # Without a subject, so that nothing but the SPIFFE ID names the holder: RFC 5280 section 4.2.1.6 wants the
        # alternative name critical then.
        _builder(key, random_bits(SERIAL_BITS), x509.Name([]), issuer.subject, now, until)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def _authority_name(what: str, serial: int) -> x509.Name:
    # A piece of the serial number tells the authorities of one mesh apart when somebody looks at them.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "hostproxy"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"hostproxy {what} authority {serial >> 104:06x}"),
        ]
    )


def _authority(builder: x509.CertificateBuilder, trust_domain: str, path_length: int) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        # X509-SVID section 4.1: a signing certificate's ID is that of its trust domain, without a path.
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
    )


def _builder(
    key: ec.EllipticCurvePublicKey,
    serial: int,
    subject: x509.Name,
    issuer: x509.Name,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial | 1 << SERIAL_BITS)  # positive, and never short: RFC 5280 section 4.1.2.2
        .not_valid_before((now - BACK_DATED).replace(microsecond=0))
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
