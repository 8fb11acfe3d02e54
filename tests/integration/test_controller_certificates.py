"""Certificates that live for a minute: renewed, under another root, without a controller, and after their end."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
from cryptography import x509

from hostproxy.steering import certificates
from hostproxy.steering.certificates import Wrong
from tests.fakes.client import connect
from tests.integration.consul_hosts import upstream
from tests.integration.controller_site import OPEN, Refused, Site, site, status, within
from tests.integration.host import TRUST_DOMAIN, Host
from tests.integration.load import Load
from tests.stopwatch import Stopwatch

LIFE = 60.0  # seconds; the least that a controller gives
SETTINGS = {"authority": {"leaf_life": f"{LIFE:g}s"}}
POLICY = {"mesh.toml": OPEN["mesh.toml"] + '[service.s2-tcp]\nprotocol = "tcp"\n'}


@pytest.fixture(scope="module")
def abandoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Abandoned]:
    """A mesh whose controller has ended as soon as all had joined. Made first: its certificates take their time."""
    with site(tmp_path_factory.mktemp("abandoned"), **SETTINGS) as made:
        first = made.host(upstream_idle="100ms")
        first.add_upstream("s2")
        first.add_upstream("s2-tcp", caller="s1")
        made.host("s2", "s2-tcp")
        made.controller.apply(POLICY)
        made.join()
        made.controller.stop()
        with Abandoned(made) as seen:
            yield seen


@pytest.fixture(scope="module")
def mesh(abandoned: Abandoned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two hosts that say every second how they are; a call from the first to the second is a handshake."""
    with site(tmp_path_factory.mktemp("certificates"), **SETTINGS) as made:
        first = made.host("s1", "s3", interval="1s", upstream_idle="100ms")
        first.add_upstream("s2")
        first.add_upstream("s2-tcp", caller="s1")
        made.controller.withdraw("s3", "h1")
        made.host("s2", "s2-tcp", interval="1s")
        made.controller.apply(POLICY)
        made.join()
        yield made


def chain(host: Host, name: str) -> list[x509.Certificate]:
    """A certificate on the disk of a host with what is above it."""
    return x509.load_pem_x509_certificates((host.directory / "state" / "identity" / f"{name}.pem").read_bytes())


def in_use(host: Host) -> bool:
    """Whether the workers have what is on the disk of a host, which comes first."""
    known = host.ask_json("/status")["certificates"]["identities"]
    version = host.ask_json("/snapshot")["snapshot"]["version"]
    return all(
        each["not_before"] == chain(host, each["name"])[0].not_valid_before_utc.timestamp() for each in known
    ) and all(worker["snapshot"] == version for worker in host.ask_json("/workers")["workers"])


def verifies(found: list[x509.Certificate], root: x509.Certificate) -> bool:
    """Whether a certificate is under this root alone."""
    try:
        certificates.verify(found, [root], time.time())
    except Wrong:
        return False
    return True


class Tunnel:
    """A TCP connection to the echo of a service."""

    def __init__(self, host: Host) -> None:
        self._address = upstream(host, 1)
        within(10, self._opened)  # after a denial the endpoint rests for a second

    def _opened(self) -> bool:
        self.sock = self._connect()
        self.sock.settimeout(5)
        return self.echoes()

    def _connect(self) -> socket.socket:
        return connect(self._address)

    def echoes(self) -> bool:
        """Whether it is still open."""
        try:
            self.sock.sendall(b"hello")
            if self.sock.recv(10) == b"hello":
                return True
        except OSError:
            pass
        self.sock.close()
        return False

    def end(self, seconds: float) -> None:
        """Wait for its end."""
        self.sock.settimeout(seconds)
        try:
            assert self.sock.recv(10) == b""
        except ConnectionResetError:
            pass
        self.sock.close()


class Stranger(Tunnel):
    """The same from the certificate of a host's service, without its hostproxy: nobody but the callee's may cut it."""

    def __init__(self, caller: Host, callee: Host) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._context.load_cert_chain(caller.directory / "state" / "identity" / "s1.pem")
        self._context.set_alpn_protocols(["hostproxy-tcp"])
        self._mesh = callee.mesh
        super().__init__(caller)

    def _connect(self) -> socket.socket:
        return self._context.wrap_socket(connect(self._mesh), server_hostname=f"s2-tcp.dc1.{TRUST_DOMAIN}")


class Abandoned:
    """Calls from the first host to the second, twice a second: the other tests may take longer than certificates live.

    ``calls`` are when each was over, its status, and what the first host then said of itself.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.calls: list[tuple[float, int, str]] = []
        self.tunnel = Tunnel(next(iter(site.hosts.values())))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        host = next(iter(self.site.hosts.values()))
        while not self._stop.wait(0.5):
            found, over = status(host, "s2"), time.time()
            self.calls.append((over, found, str(host.ask_json("/status")["degraded"])))

    def __enter__(self) -> Abandoned:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end_calls()
        self.tunnel.sock.close()

    def end_calls(self) -> None:
        """Call no more."""
        self._stop.set()
        self._thread.join(10)


def test_all_is_renewed_under_another_root_and_no_handshake_fails(mesh: Site) -> None:
    controller, (h1, h2) = mesh.controller, mesh.hosts.values()
    names = ((h1, "host"), (h1, "s1"), (h2, "host"), (h2, "s2"), (h2, "s2-tcp"))
    old, stranger = Tunnel(h1), Stranger(h1, h2)
    before = {(host.name, name): chain(host, name)[0] for host, name in names}
    with Load(upstream(h1), clients=3, pause=0.12) as load:
        controller.post("/v1/authority/roots")
        within(3, lambda: controller.get("/v1/authority")["behind"] == [])
        controller.post("/v1/authority/roots/2/use")
        controller.assign("s3", "h1")
        with pytest.raises(Refused, match="certificates under it may be in use"):
            controller.ask("DELETE", "/v1/authority/roots/1")
        root = x509.load_pem_x509_certificate((controller.directory / "authority" / "root-2.pem").read_bytes())
        assert not any(verifies(chain(host, name), root) for host, name in names)
        within(LIFE / 2 + 5, lambda: all(verifies(chain(host, name), root) for host, name in names))
        for (host, name), certificate in zip(names, before.values(), strict=True):
            renewed = chain(host, name)[0]
            assert renewed.public_key() != certificate.public_key()
            assert renewed.not_valid_before_utc > certificate.not_valid_before_utc
        within(5, lambda: (h1.directory / "state" / "identity" / "s3.pem").exists())
        within(5, lambda: in_use(h1) and in_use(h2))
        new = Tunnel(h1)
        assert old.echoes()
        # Who hears of it first cuts the connections between them; for the other they have just ended. So each has one
        # that it alone can cut: h2 hears nothing until h1 has cut the tunnel, and the stranger has no hostproxy.
        assert h2.process is not None
        h2.process.send_signal(signal.SIGSTOP)
        try:
            dropped = controller.ask("DELETE", "/v1/authority/roots/1?force=true")
            assert [each["number"] for each in dropped["roots"]] == [2]
            old.end(5)
            assert new.echoes()
            assert stranger.echoes()
        finally:
            h2.process.send_signal(signal.SIGCONT)
        stranger.end(5)
        within(3, lambda: controller.get("/v1/authority")["behind"] == [])
        assert new.echoes()
        load.more(60)
        within(30, lambda: h2.metric("tls_handshakes_total", 'side="server"', 'result="ok"') > 50)
    assert load.failures == []
    assert new.echoes()
    new.sock.close()
    for host in (h1, h2):
        within(5, lambda host=host: host.metric("connections_cut_total", 'reason="untrusted"') >= 1)
        failed = {key: value for key, value in host.metrics().items() if "tls_handshakes_total" in key and value}
        assert all('result="ok"' in key for key in failed), failed


@pytest.mark.parametrize("denied", ["hosts/h1", "hosts/h2", "services/s1", "services/s2-tcp"])
def test_who_is_denied_is_cut_off_whoever_called(mesh: Site, denied: str) -> None:
    controller, (h1, _) = mesh.controller, mesh.hosts.values()
    within(10, lambda: status(h1, "s2") == 200)
    tunnel = Tunnel(h1)
    controller.post(f"/v1/{denied}/deny")
    tunnel.end(5)
    controller.post(f"/v1/{denied}/allow")
    within(10, lambda: status(h1, "s2") == 200)


def test_without_a_controller_everything_goes_on_also_after_a_restart(mesh: Site) -> None:
    controller, (h1, h2) = mesh.controller, mesh.hosts.values()
    with Load(upstream(h1)) as load:
        assert controller.stop() == 0
        load.more(100)
    assert load.failures == []
    assert h2.stop() == 0
    shutil.rmtree(h2.directory / "run")
    (h2.directory / "run").mkdir()
    (h2.directory / "token").unlink()
    starting = Stopwatch()
    h2.start().wait_ready()
    assert starting.seconds < 4  # 2 s on a machine that has nothing else to do
    assert status(h1, "s2") == 200
    within(3, lambda: "connection refused" in str(h2.ask_json("/status")["degraded"]))


def test_an_expired_certificate_is_refused_and_the_host_says_so(abandoned: Abandoned) -> None:
    h1, h2 = abandoned.site.hosts.values()
    ends = min(chain(host, name)[0].not_valid_after_utc.timestamp() for host, name in ((h1, "s1"), (h2, "s2")))
    time.sleep(max(0.0, ends - time.time()))
    before = [(found, said) for over, found, said in abandoned.calls if over < ends - 0.5]
    assert {found for found, _ in before} == {200}
    assert any("it ends at" in said for _, said in before), "it is told from half of their life on"
    # Connections that are open stay so; no other one is made. Unused ones end after 100 ms, and a tick of 250 ms.
    abandoned.end_calls()
    within(5, lambda: time.sleep(0.4) or status(h1, "s2") in (502, 503))
    within(3, lambda: "it has expired" in str(h1.ask_json("/status")["degraded"]))
    assert "join again" in str(h1.ask_json("/status")["degraded"])
    assert abandoned.tunnel.echoes()
    abandoned.site.controller.start()
    for host in (h1, h2):
        abandoned.site.token(host, reenrol=True)
    within(10, lambda: status(h1, "s2") == 200)
