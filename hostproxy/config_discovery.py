"""The table ``[discovery]``: who knows where services run."""

from __future__ import annotations

import ipaddress

import msgspec

from hostproxy.mesh import addresses, names
from hostproxy.mesh.kinds import Duration, Flag, Integer, ListOf, Text
from hostproxy.mesh.schema import Key, Section, Table
from hostproxy.mesh.units import Wrong

OPTIONAL_PATH = Text(what="a path", empty=True)
MINUTE = 60.0


class ConsulConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The agent of Consul on this host, and how much is asked of it."""

    address: str = "http://127.0.0.1:8500"  # http://, https:// with ip or name and port; or unix:/path
    ca: str = ""  # path
    certificate: str = ""  # path
    key: str = ""  # path
    token_file: str = ""  # path
    token_credential: str = ""  # name of a systemd credential
    datacenter: str = ""  # empty: [host] datacenter
    namespace: str = ""
    node: str = ""  # of the agent; empty: [host] name
    register: bool = True
    watches: int = 150
    wait: float = 300.0
    hold_empty: float = 30.0
    stale_limit: float = 10.0
    first_use: float = 2.0
    leave: float = 2.0
    allow: tuple[str, ...] = ()  # networks


class Discovery(msgspec.Struct, frozen=True, kw_only=True):
    """Who knows where services run."""

    backend: str = "file"
    file_path: str = ""
    consul: ConsulConfig = ConsulConfig()


def agent(text: str) -> str:
    """Return where the agent's HTTP interface is: ``http://IP:PORT``, ``https://HOST:PORT`` or ``unix:/path``.

    Raises :class:`Wrong`.
    """
    if text.startswith(addresses.UNIX):
        return addresses.reachable(text)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("http", "https"):
        raise Wrong("is not the address of an agent", 'write "http://ip:port", "https://name:port" or "unix:/path"')
    host, colon, port = rest.rpartition(":")
    if not colon:
        raise Wrong("has no port", f'did you mean "{scheme}://{rest}:{"8500" if scheme == "http" else "8501"}"?')
    try:
        addresses.reachable_ip(rest)
    except Wrong:
        if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise Wrong("has no port from 1 to 65535") from None
        names.domain(host)
    return text


def network(text: str) -> str:
    """Return a network such as ``10.0.0.0/8``, or an IP address. Raises :class:`Wrong`."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise Wrong("is not a network", str(error)) from None


CONSUL = Table(
    ConsulConfig,
    Key("address", Text(agent), "the agent on this host: http://ip:port, https://name:port or unix:/path"),
    Key("ca", OPTIONAL_PATH, "with https, the PEM file with the authorities of the agent's certificate"),
    Key("certificate", OPTIONAL_PATH, "with https, the PEM file with a certificate to show the agent"),
    Key("key", OPTIONAL_PATH, "its private key"),
    Key("token_file", OPTIONAL_PATH, "the file with the ACL token, read again when it changes"),
    Key(
        "token_credential",
        Text(names.word, empty=True),
        "the systemd credential with the ACL token, instead of token_file",
    ),
    Key(
        "datacenter",
        Text(names.datacenter, empty=True),
        'the name that Consul has for the datacenter of this host; "" is [host] datacenter',
    ),
    Key("namespace", Text(names.word, empty=True), "the namespace (Consul Enterprise), passed on as it is"),
    Key("node", Text(names.word, empty=True), 'the name of the agent; "" is [host] name'),
    Key("register", Flag(), "whether the services of this host, and hostproxy itself, are registered"),
    Key(
        "watches",
        Integer(1, 5000),
        "the most blocking queries at a time; Consul allows 200 connections for each address by default",
    ),
    Key("wait", Duration(1.0, 10 * MINUTE), "how long a blocking query may last"),
    Key(
        "hold_empty",
        Duration(0.0, 60 * MINUTE),
        "how long the last instances of a service are kept when Consul suddenly knows none",
    ),
    Key(
        "stale_limit",
        Duration(0.1, 60 * MINUTE),
        "how far behind the leader an answer may be before the leader is asked itself",
    ),
    Key(
        "first_use",
        Duration(0.0, MINUTE),
        "how long a request waits when it names a service for the first time on the HTTP proxy port",
    ),
    Key(
        "leave",
        Duration(0.0, MINUTE),
        "how long to go on serving in maintenance before deregistration, so that callers can learn of it",
    ),
    Key(
        "allow",
        ListOf(Text(network), most=64),
        "networks in which instances may be although they are loopback or link-local",
    ),
)

DISCOVERY = Table(
    Discovery,
    Key("backend", Text(choices=("file", "consul")), "who knows where services run: file or consul"),
    Key(
        "file",
        Section(
            Key(
                "path",
                OPTIONAL_PATH,
                "the catalog: a TOML file with an [[instance]] for each, watched",
                field="file_path",
            ),
        ),
        "the file backend",
    ),
    Key("consul", CONSUL, "the consul backend"),
)
