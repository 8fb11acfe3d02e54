"""Joining a mesh, step by step: what is closed until when, who gets which certificate, and what the log has of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostproxy.mesh.bundle import BUNDLE_SIZE, Newest, Refused, open_bundle
from hostproxy.steering import certificates
from hostproxy.steering.record import Disk
from tests.consul import Refused as ConsulRefused
from tests.consul import running
from tests.fakes.client import connect
from tests.integration import needs
from tests.integration.consul_hosts import command, token_file
from tests.integration.controller_site import Refused as ControllerRefused
from tests.integration.controller_site import Site, call, curl, site, status, within
from tests.integration.host import TRUST_DOMAIN, Host

READ, WRITE = '{ policy = "read" }', '{ policy = "write" }'  # in rules of Consul
POLICY = {
    "mesh.toml": '[defaults]\naccess = "deny"\n',
    "s2.toml": '[[service.s2.allow]]\nfrom = ["s1"]\npaths = ["/open/*"]\n',
}


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two hosts, of which nothing has been started. Tests of this module follow each other."""
    with site(tmp_path_factory.mktemp("joining")) as made:
        made.host("s1", "s3")
        made.host("s2")
        made.controller.withdraw("s3", "h1")
        made.catalog()
        yield made


def listening(host: Host) -> set[str]:
    """The addresses, of IPv4, on which processes of a host listen."""
    inodes = set()
    for pid in host.processes():
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    inodes.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
            ip, port = fields[1].split(":")
            number = ".".join(str(octet) for octet in reversed(bytes.fromhex(ip)))
            found.add(f"{number}:{int(port, 16)}")
    return found


def reasons(host: Host) -> str:
    """Why a host is not ready; empty before it can say so."""
    with contextlib.suppress(OSError):
        return str(host.ask("/ready")[1])
    return ""


def test_nothing_listens_before_there_is_a_certificate_and_a_policy(joined: Site) -> None:
    host, controller = joined.hosts["h1"], joined.controller
    joined.token(host)
    host.write_conf()
    assert controller.stop() == 0
    host.start()
    within(10, lambda: "connection refused" in reasons(host))
    assert "a certificate" in reasons(host)
    assert listening(host) == {host.admin}
    controller.start()
    within(10, lambda: "has given a policy" in reasons(host), "it has not joined by itself")
    within(2, lambda: host.conf["controller"]["listen"] in listening(host), "it cannot be told")
    assert listening(host) == {host.admin, host.conf["controller"]["listen"]}
    within(2, lambda: controller.states()["h1"][1:] == (0,))
    generation = controller.apply(POLICY)
    host.wait_ready(5)
    assert {host.mesh, host.proxy} <= listening(host)
    controller.await_generation(generation)


def test_a_call_with_both_certificates(joined: Site) -> None:
    caller, callee = joined.hosts["h1"], joined.hosts["h2"]
    joined.join(callee)
    outcome = call(caller, "s2", "/open/a")
    assert (outcome.statuses, bytes(outcome.responses[0].body)) == ([200], b"s2")
    [line] = within(3, callee.access_log)
    assert line["dir"] == "inbound"
    assert f"spiffe://{TRUST_DOMAIN}/service/s1" in line.values(), line


def test_a_refusal_names_the_line_and_why_agrees(joined: Site) -> None:
    caller, callee = joined.hosts["h1"], joined.hosts["h2"]
    for url, target, expected in (("http://s2/closed", "/closed", 403), ("http://s2/open/x", "/open/x", 200)):
        outcome = call(caller, "s2", target)
        assert outcome.statuses == [expected]
        for host in (caller, callee):
            code, text = command(host, "why", "--from", "s1", "GET", url)
            assert code == (0 if expected == 200 else 1), text
            assert "s2.toml:1" in text
            assert ("ALLOWED" in text) == (expected == 200), text
        shown = joined.controller.operate("why", "--from", "s1", "GET", url)
        assert shown.returncode == code, shown.stdout + shown.stderr
        if expected == 403:
            [reason] = outcome.responses[0].values(b"x-hostproxy-reason")
            assert b"mesh.toml:2" in reason
            assert joined.origins["s2"].connections == [] or b"/closed" not in joined.origins["s2"].connections[-1].raw


def test_a_service_that_is_not_said_to_run_here_gets_no_certificate(joined: Site) -> None:
    host, controller = joined.hosts["h1"], joined.controller
    [problem] = host.ask_json("/status")["policy"]["problems"]
    assert "certificate of s3" in problem
    assert "service assign" in problem
    assert status(host, "s2", "/open/b") == 200
    refused = [line for line in controller.audit() if line["result"] == "refused"]
    assert any(line["object"] == "service/s3" and line["actor"].endswith("/host/h1") for line in refused)


def test_a_host_gets_nothing_that_is_another_ones(joined: Site, tmp_path: Path) -> None:
    needs.program("curl")
    ask = curl(joined, joined.hosts["h1"], tmp_path)
    key = certificates.new_key()
    request = {"csr": certificates.request(key)}
    code, bundle = ask("GET", "/v1/bundle?epoch=0&generation=0", None)
    assert code == 200
    record, _ = Disk(joined.hosts["h1"].conf["host"]["state_directory"]).load()
    assert record is not None
    known = {"signers": record.signers, "mesh": TRUST_DOMAIN, "now": time.time(), "newest": Newest()}
    assert len(bundle) < BUNDLE_SIZE
    assert open_bundle(bundle, host="h1", **known).manifest.host == "h1"
    with pytest.raises(Refused):
        open_bundle(bundle, host="h2", **known)
    for method, path, body, expected in (
        ("GET", "/v1/bundle?epoch=0&generation=0&host=h2", None, 200),
        ("GET", "/v1/bundle/h2", None, 404),
        ("POST", "/v1/certificates", {"name": "s2", **request}, 403),
        ("POST", "/v1/certificates", {"name": "host", "host": "h2", **request}, 400),
        ("POST", "/v1/certificates", {"name": "host/../h2", **request}, 400),
        ("GET", "/v1/hosts", None, 403),
        ("POST", "/v1/policy", {"files": {}}, 403),
        ("POST", "/v1/tokens", {"host": "h9"}, 403),
    ):
        code, answer = ask(method, path, body)
        assert code == expected, (method, path, code, answer[:300])
        if code == 200:
            assert answer == bundle
    as_service = curl(joined, joined.hosts["h1"], tmp_path, name="s1")
    assert as_service("GET", "/v1/bundle?epoch=0&generation=0", None)[0] == 403
    as_nobody = curl(joined, joined.hosts["h1"], tmp_path, name="")
    assert as_nobody("GET", "/v1/bundle?epoch=0&generation=0", None)[0] in (401, 403)


def test_a_token_lets_one_machine_in(joined: Site, tmp_path: Path) -> None:
    host = joined.hosts["h1"]
    second = Host(tmp_path, "h1", certificates=tmp_path, address="127.0.4.99")
    second.conf = {**host.conf, **{key: second.conf[key] for key in ("mesh", "outbound", "admin", "log", "discovery")}}
    directories = {"state_directory": str(tmp_path / "state"), "runtime_directory": str(tmp_path / "run")}
    second.conf["host"] = {**host.conf["host"], **directories}
    second.conf["controller"] = {**host.conf["controller"], "listen": "127.0.4.99:15009"}
    second.conf["service"] = []
    second.write_catalog()
    second.write_conf()
    with second.start():
        within(10, lambda: "does not take the token" in reasons(second))
        assert "token create" in reasons(second)
        assert listening(second) == {second.admin}
    with pytest.raises(ControllerRefused) as refused:
        joined.controller.post("/v1/tokens", host="h1")
    assert "enrolled" in str(refused.value)
    assert status(host, "s2", "/open/c") == 200


def test_the_audit_log_has_it_all_and_cannot_be_changed(joined: Site, tmp_path: Path) -> None:
    controller = joined.controller
    verified = controller.operate("audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    written = controller.audit()
    assert [line["result"] for line in written if line["act"] == "host.enrol"].count("ok") == 2
    acts = {line["act"] for line in written}
    assert {"token.create", "service.assign", "certificate.issue", "policy.apply"} <= acts
    path = controller.directory / "state" / "audit.log"
    log = path.read_bytes()
    token = (joined.hosts["h1"].directory / "token").read_bytes().strip()
    assert token not in log
    lines = log.splitlines(keepends=True)
    number = next(index for index, line in enumerate(lines) if b"host.enrol" in line)
    copy = tmp_path / "audit.log"
    copy.write_bytes(b"".join(lines))
    shutil.copy(f"{path}.head", f"{copy}.head")
    assert controller.command("audit", "verify", str(copy)).returncode == 0
    for changed in (
        [*lines[:number], lines[number].replace(b"h1", b"h9"), *lines[number + 1 :]],
        [*lines[:number], *lines[number + 1 :]],
    ):
        copy.write_bytes(b"".join(changed))
        found = controller.command("audit", "verify", str(copy))
        assert found.returncode == 1, found.stdout
        assert str(number + 1) in found.stdout + found.stderr


def test_what_is_told_once_is_not_told_everywhere(joined: Site) -> None:
    token = (joined.hosts["h1"].directory / "token").read_text().strip()
    for output in (joined.controller.output(), *(host.output() for host in joined.hosts.values())):
        assert token not in output
        assert "PRIVATE KEY" not in output
    with connect(joined.controller.address) as stranger:
        stranger.sendall(b"GET /v1/hosts HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"h1" not in stranger.recv(4096)


def test_a_host_gets_the_certificate_of_what_is_registered_with_its_rights(tmp_path: Path) -> None:
    """No operator assigns anything: whoever may write a service in Consul says where it runs, and of that one only."""
    with running(tmp_path / "consul", name="h1", acl=True, memory=True) as consul:
        read_all = f'service_prefix "" {READ} node_prefix "" {READ}'
        reads = token_file(tmp_path / "reads", consul.policy("reads", read_all))
        settings = {"consul": {"address": consul.address, "token_file": str(reads)}}
        with site(tmp_path / "site", registry=settings) as made:
            host = made.host("s1", "s2")
            for service in ("s1", "s2"):
                made.controller.withdraw(service, "h1")
            own = consul.policy("h1", f'service "s1" {WRITE} {read_all}')
            consul.put("/v1/agent/service/register", {"Name": "s1", "Port": 1}, token=own)
            with pytest.raises(ConsulRefused):
                consul.put("/v1/agent/service/register", {"Name": "s2", "Port": 1}, token=own)
            made.controller.apply({"mesh.toml": '[defaults]\naccess = "allow"\n'})
            made.join(host)
            held = host.directory / "state" / "identity"
            within(10, (held / "s1.pem").exists, "the service in Consul's catalog has got no certificate")
            within(10, lambda: any(line["object"] == "service/s2" for line in made.controller.audit()))
            assert not (held / "s2.pem").exists()
            # With Consul away nothing that flows notices.
            consul.kill()
            assert status(host, "s1") == 200
