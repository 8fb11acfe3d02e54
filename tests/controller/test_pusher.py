"""One request to one host, against servers of TLS on a real reactor: the right one, wrong ones, and broken ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from controller.authority.authority import Authority
from controller.push.pusher import REASON, Pusher, PushFailed
from controller.push.tls import Credential
from hostproxy.mesh.messages import BODY_SIZE, Confirm, HostReport, Problem, decode, encode
from hostproxy.mesh.spiffe import Kind, SpiffeId
from tests.controller.conftest import DOMAIN, PASSPHRASE
from tests.controller.stores import failure, result
from tests.discovery.conftest import loop
from tests.discovery.consul.conftest import World, http, world

__all__ = ("loop", "world")

NAME = "web-1"
REPORT = HostReport(software="1", epoch=1, generation=7, digest="d", state="applied")
BUNDLE = b"secret of the mesh " * 10_000
SHORT = 0.3  # seconds; for what is meant to take too long
CONTROLLER = SpiffeId(DOMAIN, "controller", "controller-1")

URI = x509.UniformResourceIdentifier
Extensions = list[tuple[x509.ExtensionType, bool]]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(str(tmp_path_factory.mktemp("mesh")), DOMAIN, PASSPHRASE, datetime.now(UTC))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority, which says that it is of this mesh."""
    return Authority.create(str(tmp_path_factory.mktemp("other")), DOMAIN, PASSPHRASE, datetime.now(UTC))


def roots(*authorities: Authority) -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_pem_x509_certificate(root.encode()) for each in authorities for root in each.roots)


def certified(
    authority: Authority, identity: SpiffeId, *trusted: Authority, ago: timedelta = timedelta(0)
) -> Credential:
    """A certificate of an authority, which believes ``trusted``, and else that authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    chain = authority.issue(key.public_key(), identity, now=datetime.now(UTC) - ago, life=timedelta(hours=1))
    return Credential(
        tuple(x509.load_pem_x509_certificates(chain)), key, roots(*(trusted or (authority,)))
    )


def crafted(authority: Authority, extensions: Extensions) -> Credential:
    """A certificate as no authority of a mesh would make it, but with a good signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate, issuing_key = authority._issuing
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Credential((builder.sign(issuing_key, hashes.SHA256()), certificate), key, roots(authority))


@implementer(IOpenSSLServerConnectionCreator)
class Served:
    """The TLS of a host: who connects has to show a certificate."""

    def __init__(self, credential: Credential, newest: int = SSL.TLS1_3_VERSION) -> None:
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.set_max_proto_version(newest)
        leaf, *rest = credential.certificates
        self._context.use_certificate(leaf)
        for each in rest:
            self._context.add_extra_chain_cert(each)
        self._context.use_privatekey(credential.key)
        store = self._context.get_cert_store()
        assert store is not None
        for root in credential.roots:
            store.add_cert(X509.from_cryptography(root))
        self._context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *found: bool(found[4]))

    def serverConnectionForTLS(self, protocol: object) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_accept_state()
        return connection


class Host(Factory[Protocol]):
    """A server that keeps every byte it gets, and answers each whole request with what the test says."""

    noisy = False

    def __init__(self, answer: bytes | Callable[[Any], object]) -> None:
        self.answer = answer
        self.received = bytearray()
        self.shown: list[x509.Certificate] = []  # by whoever asked
        self.connections = 0
        self.open = 0
        self.address = ""

    def buildProtocol(self, addr: object) -> Protocol:
        return _Talk(self)


class _Talk(Protocol):
    transport: Any

    def __init__(self, host: Host) -> None:
        self._host = host

    def connectionMade(self) -> None:
        self._host.connections += 1
        self._host.open += 1

    def dataReceived(self, data: bytes) -> None:
        host = self._host
        host.received += data
        head, _, body = bytes(host.received).partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length is None or len(body) < int(length[1]):
            return
        shown = getattr(self.transport, "getPeerCertificate", lambda: None)()
        if shown is not None:
            host.shown.append(shown.to_cryptography())
        if isinstance(host.answer, bytes):
            self.transport.write(host.answer)
        else:
            host.answer(self.transport)

    def connectionLost(self, reason: object = None) -> None:
        self._host.open -= 1


def serve(
    world: World, answer: bytes | Callable[[Any], object], tls: Served | None, interface: str = "127.0.0.1"
) -> Host:
    host = Host(answer)
    factory: Any = host if tls is None else TLSMemoryBIOFactory(tls, False, host, world.reactor)
    port = world.reactor.listenTCP(0, factory, interface=interface)
    ip = f"[{interface}]" if ":" in interface else interface
    host.address = f"{ip}:{port.getHost().port}"
    world.ports.append(port)
    return host


def host_id(name: str = NAME, domain: str = DOMAIN, kind: Kind = "host") -> SpiffeId:
    return SpiffeId(domain, kind, name)


def good(world: World, mesh: Authority, answer: bytes | Callable[[Any], object], **more: Any) -> Host:
    """The host that is meant."""
    return serve(world, answer, Served(certified(mesh, host_id())), **more)


def pusher(world: World, mesh: Authority, timeout: float = 10.0) -> Pusher:
    return Pusher(world.reactor, DOMAIN, certified(mesh, CONTROLLER), timeout)


def refused(world: World, pusher: Pusher, host: Host) -> str:
    """Push; why it failed. Nothing is open afterwards."""
    error = failure(world.loop, pusher.push(NAME, host.address, BUNDLE))
    assert type(error) is PushFailed, error
    world.until(lambda: not host.open)
    return str(error)


# The right one


@pytest.mark.parametrize("interface", ["127.0.0.1", "::1"])
def test_a_host_gets_its_bundle_and_says_how_it_stands(world: World, mesh: Authority, interface: str) -> None:
    # Its certificate has neither a name nor an address in it: by its identity alone it is known.
    host = good(world, mesh, http(encode(REPORT)), interface=interface)
    assert result(world.loop, pusher(world, mesh).push(NAME, host.address, BUNDLE)) == REPORT
    head, _, body = bytes(host.received).partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /v1/bundle HTTP/1.1\r\n")
    assert b"\r\nHost: " + host.address.encode() in head
    assert b"application/octet-stream" in head
    assert body == BUNDLE
    (shown,) = host.shown
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(URI) == [str(CONTROLLER)]
    world.until(lambda: not host.open)


def test_a_host_is_told_that_it_may_stay(world: World, mesh: Authority) -> None:
    host = good(world, mesh, http(status="204 No Content"))
    confirm = Confirm(epoch=1, generation=7, digest="d")
    result(world.loop, pusher(world, mesh).confirm(NAME, host.address, confirm))
    head, _, body = bytes(host.received).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/confirm HTTP/1.1\r\n")
    assert decode(body, Confirm) == confirm


def test_each_request_has_its_own_connection(world: World, mesh: Authority) -> None:
    host = good(world, mesh, http(encode(REPORT)))
    sender = pusher(world, mesh)
    for count in (1, 2):
        result(world.loop, sender.push(NAME, host.address, BUNDLE))
        world.until(lambda: not host.open)
        host.received.clear()
        assert host.connections == count


def test_a_new_credential_counts_from_the_next_request_on(
    world: World, mesh: Authority, stranger: Authority
) -> None:
    moved = certified(stranger, host_id(), mesh, stranger)
    host = serve(world, http(encode(REPORT)), Served(moved))
    sender = pusher(world, mesh)
    assert "certificate verify failed" in refused(world, sender, host)
    sender.show(certified(mesh, CONTROLLER, mesh, stranger))
    assert result(world.loop, sender.push(NAME, host.address, BUNDLE)) == REPORT
    world.until(lambda: not host.open)
    sender.show(certified(mesh, CONTROLLER, mesh))
    host.received.clear()
    assert "certificate verify failed" in refused(world, sender, host)
    assert not host.received


# Somebody else


@pytest.mark.parametrize(
    "identity",
    [
        host_id("web-2"),
        host_id("web-10"),
        host_id("web"),
        host_id(kind="service"),
        host_id(kind="controller"),
        host_id(kind="operator"),
    ],
    ids=str,
)
def test_another_of_the_mesh_gets_nothing(world: World, mesh: Authority, identity: SpiffeId) -> None:
    host = serve(world, http(encode(REPORT)), Served(certified(mesh, identity)))
    assert refused(world, pusher(world, mesh), host) == f"{identity} answers there"
    assert not host.received


ODD: dict[str, tuple[Extensions, str]] = {
    "no names": ([], "no identity of the mesh"),
    "no URI": ([(x509.SubjectAlternativeName([x509.DNSName(NAME)]), True)], "0 URIs instead of one"),
    "two": (
        [(x509.SubjectAlternativeName([URI(str(host_id())), URI(str(host_id("web-2")))]), True)],
        "2 URIs instead of one",
    ),
    "other mesh": (
        [(x509.SubjectAlternativeName([URI(str(host_id(domain="other.example")))]), True)],
        "spiffe://other.example/host/web-1 answers there",
    ),
    "no SPIFFE ID": ([(x509.SubjectAlternativeName([URI("https://corp.example/")]), True)], "no identity of the mesh"),
    "longer": ([(x509.SubjectAlternativeName([URI(str(host_id()) + "/more")]), True)], "no identity of the mesh"),
    # An x400Address, which OpenSSL skips and the reader of certificates cannot read: a hole if that were let pass.
    "unreadable": (
        [(x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x02\xa3\x00"), False)],
        "no identity of the mesh",
    ),
    "client alone": (
        [
            (x509.SubjectAlternativeName([URI(str(host_id()))]), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        ],
        "certificate verify failed",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_a_certificate_that_names_no_host_of_the_mesh_gets_nothing(
    world: World, mesh: Authority, name: str
) -> None:
    extensions, says = ODD[name]
    host = serve(world, http(encode(REPORT)), Served(crafted(mesh, extensions)))
    assert says in refused(world, pusher(world, mesh), host)
    assert not host.received


def test_a_host_of_another_root_gets_nothing(world: World, mesh: Authority, stranger: Authority) -> None:
    host = serve(world, http(encode(REPORT)), Served(certified(stranger, host_id(), mesh)))
    assert "certificate verify failed" in refused(world, pusher(world, mesh), host)
    assert not host.received


def test_a_host_whose_certificate_has_expired_gets_nothing(world: World, mesh: Authority) -> None:
    expired = certified(mesh, host_id(), ago=timedelta(hours=2))
    host = serve(world, http(encode(REPORT)), Served(expired))
    assert "certificate verify failed" in refused(world, pusher(world, mesh), host)
    assert not host.received


def test_who_has_no_certificate_gets_nothing(world: World, mesh: Authority) -> None:
    host = serve(world, http(encode(REPORT)), None)
    talked = failure(world.loop, pusher(world, mesh, SHORT).push(NAME, host.address, BUNDLE))
    assert isinstance(talked, PushFailed)
    assert BUNDLE[:18] not in host.received  # it has seen a handshake begin
    assert b"PUT" not in host.received
    world.until(lambda: not host.open)


def test_older_tls_is_not_spoken(world: World, mesh: Authority) -> None:
    host = serve(world, http(encode(REPORT)), Served(certified(mesh, host_id()), SSL.TLS1_2_VERSION))
    assert refused(world, pusher(world, mesh), host).startswith("TLS: ")
    assert not host.received


def test_a_host_that_does_not_believe_the_controller_says_so(
    world: World, mesh: Authority, stranger: Authority
) -> None:
    host = serve(world, http(encode(REPORT)), Served(certified(mesh, host_id(), stranger)))
    assert "alert unknown ca" in refused(world, pusher(world, mesh), host)


@pytest.mark.parametrize("address", ["0.0.0.0:15009", "unix:/run/x.sock", "web-1:15009", "10.0.0.1", "", "224.0.0.1:1"])
def test_what_is_no_address_of_a_host_is_not_asked(world: World, mesh: Authority, address: str) -> None:
    error = failure(world.loop, pusher(world, mesh).push(NAME, address, BUNDLE))
    assert isinstance(error, PushFailed)
    assert str(error).startswith("its address ")


# Broken ones


def test_nobody_listens(world: World, mesh: Authority) -> None:
    host = good(world, mesh, b"")
    result(world.loop, world.ports.pop().stopListening())
    assert "refused" in refused(world, pusher(world, mesh), host)


def _drip(transport: Any) -> None:
    transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")


HANGS: dict[str, Callable[[Any], object]] = {
    "no answer": lambda transport: None,
    "half a head": lambda transport: transport.write(b"HTTP/1.1 200 OK\r\nContent-"),
    "half a body": _drip,
}


@pytest.mark.parametrize("name", HANGS)
def test_a_host_that_hangs_is_given_up(world: World, mesh: Authority, name: str) -> None:
    host = good(world, mesh, HANGS[name])
    assert refused(world, pusher(world, mesh, SHORT), host) == "no answer within 0.3 s"


def test_a_host_that_does_not_begin_tls_is_given_up(world: World, mesh: Authority) -> None:
    host = serve(world, b"", None)
    assert refused(world, pusher(world, mesh, SHORT), host) == "no answer within 0.3 s"


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (b"", "abortConnection"),
        (b"", "loseConnection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "loseConnection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "abortConnection"),
        # Without a length nobody can tell whether it is whole.
        (b"HTTP/1.1 200 OK\r\n\r\n" + encode(REPORT), "abortConnection"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + encode(REPORT), "loseConnection"),
    ],
)
def test_an_answer_that_is_cut_off_is_none(world: World, mesh: Authority, begin: bytes, end: str) -> None:
    def cut(transport: Any) -> None:
        transport.write(begin)
        getattr(transport, end)()

    refused(world, pusher(world, mesh), good(world, mesh, cut))


def test_a_connection_that_is_cut_in_the_handshake_is_none(world: World, mesh: Authority) -> None:
    class Cut(Factory[Protocol]):
        noisy = False

        def buildProtocol(self, addr: object) -> None:
            return None

    port = world.reactor.listenTCP(0, Cut(), interface="127.0.0.1")
    world.ports.append(port)
    error = failure(world.loop, pusher(world, mesh).push(NAME, f"127.0.0.1:{port.getHost().port}", BUNDLE))
    assert isinstance(error, PushFailed)


@pytest.mark.parametrize("length", [b"Content-Length: 1000000000\r\n", b""])
def test_an_answer_that_is_too_large_is_not_read(world: World, mesh: Authority, length: bytes) -> None:
    # Nor is its end waited for, which never comes.
    start = b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + b"x" * (BODY_SIZE + 1)
    assert refused(world, pusher(world, mesh), good(world, mesh, start)) == (
        f"an answer of more than {BODY_SIZE} bytes"
    )


def test_a_refusal_is_told_with_its_reason(world: World, mesh: Authority) -> None:
    said = encode(Problem(error="rollback: it is generation 6, this host has had 7", problems=("a", "b")))
    host = good(world, mesh, http(said, "409 Conflict"))
    says = refused(world, pusher(world, mesh), host)
    assert says == "it answers 409: rollback: it is generation 6, this host has had 7"


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        ("500 Oops", b"<html>\xff", "it answers 500: <html>�"),
        ("302 Found", b"", "it answers 302: "),
        ("404 Not Found", b"x" * 5000, "it answers 404: " + "x" * REASON),
        ("400 Bad Request", encode(Problem(error="y" * 100_000)), "it answers 400: " + "y" * REASON),
    ],
)
def test_other_refusals_are_told_in_short(world: World, mesh: Authority, status: str, body: bytes, says: str) -> None:
    host = good(world, mesh, http(body, status, Location="https://127.0.0.1:1/"))
    assert refused(world, pusher(world, mesh), host) == says


@pytest.mark.parametrize("body", [b"", b"{}", b"null", encode(REPORT) + b"x", b'{"software":"1","unknown":1}'])
def test_what_is_no_report_is_no_acknowledgement(world: World, mesh: Authority, body: bytes) -> None:
    host = good(world, mesh, http(body))
    assert refused(world, pusher(world, mesh), host).startswith("the answer is not a report: ")
