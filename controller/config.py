"""controller.toml: text becomes a frozen :class:`Config`, whole, or every problem is said."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec

from hostproxy.mesh import addresses, names
from hostproxy.mesh.document import CONFIG_SIZE, Invalid, Problem, read
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import Duration, Flag, Integer, Text
from hostproxy.mesh.scan import Path
from hostproxy.mesh.schema import Key, Table

PATH = Text(what="a path")
OPTIONAL_PATH = Text(what="a path", empty=True)
DAY = 86400.0


class Mesh(msgspec.Struct, frozen=True, kw_only=True):
    """What it is the authority of."""

    trust_domain: str


MESH = Table(
    Mesh, Key("trust_domain", Text(names.trust_domain), "the name that every identity of the mesh starts with")
)


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """Where hosts and operators come to."""

    name: str = "controller-1"
    dns: str
    listen: str = "0.0.0.0:15008"
    operator_socket: str = "/run/hostproxy-controller/operator.sock"
    state_directory: str = "/var/lib/hostproxy-controller"
    connections: int = 2000


SERVING = Table(
    Serving,
    Key("name", Text(names.host), "the name of this controller among its replicas"),
    Key("dns", Text(names.domain), "the DNS name that hosts reach it by, which its certificate has"),
    Key("listen", Text(addresses.listening_ip), "the address for hosts and operators, HTTPS"),
    Key("operator_socket", PATH, "the Unix socket for operators on this machine"),
    Key("state_directory", PATH, "where it keeps its database and its audit log"),
    Key("connections", Integer(16, 100_000), "the most connections at a time"),
)


class AuthorityConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Keys and certificates."""

    directory: str = "authority"
    passphrase_file: str = "passphrase"  # noqa: S105  # a path
    signing_key: str = "authority/signing.key"
    leaf_life: float = 12 * 3600.0
    per_minute: int = 600
    host_per_minute: int = 120


AUTHORITY = Table(
    AuthorityConfig,
    Key("directory", PATH, "the directory of the certificate authority"),
    Key("passphrase_file", PATH, "the file with the passphrase that every key is encrypted with; keep it elsewhere"),
    Key("signing_key", PATH, "the key that signs bundles"),
    Key("leaf_life", Duration(60.0, DAY), "how long certificates of hosts and services last"),
    Key("per_minute", Integer(1, 100_000), "the most certificates issued in a minute"),
    Key("host_per_minute", Integer(1, 10_000), "the most certificates issued in a minute to one host"),
)


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything is kept that outlives the process."""

    backend: str = "sqlite"
    consul_address: str = "http://127.0.0.1:8500"
    consul_token_file: str = ""
    consul_ca: str = ""
    consul_certificate: str = ""
    consul_key: str = ""
    consul_prefix: str = "hostproxy"


STORE = Table(
    StoreConfig,
    Key("backend", Text(choices=("sqlite", "consul")), "sqlite for one controller, consul for several"),
    Key("consul_address", Text(what="a URL"), "the agent of Consul: http://ip:port, https://name:port or unix:/path"),
    Key("consul_token_file", OPTIONAL_PATH, "the file with the ACL token, read again when it changes"),
    Key("consul_ca", OPTIONAL_PATH, "with https, the PEM file with the authorities of the agent's certificate"),
    Key("consul_certificate", OPTIONAL_PATH, "with https, the PEM file with a certificate to show the agent"),
    Key("consul_key", OPTIONAL_PATH, "its private key"),
    Key("consul_prefix", Text(names.service), "the first part of every key in Consul"),
)


class CatalogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Consul's catalog, for which service runs on which host."""

    address: str = ""
    token_file: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    outage: float = 6 * 3600.0
    without_acl: bool = False


CATALOG = Table(
    CatalogConfig,
    Key("address", Text(what="a URL", empty=True), 'the agent of Consul, as in [store]; "" is the one of [store]'),
    Key("token_file", OPTIONAL_PATH, "the file with the ACL token, read again when it changes"),
    Key("ca", OPTIONAL_PATH, "with https, the PEM file with the authorities of the agent's certificate"),
    Key("certificate", OPTIONAL_PATH, "with https, the PEM file with a certificate to show the agent"),
    Key("key", OPTIONAL_PATH, "its private key"),
    Key("outage", Duration(0.0, DAY), "how long hosts renew by its last answer while it gives none"),
    Key("without_acl", Flag(), "believe a Consul without ACLs, in which every host can write everything"),
)


class RegistryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Who says, besides operators, which service runs where."""

    consul: CatalogConfig | None = None


REGISTRY = Table(RegistryConfig, Key("consul", CATALOG, "Consul's catalog, where there is this table"))


class PushConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How bundles reach hosts."""

    parallel: int = 64
    timeout: float = 10.0
    bundle_life: float = 7 * DAY
    port: int = 15009


PUSH = Table(
    PushConfig,
    Key("parallel", Integer(1, 1000), "how many hosts are told at a time"),
    Key("timeout", Duration(0.1, 300.0), "the time for telling one"),
    Key("bundle_life", Duration(60.0, 366 * DAY), "how long a bundle is current; hosts that have an older one say so"),
    Key("port", Integer(1, 65535), "the port of [controller] listen on hosts that have not reported another"),
)


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down."""

    level: str = "info"


LOG = Table(Log, Key("level", Text(choices=("debug", "info", "warn", "error")), "the least that is logged"))


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in a controller.toml; every path is absolute."""

    path: str
    mesh: Mesh
    serving: Serving
    authority: AuthorityConfig
    store: StoreConfig
    registry: RegistryConfig = RegistryConfig()
    push: PushConfig
    log: Log


CONFIG = Table(
    dict,
    Key("mesh", MESH, "what it is the authority of"),
    Key("controller", SERVING, "where hosts and operators come to", field="serving"),
    Key("authority", AUTHORITY, "keys and certificates"),
    Key("store", STORE, "where everything is kept"),
    Key("registry", REGISTRY, "who says which service runs where"),
    Key("push", PUSH, "how bundles reach hosts"),
    Key("log", LOG, "what is written down"),
)


def load(path: str) -> Config:
    """Read a controller.toml. Raises :class:`Invalid` with every problem that it has."""
    document = read(path, CONFIG_SIZE)
    findings = Findings(document)
    values = CONFIG.read(document.data, (), findings)
    if not findings.problems:
        _check(values, findings)
    problems: list[Problem] = findings.all_problems()
    if problems:
        raise Invalid(problems)
    return _resolved(Config(path=os.path.abspath(path), **values))


def _check(values: dict[str, Any], findings: Findings) -> None:
    """What keys say together."""
    store, catalog = values["store"], values["registry"].consul
    pairs: list[tuple[Path, str, str]] = [
        (("store", "consul_certificate"), store.consul_certificate, store.consul_key)
    ]
    if catalog is not None:
        pairs.append((("registry", "consul", "certificate"), catalog.certificate, catalog.key))
        given = [key for key in ("token_file", "ca", "certificate", "key") if getattr(catalog, key)]
        if not catalog.address and given:
            hint = "name an address, or leave them all out"
            findings.add(("registry", "consul", given[0]), "belongs to an address, and there is none", hint)
    for path, certificate, key in pairs:
        if bool(certificate) != bool(key):
            findings.add(path, "a certificate needs its key, and a key its certificate", "name both files")


def _resolved(config: Config) -> Config:
    directory = os.path.dirname(config.path)

    def absolute(path: str) -> str:
        return os.path.join(directory, path) if path else ""

    def all_of(part: msgspec.Struct, keys: tuple[str, ...], make: Callable[[str], str]) -> dict[str, str]:
        return {key: make(getattr(part, key)) for key in keys}

    replace = msgspec.structs.replace
    authority, serving, store = config.authority, config.serving, config.store
    catalog = config.registry.consul
    return replace(
        config,
        serving=replace(serving, **all_of(serving, ("operator_socket", "state_directory"), absolute)),
        authority=replace(
            authority, **all_of(authority, ("directory", "passphrase_file", "signing_key"), absolute)
        ),
        store=replace(
            store,
            **all_of(store, ("consul_token_file", "consul_ca", "consul_certificate", "consul_key"), absolute),
        ),
        registry=RegistryConfig(
            consul=replace(catalog, **all_of(catalog, ("token_file", "ca", "certificate", "key"), absolute))
            if catalog is not None
            else None
        ),
    )
