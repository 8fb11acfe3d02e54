"""Mutual TLS from the controller to a host, whose certificate must name that host and no other."""

from __future__ import annotations

from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from hostproxy.mesh.spiffe import InvalidName, SpiffeId

_UNREADABLE = (
    ValueError,
    InvalidName,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class Credential(NamedTuple):
    """What the controller shows, and whom it believes."""

    certificates: tuple[x509.Certificate, ...]  # leaf first
    key: Any  # its private key
    roots: tuple[x509.Certificate, ...]


class WrongPeer(Exception):
    """Somebody else answers at the address of the host."""


def context(credential: Credential) -> SSL.Context:
    """For connections to hosts, both sides with certificates."""
    made = common(credential)
    # Until a connection says whom it wants: nobody.
    made.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *found: False)
    return made


def common(credential: Credential) -> SSL.Context:
    """TLS 1.3 with what the controller shows and believes, as client and as server; peers are not verified yet.

    No resumption: a removed root counts at once.
    """
    made = SSL.Context(SSL.TLS_METHOD)
    made.set_min_proto_version(SSL.TLS1_3_VERSION)
    made.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    made.set_options(SSL.OP_NO_TICKET)
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
    return made


def identity_of(certificate: x509.Certificate) -> SpiffeId:
    """The one identity in a certificate. Raises :class:`WrongPeer`."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise WrongPeer(f"its certificate has {len(uris)} URIs instead of one")
        return SpiffeId.parse(uris[0])
    except _UNREADABLE as error:
        raise WrongPeer(f"its certificate has no identity of the mesh: {error}") from None


@implementer(IOpenSSLClientConnectionCreator)
class HostConnection:
    """Makes connections whose handshake fails unless the peer is ``wanted``."""

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
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._judge)
        return connection

    def _judge(self, connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int) -> bool:
        """Part of the verification, so that whatever goes wrong in here is a peer that is not believed."""
        if depth or not ok:
            return bool(ok)
        try:
            found = identity_of(certificate.to_cryptography())
            if found != self._wanted:
                raise WrongPeer(f"{found} answers there")
        except WrongPeer as wrong:
            self.wrong = wrong
        return self.wrong is None
