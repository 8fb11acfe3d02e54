"""A development authority and the certificates that it issues, in the layout of ``[identity.files]``.

For trying the mesh out, for tests, and for small installations that have no authority yet: whoever holds
``ca.key`` can be any service, nothing is revoked, and renewal is running the command again. One authority
serves all hosts of a mesh; each host's directory gets the authority's certificate but never its key.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hostproxy.mesh import storage
from hostproxy.mesh.spiffe import InvalidName, SpiffeId

BACKDATED = timedelta(minutes=10)  # clocks of two hosts may differ by five, and some
AUTHORITY_LIFE = timedelta(days=3650)  # made once by hand; replacing it means a visit to every host
SERIAL_BITS = 128  # RFC 5280 section 4.1.2.2 allows 159; 64 are asked for by the CA/Browser Forum
MAX_FILE = 64 * 1024  # bytes; each of these files has about one KiB

PEM = serialization.Encoding.PEM

RandomBits = Callable[[int], int]
Wrote = Callable[[str, str], None]  # called with the path and what it holds


class Refused(Exception):
    """Certificates cannot be made as asked for. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate that may sign others, with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> bytes:
        """The certificate as a file has it."""
        return self.certificate.public_bytes(PEM)


@dataclass(frozen=True, slots=True)
class Issued:
    """A leaf certificate and its key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)
    not_after: datetime


def create_authority(
    trust_domain: str, now: datetime, random_bits: RandomBits = secrets.randbits
) -> Authority:
    """Make a self-signed root that may issue leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = random_bits(SERIAL_BITS)
    # A piece of the serial number tells two authorities of one mesh apart when somebody looks at them.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "hostproxy"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"hostproxy development authority {serial >> 104:06x}"),
        ]
    )
    certificate = (
        _builder(key, serial, name, name, now, now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(certificates=True), critical=True)
        # X509-SVID section 4.1: a signing certificate's ID is that of its trust domain, without a path.
        .add_extension(_uri_name(f"spiffe://{trust_domain}"), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue(
    authority: Authority,
    identity: SpiffeId,
    now: datetime,
    life: timedelta,
    random_bits: RandomBits = secrets.randbits,
) -> Issued:
    """Make a key and a certificate for it that ends with the authority's at the latest."""
    key = ec.generate_private_key(ec.SECP256R1())
    not_after = min(now + life, authority.certificate.not_valid_after_utc).replace(microsecond=0)
    issuer = authority.certificate.subject
    certificate = (
        # No subject: nothing but the SPIFFE ID names the holder. RFC 5280 section 4.2.1.6: "If the subject
        # field contains an empty sequence, then the issuing CA MUST include a subjectAltName extension that
        # is marked as critical."
        _builder(key, random_bits(SERIAL_BITS), x509.Name([]), issuer, now, not_after)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False
        )
        .add_extension(_uri_name(str(identity)), critical=True)
        .sign(authority.key, hashes.SHA256())
    )
    return Issued(certificate.public_bytes(PEM), _key_pem(key), not_after)


def provision(
    directory: str,
    authority_directory: str,
    trust_domain: str,
    host: str,
    services: Sequence[str],
    life: timedelta,
    now: datetime,
    wrote: Wrote,
) -> None:
    """Fill a host's directory; the authority is made when its directory has none.

    ``wrote`` hears of every file at once, so that after a failure it is known what is there. Raises
    :class:`Refused`.
    """
    identities = {"host": SpiffeId.host(trust_domain, host)}
    identities.update((service, SpiffeId.service(trust_domain, service)) for service in services)
    try:
        os.makedirs(authority_directory, 0o755, exist_ok=True)
        lock = os.open(authority_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Two commands at once make one authority, not two.
            fcntl.flock(lock, fcntl.LOCK_EX)
            authority = _load_authority(authority_directory, trust_domain, now)
            _check_owner(directory, authority_directory, identities["host"], authority)
            os.makedirs(directory, 0o755, exist_ok=True)
            if authority is None:
                authority = create_authority(trust_domain, now)
                _write(
                    authority_directory,
                    "ca.key",
                    _key_pem(authority.key),
                    0o600,
                    "key of the authority",
                    wrote,
                )
                _write_authority(authority_directory, authority, wrote)
        finally:
            os.close(lock)
        if not os.path.exists(os.path.join(directory, "ca.pem")):
            _write_authority(directory, authority, wrote)
        for name, identity in identities.items():
            issued = issue(authority, identity, now, life)
            what = f"{identity} until {issued.not_after:%Y-%m-%d %H:%M} UTC"
            # Whoever loads between these two finds a pair that does not match, and keeps the one it has.
            _write(directory, f"{name}.key", issued.key, 0o600, f"key of {identity}", wrote)
            _write(directory, f"{name}.pem", issued.certificate, 0o644, what, wrote)
    except OSError as error:
        raise Refused(f"{error.filename or directory}: cannot be written: {error.strerror}") from None


def _load_authority(directory: str, trust_domain: str, now: datetime) -> Authority | None:
    path, key_path = os.path.join(directory, "ca.pem"), os.path.join(directory, "ca.key")
    have, have_key = os.path.exists(path), os.path.exists(key_path)
    if not have and not have_key:
        return None
    if not have_key:
        raise Refused(
            f"{path}: the key of this authority is not here; name the directory that has its ca.key with --ca"
        )
    if not have:
        raise Refused(f"{key_path}: there is no {path} for this key; remove it to begin with a new authority")
    certificate = _read_certificate(path)
    try:
        key = serialization.load_pem_private_key(_read(key_path, private=True), None)
    except (ValueError, TypeError):
        raise Refused(f"{key_path}: is not an unencrypted private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Refused(f"{key_path}: is no ECDSA key, so it was not made by this command")
    if key.public_key() != certificate.public_key():
        raise Refused(f"{key_path}: does not belong to {path}")
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        raise Refused(f"{path}: is not an authority made by this command") from None
    if not constraints.ca:
        raise Refused(f"{path}: is not the certificate of an authority")
    if uris != [f"spiffe://{trust_domain}"]:
        raise Refused(f"{path}: is the authority of {' '.join(uris)}, not of spiffe://{trust_domain}")
    end = certificate.not_valid_after_utc
    if now >= end:
        raise Refused(
            f"{path}: the authority expired at {end:%Y-%m-%d %H:%M} UTC; remove its ca.pem and ca.key "
            "and the ca.pem of every host, then make the certificates of every host again"
        )
    if now < certificate.not_valid_before_utc:
        start = certificate.not_valid_before_utc
        raise Refused(f"{path}: the authority is valid from {start:%Y-%m-%d %H:%M} UTC; set the clock")
    return Authority(certificate, key)


def _check_owner(
    directory: str, authority_directory: str, host: SpiffeId, authority: Authority | None
) -> None:
    """Refuse a directory that belongs to another host, or to another authority."""
    path = os.path.join(directory, "host.pem")
    if os.path.exists(path):
        try:
            names = _read_certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName)
            uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
            found = SpiffeId.parse(uris[0] if uris else "")
        except (x509.ExtensionNotFound, InvalidName, ValueError):
            raise Refused(f"{path}: is not a certificate made by this command; remove it") from None
        if found != host:
            raise Refused(
                f"{path}: belongs to host {found.name} of {found.trust_domain}; "
                f"give host {host.name} a directory of its own, with the same authority: "
                f"--ca {shlex.quote(authority_directory)}"
            )
    path = os.path.join(directory, "ca.pem")
    if os.path.exists(path) and (authority is None or _read_certificate(path) != authority.certificate):
        raise Refused(
            f"{path}: is another authority than that of {authority_directory}; "
            "remove it to move this host over"
        )


def _read_certificate(path: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError:
        raise Refused(f"{path}: is not a certificate in PEM") from None


def _read(path: str, private: bool = False) -> bytes:
    try:
        return storage.read(path, MAX_FILE, private)
    except storage.Unusable as unusable:
        hint = f"; {unusable.hint}" if unusable.hint else ""
        raise Refused(f"{path}: {unusable}{hint}") from None


def _write_authority(directory: str, authority: Authority, wrote: Wrote) -> None:
    what = f"the authority, until {authority.certificate.not_valid_after_utc:%Y-%m-%d}"
    _write(directory, "ca.pem", authority.pem, 0o644, what, wrote)


def _write(directory: str, name: str, content: bytes, mode: int, what: str, wrote: Wrote) -> None:
    path = os.path.join(directory, name)
    storage.write(path, content, mode)
    wrote(path, what)


def _builder(
    key: ec.EllipticCurvePrivateKey,
    serial: int,
    subject: x509.Name,
    issuer: x509.Name,
    now: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _uri_name(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
