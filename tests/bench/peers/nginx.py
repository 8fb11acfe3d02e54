"""nginx: one worker, keep-alive upstreams, a reload for updates."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.bench.peers.peer import Peer, Work, installed, replace_file
from tests.bench.peers.site import CLIENT, DOMAIN, TARGET, Hop, Launch, Protocol, Services, Site

_STREAM_MODULES = (
    Path("/usr/lib/nginx/modules/ngx_stream_module.so"),
    Path("/usr/lib64/nginx/modules/ngx_stream_module.so"),
)


class Nginx(Peer):
    name = "nginx"
    install = "apt install nginx"
    version_arguments = ("-v",)
    notes = (
        "worker_processes 1, random two least_conn, keepalive 64 per upstream, responses never spooled to "
        "disk, stub_status on (it has no statistics per service); update by rewriting nginx.conf and SIGHUP"
    )

    def binary(self) -> str | None:
        return installed("nginx")

    def absent(self, protocol: Protocol) -> str:
        if protocol == "tcp" and not _stream_module():
            return "absent: apt install libnginx-mod-stream"
        return super().absent(protocol)

    def render(self, site: Site) -> list[Launch]:
        program = self.binary() or "nginx"
        return [
            Launch(
                hop.name,
                hop.directory,
                {"nginx.conf": configuration(hop)},
                (program, "-c", str(hop.directory / "nginx.conf"), "-p", str(hop.directory)),
                {},
            )
            for hop in reversed(site.chain())
        ]

    def update(self, work: Work, old: Services, new: Services) -> None:
        hop = work.site.with_services(new).chain()[-1]
        replace_file(hop.directory / "nginx.conf", configuration(hop))
        os.kill(work.programs[0].pid, signal.SIGHUP)


def _stream_module() -> Path | None:
    return next((path for path in _STREAM_MODULES if path.exists()), None)


def configuration(hop: Hop) -> str:
    """nginx.conf of one proxy."""
    module = f"load_module {_stream_module()};" if hop.protocol == "tcp" else ""
    return f"""\
{module}
daemon off;
worker_processes 1;
worker_rlimit_nofile 60000;
pid {hop.directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 30000; }}
{_stream(hop) if hop.protocol == "tcp" else ""}
http {{
  access_log off;
  server {{ listen {hop.admin}; location = /status {{ stub_status; }} }}
{_http(hop) if hop.protocol == "http" else ""}
}}
"""


def _upstreams(hop: Hop, keepalive: str) -> str:
    return "\n".join(
        f"  upstream {service} {{\n    random two least_conn;\n"
        + "".join(f"    server {address};\n" for address in addresses)
        + f"    {keepalive}\n  }}"
        for service, addresses in hop.services.items()
    )


def _tls_in(hop: Hop) -> str:
    if not hop.tls_in:
        return ""
    return f"""
    ssl_protocols TLSv1.3;
    ssl_certificate {hop.certificates.certificate(TARGET)};
    ssl_certificate_key {hop.certificates.key(TARGET)};
    ssl_client_certificate {hop.certificates.authority};
    ssl_verify_client on;
    ssl_session_tickets off;
    ssl_session_cache off;"""


def _tls_out(hop: Hop, enable: str) -> str:
    if not hop.tls_out:
        return ""
    return f"""
    {enable}
    proxy_ssl_protocols TLSv1.3;
    proxy_ssl_certificate {hop.certificates.certificate(CLIENT)};
    proxy_ssl_certificate_key {hop.certificates.key(CLIENT)};
    proxy_ssl_trusted_certificate {hop.certificates.authority};
    proxy_ssl_verify on;
    proxy_ssl_server_name on;
    proxy_ssl_name {hop.certificates.server_name};
    proxy_ssl_session_reuse off;"""


def _http(hop: Hop) -> str:
    tls = " ssl" if hop.tls_in else ""
    scheme = "https" if hop.tls_out else "http"
    servers = "\n".join(
        f"""\
  server {{
    listen {hop.listen}{tls};
    server_name {service}.{DOMAIN};
    location / {{ proxy_pass {scheme}://{service}; }}
  }}"""
        for service in hop.services
    )
    return f"""\
  server_names_hash_max_size 65536;
  server_names_hash_bucket_size 128;
  keepalive_requests 1000000000;
  client_body_temp_path {hop.directory}/body;
  proxy_temp_path {hop.directory}/proxy;
  proxy_max_temp_file_size 0;
  proxy_http_version 1.1;
  map $http_x_request_id $one_request_id {{ default $http_x_request_id; "" $request_id; }}
  proxy_set_header Connection "";
  proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header X-Request-Id $one_request_id;
  proxy_set_header X-Forwarded-Client-Cert {'"Subject=$ssl_client_s_dn"' if hop.tls_in else '""'};
{_tls_in(hop)}{_tls_out(hop, "")}
{_upstreams(hop, "keepalive 64; keepalive_requests 1000000000;")}
{servers}"""


def _stream(hop: Hop) -> str:
    return f"""\
stream {{
{_upstreams(hop, "")}
  server {{
    listen {hop.listen}{" ssl" if hop.tls_in else ""};
    proxy_pass {TARGET};
{_tls_in(hop)}{_tls_out(hop, "proxy_ssl on;")}
  }}
}}
"""
