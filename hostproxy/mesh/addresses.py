"""Socket addresses as text: ``10.0.0.12:9001``, ``[fd00::1]:9001`` or ``unix:/run/app.sock``.

Host names are refused: looking one up can block, fail or change, and which address traffic goes to is the
business of discovery.
"""

from __future__ import annotations

import ipaddress
import re

from hostproxy.mesh.units import Wrong

UNIX = "unix:"
ANY = ("0.0.0.0", "::")
UNIX_PATH_SIZE = 107  # bytes; sockaddr_un has 108, the last a NUL

# The common case needs no object: four numbers without leading zeros, a port.
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"({_OCTET}(?:\.{_OCTET}){{3}}):([1-9][0-9]{{0,4}})")
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\]:([1-9][0-9]{0,4})")
_HOST_NAME = re.compile(r"[A-Za-z0-9_.-]+:[0-9]{1,5}")


def socket_address(text: str, unix: bool = True) -> str:
    """Return an address in its one canonical spelling. Raises :class:`Wrong`."""
    match = _IPV4.fullmatch(text)
    if match is not None and int(match[2]) <= 65535:
        return text
    if text.startswith(UNIX):
        if not unix:
            raise Wrong("is a Unix socket, which no other host can reach", 'write "ip:port"')
        return _unix_address(text)
    match = _IPV6.fullmatch(text)
    if match is not None and int(match[2]) <= 65535:
        try:
            ip = ipaddress.IPv6Address(match[1])
        except ValueError:
            raise Wrong("is not an IPv6 address and a port") from None
        if ip.ipv4_mapped is not None:
            raise Wrong("is an IPv4 address in disguise", f'write "{ip.ipv4_mapped}:{match[2]}"')
        return f"[{ip.compressed}]:{match[2]}"
    forms = '"ip:port", "[ipv6]:port"' + (' or "unix:/path"' if unix else "")
    if _HOST_NAME.fullmatch(text) and not re.fullmatch(r"[0-9.]+:[0-9]+", text):
        raise Wrong("is a host name, where only an IP address is taken", f"write {forms}")
    raise Wrong("is not an address", f"write {forms}, with a port from 1 to 65535")


def listening(text: str) -> str:
    """Return an address to listen on. Raises :class:`Wrong`."""
    return _checked(socket_address(text), unspecified=True)


def listening_ip(text: str) -> str:
    """Return an IP address and port to listen on. Raises :class:`Wrong`."""
    return _checked(socket_address(text, unix=False), unspecified=True)


def reachable(text: str) -> str:
    """Return an address to connect to. Raises :class:`Wrong`."""
    return _checked(socket_address(text), unspecified=False)


def reachable_ip(text: str) -> str:
    """Return an IP address and port to connect to. Raises :class:`Wrong`."""
    return _checked(socket_address(text, unix=False), unspecified=False)


def ip_address(text: str) -> str:
    """Return an IP address without a port, at which others reach a host. Raises :class:`Wrong`."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise Wrong("is not an IP address", 'write one without a port, like "10.0.0.12"') from None
    if "%" in text or ip.is_unspecified or ip.is_multicast:
        raise Wrong("is not an address that others could reach this host at")
    return ip.compressed


def is_unix(address: str) -> bool:
    """Say whether a canonical address is a Unix socket."""
    return address.startswith(UNIX)


def split(address: str) -> tuple[str, int]:
    """Return IP (without brackets) and port of a canonical address that isn't a Unix socket."""
    ip, _, port = address.rpartition(":")
    return ip.strip("[]"), int(port)


def is_local(address: str) -> bool:
    """Say whether only this host can reach a canonical address: loopback, or a Unix socket."""
    return address.startswith((UNIX, "127.", "[::1]:"))


def overlap(one: str, other: str) -> bool:
    """Say whether listening on one canonical address takes what the other wants."""
    if one == other:
        return True
    if is_unix(one) or is_unix(other):
        return False
    (one_ip, one_port), (other_ip, other_port) = split(one), split(other)
    if one_port != other_port or (":" in one_ip) != (":" in other_ip):
        return False  # "[::]" is every IPv6 address only: listening sockets have IPV6_V6ONLY
    return one_ip in ANY or other_ip in ANY


def _checked(address: str, unspecified: bool) -> str:
    if is_unix(address):
        return address
    first = address.partition(".")[0]
    if address[0] == "[":
        ip = ipaddress.IPv6Address(split(address)[0])
        is_unspecified, is_multicast = ip.is_unspecified, ip.is_multicast
    else:
        is_unspecified, is_multicast = address.startswith("0.0.0.0:"), int(first) >= 224
    if is_multicast:
        raise Wrong("is a multicast or reserved address")
    if is_unspecified and not unspecified:
        raise Wrong("means every address, and nothing can be reached there", "write the one to connect to")
    return address


def _unix_address(text: str) -> str:
    path = text.removeprefix(UNIX)
    if not path.startswith("/") or not path.isprintable() or ".." in path.split("/"):
        raise Wrong("is not a Unix socket", 'write an absolute path without "..": "unix:/run/app.sock"')
    if len(path.encode()) > UNIX_PATH_SIZE:
        raise Wrong(f"has a path of more than the {UNIX_PATH_SIZE} bytes that a Unix socket can have")
    return text
