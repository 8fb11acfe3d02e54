"""Opening and closing the admin address, and what it serves there."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import stat
import subprocess

import pytest

from hostproxy.admin.server import listen
from hostproxy.config import Admin
from hostproxy.control.listeners import CannotListen
from tests.admin.states import NOW, make_state


@pytest.fixture
def opened(loop):
    """Open admin addresses that are closed at the end."""
    ports = []

    def open_port(address):
        state = make_state(address)
        ports.append(loop.run(listen, loop.reactor, Admin(listen=address), state, state.totals, lambda: NOW))
        return ports[-1]

    yield open_port
    for port in ports:
        loop.run(port.stopListening)


def get(address, path, **fields):
    connection = http.client.HTTPConnection(address, timeout=5.0)
    try:
        connection.request("GET", path, headers=fields)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def get_unix(path, target):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5.0)
        sock.connect(str(path))
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while piece := sock.recv(65536):
            received += piece
    return received


def test_loopback(opened):
    port = opened("127.0.0.1:0")
    status, body = get(port.address, "/ready")
    assert (status, json.loads(body)["ready"]) == (200, True)


def test_another_loopback_address_goes_by_its_own_name(opened):
    assert get(opened("127.0.1.2:0").address, "/live")[0] == 200


def test_ipv6_loopback(opened):
    port = opened("[::1]:0")
    assert port.address.startswith("[::1]:")
    assert get(port.address, "/live")[0] == 200


def test_metrics_pass_promtool(opened):
    promtool = shutil.which("promtool")
    if promtool is None:
        reason = "promtool is not installed (Debian package: prometheus)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    _, page = get(opened("127.0.0.1:0").address, "/metrics")
    checked = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    assert b'hostproxy_worker_up{worker="0"} 1.0' in page
    assert b"process_resident_memory_bytes" in page


def test_openmetrics_when_asked_for(opened):
    port = opened("127.0.0.1:0")
    _, page = get(port.address, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert page.endswith(b"# EOF\n")


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "10.1.2.3:0", "192.168.1.1:15000"])
def test_others_must_not_reach_it(opened, address):
    with pytest.raises(CannotListen, match="only for this host"):
        opened(address)


def test_an_address_in_use_is_told(opened):
    port = opened("127.0.0.1:0")
    with pytest.raises(CannotListen, match="another program"):
        opened(port.address)


def test_a_unix_socket_is_for_owner_and_group(opened, tmp_path):
    path = tmp_path / "admin.sock"
    port = opened(f"unix:{path}")
    assert port.address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
    assert get_unix(path, "/live").startswith(b"HTTP/1.1 200 ")


def test_a_unix_socket_that_a_dead_process_left_is_replaced(opened, tmp_path):
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    opened(f"unix:{path}")
    assert get_unix(path, "/live").startswith(b"HTTP/1.1 200 ")


def test_a_unix_socket_that_is_answered_is_left_alone(opened, tmp_path):
    path = tmp_path / "admin.sock"
    opened(f"unix:{path}")
    with pytest.raises(CannotListen):
        opened(f"unix:{path}")
    assert get_unix(path, "/live").startswith(b"HTTP/1.1 200 ")


def test_closing_cuts_connections_and_takes_the_socket_away(loop, tmp_path):
    path = tmp_path / "admin.sock"
    state = make_state()
    port = loop.run(listen, loop.reactor, Admin(listen=f"unix:{path}"), state, state.totals)
    with socket.socket(socket.AF_UNIX) as idle:
        idle.settimeout(5.0)
        idle.connect(str(path))
        idle.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1 200 ")
        loop.run(port.stopListening)
        try:
            assert idle.recv(1) == b""
        except ConnectionResetError:
            pass
    assert not path.exists()
