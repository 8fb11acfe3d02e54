"""Identities out of files: read, checked against each other, all faults told at once.

``DIRECTORY/NAME.pem`` holds the certificate of service NAME, leaf first, and ``NAME.key`` its key;
``host.pem`` and ``host.key`` are the host's own. What is handed on is what was checked: certificates and keys
are written out again from their parsed form, so no second parser can find something else in them.

While files are rotated one may be new and its partner old. That is one of the faults: the caller keeps what
it has, and loads again when the watched files change.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from hostproxy.identity.contexts import client_context, server_context
from hostproxy.identity.peer import CALLEE, CALLER, PeerRefused, faults, spiffe_id
from hostproxy.mesh import storage
from hostproxy.mesh.document import Invalid, Problem
from hostproxy.mesh.spiffe import ALPN_HTTP1, InvalidName, SpiffeId
from hostproxy.snapshot import Identity

if TYPE_CHECKING:
    from hostproxy.config import IdentityConfig

HOST = "host"  # the name of the host's own identity

KIB = 1024
# Hundreds of roots; a public root store with 150 of them has 220 KiB.
MAX_AUTHORITIES_FILE = 1024 * KIB
# OpenSSL refuses chains over 100 KiB in a handshake (SSL_MAX_CERT_LIST_DEFAULT), and PEM takes a third more.
MAX_CHAIN_FILE = 136 * KIB
MAX_KEY_FILE = 64 * KIB  # an RSA-4096 key has 3.2 KiB

PEM = serialization.Encoding.PEM


class Validity(NamedTuple):
    """When a certificate holds, Unix seconds."""

    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True)
class Identities:
    """Everything that this host needs to say who it is and to know its peers."""

    authorities: bytes  # PEM, every root that is in force
    by_name: dict[str, Identity] = field(repr=False)  # services and "host"; holds private keys
    validity: dict[str, Validity]  # by the same names
    authorities_end: float  # Unix seconds at which the first of the authorities ends
    warnings: tuple[Problem, ...] = ()


def watched_paths(files: IdentityConfig, names: Sequence[str]) -> tuple[str, ...]:
    """Every file that :func:`load` reads for these services."""
    paths = [files.authorities_path]
    for name in (HOST, *names):
        paths += _paths(files, name)
    return tuple(paths)


def load(
    files: IdentityConfig,
    names: Sequence[str],
    trust_domain: str,
    host_name: str,
    clock: Callable[[], float] = time.time,
) -> Identities:
    """Read the certificates of the host and of ``names``; raises :class:`Invalid` with every fault.

    ``clock`` gives Unix seconds. Takes about 5 ms of CPU for each name, because each identity shakes hands
    with itself once.
    """
    return _Loader(files, trust_domain, clock()).load(names, host_name)


def _paths(files: IdentityConfig, name: str) -> tuple[str, str]:
    stem = os.path.join(files.directory, name)
    return f"{stem}.pem", f"{stem}.key"


class _Loader:
    """One reading of all files at one moment, collecting problems."""

    def __init__(self, files: IdentityConfig, trust_domain: str, now: float) -> None:
        self._files = files
        self._trust_domain = trust_domain
        self._now = now
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []

    def load(self, names: Sequence[str], host_name: str) -> Identities:
        roots = self._authorities()
        authorities = b"".join(root.public_bytes(PEM) for root in roots)
        by_name: dict[str, Identity] = {}
        validity: dict[str, Validity] = {}
        for name in dict.fromkeys((HOST, *names)):
            try:
                if name == HOST:
                    wanted = SpiffeId.host(self._trust_domain, host_name)
                else:
                    wanted = SpiffeId.service(self._trust_domain, name)
            except InvalidName as error:
                # Checked before it becomes part of a path.
                self._problem(self._files.directory, str(error))
                continue
            loaded = self._identity(name, wanted, authorities)
            if loaded is not None:
                by_name[name], validity[name] = loaded
        if self._problems:
            raise Invalid(self._problems)
        end = min(_validity(root).not_after for root in roots)
        return Identities(authorities, by_name, validity, end, tuple(self._warnings))

    def _authorities(self) -> list[x509.Certificate]:
        """The roots in force. One that does not hold now is left out while there are others."""
        path = self._files.authorities_path
        certificates = self._certificates(path, MAX_AUTHORITIES_FILE)
        if certificates is None:
            return []
        roots: dict[bytes, x509.Certificate] = {}
        untimely: list[tuple[str, str]] = []
        for number, certificate in enumerate(certificates, 1):
            which = f"certificate {number} of {len(certificates)}"
            try:
                fault = _authority_fault(certificate)
            except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
                fault = f"cannot be read: {error}"
            if fault:
                hint = "list the self-signed roots here; intermediates go behind the leaf, into NAME.pem"
                self._problem(path, f"{which} {fault}", hint)
                continue
            fault, hint = self._untimely(certificate)
            if fault:
                untimely.append((f"{which} {fault}", hint))
            else:
                roots[certificate.public_bytes(PEM)] = certificate
        for message, hint in untimely:
            if roots:
                self._warnings.append(Problem(path, 0, 0, "", message, f"{hint}; until then it is left out"))
            else:
                self._problem(path, message, hint)
        return list(roots.values())

    def _identity(self, name: str, wanted: SpiffeId, authorities: bytes) -> tuple[Identity, Validity] | None:
        """One identity, or None after at least one problem with it."""
        path, key_path = _paths(self._files, name)
        count = len(self._problems)
        missing = f"a certificate of {wanted}, leaf first, belongs there"
        chain = self._certificates(path, MAX_CHAIN_FILE, missing)
        key = self._key(key_path)
        if chain is None:
            return None
        leaf = chain[0]
        self._judge(path, leaf, wanted)
        if key is None or len(self._problems) > count:
            return None
        if _public_bytes(key.public_key()) != _public_bytes(leaf.public_key()):
            hint = "put the key and the certificate that was made for it there; during a rotation this passes"
            self._problem(key_path, f"does not belong to the certificate in {path}", hint)
            return None
        identity = Identity(
            name,
            str(wanted),
            b"".join(certificate.public_bytes(PEM) for certificate in chain),
            key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        )
        if authorities:
            refusal = _rehearse(identity, authorities)
            if refusal:
                hint = f"have it issued by an authority in {self._files.authorities_path}"
                self._problem(path, f"is not accepted in a handshake: {refusal}", hint)
                return None
        return identity, _validity(leaf)

    def _judge(self, path: str, leaf: x509.Certificate, wanted: SpiffeId) -> None:
        for fault in faults(leaf, self._trust_domain, (CALLER, CALLEE)):
            self._problem(path, fault.detail, f"issue a certificate for {wanted}")
        try:
            found = spiffe_id(leaf)
        except (PeerRefused, ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            pass  # said already
        else:
            if found != wanted and found.trust_domain == self._trust_domain:
                self._problem(path, f"is the certificate of {found}", f"put the one of {wanted} there")
        message, hint = self._untimely(leaf)
        if message:
            self._problem(path, message, hint)

    def _untimely(self, certificate: x509.Certificate) -> tuple[str, str]:
        """Why the certificate does not hold now, and what to do; two empty strings when it does."""
        start, end = _validity(certificate)
        now = _moment(self._now)
        if self._now > end:
            return f"expired at {_moment(end)}, and it is {now}", "replace it by one that is valid"
        if self._now < start:
            return f"is valid from {_moment(start)}, and it is {now}", "set the clock (clock skew)"
        return "", ""

    def _certificates(self, path: str, limit: int, missing: str = "") -> list[x509.Certificate] | None:
        try:
            content = storage.read(path, limit)
            if b"PRIVATE KEY-----" in content:
                raise storage.Unusable("holds a private key", "keep keys in files of their own, mode 0600")
            try:
                return x509.load_pem_x509_certificates(content)
            except (ValueError, UnsupportedAlgorithm) as error:
                raise storage.Unusable(f"is not a file of PEM certificates: {error}") from None
        except storage.Unusable as unusable:
            self._problem(path, str(unusable), unusable.hint or missing)
            return None

    def _key(self, path: str) -> PrivateKeyTypes | None:
        try:
            content = storage.read(path, MAX_KEY_FILE, private=True)
            try:
                return serialization.load_pem_private_key(content, None)
            except TypeError:
                hint = "decrypt it with openssl pkey; the daemon starts with nobody there to type a password"
                raise storage.Unusable("is encrypted", hint) from None
            except (ValueError, UnsupportedAlgorithm):
                # Not quoted: the message of a parser may hold a piece of what it read.
                raise storage.Unusable("is not a private key in PEM") from None
        except storage.Unusable as unusable:
            self._problem(path, str(unusable), unusable.hint)
            return None

    def _problem(self, path: str, message: str, hint: str = "") -> None:
        self._problems.append(Problem(path, 0, 0, "", message, hint))


def _authority_fault(certificate: x509.Certificate) -> str:
    """Why this certificate cannot be a root, or an empty string."""
    found = {type(extension.value): extension.value for extension in certificate.extensions}
    constraints = found.get(x509.BasicConstraints)
    if not isinstance(constraints, x509.BasicConstraints) or not constraints.ca:
        return "is not an authority's (no CA:TRUE)"
    usage = found.get(x509.KeyUsage)
    if not isinstance(usage, x509.KeyUsage) or not usage.key_cert_sign:
        return "may not sign certificates (no key usage keyCertSign)"
    if certificate.issuer != certificate.subject:
        return "is not a root but issued by another authority"
    return ""


def _rehearse(identity: Identity, authorities: bytes) -> str:
    """Let the identity shake hands with itself as workers will do it; why that fails, or an empty string."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        protocols = (ALPN_HTTP1,)
        client = client_context(identity, authorities, protocols).wrap_bio(to_client, to_server)
        server = server_context(identity, authorities, protocols).wrap_bio(to_server, to_client, True)
        # Hello; the server's answer; the client's certificate; the server's look at it.
        for side in (client, server, client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except ssl.SSLError as error:
        return str(error.reason or error)
    return ""


def _validity(certificate: x509.Certificate) -> Validity:
    return Validity(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
