"""HAProxy: one thread, http-reuse always, the runtime API for updates."""

from __future__ import annotations

import socket

from tests.bench.peers.peer import Peer, Work, changed, installed
from tests.bench.peers.site import CLIENT, DOMAIN, TARGET, Hop, Launch, Services, Site
from tests.bench.processes import Failed

_TLS = "ssl-min-ver TLSv1.3 alpn http/1.1"


class HAProxy(Peer):
    name = "haproxy"
    install = "apt install haproxy"
    version_arguments = ("-v",)
    notes = (
        "nbthread 1, http-reuse always, balance random(2), option splice-auto for TCP; statistics page, "
        "socket and Prometheus exporter on; update through its runtime API (`set server ... addr`)"
    )

    def binary(self) -> str | None:
        return installed("haproxy")

    def render(self, site: Site) -> list[Launch]:
        program = self.binary() or "haproxy"
        return [
            Launch(
                hop.name,
                hop.directory,
                {
                    "haproxy.cfg": configuration(hop),
                    "hosts.map": "".join(f"{name}.{DOMAIN} {name}\n" for name in hop.services),
                    **_bundles(hop),
                },
                (program, "-db", "-f", str(hop.directory / "haproxy.cfg")),
                {},
            )
            for hop in reversed(site.chain())
        ]

    def update(self, work: Work, old: Services, new: Services) -> None:
        hop = work.site.chain()[-1]
        for service, place, address in changed(old, new):
            host, _, port = address.rpartition(":")
            with socket.socket(socket.AF_UNIX) as runtime:
                runtime.connect(str(hop.directory / "stats.sock"))
                runtime.sendall(f"set server {service}/i{place} addr {host} port {port}\n".encode())
                answer = runtime.recv(4096)
            if b"changed from" not in answer:
                raise Failed(f"haproxy did not take the new address: {answer!r}")


def configuration(hop: Hop) -> str:
    """haproxy.cfg of one proxy."""
    http = hop.protocol == "http"
    out = ""
    if hop.tls_out:
        name = hop.certificates.server_name
        out = (
            f" ssl crt {hop.directory / CLIENT}.bundle ca-file {hop.certificates.authority} verify required"
            f" verifyhost {name} sni str({name}) no-ssl-reuse {_TLS}"
        )
    backends = "\n".join(
        f"backend {service}\n"
        + "".join(f"  server i{place} {address}{out}\n" for place, address in enumerate(addresses))
        for service, addresses in hop.services.items()
    )
    bind = ""
    if hop.tls_in:
        bind = (
            f" ssl crt {hop.directory / TARGET}.bundle ca-file {hop.certificates.authority}"
            f" verify required no-tls-tickets {_TLS}"
        )
    identity = (
        "set-header X-Forwarded-Client-Cert Subject=%[ssl_c_s_dn]"
        if hop.tls_in
        else "del-header X-Forwarded-Client-Cert"
    )
    route = (
        f"""\
  http-request set-header X-Forwarded-Proto {"https" if hop.tls_in else "http"}
  http-request set-header X-Request-Id %[uuid()] unless {{ req.hdr(x-request-id) -m found }}
  http-request {identity}
  use_backend %[req.hdr(host),lower,map({hop.directory}/hosts.map)]"""
        if http
        else f"  default_backend {TARGET}"
    )
    return f"""\
global
  nbthread 1
  stats socket {hop.directory}/stats.sock mode 600 level admin
  tune.ssl.cachesize 0
defaults
  mode {hop.protocol}
  {"option forwardfor" if http else "option splice-auto"}
  http-reuse always
  balance random(2)
  timeout connect 1s
  timeout client 5m
  timeout server 5m
  timeout http-keep-alive 5m
  timeout http-request 10s
frontend in
  bind {hop.listen}{bind}
{route}
frontend statistics
  mode http
  bind {hop.admin}
  stats enable
  stats uri /stats
  http-request use-service prometheus-exporter if {{ path /metrics }}
{backends}"""


def _bundles(hop: Hop) -> dict[str, str]:
    """Certificate and key in one file, as ``crt`` wants them."""
    wanted = ([TARGET] if hop.tls_in else []) + ([CLIENT] if hop.tls_out else [])
    return {
        f"{name}.bundle": hop.certificates.certificate(name).read_text()
        + hop.certificates.key(name).read_text()
        for name in wanted
    }
