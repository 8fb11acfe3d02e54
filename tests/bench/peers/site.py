"""What every proxy is asked to be: one hop in the clear, or a pair with mutual TLS between the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Protocol = Literal["http", "tcp"]
Services = Mapping[str, tuple[str, ...]]
"""Addresses ("127.0.2.1:8080") of the instances of each service."""

DOMAIN = "mesh"  # a service is reached by the host name NAME.mesh
TARGET = "payments"  # the service that takes the load
CLIENT = "cart"  # the service whose certificate the first of a pair presents


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files of one authority, P-256, as ``[identity.files]`` of each host wants them."""

    authority: Path
    hosts: Path  # a directory for each host, with NAME.pem and NAME.key
    trust_domain: str
    server_name: str  # the target's DNS name, sent as SNI
    server_uri: str  # and its SPIFFE identity

    def certificate(self, name: str) -> Path:
        return self._host(name) / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self._host(name) / f"{name}.key"

    def _host(self, name: str) -> Path:
        return self.hosts / ("a" if name == CLIENT else "b")


@dataclass(frozen=True, slots=True)
class Hop:
    """One proxy: where it listens, where it sends to, and on which side there is TLS."""

    name: str
    directory: Path
    protocol: Protocol
    listen: str
    admin: str  # address of the statistics
    spare: str  # an address for whatever else it has to listen on
    services: Services
    certificates: Certificates
    tls_in: bool = False
    tls_out: bool = False

    @property
    def listen_address(self) -> str:
        return self.listen.rpartition(":")[0]


@dataclass(frozen=True, slots=True)
class Site:
    """A whole set-up: the client connects to ``listen``; with two hops, mutual TLS runs to ``mesh``."""

    directory: Path
    protocol: Protocol
    listen: str
    mesh: str
    admins: tuple[str, str]
    spare: str
    services: Services
    certificates: Certificates
    hops: Literal[1, 2] = 1

    def with_services(self, services: Services) -> Site:
        """The same, with other instances."""
        return replace(self, services=services)

    def chain(self) -> tuple[Hop, ...]:
        """The proxies in the order in which a request meets them."""
        first = Hop(
            "a",
            self.directory / "a",
            self.protocol,
            self.listen,
            self.admins[0],
            self.spare,
            self.services,
            self.certificates,
        )
        if self.hops == 1:
            return (first,)
        second = replace(
            first,
            name="b",
            directory=self.directory / "b",
            listen=self.mesh,
            admin=self.admins[1],
            tls_in=True,
        )
        return replace(first, services=dict.fromkeys(self.services, (self.mesh,)), tls_out=True), second


@dataclass(frozen=True, slots=True)
class Launch:
    """One process to start: its files (written first), its command, and what it adds to the environment."""

    name: str
    directory: Path
    files: Mapping[str, str]
    command: tuple[str, ...]
    environment: Mapping[str, str]
