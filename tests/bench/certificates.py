"""One authority and the certificates of two hosts, the same files for every proxy."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.bench.peers.site import CLIENT, TARGET, Certificates

_TRUST_DOMAIN = "bench.example"
_DATACENTER = "dc1"
_LIFE = datetime.timedelta(days=1)


def make(directory: Path, services: Iterable[str]) -> Certificates:
    """Certificates for host a with the calling service, and for host b with all of ``services``.

    They carry the SPIFFE identity, by which hostproxy, Envoy and HAProxy could check, and the DNS name of the
    server, by which nginx, HAProxy and Traefik do check.
    """
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark authority")])
    usage = _usage(signs_certificates=True)
    root = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{_TRUST_DOMAIN}")]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    authority = directory / "ca.pem"
    authority.write_bytes(root.public_bytes(Encoding.PEM))
    for host, names in (("a", [CLIENT]), ("b", list(services))):
        (directory / host).mkdir()
        _issue(directory / host / "host", f"host/{host}", f"{host}.host", root, key)
        for service in names:
            _issue(directory / host / service, f"service/{service}", service, root, key)
    return Certificates(
        authority,
        directory,
        _TRUST_DOMAIN,
        f"{TARGET}.{_DATACENTER}.{_TRUST_DOMAIN}",
        f"spiffe://{_TRUST_DOMAIN}/service/{TARGET}",
    )


def _issue(
    stem: Path, path: str, name: str, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey
) -> None:
    """Write ``stem``.pem and ``stem``.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(f"spiffe://{_TRUST_DOMAIN}/{path}"),
            x509.DNSName(f"{name}.{_DATACENTER}.{_TRUST_DOMAIN}"),
        ]
    )
    both_sides = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        _builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), authority.subject, key.public_key()
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(both_sides, critical=False)
        .add_extension(names, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    stem.with_suffix(".pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    secret = stem.with_suffix(".key")
    secret.touch(0o600)
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + _LIFE)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
