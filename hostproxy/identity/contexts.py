"""TLS contexts of the mesh port, made in a worker out of the identities in its snapshot.

TLS 1.3, certificates on both sides, nobody trusted but the mesh's own authorities, nothing resumed: a resumed
session would carry a verdict over to a time when the authority is gone, or to another service. OpenSSL checks
chain, times, key strength and purpose; :mod:`hostproxy.identity.peer` checks the SPIFFE ID after the
handshake.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from hostproxy.mesh.spiffe import ServerName
from hostproxy.snapshot import Identity

# RFC 8446 section 9.2: servers that require a server name answer its absence by this alert. The ssl module
# has no name for it.
ALERT_MISSING_EXTENSION = 109


Context = TypeVar("Context", bound=ssl.SSLContext)


class _Recipe(NamedTuple):
    """What a context was made of: as long as it is equal, the context need not be made again."""

    identity: Identity
    authorities: bytes
    protocols: tuple[str, ...]


class ServiceContext(ssl.SSLContext):
    """A server's context that knows whose it is."""

    service = ""


def server_context(identity: Identity, authorities: bytes, protocols: tuple[str, ...]) -> ssl.SSLContext:
    """A context that shows ``identity``, takes callers of ``authorities`` (PEM), in ``protocols``."""
    context = _hardened_server(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    return _equip(context, _Recipe(identity, authorities, protocols))


def client_context(identity: Identity, authorities: bytes, protocols: tuple[str, ...]) -> ssl.SSLContext:
    """A context that calls as ``identity`` and offers ``protocols`` to servers of ``authorities`` (PEM)."""
    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    return _equip(context, _Recipe(identity, authorities, protocols))


class ServerContexts:
    """The contexts of all services of this host behind one front ``context``, chosen by the server name.

    The front has no certificate and trusts nobody: a handshake that is not handed over to a service cannot
    succeed. It stays the same object through every update, and a handshake under way finishes with what it
    began.
    """

    def __init__(self) -> None:
        self.context = _hardened_server(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self.context.sni_callback = self._select
        self._by_server_name: dict[str, tuple[_Recipe, ServiceContext]] = {}

    def update(
        self,
        trust_domain: str,
        datacenter: str,
        identities: Mapping[str, Identity],
        authorities: bytes,
        protocols: Mapping[str, tuple[str, ...]],
    ) -> None:
        """Serve the services of ``protocols`` (their ALPN names); contexts are made only for what changed."""
        updated = {}
        for service, names in protocols.items():
            server_name = str(ServerName(service, datacenter, trust_domain))
            recipe = _Recipe(identities[service], authorities, names)
            made = self._by_server_name.get(server_name)
            if made is None or made[0] != recipe:
                context = _hardened_server(ServiceContext(ssl.PROTOCOL_TLS_SERVER))
                context.service = service
                made = (recipe, _equip(context, recipe))
            updated[server_name] = made
        self._by_server_name = updated

    @staticmethod
    def service(tls: ssl.SSLObject) -> str:
        """The service that the peer of a complete handshake asked for; its certificate was shown."""
        return tls.context.service if isinstance(tls.context, ServiceContext) else ""

    def _select(self, tls: ssl.SSLObject, server_name: str | None, _: ssl.SSLContext) -> int | None:
        if server_name is None:
            return ALERT_MISSING_EXTENSION
        made = self._by_server_name.get(server_name)
        if made is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        tls.context = made[1]
        return None


class ClientContexts:
    """The contexts to call with, one for each caller and list of protocols, made when first asked for."""

    def __init__(self) -> None:
        self._identities: Mapping[str, Identity] = {}
        self._authorities = b""
        self._made: dict[tuple[str, tuple[str, ...]], tuple[_Recipe, ssl.SSLContext]] = {}

    def update(self, identities: Mapping[str, Identity], authorities: bytes) -> None:
        """Call as ``identities`` from now on, by name: services, and "host"."""
        self._identities = dict(identities)
        self._authorities = authorities
        for key, (recipe, _) in list(self._made.items()):
            if identities.get(key[0]) != recipe.identity or recipe.authorities != authorities:
                del self._made[key]

    def get(self, caller: str, protocols: tuple[str, ...]) -> ssl.SSLContext:
        """The context of ``caller``; raises KeyError when this host has no such identity."""
        key = (caller, protocols)
        made = self._made.get(key)
        if made is None:
            recipe = _Recipe(self._identities[caller], self._authorities, protocols)
            made = (recipe, client_context(*recipe))
            self._made[key] = made
        return made[1]


def _hardened(context: Context) -> Context:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The name in the certificate is a SPIFFE ID, which OpenSSL's host name check cannot compare, and the
    # server name only asks for a service. peer_identity() compares the ID with the one expected instead.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # Strict: RFC 5280 is enforced on extensions that OpenSSL otherwise forgives. No partial chains: only a
    # self-signed root is an anchor, an intermediate in the bundle is none. The defaults differ between
    # Pythons.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.verify_flags &= ~ssl.VERIFY_X509_PARTIAL_CHAIN
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    return context


def _hardened_server(context: Context) -> Context:
    # OP_NO_TICKET alone makes TLS 1.3 send tickets that point into the server's session cache.
    context.num_tickets = 0
    return _hardened(context)


def _equip(context: Context, recipe: _Recipe) -> Context:
    identity = recipe.identity
    context.load_verify_locations(cadata=recipe.authorities.decode("ascii"))
    context.set_alpn_protocols(recipe.protocols)
    # The ssl module reads a key from a file name only. A memfd has one, and no disk behind it.
    descriptor = os.memfd_create("hostproxy-identity", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(identity.certificate + b"\n" + identity.key)
        # A password, so that OpenSSL fails on an encrypted key where it would ask the terminal otherwise.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    finally:
        os.close(descriptor)
    return context
