"""``hostproxy doctor`` on real hosts: all is well, and each fault turns the check that is about it, and no other."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hostproxy.cli import doctor
from tests.fakes import certificates as fake
from tests.fakes.origin import Answer, Origin, reply
from tests.integration import consul_hosts, controller_site, needs
from tests.integration.consul_hosts import command, within
from tests.integration.host import TRUST_DOMAIN, Host, certificates, free_port

ALPHA, BETA = "127.0.1.21", "127.0.1.22"

# What depends on the machine that the tests run on, and on nothing that hostproxy does.
MACHINE = {
    ("kernel", "descriptors"),
    ("kernel", "backlog"),
    ("kernel", "local ports"),
    ("kernel", "conntrack"),
    ("kernel", "systemd"),
    ("clock", "synchronised"),
}


def findings(host: Host, *groups: str) -> dict[tuple[str, str], str]:
    """Every check and the worst of its results."""
    order = ("skip", "ok", "warn", "FAIL")
    worst: dict[tuple[str, str], str] = {}
    for each in doctor.examine(str(host.directory / "conf.toml"), 20.0, groups or None):
        key = each.group, each.check
        worst[key] = max(worst.get(key, "skip"), each.result, key=order.index)
    return worst


def bad(found: dict[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """Those that are not well, but for what is the machine's."""
    return {key: result for key, result in found.items() if result in ("warn", "FAIL") and key not in MACHINE}


def text(host: Host, group: str, check: str) -> str:
    """What was found, and the advice, of a check that is not well."""
    every = doctor.examine(str(host.directory / "conf.toml"), 20.0, [group])
    return "\n".join(f"{each.found} -> {each.fix}" for each in every if each.check == check and each.fix)


class Pair:
    """cart on alpha calls web on beta."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.origin = Origin()
        self.origin.respond = lambda request, connection: Answer(reply())
        certificates(directory / "alpha.pki", "alpha", "cart")
        certificates(directory / "beta.pki", "beta", "web", authority=directory / "alpha.pki")
        self.alpha = Host(directory / "alpha", "alpha", certificates=directory / "alpha.pki", address=ALPHA)
        self.beta = Host(directory / "beta", "beta", certificates=directory / "beta.pki", address=BETA)
        self.alpha.conf["service"].append({"name": "cart"})
        self.alpha.add_upstream("web")
        self.beta.conf["service"].append({"name": "web", "instances": [self.origin.address]})
        # Where an app could call around the proxy.
        self.direct = f"{BETA}:{free_port(BETA)}"
        for host in (self.alpha, self.beta):
            host.catalog.append({"service": "web", "host": "beta", "address": self.direct, "mesh": self.beta.mesh})
            host.write()

    def start(self) -> Pair:
        for host in (self.alpha, self.beta):
            host.start()
        for host in (self.alpha, self.beta):
            host.wait_ready()
        return self

    def stop(self) -> None:
        self.alpha.stop()
        self.beta.stop()
        self.origin.stop()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("doctor"))
    try:
        yield made.start()
    finally:
        made.stop()


@contextlib.contextmanager
def changed(host: Host) -> Iterator[None]:
    """Another conf.toml, that the daemon does not know of."""
    before = json.dumps(host.conf)
    try:
        yield
    finally:
        host.conf = json.loads(before)
        host.write_conf()


def test_all_is_well(pair: Pair) -> None:
    for host in (pair.alpha, pair.beta):
        found = findings(host)
        assert bad(found) == {}
        assert found["peers", "mesh ports"] == found["certificates", "files"] == found["ports", "listeners"] == "ok"
        assert found["bypasses", "instances"] == found["bypasses", "calls"] == found["daemon", "ready"] == "ok"


def test_the_command(pair: Pair) -> None:
    status, printed = command(pair.alpha, "doctor", "--group", "daemon", "--group", "peers")
    assert status == 0
    assert "  ok    ready" in printed
    assert "mutual TLS with 1 of 1" in printed
    assert "\nconfiguration\n" not in printed
    status, printed = command(pair.alpha, "doctor", "-o", "json", "--group", "peers")
    document = json.loads(printed)
    assert (status, document["ok"], document["counts"]["FAIL"]) == (0, True, 0)
    assert set(document["findings"][0]) == {"group", "check", "result", "found", "fix", "see"}


def test_an_instance_that_others_reach(pair: Pair) -> None:
    with changed(pair.beta), socket.create_server(("0.0.0.0", 0)) as server:
        pair.beta.conf["service"][0]["instances"] = [f"127.0.0.1:{server.getsockname()[1]}"]
        pair.beta.write_conf()
        # The daemon does not know of this file, which is another finding.
        assert bad(findings(pair.beta)) == {("bypasses", "instances"): "warn", ("configuration", "in force"): "warn"}
        found = text(pair.beta, "bypasses", "instances")
        assert f"listens on 0.0.0.0:{server.getsockname()[1]}" in found
        assert "have it listen on 127.0.0.1" in found


def test_a_program_that_calls_around_the_proxy(pair: Pair) -> None:
    ip, port = pair.direct.split(":")
    with socket.create_server((ip, int(port))) as server, socket.create_connection((ip, int(port))):
        accepted, _ = server.accept()
        with accepted:
            assert bad(findings(pair.alpha)) == {("bypasses", "calls"): "warn"}
            assert f"web at {pair.direct}" in text(pair.alpha, "bypasses", "calls")


def test_a_key_that_others_can_read(pair: Pair) -> None:
    key = pair.directory / "alpha.pki" / "cart.key"
    key.chmod(0o644)
    try:
        found = bad(findings(pair.alpha, "configuration", "certificates"))
        assert found == {("configuration", "secrets"): "FAIL", ("certificates", "files"): "FAIL"}
        assert f"chmod 600 {key}" in text(pair.alpha, "configuration", "secrets")
    finally:
        key.chmod(0o600)
    within(5.0, lambda: not pair.alpha.ask_json("/status")["degraded"])


def test_a_certificate_that_has_expired(pair: Pair, tmp_path: Path) -> None:
    directory = pair.directory / "beta.pki"
    wanted = fake.faulty(TRUST_DOMAIN, "web")["expired"]
    certificate, key = fake.issue(pair.directory / "alpha.pki", tmp_path, "web", wanted)
    for name in ("web.pem", "web.key"):
        shutil.copy2(directory / name, tmp_path / f"good-{name}")
    try:
        shutil.copy2(key, directory / "web.key")
        shutil.copy2(certificate, directory / "web.pem")
        within(5.0, lambda: pair.beta.ask_json("/status")["degraded"])
        # The daemon goes on with the one before, so peers are well, and it says so itself.
        assert bad(findings(pair.beta)) == {("certificates", "files"): "FAIL", ("daemon", "problems"): "warn"}
        assert "expired at" in text(pair.beta, "certificates", "files")
    finally:
        for name in ("web.key", "web.pem"):
            shutil.copy2(tmp_path / f"good-{name}", directory / name)
    within(5.0, lambda: not pair.beta.ask_json("/status")["degraded"])


def test_a_peer_that_refuses_this_host_or_is_somebody_else(pair: Pair, tmp_path: Path) -> None:
    certificates(tmp_path / "pki", "beta", "web")  # of another authority
    with Host(tmp_path / "beta", "beta", certificates=tmp_path / "pki", address="127.0.1.23") as stranger:
        stranger.conf["service"].append({"name": "web", "instances": [pair.origin.address]})
        stranger.write()
        stranger.start().wait_ready()
        pair.alpha.catalog[0]["mesh"] = stranger.mesh
        pair.alpha.write_catalog()
        try:
            within(5.0, lambda: stranger.mesh.encode() in pair.alpha.ask("/catalog")[1])
            assert bad(findings(pair.alpha)) == {("peers", "mesh ports"): "FAIL"}
            assert "both hosts need the same authorities" in text(pair.alpha, "peers", "mesh ports")
        finally:
            pair.alpha.catalog[0]["mesh"] = pair.beta.mesh
            pair.alpha.write_catalog()
            within(5.0, lambda: pair.beta.mesh.encode() in pair.alpha.ask("/catalog")[1])


def test_few_descriptors_then_a_daemon_that_is_not_there(pair: Pair, tmp_path: Path) -> None:
    """Both of one host, as starting one takes a second."""
    host = Host(tmp_path / "gamma", "alpha", certificates=pair.directory / "alpha.pki", address="127.0.1.24")
    host.conf["service"].append({"name": "cart"})
    host.write()
    with host:
        host.start(needs.program("prlimit"), "--nofile=600:600").wait_ready()
        found = findings(host)
        assert (found["kernel", "descriptors"], bad(found)) == ("FAIL", {})
    assert bad(findings(host)) == {("daemon", "running"): "FAIL"}
    status, printed = command(host, "doctor", "-q")
    assert status == 1
    assert "is hostproxy running" in printed


def test_a_supervisor_that_hangs_then_one_that_left_its_workers(pair: Pair, tmp_path: Path) -> None:
    host = Host(tmp_path / "gamma", "alpha", certificates=pair.directory / "alpha.pki", address="127.0.1.28")
    host.conf["service"].append({"name": "cart"})
    host.write()
    with host:
        host.start().wait_ready()
        assert host.process is not None
        host.process.send_signal(signal.SIGSTOP)
        try:
            assert bad(findings(host, "daemon", "ports")) == {("daemon", "running"): "FAIL"}
            found = text(host, "daemon", "running")
            assert f"process {host.process.pid} runs and does not answer: it hangs" in found
            assert "-> systemctl restart hostproxy" in found
        finally:
            host.process.send_signal(signal.SIGCONT)
        (worker,) = host.workers()
        host.process.kill()
        host.process.wait(10.0)
        found = bad(findings(host, "daemon", "ports"))
        assert found == {("daemon", "running"): "FAIL", ("ports", "listeners"): "warn"}
        assert "-> systemctl start hostproxy" in text(host, "daemon", "running")
        found = text(host, "ports", "listeners")
        assert f"held by workers that a supervisor has left behind (pid {worker}); they serve on" in found
        assert host.mesh in found
        assert "-> systemctl start hostproxy" in found
        assert "end it" not in found


def test_an_address_that_somebody_else_has(tmp_path: Path, pair: Pair) -> None:
    host = Host(tmp_path / "gamma", "alpha", certificates=pair.directory / "alpha.pki", address="127.0.1.25")
    host.conf["service"].append({"name": "cart"})
    host.write()
    with socket.create_server(("127.0.1.25", int(host.proxy.split(":")[1]))):
        assert bad(findings(host, "ports")) == {("ports", "listeners"): "FAIL"}
        assert f"{host.proxy} is taken by" in text(host, "ports", "listeners")


def test_a_mesh_port_where_nobody_answers(tmp_path: Path, pair: Pair) -> None:
    host = Host(tmp_path / "gamma", "alpha", certificates=pair.directory / "alpha.pki", address="127.0.1.26")
    host.conf["service"].append({"name": "cart"})
    port = free_port(BETA)
    host.catalog = [
        {"service": "web", "host": "beta", "address": pair.direct, "mesh": pair.beta.mesh},
        {"service": "web", "host": "delta", "address": f"{BETA}:{port}", "mesh": f"{BETA}:{port}"},
    ]
    host.write()
    assert bad(findings(host, "peers")) == {("peers", "mesh ports"): "FAIL"}
    assert "delta" in text(host, "peers", "mesh ports")
    assert "beta at" not in text(host, "peers", "mesh ports")


# Consul


class _Skewed(BaseHTTPRequestHandler):
    """An agent whose clock is an hour ahead."""

    def do_GET(self) -> None:
        self.send_response_only(200)
        ahead = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        self.send_header("Date", format_datetime(ahead, usegmt=True))
        self.send_header("Content-Length", "18")
        self.end_headers()
        self.wfile.write(b'"127.0.0.1:8300"  ')

    def log_message(self, *arguments: object) -> None:
        """Nothing on stderr."""


def test_a_clock_that_is_wrong(tmp_path: Path, pair: Pair) -> None:
    host = Host(tmp_path / "gamma", "alpha", certificates=pair.directory / "alpha.pki", address="127.0.1.27")
    host.conf["service"].append({"name": "cart"})
    with ThreadingHTTPServer(("127.0.0.1", 0), _Skewed) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_address[1]}"
            host.conf["discovery"] = {"backend": "consul", "consul": {"address": address}}
            host.write()
            assert bad(findings(host, "clock")) == {("clock", "consul"): "FAIL"}
            assert "ours is 60 min behind that of consul (clock skew)" in text(host, "clock", "consul")
        finally:
            server.shutdown()
            thread.join()


RIGHTS = """
service "hostproxy" { policy = "write" }
service "web" { policy = "write" }
service_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
"""


def test_consul_and_what_the_token_may(tmp_path: Path) -> None:
    with consul_hosts.site(tmp_path) as site:
        agent = site.consul("server-1", acl=True, memory=True)
        web = site.origin(b"web")
        good = agent.policy("good", RIGHTS)
        token = consul_hosts.token_file(tmp_path / "token", good)
        host = site.host("web-1", agent, services={"web": web.address}, token_file=str(token))
        host.add_upstream("web")
        site.start(host)
        within(10.0, lambda: len(host.ask_json("/status")["discovery"]["registered"]) == 2)
        within(10.0, lambda: host.ask_json("/status")["discovery"]["oldest_confirmed"])
        found = findings(host)
        assert bad(found) == {}
        assert found["consul", "rights"] == found["consul", "registered"] == found["clock", "consul"] == "ok"

        lines = RIGHTS.strip().splitlines()
        for name, without, advice in (
            ("no-nodes", 3, 'node_prefix "" { policy = "read" }'),
            ("no-write", 1, 'service "web" { policy = "write" }'),
        ):
            rules = "\n".join(line for number, line in enumerate(lines) if number != without)
            consul_hosts.token_file(token, agent.policy(name, rules))
            assert bad(findings(host, "consul"))["consul", "rights"] == "FAIL"
            assert advice in text(host, "consul", "rights")
        consul_hosts.token_file(token, "11111111-0000-4000-8000-000000000001")
        assert bad(findings(host, "consul"))["consul", "token"] == "FAIL"
        assert "ACL not found" in text(host, "consul", "token")
        assert "11111111" not in str(doctor.examine(str(host.directory / "conf.toml"), 20.0, ["consul"]))

        consul_hosts.token_file(token, good)
        agent.kill()
        found = findings(host, "consul", "clock")
        assert found["consul", "agent"] == "FAIL"
        assert ("consul", "rights") not in found
        assert found["clock", "consul"] == "skip"


# The controller


def test_the_controller(tmp_path: Path) -> None:
    with controller_site.site(tmp_path) as site:
        host = site.host("s1")
        site.catalog()
        host.write()
        assert bad(findings(host, "controller")) != {}
        site.controller.apply({"mesh.toml": '[defaults]\naccess = "allow"\n'})
        site.join(host)
        found = findings(host)
        assert bad(found) == {}
        assert found["controller", "reach"] == found["controller", "enrolled"] == found["controller", "push"] == "ok"
        assert found["controller", "synced"] == found["clock", "controller"] == found["certificates", "files"] == "ok"

        site.controller.post("/v1/hosts/h1/deny", reason="test")
        assert findings(host, "controller")["controller", "enrolled"] == "FAIL"

        site.controller.kill()
        found = findings(host, "controller", "clock")
        assert found["controller", "reach"] == "FAIL"
        assert "Traffic goes on without it" in text(host, "controller", "reach")
