"""A real origin: nginx behind the proxies."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.cases import HOST, head, post
from tests.fakes.client import connect, converse
from tests.integration import needs
from tests.integration.host import eventually, fetch, free_port
from tests.integration.mesh import ALPHA, Mesh, single

CONF = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port};
    root {directory}/html;
    client_max_body_size 1m;
    location /empty {{ return 204; }}
    location /gone {{ return 410 "gone\\n"; }}
    location /put {{ dav_methods PUT DELETE; create_full_put_path on; client_body_temp_path {directory}/upload; }}
  }}
}}
"""


@pytest.fixture(scope="module")
def nginx(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The port of a hostproxy in front of nginx, and the document root."""
    program = needs.program("nginx")
    directory = tmp_path_factory.mktemp("nginx")
    (directory / "html").mkdir()
    directory.chmod(0o755)
    port = free_port()
    conf = directory / "nginx.conf"
    conf.write_text(CONF.format(directory=directory, port=port))
    with (directory / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [program, "-p", str(directory), "-c", str(conf), "-e", str(directory / "error.log")],
            stdout=output,
            stderr=output,
        )
    host, address = single(directory / "host", mesh.certificates[ALPHA], [f"127.0.0.1:{port}"])
    try:
        with host:
            host.start().wait_ready()
            eventually(lambda: fetch(address, "/empty").statuses == [204], message="nginx does not answer")
            yield address, directory / "html"
    finally:
        process.terminate()
        process.wait(10)


def test_files(nginx: tuple[str, Path]) -> None:
    address, root = nginx
    data = bytes(range(256)) * 8192
    (root / "file").write_bytes(data)
    outcome = fetch(address, "/file", timeout=10)
    assert outcome.statuses == [200]
    assert hashlib.sha256(outcome.responses[0].body).digest() == hashlib.sha256(data).digest()
    assert fetch(address, "/file", method="HEAD").responses[0].values(b"content-length") == [b"%d" % len(data)]


def test_ranges_and_conditions(nginx: tuple[str, Path]) -> None:
    address, root = nginx
    (root / "small").write_bytes(b"0123456789")
    part = fetch(address, "/small", b"Range: bytes=2-5").responses[0]
    assert part.status == 206
    assert part.body == b"2345"
    tag = part.values(b"etag")[0]
    assert fetch(address, "/small", b"If-None-Match: " + tag).statuses == [304]
    assert fetch(address, "/small", b"Range: bytes=50-60").statuses == [416]


def test_statuses_on_one_connection(nginx: tuple[str, Path]) -> None:
    address, _ = nginx
    with connect(address) as sock:
        for target, status in (("/empty", 204), ("/gone", 410), ("/missing", 404), ("/empty", 204)) * 5:
            outcome = converse(sock, head(f"GET {target} HTTP/1.1".encode(), HOST))
            assert outcome.statuses == [status]


def test_too_large_an_upload(nginx: tuple[str, Path]) -> None:
    """nginx answers 413 at the head and closes."""
    address, _ = nginx
    with connect(address) as sock:
        outcome = converse(
            sock, post(b"Content-Length: 5000000", body=b"x" * 5_000_000, target=b"/put/x"), until_end=True
        )
    assert outcome.statuses == [413]


def test_continue_of_nginx(nginx: tuple[str, Path]) -> None:
    address, root = nginx
    with connect(address) as sock:
        sock.sendall(head(b"PUT /put/up HTTP/1.1", HOST, b"Expect: 100-continue", b"Content-Length: 5"))
        outcome = converse(sock, b"hello")
    assert outcome.statuses == [201]
    assert (root / "put" / "up").read_bytes() == b"hello"


def test_chunked_upload(nginx: tuple[str, Path]) -> None:
    address, root = nginx
    with connect(address) as sock:
        outcome = converse(
            sock,
            head(b"PUT /put/chunked HTTP/1.1", HOST, b"Transfer-Encoding: chunked")
            + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
        )
    assert outcome.statuses == [201]
    assert (root / "put" / "chunked").read_bytes() == b"hello!"
