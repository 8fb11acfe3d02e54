"""TLS between this host and its controller: TLS 1.3, nothing resumed, and each looked at again after the handshake.

OpenSSL verifies chain, times and purpose. That the other side is a controller of this mesh, and the one that the URL
names, is checked here, before a byte is sent to it.
"""

# pyOpenSSL and Twisted's TLS have few annotations.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from hostproxy.identity.peer import CALLEE, CALLER, PeerRefused, faults, spiffe_id
from hostproxy.snapshot import Identity
from hostproxy.steering.certificates import CHAIN, UNREADABLE, UNTIMELY, Untimely, Wrong, untimely, verify

CONTROLLER = "controller"  # kind of identity
TlsError = SSL.Error


class Pin:
    """Trust in one root, known by its fingerprint: enough for the first contact."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint  # sha256:HEX

    def root(self, chain: Sequence[x509.Certificate]) -> x509.Certificate:
        """The root in a chain that was sent. Raises :class:`Wrong`."""
        for certificate in chain:
            digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
            if f"sha256:{digest}" == self.fingerprint:
                return certificate
        raise Wrong(f"its certificate is not under the root {self.fingerprint}: compare ca_fingerprint")


Trust = Pin | list[x509.Certificate]


@implementer(IOpenSSLClientConnectionCreator)
class ClientSide:
    """One connection to the controller at ``host``, a DNS name or IP address."""

    def __init__(self, host: str, trust_domain: str, trust: Trust, identity: Identity | None) -> None:
        """``identity``, if there is one yet, is shown."""
        self._host = host
        self._trust_domain = trust_domain
        self._trust = trust
        self._numeric = isIPAddress(host) or isIPv6Address(host)
        self._refused: crypto.X509 | None = None  # the certificate that OpenSSL refused last, for its times
        if isinstance(trust, Pin):
            # The root is in the chain that comes: looked at in check(), and no byte is sent before.
            self._context = _context(identity)
            self._context.set_verify(SSL.VERIFY_NONE)
        else:
            self._context = _context(identity)
            _require(self._context, trust, SSL.VERIFY_PEER, self._verified)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Twisted asks for it."""
        self._refused = None
        connection = SSL.Connection(self._context, None)
        connection.set_connect_state()
        if not self._numeric:
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        return connection

    def _verified(self, _: object, certificate: crypto.X509, error: int, depth: int, verdict: int) -> bool:
        """OpenSSL has looked at a certificate, and its verdict stands.

        It looks at the times after the signature: such a certificate is one of this mesh.
        """
        if not verdict and error in UNTIMELY:
            self._refused = certificate
        return bool(verdict)

    def untimely(self, now: float) -> Untimely | None:
        """Whether the last handshake failed because a certificate does not hold ``now``, and why."""
        return untimely(self._refused.to_cryptography(), now) if self._refused is not None else None

    def check(self, connection: Any, now: float) -> None:
        """Whether the other side of a handshake that is done is the controller. Raises :class:`Wrong`."""
        chain = connection.get_peer_cert_chain(as_cryptography=True) or []
        if not 1 <= len(chain) <= CHAIN:
            raise Wrong(f"it shows {len(chain)} certificates")
        roots = [self._trust.root(chain)] if isinstance(self._trust, Pin) else self._trust
        verify(chain, roots, now)
        _controller(chain[0], self._trust_domain, CALLEE)
        try:
            if self._numeric:
                verify_certificate_ip_address(chain[0], self._host)
            else:
                verify_certificate_hostname(chain[0], self._host)
        except (VerificationError, CertificateError):
            raise Wrong(f"its certificate is not for {self._host}: compare [controller] url") from None


class ServerSide:
    """The connections of controllers to this host."""

    def __init__(self, roots: list[x509.Certificate], identity: Identity) -> None:
        self._context = _context(identity)
        _require(self._context, roots, SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)

    def connection(self) -> SSL.Connection:
        """The TLS of one connection."""
        connection = SSL.Connection(self._context, None)
        connection.set_accept_state()
        return connection


def check_caller(
    connection: Any, trust_domain: str, denied: Sequence[str], roots: Sequence[x509.Certificate], now: float
) -> None:
    """Whether a controller that may come to this host is at the other end. Raises :class:`Wrong`.

    OpenSSL has verified its chain in the handshake. Here that is done once more, for roots and times go on.
    """
    leaf = connection.get_peer_certificate(as_cryptography=True)
    if leaf is None:
        raise Wrong("it shows no certificate")
    # On the server's side, where this is, OpenSSL leaves the leaf out of the chain.
    above = [each for each in connection.get_peer_cert_chain(as_cryptography=True) or [] if each != leaf]
    if len(above) >= CHAIN:
        raise Wrong(f"it shows {len(above) + 1} certificates")
    verify([leaf, *above], roots, now)
    identity = _controller(leaf, trust_domain, CALLER)
    if identity in denied:
        raise Wrong(f"{identity} is denied")


def text_of(error: BaseException) -> str:
    """Why TLS failed, in words."""
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return ", ".join(str(entry[-1]) for entry in error.args[0]) or "the connection was cut"
    return str(error) or "the connection was cut"


def _controller(certificate: x509.Certificate, trust_domain: str, purpose: x509.ObjectIdentifier) -> str:
    try:
        for fault in faults(certificate, trust_domain, (purpose,)):
            raise Wrong(fault.detail)
        identity = spiffe_id(certificate)
    except PeerRefused as refused:
        raise Wrong(refused.detail) from None
    except UNREADABLE:
        raise Wrong("its certificate cannot be read") from None
    if identity.kind != CONTROLLER:
        raise Wrong(f"it is {identity}, and no controller")
    return str(identity)


def _context(identity: Identity | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if identity is not None:
        leaf, *rest = x509.load_pem_x509_certificates(identity.certificate)
        context.use_certificate(leaf)
        for certificate in rest:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(load_pem_private_key(identity.key, None))  # type: ignore[arg-type]
    return context


def _require(
    context: SSL.Context, roots: Sequence[x509.Certificate], mode: int, verified: Callable[..., bool] | None = None
) -> None:
    """Have OpenSSL verify the other side; ``verified`` is pyOpenSSL's callback."""
    store = context.get_cert_store()
    assert store is not None
    for root in roots:
        store.add_cert(crypto.X509.from_cryptography(root))
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    context.set_verify(mode, verified)
