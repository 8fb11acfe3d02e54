"""Certificates of every kind, good and bad, and handshakes in memory."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hostproxy.identity import development
from hostproxy.mesh.spiffe import SpiffeId
from hostproxy.snapshot import Identity

TRUST_DOMAIN = "mesh.test"
CART = f"spiffe://{TRUST_DOMAIN}/service/cart"
PAYMENTS = f"spiffe://{TRUST_DOMAIN}/service/payments"

PEM = serialization.Encoding.PEM
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
DAY = timedelta(days=1)


@cache
def authority(number: int = 0) -> development.Authority:
    """An authority of the test mesh; another number is another one."""
    return development.create_authority(TRUST_DOMAIN, datetime.now(UTC), lambda bits: (1 << 126) + number)


def name_of(identity: SpiffeId) -> str:
    return "host" if identity.kind == "host" else identity.name


def good(uri: str, by: development.Authority | None = None, life: timedelta = DAY) -> Identity:
    """An identity as the mesh issues it."""
    spiffe_id = SpiffeId.parse(uri)
    issued = development.issue(by or authority(), spiffe_id, datetime.now(UTC), life)
    return Identity(name_of(spiffe_id), uri, issued.certificate, issued.key)


@dataclass(frozen=True)
class Usage:
    """Key usage bits."""

    digital_signature: bool = True
    key_cert_sign: bool = False


def craft(
    *uris: str,
    by: development.Authority | None = None,
    self_signed: bool = False,
    key: object = None,
    ca: bool | None = False,
    usage: Usage | None = None,
    no_usage: bool = False,
    purposes: tuple[x509.ObjectIdentifier, ...] = (CLIENT, SERVER),
    start: timedelta = -timedelta(minutes=10),
    end: timedelta = DAY,
    dns: tuple[str, ...] = (),
    padding: int = 0,
    authority_key: bool = True,
) -> Identity:
    """A certificate with anything odd about it."""
    by = by or authority()
    key = key or ec.generate_private_key(ec.SECP256R1())
    signer = key if self_signed else by.key
    # OpenSSL knows a self-signed one by its name, and refuses an authority for having none before anything else.
    named = self_signed or ca
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")] if named else [])
    usage = usage or Usage()
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if self_signed else by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    if authority_key:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(identifier, False)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), True)
    if not no_usage:
        builder = builder.add_extension(
            x509.KeyUsage(
                usage.digital_signature,
                False,
                False,
                False,
                not usage.digital_signature,
                usage.key_cert_sign,
                False,
                False,
                False,
            ),
            True,
        )
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), False)
    names = [x509.UniformResourceIdentifier(uri) for uri in uris] + [x509.DNSName(name) for name in dns]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), True)
    if padding:
        oid = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"\x04" + bytes(padding)), False)
    certificate = builder.sign(signer, hashes.SHA256())
    pem_key = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Identity("crafted", uris[0] if uris else "", certificate.public_bytes(PEM), pem_key)


def der(identity: Identity) -> bytes:
    return ssl.PEM_cert_to_DER_cert(identity.certificate.decode())


def lenient_client(identity: Identity | None, protocols: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
    """A client that checks nothing, and offers whatever certificate it has: a hostile or careless peer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return _lenient(context, identity, protocols)


def lenient_server(identity: Identity, protocols: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
    """A server that takes anybody."""
    return _lenient(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), identity, protocols)


def _lenient(
    context: ssl.SSLContext, identity: Identity | None, protocols: tuple[str, ...]
) -> ssl.SSLContext:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.set_alpn_protocols(protocols)
    if identity is not None:
        descriptor = os.memfd_create("test")
        os.write(descriptor, identity.certificate + identity.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        os.close(descriptor)
    return context


class Handshake:
    """Both ends of a TLS connection in memory, after as much of the handshake as they managed."""

    def __init__(
        self,
        server: ssl.SSLContext,
        client: ssl.SSLContext,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(up, down, server_side=True)
        self.client = client.wrap_bio(down, up, server_hostname=server_name, session=session)
        self.server_error: ssl.SSLError | None = None
        self.client_error: ssl.SSLError | None = None
        for _ in range(3):
            self.client_error = self.client_error or self._step(self.client.do_handshake)
            self.server_error = self.server_error or self._step(self.server.do_handshake)
        # What the server thinks of the client's certificate reaches the client with its first read.
        self.client_error = self.client_error or self._step(lambda: self.client.read(1))

    @staticmethod
    def _step(call: object) -> ssl.SSLError | None:
        try:
            call()
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLError as error:
            return error
        return None

    @property
    def complete(self) -> bool:
        return self.server_error is None and self.client_error is None

    def exchange(self, data: bytes = b"ping") -> bytes:
        """Send from the client to the server."""
        self.client.write(data)
        return self.server.read(len(data))
