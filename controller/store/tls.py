"""TLS to the agent of Consul: its authorities, and the certificate to show it, read anew when their files change."""

from __future__ import annotations

import os
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import Certificate, TLSVersion, optionsForClientTLS, platformTrust, trustRootFromCertificates
from twisted.logger import Logger
from zope.interface import implementer

from controller.store import Unusable
from hostproxy.mesh import storage

FILE_SIZE = 1024 * 1024  # bytes; the bundle of all public authorities is a fifth of it


@implementer(IOpenSSLClientConnectionCreator)
class Secured:
    """TLS 1.2 or newer, with the agent's certificate checked for its name or address during the handshake."""

    log = Logger()

    def __init__(self, host: str, ca: str, certificate: str, key: str) -> None:
        """``host`` is a name or an IP address; the rest are paths, "" where there is none. Raises :class:`Unusable`."""
        self._host = host
        self._paths = ca, certificate, key
        is_address = isIPAddress(host) or isIPv6Address(host)
        self._verify = verify_certificate_ip_address if is_address else verify_certificate_hostname
        self._seen = self._stamps()
        self._options = self._load()

    def _load(self) -> Any:
        ca, certificate, key = self._paths
        trust: Any = platformTrust()  # type: ignore[no-untyped-call]
        if ca:
            wrapped: Any = Certificate
            known = [wrapped(crypto.X509.from_cryptography(each)) for each in _certificates(ca)]
            trust = trustRootFromCertificates(known)  # type: ignore[no-untyped-call]
        extra: dict[str, Any] = {"raiseMinimumTo": TLSVersion.TLSv1_2}
        if certificate:
            own, *chain = _certificates(certificate)
            extra |= {"certificate": own, "privateKey": _key(key, own), "extraCertChain": chain}
        return optionsForClientTLS(self._host, trust, extraCertificateOptions=extra)

    def _stamps(self) -> list[tuple[int, int, int]]:
        found = []
        for path in filter(None, self._paths):
            try:
                status = os.stat(path)
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return found

    def _refresh(self) -> None:
        """Certificates are renewed; until the new files are whole, the ones from before are used."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            self._options = self._load()
        except Unusable as error:
            self.log.error("{error}: the certificates from before are used", error=error)

    def clientConnectionForTLS(self, protocol: Any) -> Any:  # Twisted's name
        self._refresh()
        connection = self._options.clientConnectionForTLS(protocol)
        # Twisted's callback takes a certificate in which it finds no name at all: anybody's from the same authority.
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._judge)
        return connection

    def _judge(self, connection: Any, certificate: Any, error: int, depth: int, ok: int) -> bool:
        if depth or not ok:
            return bool(ok)
        try:
            self._verify(certificate.to_cryptography(), self._host)
        except (VerificationError, CertificateError):
            return False
        return True


def _certificates(path: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_file(path))
    except ValueError:
        raise Unusable(f"{path}: holds no certificates in PEM") from None


def _key(path: str, certificate: x509.Certificate) -> Any:
    try:
        key = load_pem_private_key(_file(path, private=True), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Unusable(f"{path}: holds no private key in PEM that needs no password") from None
    if key.public_key() != certificate.public_key():
        raise Unusable(f"{path}: is not the key of the certificate to show Consul")
    return key


def _file(path: str, private: bool = False) -> bytes:
    try:
        return storage.read(path, FILE_SIZE, private)
    except storage.Unusable as error:
        raise Unusable(f"{path}: {error}" + (f"; {error.hint}" if error.hint else "")) from None
