"""TLS to the agent: its authorities, and the certificate to show it, out of files that may change."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, TLSVersion, optionsForClientTLS, platformTrust, trustRootFromCertificates
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from hostproxy.config_discovery import ConsulConfig
from hostproxy.discovery.consul import files
from hostproxy.discovery.consul.errors import AgentError

SIZE = 1024 * 1024  # bytes of one file; the bundle of all public authorities is a fifth of it


class TlsError(Exception):
    """The agent is not who it should be."""


ERRORS = (SSL.Error, VerificationError, TlsError)


class ClientTls:
    """How connections to the agent are secured: TLS 1.2 or newer, the agent's certificate checked for ``host``.

    Files are looked at for every new connection, and read again when they changed. While they can't be used, what
    was read before is, and ``problem`` says so. Connections that are open stay as they are.
    """

    log = Logger()

    def __init__(self, reactor: Any, config: ConsulConfig, host: str) -> None:
        self.problem = ""
        self._reactor = reactor
        self._config = config
        self._host = host
        self._paths = tuple(filter(None, (config.ca, config.certificate, config.key)))
        self._state: object = None
        self._options: Any = None

    def options(self) -> Any:
        """What creates the TLS of one connection. Raises :class:`AgentError` ("tls") while there is nothing usable."""
        state = files.state(self._paths)
        if self._options is None or state != self._state:
            self._state = state
            try:
                self._options, problem = self._read()
            except files.Unreadable as error:
                if self._options is None:
                    self.problem = str(error)
                    raise AgentError("tls", f"no TLS to the agent of Consul: {error}") from None
                problem = f"{error}; what was read before stays in use"
            if problem != self.problem:
                self.problem = problem
                if problem:
                    self.log.warn("TLS to the agent of Consul: {problem}", problem=problem)
        return self._options

    def check(self, certificate: crypto.X509) -> None:
        """Compare the name in the agent's certificate; raises :class:`TlsError`.

        Twisted does it during the handshake. But its callback takes a certificate in which it finds no name at all:
        anybody's from the same authority.
        """
        try:
            if isIPAddress(self._host) or isIPv6Address(self._host):
                verify_certificate_ip_address(certificate.to_cryptography(), self._host)
            else:
                verify_certificate_hostname(certificate.to_cryptography(), self._host)
        except (VerificationError, CertificateError) as error:
            raise TlsError(f"its certificate is not for {self._host} ({error})") from None

    def _read(self) -> tuple[Any, str]:
        config, problem = self._config, ""
        trust = platformTrust()
        if config.ca:
            authorities = [crypto.X509.from_cryptography(each) for each in _certificates(config.ca)]
            trust = trustRootFromCertificates([Certificate(each) for each in authorities])
        extra: dict[str, Any] = {"raiseMinimumTo": TLSVersion.TLSv1_2}
        if config.certificate or config.key:
            certificate, *chain = _certificates(config.certificate)
            content = files.read(config.key, SIZE)
            try:
                key = load_pem_private_key(content.data, None)
            except (ValueError, TypeError, UnsupportedAlgorithm):
                raise files.Unreadable(f"{config.key} holds no private key in PEM that needs no password") from None
            if certificate.public_key() != key.public_key():
                raise files.Unreadable(f"{config.key} is not the key of the first certificate in {config.certificate}")
            extra |= {"certificate": certificate, "privateKey": key, "extraCertChain": chain}
            if content.exposed:
                problem = f"every user of this host may read {config.key}: chmod o= {config.key}"
        options: Any = optionsForClientTLS(self._host, trustRoot=trust, extraCertificateOptions=extra)
        try:
            # OpenSSL looks at it all when the first connection is made, where Twisted cannot handle a refusal.
            inner: Any = Factory.forProtocol(Protocol)
            secure = TLSMemoryBIOFactory(options, True, inner, self._reactor)
            options.clientConnectionForTLS(secure.buildProtocol(None))
        except (SSL.Error, ValueError) as error:
            raise files.Unreadable(f"{', '.join(self._paths)} cannot be used: {text_of(error)}") from None
        return options, problem


def _certificates(path: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(files.read(path, SIZE).data)
    except ValueError as error:
        raise files.Unreadable(f"{path} holds no certificates in PEM: {error}") from None


def text_of(error: BaseException) -> str:
    """Why TLS failed, in words."""
    if isinstance(error, VerificationError):
        return "its certificate is for another name"
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return ", ".join(str(entry[-1]) for entry in error.args[0]) or "the connection was cut"
    return str(error) or "the connection was cut"
