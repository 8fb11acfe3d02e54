"""Certificates that are wrong in one way each, signed by a development authority whose key the test has."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to put into a certificate; the defaults make a good one for ``uris``."""

    uris: tuple[str, ...]
    names: tuple[str, ...] = ()  # DNS names
    purposes: tuple[x509.ObjectIdentifier, ...] | None = (SERVER, CLIENT)
    authority: bool = False
    signs: bool = False  # keyCertSign
    from_minutes: int = -10
    until_minutes: int = 60
    self_signed: bool = False
    weak: bool = False  # RSA of 1024 bits


def issue(authority: Path, directory: Path, name: str, wanted: Wanted) -> tuple[Path, Path]:
    """Make NAME.pem and NAME.key in ``directory`` with the ca.pem and ca.key of ``authority``."""
    issuer = x509.load_pem_x509_certificate((authority / "ca.pem").read_bytes())
    signer = serialization.load_pem_private_key((authority / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = rsa.generate_private_key(65537, 1024) if wanted.weak else ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if wanted.self_signed else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(minutes=wanted.from_minutes))
        .not_valid_after(now + datetime.timedelta(minutes=wanted.until_minutes))
        .add_extension(x509.BasicConstraints(ca=wanted.authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=wanted.signs,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not wanted.self_signed:
        public = issuer.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    if wanted.purposes is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(wanted.purposes)), critical=False)
    alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in wanted.uris]
    alternatives += [x509.DNSName(host) for host in wanted.names]
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    certificate = builder.sign(key if wanted.self_signed else signer, hashes.SHA256())
    pem, key_path = directory / f"{name}.pem", directory / f"{name}.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.touch(0o600)
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, key_path


def faulty(trust_domain: str, service: str) -> dict[str, Wanted]:
    """Certificates for ``service`` that nobody may accept, by what is wrong with them."""
    good = Wanted((f"spiffe://{trust_domain}/service/{service}",))
    return {
        "another-trust-domain": replace(good, uris=(f"spiffe://evil.test/service/{service}",)),
        "trust-domain-as-suffix": replace(good, uris=(f"spiffe://x.{trust_domain}/service/{service}",)),
        "trust-domain-as-prefix": replace(good, uris=(f"spiffe://{trust_domain}.evil.test/service/{service}",)),
        "no-name": replace(good, uris=()),
        "dns-name-only": replace(good, uris=(), names=(f"{service}.{trust_domain}",)),
        "two-uris": replace(good, uris=(*good.uris, f"spiffe://{trust_domain}/service/other")),
        "another-scheme": replace(good, uris=(f"https://{trust_domain}/service/{service}",)),
        "no-path": replace(good, uris=(f"spiffe://{trust_domain}",)),
        "deeper-path": replace(good, uris=(f"spiffe://{trust_domain}/service/{service}/x",)),
        "dot-segments": replace(good, uris=(f"spiffe://{trust_domain}/host/../service/{service}",)),
        "unknown-kind": replace(good, uris=(f"spiffe://{trust_domain}/workload/{service}",)),
        "query": replace(good, uris=(f"spiffe://{trust_domain}/service/{service}?x=y",)),
        "port": replace(good, uris=(f"spiffe://{trust_domain}:443/service/{service}",)),
        "userinfo": replace(good, uris=(f"spiffe://a@{trust_domain}/service/{service}",)),
        "an-authority": replace(good, authority=True, signs=True),
        "signing-key-usage": replace(good, signs=True),
        "expired": replace(good, from_minutes=-60, until_minutes=-30),
        "not-yet-valid": replace(good, from_minutes=30),
        "self-signed": replace(good, self_signed=True),
        "weak-key": replace(good, weak=True),
    }


def client_context(certificate: Path | None, key: Path | None, protocols: list[str]) -> ssl.SSLContext:
    """A TLS client that presents a certificate and trusts whatever it meets: only the other side is tested."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # or a weak key could not even be loaded
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def server_context(certificate: Path, key: Path, protocols: list[str]) -> ssl.SSLContext:
    """A TLS server that takes any client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(certificate, key)
    if protocols:
        context.set_alpn_protocols(protocols)
    return context
