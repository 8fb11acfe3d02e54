"""The controller's own certificate, from its own authority, and the TLS that it serves with.

The key is made anew for each certificate, and never leaves memory. A client need not have a certificate, because one
that enrols has none yet; when it shows one, that is verified in the handshake.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from controller.authority.authority import Authority, fingerprint
from controller.authority.minting import BACK_DATED
from controller.push.tls import Credential, common
from hostproxy.mesh.spiffe import SpiffeId

DEPTH = 2  # authorities above a leaf: issuing and root
ALPN = b"http/1.1"


@implementer(IOpenSSLServerConnectionCreator)
class Leaf:
    """What the controller shows, and what it believes. :meth:`renew` it first, and again at ``renew_at``."""

    def __init__(self, authority: Authority, name: str, dns: str, life: timedelta) -> None:
        """``name`` is the controller's among its replicas; ``dns`` the name that hosts reach it by."""
        self._authority = authority
        self._identity = SpiffeId(authority.trust_domain, "controller", name)
        self._dns = dns
        self._life = life
        self.credential: Credential
        self.renew_at: datetime
        self._context: SSL.Context

    def use(self, authority: Authority) -> None:
        """For the next certificates: one that was read anew from the disk."""
        self._authority = authority

    def renew(self, now: datetime) -> None:
        """A new key and certificate, shown on new connections from now on. Raises Refused of the authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._authority.issue(key.public_key(), self._identity, now=now, life=self._life, dns=self._dns)
        roots = tuple(x509.load_pem_x509_certificate(root.encode()) for root in self._authority.roots)
        # The root travels too: whoever enrols knows its fingerprint, and nothing else yet.
        signing = tuple(root for root in roots if fingerprint(root) == self._authority.fingerprint)
        self.credential = Credential((*x509.load_pem_x509_certificates(issued), *signing), key, roots)
        self._context = _context(self.credential)
        self.renew_at = now + self._life / 2

    @property
    def ends(self) -> datetime:
        """When the certificate does."""
        return self.credential.certificates[0].not_valid_after_utc

    @property
    def issuing_began(self) -> datetime:
        """When the authority that issued it came into use."""
        return self.credential.certificates[1].not_valid_before_utc + BACK_DATED

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:  # Twisted's name
        """See IOpenSSLServerConnectionCreator."""
        connection = SSL.Connection(self._context, None)
        connection.set_accept_state()
        return connection


def _context(credential: Credential) -> SSL.Context:
    made = common(credential)
    # Wanted and not required. OpenSSL verifies for the purpose of a client.
    made.set_verify(SSL.VERIFY_PEER, lambda *found: bool(found[4]))
    made.set_verify_depth(DEPTH)
    made.set_alpn_select_callback(_select)
    return made


def _select(connection: SSL.Connection, offered: list[bytes]) -> Any:
    return ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS
