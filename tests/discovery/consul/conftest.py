"""An agent that says what a test has written down, certificates for it, and a real one."""

from __future__ import annotations

import datetime
import ipaddress
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from hostproxy.config_discovery import ConsulConfig
from hostproxy.discovery.consul.counters import Counters
from hostproxy.discovery.consul.transport import Agent
from hostproxy.mesh.clocks import Comparison
from tests import consul as real
from tests.discovery.conftest import Loop
from tests.integration.host import free_port

Answer = bytes | Callable[["Served"], object]


def http(body: bytes = b"[]", status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer as Consul gives it. ``X_Consul_Index`` is how a header is written here."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Served(Protocol):
    """One connection of the stub."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.open = True
        self._unread = b""

    def dataReceived(self, data: bytes) -> None:
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"content-length: (\d+)", self._unread[:end], re.IGNORECASE)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._unread) < whole:
                return
            self.stub.requests.append(self._unread[:whole])
            self._unread = self._unread[whole:]
            answers = self.stub.answers
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            self.say(answer) if isinstance(answer, bytes) else answer(self)

    def say(self, data: bytes, end: bool = False) -> None:
        """Write; with ``end``, close afterwards."""
        self.transport.write(data)
        if end:
            self.transport.loseConnection()

    def pour(self, piece: bytes) -> None:
        """Write this again and again, as fast as it is taken, for as long as anybody takes it."""
        self.piece = piece
        self.poured = 0
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        self.poured += len(self.piece)
        self.transport.write(self.piece)

    def stopProducing(self) -> None:
        """Nobody takes more."""

    def connectionLost(self, reason: object = None) -> None:
        self.open = False


class Stub(Factory[Served]):
    """A server that gives ``answers``, one for each request and the last again and again."""

    noisy = False

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections: list[Served] = []
        self.address = ""

    def buildProtocol(self, addr: object) -> Served:
        self.connections.append(Served(self))
        return self.connections[-1]

    @property
    def open(self) -> int:
        """Connections that the client has not closed."""
        return sum(each.open for each in self.connections)


class World:
    """A reactor, stubs and agents; at the end nothing of them may be left."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.reactor: Any = loop.reactor
        self.until = loop.until
        self._later = 0.0
        self.reactor.seconds = lambda: time.monotonic() + self._later
        self.agents: list[Agent] = []
        self.ports: list[Any] = []

    def stub(self, *answers: Answer, tls: Any = None, unix: str = "") -> Stub:
        """A server with these answers."""
        stub = Stub(*answers)
        factory: Any = stub if tls is None else TLSMemoryBIOFactory(tls, False, stub, self.reactor)
        if unix:
            port, stub.address = self.reactor.listenUNIX(unix, factory), f"unix:{unix}"
        else:
            port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
            stub.address = f"http{'s' * (tls is not None)}://127.0.0.1:{port.getHost().port}"
        self.ports.append(port)
        return stub

    def agent(
        self,
        server: Stub | str,
        token: Callable[[], str] = lambda: "",
        clock: Comparison | None = None,
        **config: Any,
    ) -> Agent:
        """A client of that server."""
        address = server if isinstance(server, str) else server.address
        agent = Agent(self.reactor, ConsulConfig(address=address, **config), token, Counters(), clock)
        self.agents.append(agent)
        return agent

    def skip(self, seconds: float) -> None:
        """Let that much time pass at once."""
        self._later += seconds

    def get(self, asked: Deferred[Any], limit: float = 10.0) -> Any:
        """Wait for the result; raises what it failed with."""
        results: list[Any] = []
        failures: list[Any] = []
        asked.addCallbacks(results.append, failures.append)
        self.until(lambda: results or failures, limit)
        if failures:
            raise failures[0].value
        return results[0]

    def close(self) -> None:
        """Close everything, and look what is left."""
        for agent in self.agents:
            closed: list[object] = []
            agent.close().addCallback(closed.append)
            self.until(lambda closed=closed: closed)  # type: ignore[misc]
            assert agent.connections == 0
        self.loop.run_for(0.02)
        assert not self.reactor.getDelayedCalls()
        for port in self.ports:
            port.stopListening()
        self.loop.run_for(0.02)
        assert self.reactor.getReaders() == [self.reactor.waker]


@pytest.fixture
def world(loop: Loop) -> Iterator[World]:
    """See :class:`World`."""
    world = World(loop)
    yield world
    world.close()


class Authority:
    """An authority, and the files that it gives out."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {directory.name}")])
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(self._sign(self.name, self.key.public_key(), (), authority=True))

    def issue(self, name: str, *alternatives: x509.GeneralName) -> tuple[str, str]:
        """The paths of a new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate, path = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate.write_bytes(self._sign(subject, key.public_key(), alternatives))
        path.touch(0o600)
        path.write_bytes(_pem(key))
        return str(certificate), str(path)

    def server(self, ip: str = "127.0.0.1", host: str = "localhost") -> tuple[str, str]:
        """For a server at an IP address and a host name."""
        return self.issue("server", x509.IPAddress(ipaddress.ip_address(ip)), x509.DNSName(host))

    def _sign(self, subject: x509.Name, key: Any, alternatives: Any, authority: bool = False) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """See :class:`Authority`."""
    return Authority(tmp_path_factory.mktemp("authority"))


class SecuredConsul(real.Consul):
    """A real agent with ACLs, that also listens on a Unix socket, and with HTTPS for who has a certificate."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        super().__init__(directory, acl=True, memory=True)
        certificate, key = authority.server(self.ip)
        self.ca = str(authority.ca)
        self.socket = str(directory / "http.sock")
        self.ports["https"] = free_port(self.ip)
        self.settings |= {
            "addresses": {"http": f"{self.ip} unix://{self.socket}"},
            "ca_file": self.ca,
            "cert_file": certificate,
            "key_file": key,
            "verify_incoming_https": True,
        }


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[SecuredConsul]:
    """See :class:`SecuredConsul`; one for all tests, which use names of their own."""
    consul = SecuredConsul(tmp_path_factory.mktemp("consul"), authority)
    try:
        consul.start()
        yield consul
    finally:
        consul.kill()
