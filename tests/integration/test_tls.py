"""Peers at the mesh port and behind it: who cannot prove who it is gets no byte through."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import certificates as fake
from tests.fakes.cases import get
from tests.fakes.client import connect, converse
from tests.fakes.origin import Connection, Origin, reply
from tests.integration import needs
from tests.integration.conftest import fresh
from tests.integration.host import TRUST_DOMAIN, certificates, eventually, fetch
from tests.integration.mesh import ALPHA, BETA, CALLER, Mesh, Service, single
from tests.integration.test_websocket import read_head
from tests.stopwatch import Stopwatch

HTTP = ["http/1.1"]


def server_name(service: str) -> str:
    return f"{service}.dc1.{TRUST_DOMAIN}"


def talk(address: str, context: ssl.SSLContext, name: str | None, request: bytes = b"") -> bytes:
    """Everything that the mesh port says to one client. Raises :class:`OSError` for a refusal."""
    with connect(address) as sock, context.wrap_socket(sock, server_hostname=name) as tls:
        tls.sendall(request or get(b"/direct", b"Connection: close"))
        parts = []
        while part := tls.recv(4096):
            parts.append(part)
        return b"".join(parts)


@pytest.fixture
def service(mesh: Mesh) -> Service:
    service = mesh.services["mutual-http"]
    fresh(service.origin)
    return service


@pytest.fixture
def refused(service: Service) -> Iterator[None]:
    """Whatever the test does: nothing reaches the origin."""
    yield
    assert service.origin.requests == []
    assert not [c for c in service.origin.connections if c.raw]


def caller_files(mesh: Mesh, name: str = CALLER) -> tuple[Path, Path]:
    directory = mesh.certificates[ALPHA]
    return directory / f"{name}.pem", directory / f"{name}.key"


def test_a_good_peer_is_let_in(mesh: Mesh, service: Service) -> None:
    """Or the refusals below would show nothing."""
    context = fake.client_context(*caller_files(mesh), HTTP)
    assert talk(mesh.beta.mesh, context, server_name(service.name)).startswith(b"HTTP/1.1 200 ")
    assert service.origin.requests[0].target == b"/direct"


def test_the_server_side_proves_itself(mesh: Mesh, service: Service) -> None:
    context = fake.client_context(*caller_files(mesh), HTTP)
    with (
        connect(mesh.beta.mesh) as sock,
        context.wrap_socket(sock, server_hostname=server_name(service.name)) as tls,
    ):
        der = tls.getpeercert(binary_form=True)
        assert tls.version() == "TLSv1.3"
        assert tls.selected_alpn_protocol() == "http/1.1"
    assert der is not None
    assert f"spiffe://{TRUST_DOMAIN}/service/{service.name}".encode() in der


@pytest.mark.parametrize("fault", sorted(fake.faulty(TRUST_DOMAIN, CALLER)))
def test_faulty_certificates_are_refused(
    mesh: Mesh, service: Service, refused: None, fault: str, tmp_path: Path
) -> None:
    wanted = fake.faulty(TRUST_DOMAIN, CALLER)[fault]
    files = fake.issue(mesh.certificates[ALPHA], tmp_path, "peer", wanted)
    with pytest.raises(OSError):
        answer = talk(mesh.beta.mesh, fake.client_context(*files, HTTP), server_name(service.name))
        raise OSError("closed") if answer == b"" else AssertionError(answer)


def test_refusals_are_counted_by_reason(mesh: Mesh, service: Service, tmp_path: Path) -> None:
    faults = {
        "expired": "expired",
        "two-uris": "several-uri-sans",
        "another-trust-domain": "wrong-trust-domain",
    }

    def counts() -> list[float]:
        return [mesh.beta.metric("tls_handshakes_total", f'reason="{reason}"') for reason in faults.values()]

    before = counts()
    for fault in faults:
        wanted = fake.faulty(TRUST_DOMAIN, CALLER)[fault]
        files = fake.issue(mesh.certificates[ALPHA], tmp_path, fault, wanted)
        with contextlib.suppress(OSError):
            talk(mesh.beta.mesh, fake.client_context(*files, HTTP), server_name(service.name))
    eventually(
        lambda: all(now > then for now, then in zip(counts(), before, strict=True)),
        4,
        "not every reason is counted",
    )


def test_a_certificate_only_for_servers_is_no_caller(
    mesh: Mesh, service: Service, refused: None, tmp_path: Path
) -> None:
    wanted = fake.Wanted((f"spiffe://{TRUST_DOMAIN}/service/{CALLER}",), purposes=(fake.SERVER,))
    files = fake.issue(mesh.certificates[ALPHA], tmp_path, "peer", wanted)
    with pytest.raises(OSError):
        answer = talk(mesh.beta.mesh, fake.client_context(*files, HTTP), server_name(service.name))
        raise OSError("closed") if answer == b"" else AssertionError(answer)


def test_no_certificate(mesh: Mesh, service: Service, refused: None) -> None:
    with pytest.raises(OSError):
        talk(mesh.beta.mesh, fake.client_context(None, None, HTTP), server_name(service.name))


def test_another_authority(mesh: Mesh, service: Service, refused: None, tmp_path: Path) -> None:
    certificates(tmp_path / "other", "alpha", CALLER)
    context = fake.client_context(tmp_path / "other" / f"{CALLER}.pem", tmp_path / "other" / f"{CALLER}.key", HTTP)
    with pytest.raises(OSError):
        talk(mesh.beta.mesh, context, server_name(service.name))


@pytest.mark.parametrize(
    "name",
    [
        "plain-http.dc1.mesh.test",  # a service of the mesh, not on this host
        "nobody.dc1.mesh.test",
        "mutual-http.dc2.mesh.test",
        "mutual-http.dc1.evil.test",
        "mutual-http",
        "mutual-http.dc1.mesh.test.evil.test",
        "x.mutual-http.dc1.mesh.test",
        None,
    ],
)
def test_wrong_server_names(mesh: Mesh, service: Service, refused: None, name: str | None) -> None:
    with pytest.raises(OSError):
        talk(mesh.beta.mesh, fake.client_context(*caller_files(mesh), HTTP), name)


@pytest.mark.parametrize("protocols", [[], ["h2"], ["http/1.0"], ["hostproxy-tcp"], ["spdy/3"]])
def test_wrong_protocols(mesh: Mesh, service: Service, protocols: list[str]) -> None:
    """An HTTP service takes what it speaks, and nothing in its place: no bytes past the codec."""
    with contextlib.suppress(OSError):
        answer = talk(mesh.beta.mesh, fake.client_context(*caller_files(mesh), protocols), server_name(service.name))
        assert b" 200 " not in answer
    assert service.origin.requests == []
    assert not [c for c in service.origin.connections if c.raw]


def test_old_tls(mesh: Mesh, service: Service, refused: None) -> None:
    context = fake.client_context(*caller_files(mesh), HTTP)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        talk(mesh.beta.mesh, context, server_name(service.name))


def test_plain_http(mesh: Mesh, service: Service, refused: None) -> None:
    with connect(mesh.beta.mesh) as sock:
        outcome = converse(sock, get(), until_end=True)
    assert outcome.responses == []
    assert outcome.ended in ("end", "reset")


def test_nothing_at_all_costs_no_worker(mesh: Mesh, service: Service) -> None:
    idle = [connect(mesh.beta.mesh) for _ in range(50)]
    try:
        asked = Stopwatch()
        assert fetch(service.address).statuses == [200]
        assert asked.seconds < 1
    finally:
        for sock in idle:
            sock.close()


def test_no_session_is_resumed(mesh: Mesh, service: Service) -> None:
    context = fake.client_context(*caller_files(mesh), HTTP)
    session = None
    for _ in range(2):
        with connect(mesh.beta.mesh) as sock:
            tls = context.wrap_socket(sock, server_hostname=server_name(service.name), session=session)
            tls.sendall(get(b"/", b"Connection: close"))
            while tls.recv(4096):
                pass
            assert not tls.session_reused
            session = tls.session
            assert session is None or not session.has_ticket
            tls.close()


def test_openssl_s_client(mesh: Mesh, service: Service) -> None:
    """The handshake as another tool sees it."""
    command = [
        needs.program("openssl"),
        "s_client",
        "-connect",
        mesh.beta.mesh,
        "-servername",
        server_name(service.name),
    ]
    command += [
        "-alpn",
        "http/1.1",
        "-CAfile",
        str(mesh.certificates[ALPHA] / "ca.pem"),
        "-verify_return_error",
    ]
    certificate, key = caller_files(mesh)
    request = get(b"/openssl", b"Connection: close")
    done = subprocess.run(
        [*command, "-quiet", "-cert", str(certificate), "-key", str(key)],
        input=request,
        capture_output=True,
        timeout=10,
        check=False,
    )
    assert done.stdout.startswith(b"HTTP/1.1 200 "), done.stderr
    done = subprocess.run([*command, "-quiet"], input=request, capture_output=True, timeout=10, check=False)
    assert b"HTTP/1.1" not in done.stdout
    assert b"certificate required" in done.stderr or done.returncode != 0
    done = subprocess.run(
        [*command, "-tls1_2", "-cert", str(certificate), "-key", str(key)],
        input=request,
        capture_output=True,
        timeout=10,
        check=False,
    )
    assert done.returncode != 0
    assert [r.target for r in service.origin.requests] == [b"/openssl"]


class FakePeer:
    """Something that listens where the catalog says a mesh port is."""

    def __init__(self, context: ssl.SSLContext | None, first: bytes = b"") -> None:
        self.received: list[bytes] = []
        self.first = first
        self.context = context
        self.origin = Origin(handle=self._handle)

    def _handle(self, connection: Connection) -> None:
        sock: socket.socket = connection.sock
        if self.first:
            sock.sendall(self.first)
        if self.context is not None:
            sock = self.context.wrap_socket(sock, server_side=True)
            connection.sock = sock
        while data := sock.recv(4096):
            self.received.append(data)
            if b"\r\n\r\n" in data:
                sock.sendall(reply(b"from the wrong peer"))


def wrong_servers(service: str) -> dict[str, fake.Wanted]:
    """Certificates that the server of ``service`` may not have."""
    good = fake.Wanted((f"spiffe://{TRUST_DOMAIN}/service/{service}",))
    return fake.faulty(TRUST_DOMAIN, service) | {
        "another-service": fake.Wanted((f"spiffe://{TRUST_DOMAIN}/service/other",)),
        "a-host": fake.Wanted((f"spiffe://{TRUST_DOMAIN}/host/{service}",)),
        "the-caller-itself": fake.Wanted((f"spiffe://{TRUST_DOMAIN}/service/{CALLER}",)),
        "only-for-clients": fake.Wanted(good.uris, purposes=(fake.CLIENT,)),
    }


def wrong_peers(mesh: Mesh, directory: Path) -> dict[str, FakePeer]:
    """Servers that are none of the service named as the key."""
    authority = mesh.certificates[ALPHA]

    def files(service: str, wanted: fake.Wanted) -> tuple[Path, Path]:
        return fake.issue(authority, directory, service, wanted)

    def good(service: str) -> tuple[Path, Path]:
        return files(service, fake.Wanted((f"spiffe://{TRUST_DOMAIN}/service/{service}",)))

    peers = {
        name: FakePeer(fake.server_context(*files(name, wrong_servers(name)[name]), HTTP))
        for name in wrong_servers("x")
    }
    name = "another-authority"
    certificates(directory / "other", "beta", name)
    peers[name] = FakePeer(
        fake.server_context(directory / "other" / f"{name}.pem", directory / "other" / f"{name}.key", HTTP)
    )
    peers["no-protocol"] = FakePeer(fake.server_context(*good("no-protocol"), []))
    peers["another-protocol"] = FakePeer(fake.server_context(*good("another-protocol"), ["h2"]))
    old = fake.server_context(*good("old-tls"), HTTP)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    peers["old-tls"] = FakePeer(old)
    peers["no-tls"] = FakePeer(None)
    clear = fake.server_context(*good("clear-text-before-tls"), HTTP)
    peers["clear-text-before-tls"] = FakePeer(clear, b"HTTP/1.1 200 OK\r\n\r\n")
    return peers


def test_wrong_servers_get_no_request(mesh: Mesh, tmp_path: Path) -> None:
    """A service for each faulty server: another service, another authority, no name, no TLS at all."""
    peers = wrong_peers(mesh, tmp_path)
    host, _ = single(tmp_path / "host", mesh.certificates[ALPHA], [], limits={"handshake": "500ms"})
    addresses = {}
    for name, peer in peers.items():
        addresses[name] = host.add_upstream(name)
        where = peer.origin.address
        host.catalog.append({"service": name, "host": "beta", "address": where, "mesh": where})
    host.write()
    try:
        with host:
            host.start().wait_ready()
            for name, peer in peers.items():
                outcome = fetch(addresses[name], "/secret")
                assert peer.origin.accepted, name
                assert outcome.statuses in ([502], [503]), (name, outcome)
                assert not any(b"secret" in data for data in peer.received), name
    finally:
        for peer in peers.values():
            peer.origin.stop()


def test_a_response_cut_off_without_close_notify_is_not_whole(mesh: Mesh) -> None:
    """fi-t12: only TLS can say that an end was meant; TCP can be cut by anybody on the way."""
    bent = mesh.services["bent-0"]
    fresh(bent.origin)

    def handle(connection: Connection) -> None:
        read_head(connection.sock)
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nhello")
        connection.sock.shutdown(socket.SHUT_RDWR)  # of TCP: no close_notify

    bent.origin.handle = handle
    outcome = fetch(bent.address)
    bent.origin.handle = None
    assert outcome.responses == []
    assert outcome.ended in ("end", "reset")


def test_bytes_cut_off_without_close_notify_end_in_a_reset(mesh: Mesh) -> None:
    tcp = mesh.services["mutual-tcp"]
    fresh(tcp.origin)
    ends: list[str] = []
    done = threading.Event()

    def handle(connection: Connection) -> None:
        try:
            while connection.sock.recv(100):
                pass
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")
        done.set()

    tcp.origin.handle = handle
    context = fake.client_context(*caller_files(mesh), ["hostproxy-tcp"])
    with connect(mesh.beta.mesh) as sock, context.wrap_socket(sock, server_hostname=server_name(tcp.name)) as tls:
        tls.sendall(b"only the beginn")
        tcp.origin.wait_for_connections(1)
        tls.shutdown(socket.SHUT_WR)
        assert done.wait(5)
    assert ends == ["reset"]


def test_permissive_is_asked_for(mesh: Mesh, tmp_path: Path) -> None:
    """No hostproxy there and no permission: refused with the reason, not sent in plain text."""
    with Origin() as origin:
        host, address = single(tmp_path, mesh.certificates[ALPHA], [origin])
        host.policy["service"]["web"]["permissive"] = False
        host.write()
        with host.start().wait_ready():
            outcome = fetch(address)
            assert outcome.statuses in ([502], [503])
            assert b"permissive" in outcome.responses[0].body
            assert origin.connections == []


def test_keys_are_on_no_disk_and_in_no_answer(mesh: Mesh) -> None:
    secret = [
        line
        for path in mesh.certificates[BETA].glob("*.key")
        for line in path.read_text().splitlines()
        if line and not line.startswith("-")
    ]
    for path in ("/config", "/snapshot", "/workers", "/catalog", "/status"):
        body = mesh.beta.ask(path)[1].decode()
        assert not any(line in body for line in secret), path
    output = mesh.beta.output()
    assert not any(line in output for line in secret)
    for file in mesh.beta.directory.rglob("*"):
        if file.is_file():
            assert not any(line in file.read_text(errors="replace") for line in secret), file
