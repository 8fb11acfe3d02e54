"""A controller that does as it is told: real certificates, real bundles, and answers that a test may replace."""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import TLSVersion
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.http import HTTPChannel, HTTPFactory, Request, datetimeToString
from zope.interface import implementer

from controller.authority.authority import Authority
from controller.authority.requests import public_key
from hostproxy.mesh.bundle import Manifest, raw_public_key, seal
from hostproxy.mesh.messages import HostReport
from hostproxy.mesh.spiffe import SpiffeId

MESH = "corp.example"
HOST = "web-1"
DENY = {"policy.toml": b'[defaults]\naccess = "deny"\n'}
ALLOW = {"policy.toml": b'[defaults]\naccess = "allow"\n'}
TLS13 = TLSVersion.TLSv1_3

Reply = tuple[int, bytes]
Override = Callable[["_Request"], Reply | None]


class FakeController:
    """Listens on ``url`` from :meth:`listen` to :meth:`close`."""

    def __init__(self, reactor: Any, directory: Path, dns: str = "localhost") -> None:
        self.reactor = reactor
        self.authority = Authority.create(str(directory), MESH, secrets.token_bytes(32), datetime.now(UTC))
        self.signer = Ed25519PrivateKey.generate()
        self.signers = [self.signer]
        self.tokens = {"a-token-of-16-bytes": HOST}
        self.services = {"cart", "web"}
        self.denied: tuple[str, ...] = ()
        self.life = timedelta(hours=12)
        self.epoch, self.generation = 1, 0
        self.bundle = b""
        self.offered = (0, 0)
        self.confirm = False
        self.requests: list[str] = []  # METHOD /path
        self.reports: list[HostReport] = []
        self.override: dict[str, Override] = {}  # by path
        self.dns = dns
        self.shown: bytes | None = None  # leaf and chain, instead of the right one
        self.port: Any = None
        self.connections = 0
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.root = self.authority.roots[0]
        self._channels: set[Any] = set()
        self.certify()

    # Certificates

    def certify(self, identity: str = "controller", dns: str | None = None, life: timedelta | None = None) -> None:
        """Have a certificate as this."""
        who = SpiffeId(MESH, identity, "controller-1")  # type: ignore[arg-type]
        self.chain = self.issue(who, self._key, dns=self.dns if dns is None else dns, life=life)

    def issue(
        self, who: SpiffeId, key: Any, *, dns: str = "", life: timedelta | None = None, ago: timedelta = timedelta(0)
    ) -> str:
        now = datetime.now(UTC) - ago
        return self.authority.issue(key.public_key(), who, now=now, life=life or self.life, dns=dns).decode()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.number}"

    def tell(self, port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Bring something to a host on loopback. It waits: not in the reactor's thread."""
        return self.tell_all(port, (method, path, body))[0]

    def tell_all(self, port: int, *requests: tuple[str, str, bytes]) -> list[tuple[int, bytes]]:
        """The same on one connection, until the host ends it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata="".join({*self.authority.roots, self.root}))
        private = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with tempfile.NamedTemporaryFile() as file:
            file.write(private + self.chain.encode())
            file.flush()
            context.load_cert_chain(file.name)
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
        connection.connect()
        connection.auto_open = 0
        answers: list[tuple[int, bytes]] = []
        try:
            for request in requests:
                connection.request(*request)
                response = connection.getresponse()
                answers.append((response.status, response.read()))
        except (OSError, http.client.HTTPException):
            if not answers:
                raise
        finally:
            connection.close()
        return answers

    # Bundles

    def seal(self, files: dict[str, bytes] = DENY, key: Ed25519PrivateKey | None = None, **changes: Any) -> bytes:
        """A bundle of the next generation; ``newest`` for who asks."""
        if "generation" not in changes:
            self.generation += 1
        now = datetime.now(UTC).timestamp()
        fields = {
            "mesh": MESH,
            "host": HOST,
            "epoch": self.epoch,
            "generation": self.generation,
            "issued": now,
            "expires": now + 86400.0,
            "files": {},
            "roots": self.authority.roots,
            "signers": tuple(raw_public_key(each) for each in self.signers),
            "denied": self.denied,
        }
        return seal(Manifest(**(fields | changes)), files, key or self.signer)

    def offer(self, files: dict[str, bytes] = DENY, **changes: Any) -> bytes:
        """Have a new one for who asks."""
        self.bundle = self.seal(files, **changes)
        self.offered = self.epoch, self.generation
        return self.bundle

    # Serving

    def listen(self, port: int = 0) -> None:
        factory = HTTPFactory(reactor=self.reactor)
        factory.log = lambda _: None  # type: ignore[method-assign]
        factory.timeOut = None
        factory.protocol = lambda: _channel(self)  # type: ignore[assignment]
        creator: Any = _Creator(self)
        wrapped: Any = factory
        secure = TLSMemoryBIOFactory(creator, False, wrapped, self.reactor)
        self.port = self.reactor.listenTCP(port, secure, interface="127.0.0.1")
        self.number = self.port.getHost().port

    def close(self) -> None:
        """Be gone, connections too."""
        if self.port is not None:
            self.port.stopListening()
            self.port = None
        for channel in list(self._channels):
            channel.transport.abortConnection()

    def answer(self, request: _Request) -> Reply:
        path = request.path.decode()
        self.requests.append(f"{request.method.decode()} {path}")
        override = self.override.get(path)
        reply = override(request) if override is not None else None
        if reply is not None:
            return reply
        match path:
            case "/v1/enrol":
                return self.enrol(json.loads(request.content.read()))
            case "/v1/certificates":
                return self.certificate(json.loads(request.content.read()))
            case "/v1/bundle":
                query = parse_qs(urlsplit(request.uri).query.decode())
                asked = int(query["epoch"][0]), int(query["generation"][0])
                if asked < self.offered:
                    return 200, self.bundle
                return 204, b""
            case "/v1/report":
                body = request.content.read()
                self.reports.append(msgspec.json.decode(body, type=HostReport))
                return self.json(epoch=self.epoch, generation=self.generation, confirm=self.confirm)
        return 404, b'{"error": "no such path"}'

    @staticmethod
    def json(status: int = 200, **fields: Any) -> Reply:
        return status, json.dumps(fields).encode()

    def enrol(self, body: dict[str, Any]) -> Reply:
        if self.tokens.pop(body["token"], None) != body["host"]:
            return self.json(403, error="the token is not valid")
        certificate = self.sign(body["csr"], SpiffeId.host(MESH, body["host"]))
        signers = [raw_public_key(each).hex() for each in self.signers]
        return self.json(
            trust_domain=MESH, certificate=certificate, roots=list(self.authority.roots), signers=signers
        )

    def certificate(self, body: dict[str, Any]) -> Reply:
        name = body["name"]
        if name != "host" and name not in self.services:
            return self.json(403, error=f"{name} does not run there")
        who = SpiffeId.host(MESH, HOST) if name == "host" else SpiffeId.service(MESH, name)
        return self.json(certificate=self.sign(body["csr"], who), roots=list(self.authority.roots))

    def sign(self, csr: str, who: SpiffeId, life: timedelta | None = None) -> str:
        key = public_key(csr.encode())
        return self.authority.issue(key, who, now=datetime.now(UTC), life=life or self.life).decode()


class _Request(Request):
    def process(self) -> None:
        self.content.seek(0)
        status, body = self.channel.fake.answer(self)
        if status == 0:
            return  # no answer
        self.setResponseCode(status)
        self.setHeader("Date", datetimeToString())
        if status != 204:
            self.setHeader("Content-Length", str(len(body)))
            self.write(body)
        self.finish()


class _Channel(HTTPChannel):
    requestFactory = _Request
    fake: FakeController

    def connectionMade(self) -> None:
        super().connectionMade()
        self.fake.connections += 1
        self.fake._channels.add(self)

    def connectionLost(self, reason: Any) -> None:
        self.fake._channels.discard(self)
        super().connectionLost(reason)


def _channel(fake: FakeController) -> HTTPChannel:
    channel = _Channel()
    channel.fake = fake
    return channel


@implementer(IOpenSSLServerConnectionCreator)
class _Creator:
    """TLS of the controller: a client certificate is asked for, and taken when it is of the mesh."""

    def __init__(self, fake: FakeController) -> None:
        self.fake = fake

    def serverConnectionForTLS(self, _: Any) -> SSL.Connection:
        fake = self.fake
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        chain = fake.chain + "".join(fake.authority.roots)
        if fake.shown is not None:
            chain = fake.shown.decode()
        leaf, *rest = x509.load_pem_x509_certificates(chain.encode())
        context.use_certificate(leaf)
        for each in rest:
            context.add_extra_chain_cert(each)
        context.use_privatekey(fake._key)
        store = context.get_cert_store()
        assert store is not None
        for root in fake.authority.roots:
            store.add_cert(crypto.X509.from_cryptography(x509.load_pem_x509_certificate(root.encode())))
        context.set_verify(SSL.VERIFY_PEER, lambda *found: bool(found[4]))
        connection = SSL.Connection(context, None)
        connection.set_accept_state()
        return connection
