"""Which addresses of the catalog are connected to: what anybody may register there is not trusted.

A registered loopback or link-local address would make this host connect to its own private ports, or to the
metadata service of its cloud (169.254.169.254), on behalf of whoever asked for the service.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Sequence
from typing import NamedTuple

from twisted.logger import Logger

THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")  # RFC 1122 section 3.2.1.3: never a destination; Linux takes 0.0.0.0
IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refusal(NamedTuple):
    """Why an entry of an answer is not used."""

    reason: str  # one of a few words, for counting
    text: str  # which instance, and what to do


class Told:
    """Logs refusals, each of them once."""

    MOST = 1000  # remembered

    log = Logger()

    def __init__(self) -> None:
        self._told: dict[Refusal, None] = {}

    def tell(self, refusal: Refusal) -> None:
        """Log it, unless that has been done."""
        if refusal not in self._told:
            while len(self._told) >= self.MOST:
                del self._told[next(iter(self._told))]
            self._told[refusal] = None
            self.log.warn("Consul: {text} ({reason})", text=refusal.text, reason=refusal.reason)


class Refused(Exception):
    """An entry can't be used."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Reachable:
    """Judges the addresses of instances."""

    def __init__(self, allow: Sequence[str], own_addresses: Container[str]) -> None:
        """``allow``: networks of private addresses that are meant; ``own_addresses``: hostproxy's own ports here."""
        self._allow = tuple(ipaddress.ip_network(network) for network in allow)
        self._own = own_addresses

    def ip(self, text: str) -> str:
        """Return an IP address in the spelling that stands before a port. Raises :class:`Refused`."""
        try:
            ip: IP = ipaddress.ip_address(text)
        except ValueError:
            raise Refused(
                "host_name", f"{text[:80]!a} is not an IP address: register one, names are not looked up"
            ) from None
        if isinstance(ip, ipaddress.IPv6Address):
            if ip.scope_id is not None:
                raise Refused("link_local", f"{text[:80]!a} has a scope, which means something on one host only")
            ip = ip.ipv4_mapped or ip  # what the kernel would connect to
        if ip.is_unspecified or ip in THIS_NETWORK:
            raise Refused("unspecified", f"{ip} is no address of a host: register the address of the host")
        if ip.is_multicast or (ip.is_reserved and not ip.is_loopback):
            raise Refused("multicast", f"{ip} is a multicast, broadcast or reserved address")
        # A network of the other family contains none of it.
        if (ip.is_loopback or ip.is_link_local) and not any(ip in network for network in self._allow):
            reason, what = ("loopback", "loopback") if ip.is_loopback else ("link_local", "link-local")
            raise Refused(
                reason,
                f"{ip} is a {what} address, another place on every host: register the address of the host,"
                " or add the network to allow in [discovery.consul]",
            )
        return f"[{ip.compressed}]" if ip.version == 6 else str(ip)

    def port(self, ip: str, port: int) -> str:
        """Return the address of a port there. Raises :class:`Refused`."""
        address = f"{ip}:{port}"
        if address in self._own:
            raise Refused("own_port", f"{address} is a port of hostproxy itself on this host, not of a service")
        return address
