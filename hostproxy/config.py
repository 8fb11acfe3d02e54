"""conf.toml: what one host is told. Text becomes a frozen :class:`Config` here, whole, or nothing does.

A struct says what the program gets and holds the defaults; the ``Table`` beside it says what an operator may
write, within which bounds, and what it means. conf.example.toml is held against the tables by a test.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec

from hostproxy import config_checks
from hostproxy.config_controller import CONTROLLER, MODE, ControllerConfig
from hostproxy.config_discovery import DISCOVERY, ConsulConfig, Discovery
from hostproxy.config_limits import LIMITS
from hostproxy.config_services import SERVICE, LocalService, user_id
from hostproxy.limits import Limits
from hostproxy.mesh import addresses, names
from hostproxy.mesh.document import CONFIG_SIZE, Invalid, Problem, read
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import AnyTable, Fraction, Integer, ListOf, MapOf, Text
from hostproxy.mesh.scan import Path
from hostproxy.mesh.schema import Key, Section, Table, Tables

PATH = Text(what="a path")
OPTIONAL_PATH = Text(what="a path", empty=True)
OPTIONAL_WORD = Text(names.word, empty=True)


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """This machine."""

    name: str
    address: str  # IP address
    datacenter: str = "dc1"
    zone: str = ""
    labels: dict[str, str] = {}
    state_directory: str = "/var/lib/hostproxy"
    runtime_directory: str = "/run/hostproxy"


HOST = Table(
    Host,
    Key("name", Text(names.host), "the name of this host, as the catalog and its certificate have it"),
    Key("address", Text(addresses.ip_address), "the IP address at which other hosts reach this one"),
    Key("datacenter", Text(names.datacenter), "the datacenter it stands in"),
    Key("zone", OPTIONAL_WORD, "the part of the datacenter, such as a rack"),
    Key("labels", MapOf(names.word, Text(names.word), most=64), "words of your own about this host"),
    Key("state_directory", PATH, "where it keeps what has to outlive a reboot"),
    Key("runtime_directory", PATH, "where it keeps sockets"),
)


class Mesh(msgspec.Struct, frozen=True, kw_only=True):
    """What this host shares with its peers."""

    trust_domain: str
    listen: str = "0.0.0.0:15443"


MESH = Table(
    Mesh,
    Key("trust_domain", Text(names.trust_domain), "the name that every identity of the mesh starts with"),
    Key("listen", Text(addresses.listening_ip), "the mesh port: where peers connect with mutual TLS"),
)


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """A service at a fixed local address."""

    service: str
    listen: str
    subset: str = ""  # of the service, one of policy's; empty: all of it, or policy's default_subset
    caller: str = ""  # of processes that are no service: a local service or "host"; "": they may not call


class Outbound(msgspec.Struct, frozen=True, kw_only=True):
    """How local workloads send traffic out."""

    listen: str = "127.0.0.1:15001"  # empty: off
    domains: tuple[str, ...] = ("mesh",)
    connect_ports: tuple[int, ...] = ()
    caller: str = ""  # as in Upstream
    upstreams: tuple[Upstream, ...] = ()


def _caller(text: str) -> str:
    return text if text == config_checks.HOST_IDENTITY else names.service(text)


UPSTREAM = Table(
    Upstream,
    Key("service", Text(names.service), "the service that is reached here"),
    Key("listen", Text(addresses.listening), "the local address for it, a port or a Unix socket"),
    Key("subset", Text(names.subset, empty=True), "the subset of its instances, which policy defines"),
    Key("caller", Text(_caller, empty=True), "the service that calls here, as [outbound] caller"),
)

OUTBOUND = Table(
    Outbound,
    Key(
        "listen",
        Text(addresses.listening, empty=True),
        'the HTTP proxy port, which routes by host name; "" is off',
    ),
    Key("domains", ListOf(Text(names.domain), most=16), "the suffixes that may follow a service name there"),
    Key(
        "connect_ports",
        ListOf(Integer(1, 65535)),
        "the ports that CONNECT may name there; none refuses CONNECT",
    ),
    Key(
        "caller",
        Text(_caller, empty=True),
        'the service that calls, whose certificate peers see: one of [[service]], or "host" for the host; '
        '"" is the only [[service]] when there is one, else the host',
    ),
    Key("upstream", Tables(UPSTREAM, most=1000), "a service at a fixed local address", field="upstreams"),
)


class IdentityConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where certificates come from."""

    mode: str = "files"
    authorities_path: str
    directory: str


class _IdentityTable(Table):
    """Files are needed unless certificates come from the controller."""

    def read(self, value: Any, path: Path, findings: Findings) -> Any:
        if value == {"mode": MODE}:
            return IdentityConfig(mode=MODE, authorities_path="", directory="")
        return super().read(value, path, findings)


IDENTITY = _IdentityTable(
    IdentityConfig,
    Key(
        "mode",
        Text(choices=("files", MODE)),
        "where certificates come from: files or controller",
    ),
    Key(
        "files",
        Section(
            Key(
                "ca", PATH, "the PEM file with the authorities of the mesh, watched", field="authorities_path"
            ),
            Key(
                "directory",
                PATH,
                "the directory of NAME.pem and NAME.key for each [[service]], host.pem and host.key, watched",
            ),
        ),
        "certificates that you bring",
    ),
)


class PolicyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where policy comes from."""

    path: str = ""  # empty: there is none


POLICY = Table(
    PolicyConfig,
    Key(
        "path",
        OPTIONAL_PATH,
        "the policy: a TOML file or a directory of them, watched; without one every call is denied",
    ),
)


class Admin(msgspec.Struct, frozen=True, kw_only=True):
    """The port for operators."""

    listen: str = "127.0.0.1:15000"


ADMIN = Table(
    Admin,
    Key("listen", Text(addresses.listening), "the address for operators, on loopback or a Unix socket only"),
)


class Workers(msgspec.Struct, frozen=True, kw_only=True):
    """The processes that carry traffic."""

    count: int = 0  # 0: as many as cores


WORKERS = Table(
    Workers,
    Key("count", Integer(0, 256), "the number of processes that carry traffic; 0 is one for each core"),
)


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down."""

    level: str = "info"
    access_path: str = ""  # empty: off
    access_sample: float = 1.0


LOG = Table(
    Log,
    Key(
        "level",
        Text(choices=("debug", "info", "warn", "error")),
        "the least that is logged to standard error: debug, info, warn or error",
    ),
    Key(
        "access",
        Section(
            Key(
                "path",
                OPTIONAL_PATH,
                'the access log, a JSON line for each request; "" is off',
                field="access_path",
            ),
            Key(
                "sample",
                Fraction(0, 1),
                "the share of successful requests that is logged; failures always are",
                field="access_sample",
            ),
        ),
        "the access log",
    ),
)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in a conf.toml; every path is absolute."""

    path: str
    host: Host
    mesh: Mesh
    outbound: Outbound
    services: tuple[LocalService, ...]
    discovery: Discovery
    identity: IdentityConfig
    policy: PolicyConfig
    controller: ControllerConfig = ControllerConfig()
    admin: Admin
    workers: Workers
    limits: Limits
    log: Log
    warnings: tuple[Problem, ...] = ()


CONFIG = Table(
    dict,
    Key("host", HOST, "this machine"),
    Key("mesh", MESH, "what it shares with its peers"),
    Key("outbound", OUTBOUND, "how local workloads send traffic out"),
    Key("service", Tables(SERVICE, most=1000), "a service of this host", field="services", default=()),
    Key("discovery", DISCOVERY, "who knows where services run"),
    Key("identity", IDENTITY, "where certificates come from"),
    Key("policy", POLICY, "where policy comes from"),
    Key("controller", CONTROLLER, "the authority for identities and policy"),
    Key("admin", ADMIN, "the port for operators"),
    Key("workers", WORKERS, "the processes that carry traffic"),
    Key("limits", LIMITS, "the bounds of the data path"),
    Key("log", LOG, "what is written down"),
    Key("trace", AnyTable(), "spans of requests", planned=True),
)


def load(path: str) -> Config:
    """Read a conf.toml. Raises :class:`Invalid` with every problem that it has."""
    config, problems = examine(path)
    if problems:
        raise Invalid(problems)
    return config


def examine(path: str) -> tuple[Config, list[Problem]]:
    """Read a conf.toml; return what could be understood of it, and its problems.

    Only without problems is that a configuration to run with; with some, it still names the other files, so
    that they can be checked as well. Raises :class:`Invalid` when it isn't TOML at all.
    """
    document = read(path, CONFIG_SIZE)
    findings = Findings(document)
    values = CONFIG.read(document.data, (), findings)
    config = Config(path=os.path.abspath(path), **values)
    config_checks.check(config, findings)
    return _resolved(config, tuple(findings.all_warnings())), findings.all_problems()


def _resolved(config: Config, warnings: tuple[Problem, ...]) -> Config:
    """Replace what stands for something else: relative paths, the caller "", the worker count 0."""
    directory = os.path.dirname(config.path)
    replace = msgspec.structs.replace

    def absolute(path: str) -> str:
        return os.path.join(directory, path) if path else ""

    services = tuple(replace(each, uid=user_id(each.user)) if each.user else each for each in config.services)
    known = {each.name for each in services if each.known_by_kernel}
    # Where the kernel says who calls, the rest are nobody, unless a caller without unit and user is given.
    sole = services[0].name if len(services) == 1 else "" if known else config_checks.HOST_IDENTITY

    def other(caller: str) -> str:
        caller = caller or sole
        return "" if caller in known else caller

    outbound = config.outbound
    return replace(
        config,
        host=replace(
            config.host,
            state_directory=absolute(config.host.state_directory),
            runtime_directory=absolute(config.host.runtime_directory),
        ),
        outbound=replace(
            outbound,
            caller=other(outbound.caller),
            upstreams=tuple(replace(each, caller=other(each.caller)) for each in outbound.upstreams),
        ),
        services=services,
        discovery=replace(
            config.discovery,
            file_path=absolute(config.discovery.file_path),
            consul=_consul(config.discovery.consul, config.host, absolute),
        ),
        identity=replace(
            config.identity,
            authorities_path=absolute(config.identity.authorities_path),
            directory=absolute(config.identity.directory),
        ),
        policy=PolicyConfig(path=absolute(config.policy.path)),
        controller=replace(
            config.controller,
            ca_file=absolute(config.controller.ca_file),
            join_token_file=absolute(config.controller.join_token_file),
        ),
        workers=Workers(count=config.workers.count or len(os.sched_getaffinity(0))),
        log=replace(config.log, access_path=absolute(config.log.access_path)),
        warnings=warnings,
    )


def _consul(consul: ConsulConfig, host: Host, absolute: Callable[[str], str]) -> ConsulConfig:
    return msgspec.structs.replace(
        consul,
        ca=absolute(consul.ca),
        certificate=absolute(consul.certificate),
        key=absolute(consul.key),
        token_file=absolute(consul.token_file),
        datacenter=consul.datacenter or host.datacenter,
        node=consul.node or host.name,
    )
