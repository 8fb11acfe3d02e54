"""The server behind every proxy: nginx for HTTP, on the load's core."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable
from pathlib import Path

from tests.bench.processes import Failed, Processes, wait_until

ADDRESSES = tuple(f"127.0.2.{number}" for number in range(1, 12))
"""Where instances listen: ten of a service, and an eleventh that takes the place of one of them."""
PATHS = {0: "/empty", 1024: "/1k", 65536: "/64k"}
"""Path of a GET by the size of the body of its response."""
POST_PATH = "/1k"
WHO_PATH = "/who"  # answers with the address that the connection came in on
ECHO_PATH = "/echo"  # answers with the fields that a proxy is to set, one per line
IDENTITY_FIELDS = ("x_forwarded_client_cert", "x_forwarded_tls_client_cert_info")  # the second is Traefik's
_ECHOED = ("host", "x_forwarded_for", "x_forwarded_proto", "x_request_id", *IDENTITY_FIELDS)


class Ports:
    """Ports that nobody uses, each given out once."""

    def __init__(self) -> None:
        # below the range from which the kernel takes the ports of outgoing connections
        self._candidates = iter(random.sample(range(18_000, 32_000), 2_000))

    def take(self) -> int:
        """A port that is free on every address of this machine."""
        for port in self._candidates:
            with socket.socket() as probe:
                try:
                    probe.bind(("", port))
                except OSError:
                    continue
            return port
        raise Failed("no free port between 18000 and 32000")


def accepts(address: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def render(port: int, directory: Path, addresses: Iterable[str] = ADDRESSES) -> str:
    """nginx.conf of the origin: nothing logged, connections kept for ever."""
    listens = "\n".join(f"    listen {address}:{port} backlog=4096;" for address in addresses)
    echoed = r"\n".join(f"{name}=$http_{name}" for name in _ECHOED)
    return f"""\
daemon off;
worker_processes 1;
worker_rlimit_nofile 60000;
pid {directory}/origin.pid;
error_log stderr error;
events {{ worker_connections 30000; }}
http {{
  access_log off;
  default_type application/octet-stream;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  sendfile on;
  tcp_nopush on;
  gzip off;
  open_file_cache max=10;
  client_body_temp_path {directory}/origin-body;
  server {{
{listens}
    root {directory}/origin;
    location = {PATHS[0]} {{ return 200 ""; }}
    location = {PATHS[1024]} {{ return 200 "{"x" * 1024}"; }}
    location = {WHO_PATH} {{ return 200 "$server_addr"; }}
    location = {ECHO_PATH} {{ return 200 "{echoed}\\n"; }}
  }}
}}
"""


def start(processes: Processes, nginx: str, port: int, core: int) -> None:
    """Start the origin on ``port`` of every address of :data:`ADDRESSES`."""
    directory = processes.directory
    files = directory / "origin"
    files.mkdir()
    (files / PATHS[65536].lstrip("/")).write_bytes(b"x" * 65536)
    for readable in (files, *files.iterdir()):
        readable.chmod(0o755)
    configuration = directory / "origin.conf"
    configuration.write_text(render(port, directory))
    program = processes.start(
        "origin", [nginx, "-c", str(configuration), "-p", str(directory)], core, directory / "origin.log"
    )
    wait_until(lambda: all(accepts(address, port) for address in ADDRESSES), [program], "the nginx origin")
