"""Roots that are taken away under open connections, key files that do not fit, and clocks that are wrong."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes import certificates as fake
from tests.fakes.cases import get
from tests.fakes.client import connect, converse
from tests.fakes.origin import Answer, Origin, reply
from tests.integration import faults, needs
from tests.integration.controller_site import OPEN, Site, echo, site, status, within
from tests.integration.host import TRUST_DOMAIN, Host, certificates, fetch, replace
from tests.integration.load import Load


class Roots:
    """Two hosts under a root each: alpha, which calls, under the first, and beta under the second."""

    def __init__(self, directory: Path) -> None:
        self.pki = {name: directory / f"{name}.pki" for name in ("alpha", "beta")}
        certificates(self.pki["alpha"], "alpha", "cart")
        certificates(self.pki["beta"], "beta", "web", "web-tcp")
        self.roots = {name: (path / "ca.pem").read_text() for name, path in self.pki.items()}
        self.alpha = Host(directory / "alpha", "alpha", certificates=self.pki["alpha"], address="127.0.5.1")
        self.beta = Host(directory / "beta", "beta", certificates=self.pki["beta"], address="127.0.5.2")
        self.web, self.tcp = Origin(lambda *_: Answer(reply())), Origin(handle=echo)
        self.alpha.conf["service"].append({"name": "cart", "instances": []})
        self.address = self.alpha.add_upstream("web", caller="cart")
        self.tcp_address = self.alpha.add_upstream("web-tcp", caller="cart")
        for name, origin in (("web", self.web), ("web-tcp", self.tcp)):
            protocol = "tcp" if name == "web-tcp" else "http"
            self.beta.conf["service"].append({"name": name, "instances": [origin.address], "protocol": protocol})
            instance = {"service": name, "host": "beta", "address": origin.address, "mesh": self.beta.mesh}
            self.alpha.catalog.append(instance)
            self.alpha.policy["service"][name] = {"protocol": protocol}
        for host in (self.alpha, self.beta):
            host.conf["identity"]["files"]["ca"] = str(host.directory / "roots.pem")
            self.trust(host, "alpha", "beta")
            host.write()
            host.start()
        for host in (self.alpha, self.beta):
            host.wait_ready()

    def trust(self, host: Host, *names: str) -> None:
        replace(host.directory / "roots.pem", "".join(self.roots[name] for name in names))

    def trusted(self, host: Host, *names: str) -> None:
        """Trust these, and wait until the host has taken that."""
        news = host.output().count("news is taken")
        self.trust(host, *names)
        within(10, lambda: host.output().count("news is taken") > news)

    def peer(self, whose: str, name: str) -> ssl.SSLSocket:
        """Straight to beta's mesh port, with a certificate of alpha or beta."""
        context = fake.client_context(*(self.pki[whose] / f"{name}.{end}" for end in ("pem", "key")), ["http/1.1"])
        return context.wrap_socket(connect(self.beta.mesh), server_hostname=f"web.dc1.{TRUST_DOMAIN}")

    def stop(self) -> None:
        self.alpha.stop()
        self.beta.stop()
        self.web.stop()
        self.tcp.stop()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roots]:
    made = Roots(tmp_path_factory.mktemp("roots"))
    yield made
    made.stop()


@pytest.fixture
def both(hosts: Roots) -> Iterator[Roots]:
    """Both hosts trust both roots, before and after."""
    yield hosts
    for host in (hosts.alpha, hosts.beta):
        hosts.trust(host, "alpha", "beta")
    # The endpoint rests for some seconds after handshakes that failed.
    within(20, lambda: time.sleep(0.1) or fetch(hosts.address).statuses == [200])
    hosts.web.forget()


def ended(sock: socket.socket) -> bool:
    sock.settimeout(10)
    try:
        return sock.recv(10) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(("side", "left"), [("beta", "beta"), ("alpha", "alpha")])
def test_a_root_that_is_taken_away_ends_what_is_under_it(both: Roots, side: str, left: str) -> None:
    host = getattr(both, side)
    before = host.metric("connections_cut_total", 'reason="untrusted"')
    both.web.respond = lambda *_: Answer(reply(), wait=2.0)
    with connect(both.tcp_address) as tunnel, connect(both.address) as slow, closing(both.peer("beta", "web")) as stays:
        tunnel.sendall(b"hello")
        assert tunnel.recv(10) == b"hello"
        slow.sendall(get(b"/slow"))
        both.web.wait_for_requests(1)
        both.trust(host, left)
        assert ended(tunnel)
        both.web.respond = lambda *_: Answer(reply())
        slow.settimeout(10)
        assert slow.recv(4096).startswith(b"HTTP/1.1 200 "), "a response under way is the last one"
        if side == "beta":
            assert converse(stays, get(b"/stays")).statuses == [200], "it is under the root that is left"
        within(5, lambda: host.metric("connections_cut_total", 'reason="untrusted"') >= before + 2)
        assert fetch(both.address).statuses[0] in (502, 503)


def test_it_ends_in_a_worker_that_is_leaving_as_well(both: Roots) -> None:
    with connect(both.tcp_address) as tunnel:
        tunnel.sendall(b"hello")
        assert tunnel.recv(10) == b"hello"
        (old,) = both.beta.workers()
        os.kill(old, signal.SIGTERM)
        within(10, lambda: len(both.beta.workers()) == 2 and fetch(both.address).statuses == [200])
        tunnel.sendall(b"still")
        assert tunnel.recv(10) == b"still"
        both.trust(both.beta, "beta")
        assert ended(tunnel)
    within(10, lambda: old not in both.beta.workers())


def test_an_unused_connection_under_it_is_closed_and_no_session_is_resumed(both: Roots, tmp_path: Path) -> None:
    cart = both.pki["alpha"] / "cart"
    line = [needs.program("openssl"), "s_client", "-connect", both.beta.mesh, "-servername", f"web.dc1.{TRUST_DOMAIN}"]
    line += ["-cert", f"{cart}.pem", "-key", f"{cart}.key", "-alpn", "http/1.1", "-quiet"]
    session = tmp_path / "session"

    def client(*more: str) -> subprocess.CompletedProcess[bytes]:
        request = get(b"/session", b"Connection: close")
        return subprocess.run([*line, *more], input=request, capture_output=True, timeout=20, check=False)

    assert client("-sess_out", str(session)).stdout.startswith(b"HTTP/1.1 200 ")
    with closing(both.peer("alpha", "cart")) as idle:
        assert converse(idle, get(b"/idle")).statuses == [200]
        both.trusted(both.beta, "beta")
        assert ended(idle)
    more = ("-sess_in", str(session)) if session.exists() else ()
    assert client(*more).stdout == b""


def test_a_key_that_does_not_fit_changes_nothing_and_is_told(both: Roots) -> None:
    key = both.pki["alpha"] / "cart.key"
    good = key.read_bytes()
    with Load(both.address) as load:
        for spoil in ("other", "half", "gone", "open", "loop"):
            key.unlink(missing_ok=True)
            match spoil:
                case "other":
                    key.touch(0o600)
                    key.write_bytes((both.pki["alpha"] / "host.key").read_bytes())
                case "half":
                    key.touch(0o600)
                    key.write_bytes(good[: len(good) // 2])
                case "open":
                    key.touch(0o644)
                    key.write_bytes(good)
                    key.chmod(0o644)
                case "loop":
                    key.symlink_to(key)
            within(5, lambda: "cart.key" in str(both.alpha.ask_json("/status")["degraded"]), spoil)
            load.more(20)
        key.unlink()
        key.touch(0o600)
        key.write_bytes(good)
        within(5, lambda: "cart.key" not in str(both.alpha.ask_json("/status")["degraded"]))
        # A directory that a tool swaps as a whole, as kubelet and certbot do.
        directory = both.pki["alpha"]
        moved = directory.rename(directory.with_name("moved"))
        directory.symlink_to(moved)
        load.more(50)
        directory.unlink()
        moved.rename(directory)
    assert load.failures == []


# Clocks


def library() -> str:
    """What lets a process see another time."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        needs.missing("libfaketime is not installed (apt install faketime)")
    return str(found[0])


def shifted(shift: str = "", file: Path | None = None) -> tuple[str, ...]:
    """The command in front of a program whose wall clock is wrong; its monotonic clock is not."""
    settings = ["LD_PRELOAD=" + library(), "FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_NO_CACHE=1"]
    settings.append(f"FAKETIME_TIMESTAMP_FILE={file}" if file else f"FAKETIME={shift}")
    return ("env", *settings)


def begin(made: Site, host: Host, *wrapper: str) -> Host:
    """Give a host a token, and start it with a clock of its own."""
    made.token(host)
    host.write_conf()
    return host.start(*wrapper)


def skew(host: Host) -> float:
    """How far its clock is ahead of the controller's, as its metrics have it."""
    return host.metrics()['hostproxy_clock_skew_seconds{peer="controller"}']


@pytest.fixture(scope="module")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A controller with the right time, a host that is five minutes behind, one ahead, and two that are a day off."""
    library()
    with site(tmp_path_factory.mktemp("clocks")) as made:
        for _ in range(5):
            made.host(interval="1s", upstream_idle="100ms")
        h1, h2, h3, h4, h5 = made.hosts.values()
        h1.add_upstream("s2")
        h3.add_upstream("s2")
        h1.add_upstream("s3")
        made.controller.apply(OPEN)
        made.catalog()
        begin(made, h1, *shifted("-5m"))
        begin(made, h2, *shifted("+5m"))
        begin(made, h4, *shifted("+1d"))
        begin(made, h5, *shifted("-1d"))
        file = h3.directory / "clock"
        file.write_text("+0\n")
        begin(made, h3, *shifted(file=file))
        for host in (h1, h2, h3):
            host.wait_ready()
        yield made


def test_five_minutes_do_no_harm(clocks: Site) -> None:
    h1, h2, *_ = clocks.hosts.values()
    within(5, lambda: status(h1, "s2") == status(h2, "s1") == 200)

    def renewed() -> bool:
        time.sleep(0.5)  # connections that nothing uses end
        assert status(h1, "s2") == status(h2, "s1") == 200
        return all(host.metric("tls_handshakes_total", 'result="ok"') >= 3 for host in (h1, h2))

    within(20, renewed)
    for host in (h1, h2):
        assert host.metric("tls_handshakes_total", 'result="failed"') == 0
        assert host.metric("tls_handshakes_total", 'result="refused"') == 0
        way = "behind" if host is h1 else "ahead of"
        text = f"clock: this host's is 5 min {way} that of controller (clock skew); set the one that is wrong"
        assert host.ask_json("/status")["degraded"] == [text]
        assert skew(host) == pytest.approx(-300.0 if host is h1 else 300.0, abs=3.0)


@pytest.mark.parametrize(
    ("name", "shift", "says", "least"),
    [
        # Certificates last for 12 hours, and are valid from ten minutes before they were made.
        ("h4", "+1d", "it was not renewed, or this host's clock is at least 12 h ahead (clock skew): set it", 43200.0),
        ("h5", "-1d", ": this host's clock is at least 23 h behind (clock skew): set it", 600.0 - 86400.0),
    ],
)
def test_a_day_keeps_a_host_out_and_it_says_that_a_clock_is_wrong(
    clocks: Site, name: str, shift: str, says: str, least: float
) -> None:
    host = clocks.hosts[name]
    within(10, lambda: says in str(host.ask_json("/status")["degraded"]))
    assert "clock: this host's is at least " in str(host.ask_json("/status")["degraded"])
    assert skew(host) == pytest.approx(least, abs=300.0)
    assert says in host.output()
    with pytest.raises(OSError), connect(host.mesh):
        pass
    doctor = [*shifted(shift), sys.executable, "-m", "hostproxy", "doctor", "-c", str(host.directory / "conf.toml")]
    examined = subprocess.run([*doctor, "--group", "clock"], capture_output=True, text=True, timeout=30, check=False)
    way = "ahead of" if name == "h4" else "behind"
    assert re.search(rf"controller .*ours is at least \d\d h {way} that of controller \(clock skew\)", examined.stdout)
    host.stop()
    host.start().wait_ready()
    assert skew(host) == 0.0
    assert host.ask_json("/status")["degraded"] == []


def test_a_clock_that_steps_ends_nothing_and_renews_in_peace(clocks: Site) -> None:
    h3 = clocks.hosts["h3"]
    file = h3.directory / "clock"
    with Load(str(h3.conf["outbound"]["upstream"][0]["listen"]), clients=1, pause=0.01) as load:
        for shift in ("+300", "-300", "+0", "-200", "+100"):
            file.write_text(f"{shift}\n")
            load.more(40)
        file.write_text("+0\n")
        load.more(20)
    assert load.failures == []
    asked = [line for line in clocks.controller.audit() if line["act"] == "certificate.issue" and "h3" in str(line)]
    assert len(asked) <= 4, "it asks for certificates again and again"
    assert h3.metric("tls_handshakes_total", 'result="failed"') == 0
    assert h3.metric("process_restarts_total") == 0


@pytest.mark.parametrize("shift", [86400, -86400])
def test_a_day_between_two_hosts_lets_nothing_pass(clocks: Site, shift: int) -> None:
    h1, _, h3, *_ = clocks.hosts.values()
    file = h3.directory / "clock"
    within(10, lambda: status(h1, "s3") == status(h3, "s2") == 200)
    file.write_text(f"{shift:+}\n")
    # Connections that were made before serve on; they end when nothing uses them.
    within(10, lambda: time.sleep(0.3) or {status(h3, "s2"), status(h1, "s3")} <= {502, 503})
    reached = {name: len(clocks.origins[name].requests) for name in ("s2", "s3")}
    for _ in range(3):
        assert {status(h3, "s2"), status(h1, "s3")} <= {502, 503}
    assert {name: len(clocks.origins[name].requests) for name in ("s2", "s3")} == reached
    within(5, lambda: abs(skew(h3) - shift) < 3.0)
    problems = str(h3.ask_json("/status")["degraded"])
    assert f"24 h {'ahead of' if shift > 0 else 'behind'} that of controller (clock skew)" in problems
    assert re.search(r"TLS handshake with s2\S+ at \S+ failed: (expired|not-yet-valid); .*\(clock skew\)", h3.output())
    file.write_text("+0\n")
    within(20, lambda: status(h1, "s3") == status(h3, "s2") == 200)
    within(10, lambda: h3.ask_json("/status")["degraded"] == [] and skew(h3) == 0.0)


def test_the_controller_may_be_away_and_policy_may_come_fast(tmp_path: Path) -> None:
    made = faults.pair(tmp_path, 600.0)
    try:
        faults.policy_storm(made, 2.0, 0.05)
        faults.controller_away(made, 1.0, 600.0)
    finally:
        made.close()
