"""The mesh that most tests share: two hosts on loopback, each service with a scripted origin behind it.

    plain:   client -> alpha -> origin                        a permissive service on a host without hostproxy
    mutual:  client -> alpha -> mutual TLS -> beta -> origin
    bent:    client -> alpha -> mutual TLS -> origin          a peer with a good certificate and its own mind

``cart`` on alpha is the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes import certificates as fake
from tests.fakes.client import connect
from tests.fakes.origin import Answer, Origin, reply
from tests.fakes.replay import Lane
from tests.integration.host import TRUST_DOMAIN, Host, certificates, descriptors

TOPOLOGIES = ("plain", "mutual")
BENT = "bent"
LANES = 6
CALLER = "cart"
OTHER = "shop"  # another caller on the same host
SERVICE = "web"  # of hosts that a test has for itself
ALPHA, BETA = "127.0.1.1", "127.0.1.2"


@dataclass(frozen=True, slots=True)
class Service:
    """A service, the port on alpha that leads to it, and the origin that answers."""

    name: str
    address: str
    origin: Origin

    def lane(self) -> Lane:
        return Lane(lambda: connect(self.address), self.origin)


class Mesh:
    """Two hosts and their services."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.services: dict[str, Service] = {}
        self.descriptors: dict[str, int] = {}  # of each host's worker before any traffic
        self.names = {
            topology: [f"{topology}-{n}" for n in range(LANES)] + [f"{topology}-http", f"{topology}-tcp"]
            for topology in TOPOLOGIES
        }
        self.names[BENT] = [f"{BENT}-{n}" for n in range(LANES)]
        self.certificates = {ALPHA: directory / "alpha.pki", BETA: directory / "beta.pki"}
        certificates(self.certificates[ALPHA], "alpha", CALLER)
        certificates(self.certificates[BETA], "beta", *self.names["mutual"], authority=self.certificates[ALPHA])
        self.alpha = Host(directory / "alpha", "alpha", certificates=self.certificates[ALPHA], address=ALPHA)
        self.beta = Host(directory / "beta", "beta", certificates=self.certificates[BETA], address=BETA)
        self.alpha.conf["service"].append({"name": CALLER, "instances": []})
        for topology in TOPOLOGIES:
            for name in self.names[topology]:
                self._add(topology, name)
        for name in self.names[BENT]:
            self._add_bent(name)
        self.alpha.write()
        self.beta.write()

    def _add_bent(self, name: str) -> None:
        uri = f"spiffe://{TRUST_DOMAIN}/service/{name}"
        files = fake.issue(self.certificates[ALPHA], self.directory, name, fake.Wanted((uri,)))
        origin = Origin(tls=fake.server_context(*files, ["http/1.1"]))
        where = origin.address
        self.alpha.catalog.append({"service": name, "host": name, "address": where, "mesh": where})
        self.services[name] = Service(name, self.alpha.add_upstream(name), origin)

    def _add(self, topology: str, name: str) -> None:
        origin = Origin()
        address = self.alpha.add_upstream(name)
        protocol = "tcp" if name.endswith("-tcp") else "http"
        instance = {"service": name, "host": "beta", "address": origin.address, "mesh": self.beta.mesh}
        if topology == "plain":
            instance |= {"host": "legacy"}
            del instance["mesh"]
        else:
            self.beta.conf["service"].append({"name": name, "instances": [origin.address], "protocol": protocol})
        self.alpha.catalog.append(instance)
        self.alpha.policy["service"][name] = {"protocol": protocol, "permissive": topology == "plain"}
        self.services[name] = Service(name, address, origin)

    def start(self) -> Mesh:
        self.alpha.start()
        self.beta.start()
        self.alpha.wait_ready()
        self.beta.wait_ready()
        self.descriptors = {host.name: descriptors(host.workers()[0]) for host in (self.alpha, self.beta)}
        return self

    def stop(self) -> None:
        self.alpha.stop()
        self.beta.stop()
        for service in self.services.values():
            service.origin.stop()

    def lanes(self, topology: str) -> list[Lane]:
        """The services that the corpus is replayed through."""
        return [self.services[f"{topology}-{n}"].lane() for n in range(LANES)]

    def direct_lanes(self) -> list[Lane]:
        """Straight to beta's mesh port with a good certificate: a caller that no alpha has cleaned up."""
        directory = self.certificates[ALPHA]
        context = fake.client_context(directory / f"{CALLER}.pem", directory / f"{CALLER}.key", ["http/1.1"])

        def lane(service: Service) -> Lane:
            name = f"{service.name}.dc1.{TRUST_DOMAIN}"
            return Lane(lambda: context.wrap_socket(connect(self.beta.mesh), server_hostname=name), service.origin)

        return [lane(self.services[f"mutual-{n}"]) for n in range(LANES)]

    def workers(self) -> list[int]:
        return self.alpha.workers() + self.beta.workers()


class Pair:
    """Two hosts of their own: ``web`` with two instances, one behind beta and one plain, called by ``cart``."""

    def __init__(self, directory: Path) -> None:
        self.pki = {name: directory / f"{name}.pki" for name in ("alpha", "beta")}
        certificates(self.pki["alpha"], "alpha", CALLER, OTHER)
        certificates(self.pki["beta"], "beta", SERVICE, authority=self.pki["alpha"])
        self.origins = [Origin(lambda *_: Answer(reply(b"0"))), Origin(lambda *_: Answer(reply(b"1")))]
        first, second = self.origins
        self.alpha = Host(directory / "alpha", "alpha", certificates=self.pki["alpha"], address="127.0.2.1", workers=2)
        self.beta = Host(directory / "beta", "beta", certificates=self.pki["beta"], address="127.0.2.2", workers=2)
        self.alpha.conf["service"] = [{"name": CALLER, "instances": []}, {"name": OTHER, "instances": []}]
        self.address = self.alpha.add_upstream(SERVICE, caller=CALLER)
        self.other_address = self.alpha.add_upstream(SERVICE, caller=OTHER)
        self.beta.conf["service"].append({"name": SERVICE, "instances": [first.address]})
        self.alpha.policy["service"][SERVICE] = {"permissive": True}
        self.meshed = {"service": SERVICE, "host": "beta", "address": first.address, "mesh": self.beta.mesh}
        self.plain = {"service": SERVICE, "host": "legacy", "address": second.address}
        self.reset()

    def start(self) -> Pair:
        self.alpha.start()
        self.beta.start()
        self.alpha.wait_ready()
        self.beta.wait_ready()
        return self

    def reset(self) -> None:
        """Files as at the start."""
        self.alpha.catalog = [self.meshed]
        self.beta.policy = {"defaults": {"access": "allow"}, "service": {}}
        self.alpha.write()
        self.beta.write()

    def stop(self) -> None:
        self.alpha.stop()
        self.beta.stop()
        for origin in self.origins:
            origin.stop()


def single(
    directory: Path,
    certificates: Path,
    origins: Sequence[Origin | str],
    *,
    protocol: str = "http",
    workers: int = 1,
    limits: dict[str, Any] | None = None,
) -> tuple[Host, str]:
    """A host of its own with a plain service ``web`` on these origins; the host, not started, and the port."""
    host = Host(directory, "alpha", certificates=certificates, workers=workers, limits=limits)
    host.conf["service"].append({"name": CALLER, "instances": []})
    address = host.add_upstream(SERVICE)
    host.policy["service"][SERVICE] = {"protocol": protocol, "permissive": True}
    for number, origin in enumerate(origins):
        where = origin if isinstance(origin, str) else origin.address
        host.catalog.append({"service": SERVICE, "host": f"legacy-{number}", "address": where})
    host.write()
    return host, address
