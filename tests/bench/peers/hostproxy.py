"""hostproxy, as its user runs it: a conf.toml, a catalog and a policy for each host."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import tomli_w

from tests.bench.peers.peer import Peer, Work, replace_file
from tests.bench.peers.site import CLIENT, DOMAIN, TARGET, Hop, Launch, Services, Site

Toml = dict[str, Any]


ROUTES = 20


class Hostproxy(Peer):
    name = "hostproxy"
    install = "pip install -e ."
    notes = (
        "[workers] count = 1, the supervisor counted too, file discovery, every default left as it is; HTTP "
        "through the proxy port, TCP through an upstream port; update by renaming the catalog file into place"
    )

    def binary(self) -> str | None:
        return sys.executable if find_spec("hostproxy.cli.run") else None

    def version(self) -> str:
        return version("hostproxy")

    def render(self, site: Site) -> list[Launch]:
        return [
            Launch(
                hop.name,
                hop.directory,
                {
                    "conf.toml": tomli_w.dumps(configuration(site, hop)),
                    "catalog.toml": tomli_w.dumps(catalog(site)),
                    "policy.toml": tomli_w.dumps(policy(site)),
                },
                (sys.executable, "-m", "hostproxy", "run", "-c", str(hop.directory / "conf.toml")),
                {},
            )
            for hop in reversed(site.chain())
        ]

    def update(self, work: Work, old: Services, new: Services) -> None:
        content = tomli_w.dumps(catalog(work.site.with_services(new)))
        for hop in work.site.chain():
            replace_file(hop.directory / "catalog.toml", content)


class Routed(Hostproxy):
    """The same with routes, of which the last takes every request and splits them."""

    name = f"hostproxy, {ROUTES} routes"
    notes = f"as hostproxy; the last of {ROUTES} routes of the service matches, and splits requests over two subsets"

    def render(self, site: Site) -> list[Launch]:
        files = {"catalog.toml": tomli_w.dumps(versions(site)), "policy.toml": tomli_w.dumps(routes(site))}
        return [replace(launch, files={**launch.files, **files}) for launch in super().render(site)]


def configuration(site: Site, hop: Hop) -> Toml:
    """conf.toml of one host: a calls (and has the calling service), b serves."""
    outbound: Toml = {"listen": ""}
    if hop.tls_in:
        mesh = hop.listen
        services = [
            {"name": name, "instances": list(addresses), "protocol": hop.protocol}
            for name, addresses in hop.services.items()
        ]
    else:
        mesh = hop.spare
        services = [{"name": CLIENT, "instances": [f"{hop.listen_address}:9"]}]
        if hop.protocol == "http":
            outbound = {"listen": hop.listen, "domains": [DOMAIN]}
        else:
            outbound["upstream"] = [{"service": TARGET, "listen": hop.listen}]
    return {
        "host": {
            "name": hop.name,
            "address": hop.listen_address,
            "state_directory": str(hop.directory / "state"),
            "runtime_directory": str(hop.directory / "run"),
        },
        "mesh": {"trust_domain": site.certificates.trust_domain, "listen": mesh},
        "outbound": outbound,
        "service": services,
        "discovery": {"backend": "file", "file": {"path": str(hop.directory / "catalog.toml")}},
        "identity": {
            "mode": "files",
            "files": {
                "ca": str(site.certificates.authority),
                "directory": str(site.certificates.hosts / hop.name),
            },
        },
        "policy": {"path": str(hop.directory / "policy.toml")},
        "admin": {"listen": hop.admin},
        "workers": {"count": 1},
    }


def catalog(site: Site) -> Toml:
    """Where the services run: on host b when there is one, else on hosts without hostproxy."""
    mesh: Toml = {"host": "b", "mesh": site.mesh} if site.hops == 2 else {"host": "plain"}
    return {
        "instance": [
            {"service": name, "address": address, **mesh}
            for name, addresses in site.services.items()
            for address in addresses
        ]
    }


def policy(site: Site) -> Toml:
    """Everybody may call; plain text where there is no hostproxy to call."""
    return {
        "defaults": {"access": "allow"},
        "service": {
            name: {"protocol": site.protocol, "permissive": site.hops == 1} for name in site.services
        },
    }


def versions(site: Site) -> Toml:
    """The catalog, with a version for each instance of a service."""
    whole = catalog(site)
    for number, instance in enumerate(whole["instance"]):
        instance["version"] = str(number % len(site.services[instance["service"]]) + 1)
    return whole


def routes(site: Site) -> Toml:
    """The policy, with routes of the target: by path and by header in turn, and a split for all requests."""
    whole = policy(site)
    others: list[Toml] = [
        {"match": {"headers": {f"x-{number}": "yes"}} if number % 2 else {"path_prefix": f"/{number}/"}}
        for number in range(1, ROUTES)
    ]
    split = [{"subset": "v1", "weight": 90}, {"subset": "v2", "weight": 10}]
    whole["service"][TARGET] |= {
        "subset": {"v1": {"version": "1"}, "v2": {"version": "2"}},
        "route": [*({**one, "split": split[:1]} for one in others), {"name": "canary", "split": split}],
    }
    return whole
