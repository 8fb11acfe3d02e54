"""Ways to send traffic out: the HTTP proxy port by name, fixed ports, Unix sockets; curl as the client."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.cases import get, head
from tests.fakes.client import connect, converse, exchange
from tests.fakes.origin import Answer, Origin, Respond, reply
from tests.integration import needs
from tests.integration.host import Host, certificates, fetch
from tests.integration.mesh import ALPHA, CALLER, Mesh, Service, single


def by_host(mesh: Mesh, host: str, target: str = "/x") -> bytes:
    return head(f"GET {target} HTTP/1.1".encode(), b"Host: " + host.encode())


def curl(*arguments: str, proxy: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"http_proxy": proxy} if proxy else {}
    command = [needs.program("curl"), "-sS", "--max-time", "5", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10, check=False)


@pytest.mark.parametrize("suffix", ["", ".mesh", ".MESH", ".mesh.", ":80", ".mesh:80"])
def test_host_form(mesh: Mesh, http: Service, suffix: str) -> None:
    outcome = exchange(mesh.alpha.proxy, by_host(mesh, http.name + suffix))
    assert outcome.statuses == [200], outcome
    assert http.origin.requests[0].target == b"/x"


@pytest.mark.parametrize("suffix", ["", ".mesh", ":80"])
def test_absolute_form(mesh: Mesh, http: Service, suffix: str) -> None:
    authority = http.name + suffix
    outcome = exchange(mesh.alpha.proxy, by_host(mesh, authority, f"http://{authority}/x?y"))
    assert outcome.statuses == [200], outcome
    assert http.origin.requests[0].target == b"/x?y"
    assert http.origin.requests[0].value(b"host") == authority.encode()


def test_absolute_form_decides_over_host(mesh: Mesh, http: Service) -> None:
    """RFC 9112 section 3.2.2. Refusing the contradiction is right, too; going by Host is not."""
    outcome = exchange(mesh.alpha.proxy, by_host(mesh, "nowhere", f"http://{http.name}/x"))
    assert outcome.statuses in ([200], [400])
    outcome = exchange(mesh.alpha.proxy, by_host(mesh, http.name, "http://nowhere/smuggled"))
    assert outcome.statuses in ([404], [400], [502], [503])
    assert b"/smuggled" not in [request.target for request in http.origin.requests]


def test_curl_with_http_proxy(mesh: Mesh, http: Service) -> None:
    for name in (http.name, f"{http.name}.mesh"):
        done = curl("-i", f"http://{name}/path?q=1", proxy=f"http://{mesh.alpha.proxy}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("HTTP/1.1 200 ")
        assert done.stdout.endswith("ok")
    assert http.origin.requests[0].target == b"/path?q=1"


def test_curl_posts_a_large_body_with_continue(mesh: Mesh, http: Service, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"b" * 3_000_000)
    done = curl(
        "--data-binary",
        f"@{body}",
        "--expect100-timeout",
        "0.1",
        "-H",
        "Expect: 100-continue",
        f"http://{http.address}/upload",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ok"
    assert len(http.origin.requests[0].body) == 3_000_000


def test_unknown_name_is_a_clear_error(mesh: Mesh) -> None:
    outcome = exchange(mesh.alpha.proxy, by_host(mesh, "nobody"))
    assert outcome.statuses in ([404], [503])
    response = outcome.responses[0]
    assert b"nobody" in response.body
    assert response.value(b"proxy-status") is not None


def test_an_unknown_name_cannot_inject_anything(mesh: Mesh) -> None:
    outcome = exchange(mesh.alpha.proxy, by_host(mesh, "a'b(c)"))
    assert len(outcome.statuses) == 1
    assert outcome.fault is None


def names_itself(service: Service) -> Respond:
    """Answers with the name of the service."""
    return lambda request, connection: Answer(reply(service.name.encode()))


def test_names_change_within_one_connection(mesh: Mesh) -> None:
    services = [mesh.services["plain-http"], mesh.services["mutual-http"]]
    for service in services:
        service.origin.forget()
        service.origin.respond = names_itself(service)
    with connect(mesh.alpha.proxy) as sock:
        for service in services * 3:
            outcome = converse(sock, by_host(mesh, service.name))
            assert outcome.statuses == [200]
            assert outcome.responses[0].body == service.name.encode()


def test_connect_is_refused(mesh: Mesh, http: Service) -> None:
    for target in (f"{http.name}:80", f"{http.name}:443", f"127.0.0.1:{http.origin.port}"):
        line = f"CONNECT {target} HTTP/1.1".encode()
        outcome = exchange(
            mesh.alpha.proxy,
            head(line, b"Host: " + target.encode()) + get(b"/smuggled"),
            until_end=True,
            timeout=1,
        )
        assert outcome.statuses[0] in (400, 403, 404, 405, 501), outcome
        assert len(outcome.statuses) == 1
    assert http.origin.requests == []


def test_addresses_are_no_names(mesh: Mesh, http: Service) -> None:
    """The proxy port is no way around the mesh: not to an address, not to its own admin port."""
    for host in (
        http.origin.address,
        mesh.alpha.admin,
        f"localhost:{http.origin.port}",
        "[::1]",
        mesh.alpha.proxy,
    ):
        outcome = exchange(mesh.alpha.proxy, by_host(mesh, host))
        assert outcome.statuses in ([400], [403], [404], [503]), (host, outcome)
    assert http.origin.requests == []


def test_proxy_port_without_a_host(mesh: Mesh) -> None:
    outcome = exchange(mesh.alpha.proxy, b"GET / HTTP/1.0\r\n\r\n")
    assert outcome.statuses[0] in (400, 404)


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A directory whose path leaves room in the 108 bytes of a socket address."""
    directory = Path(tempfile.mkdtemp(prefix="hp-"))
    yield directory
    shutil.rmtree(directory)


def test_http_1_0_without_a_host_gets_the_services_name(mesh: Mesh, http: Service) -> None:
    outcome = exchange(http.address, b"GET /old HTTP/1.0\r\n\r\n")
    assert outcome.statuses == [200], outcome
    (request,) = http.origin.requests
    assert [value for name, value in request.fields if name == b"host"] == [http.name.encode()]



def test_unix_sockets_at_both_ends(tmp_path: Path, sockets: Path) -> None:
    """curl -> Unix socket -> alpha -> mutual TLS -> beta -> Unix socket of the app."""
    pki = {name: tmp_path / f"{name}.pki" for name in ("alpha", "beta")}
    certificates(pki["alpha"], "alpha", CALLER)
    certificates(pki["beta"], "beta", "web", authority=pki["alpha"])
    with Origin(address=str(sockets / "app.sock")) as origin:
        alpha, _ = single(tmp_path / "alpha", pki["alpha"], [])
        beta = Host(tmp_path / "beta", "beta", certificates=pki["beta"])
        beta.conf["service"].append({"name": "web", "instances": [origin.address]})
        beta.write()
        path = sockets / "web.sock"
        alpha.add_upstream("web", f"unix:{path}")
        alpha.catalog = [{"service": "web", "host": "beta", "address": origin.address, "mesh": beta.mesh}]
        alpha.write()
        with alpha, beta:
            alpha.start()
            beta.start().wait_ready()
            alpha.wait_ready()
            done = curl("--unix-socket", str(path), "http://anything/here")
            assert done.returncode == 0, done.stderr
            assert done.stdout == "ok"
            assert origin.requests[0].target == b"/here"
            assert origin.requests[0].value(b"host") == b"anything"
            assert fetch(f"unix:{path}", "/again").statuses == [200]
        assert not path.exists(), "the socket is left behind"


def test_refused_endpoint_is_skipped(mesh: Mesh, tmp_path: Path) -> None:
    """Two of three endpoints refuse: no request notices."""
    gone = Origin()
    gone.stop()
    other = Origin()
    other.stop()
    with Origin() as origin:
        host, address = single(tmp_path, mesh.certificates[ALPHA], [gone, origin, other])
        with host.start().wait_ready():
            for number in range(30):
                outcome = exchange(
                    address, head(b"POST /%d HTTP/1.1" % number, b"Host: web", b"Content-Length: 2") + b"hi"
                )
                assert outcome.statuses == [200]
            assert len(origin.requests) == 30


def test_all_endpoints_refuse(mesh: Mesh, tmp_path: Path) -> None:
    gone = Origin()
    gone.stop()
    host, address = single(tmp_path, mesh.certificates[ALPHA], [gone])
    with host.start().wait_ready():
        outcome = fetch(address)
        assert outcome.statuses in ([502], [503])
        assert outcome.responses[0].value(b"proxy-status") is not None
        with Origin(address=("127.0.0.1", gone.port)):
            assert fetch(address).statuses == [200]  # back at once
