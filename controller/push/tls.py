"""Mutual TLS from the controller to a host, whose certificate must name that host and no other."""

from __future__ import annotations

from typing import Any, NamedTuple

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.python.failure import Failure
from zope.interface import implementer

from hostproxy.mesh.spiffe import InvalidName, SpiffeId


class Credential(NamedTuple):
    """What the controller shows, and whom it believes."""

    certificates: tuple[x509.Certificate, ...]  # leaf first
    key: Any  # its private key
    roots: tuple[x509.Certificate, ...]


class WrongPeer(Exception):
    """Somebody else answers at the address of the host."""


def context(credential: Credential) -> SSL.Context:
    """TLS 1.3, both sides with certificates, no resumption: a removed root counts at once."""
    made = SSL.Context(SSL.TLS_METHOD)
    made.set_min_proto_version(SSL.TLS1_3_VERSION)
    made.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    leaf, *rest = credential.certificates
    made.use_certificate(leaf)
    for certificate in rest:
        made.add_extra_chain_cert(certificate)
    made.use_privatekey(credential.key)
    made.check_privatekey()
    store = made.get_cert_store()
    assert store is not None
    for root in credential.roots:
        store.add_cert(X509.from_cryptography(root))
    made.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *found: bool(found[4]))
    made.set_info_callback(_watch)
    return made


def identity_of(certificate: x509.Certificate | None) -> SpiffeId:
    """The one identity in a certificate. Raises :class:`WrongPeer`."""
    if certificate is None:
        raise WrongPeer("it shows no certificate")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise WrongPeer(f"its certificate has {len(uris)} URIs instead of one")
        return SpiffeId.parse(uris[0])
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, InvalidName) as error:
        raise WrongPeer(f"its certificate has no identity of the mesh: {error}") from None


@implementer(IOpenSSLClientConnectionCreator)
class HostConnection:
    """Makes connections that end before a byte is sent unless the peer is ``wanted``."""

    def __init__(self, made: SSL.Context, wanted: SpiffeId) -> None:
        """``made`` is from :func:`context`, and may be shared."""
        self.wrong: WrongPeer | None = None  # why the peer was not the one
        self._context = made
        self._wanted = wanted

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:  # Twisted's name
        """See IOpenSSLClientConnectionCreator."""
        connection = SSL.Connection(self._context, None)
        connection.set_connect_state()
        # A host needs no name in the handshake: it has one certificate for this port.
        connection.set_app_data((self, protocol))
        return connection

    def judge(self, connection: SSL.Connection) -> None:
        """The handshake is done, and nothing was sent yet. Raises :class:`WrongPeer`."""
        found = identity_of(connection.get_peer_certificate(as_cryptography=True))
        if found != self._wanted:
            raise WrongPeer(f"{found} answers there")


def _watch(connection: SSL.Connection, where: int, result: int) -> None:
    """OpenSSL says how a handshake goes."""
    if where & SSL.SSL_CB_HANDSHAKE_DONE:
        creator, protocol = connection.get_app_data()
        try:
            creator.judge(connection)
        except WrongPeer as wrong:
            creator.wrong = wrong
            failure: Any = Failure
            protocol.failVerification(failure(wrong))
