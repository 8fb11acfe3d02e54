"""What no key of conf.toml can say alone: combinations that could not work, or not as they seem to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hostproxy import config_controller
from hostproxy.config_services import user_id
from hostproxy.mesh import addresses
from hostproxy.mesh.document import key_text
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.scan import Path

if TYPE_CHECKING:
    from hostproxy.config import Config
    from hostproxy.config_services import LocalService

HOST_IDENTITY = "host"  # as a caller: the host itself, no service of it
OWN_SERVICE = "hostproxy"  # the service that hostproxy registers itself as
UNNAMED_USER = 65534  # the kernel's answer for users outside of our user namespace
CONSUL_INTERVAL = 1.0  # seconds; the agent of Consul runs no check more often


def check(config: Config, findings: Findings) -> None:
    """Note every combination that is refused. Values that were refused before are blank, and pass."""
    config_controller.check(config, findings)
    _check_callers(config, findings)
    _check_services(config, findings)
    _check_workloads(config, findings)
    _check_health(config, findings)
    _check_listeners(config, findings)
    _check_discovery(config, findings)
    _check_consul(config, findings)
    _check_registration(config, findings)
    _check_limits(config, findings)


def _check_callers(config: Config, findings: Findings) -> None:
    local = {service.name for service in config.services} | {HOST_IDENTITY, ""}
    known = {service.name for service in config.services if service.known_by_kernel}
    callers: list[tuple[Path, str]] = [(("outbound", "caller"), config.outbound.caller)]
    for index, upstream in enumerate(config.outbound.upstreams):
        callers.append((("outbound", "upstream", index, "caller"), upstream.caller))
    for path, caller in callers:
        if caller not in local:
            findings.add(path, f'"{caller}" is no service of this host', f'add a [[service]] "{caller}"')
        elif caller in known:
            findings.warn(path, "does nothing", f'only who has the unit or user of [[service]] "{caller}" calls as it')


def _check_services(config: Config, findings: Findings) -> None:
    first: dict[str, int] = {}
    for index, service in enumerate(config.services):
        if service.name and first.setdefault(service.name, index) != index:
            line, _ = findings.document.place(("service", first[service.name], "name"))
            findings.add(
                ("service", index, "name"),
                f'"{service.name}" is declared at line {line} already',
                "list all its instances there",
            )


def _check_workloads(config: Config, findings: Findings) -> None:
    """By which services the kernel's answer could mean two, or none."""
    first: dict[tuple[str, int | str], int] = {}
    for index, service in enumerate(config.services):
        if not service.known_by_kernel:
            continue
        number = user_id(service.user)
        if service.user and number is None:
            hint = "nobody calls as this service; where systemd makes the user (DynamicUser=), give unit instead"
            findings.warn(("service", index, "user"), f'"{service.user}" is no user of this host', hint)
        if number == UNNAMED_USER:
            hint = "give the service a user of its own"
            findings.add(("service", index, "user"), "stands for all users that have no number here", hint)
        key = (service.unit, service.user if number is None else number)
        if first.setdefault(key, index) != index:
            name = "unit" if service.unit else "user"
            other = ("service", first[key], name)
            line, _ = findings.document.place(other)
            text = f'is that of service "{config.services[first[key]].name}" at line {line} already'
            findings.add(("service", index, name), text, "callers could not be told apart")


def _check_health(config: Config, findings: Findings) -> None:
    for index, service in enumerate(config.services):
        path, check = ("service", index, "check"), service.check
        http, tcp = (*path, "http"), (*path, "tcp")
        if check.http and check.tcp:
            findings.add(tcp, "is given beside http", "one of them is asked for; a good answer needs a connection")
        elif not check.wanted:
            if findings.document.has(path) and not any(map(findings.blames, (path, http, tcp))):
                findings.add(path, "asks for nothing", 'write http = "/healthz" or tcp = true')
            continue
        if not service.instances and not findings.blames(("service", index, "instances")):
            findings.warn(path, "has nothing to ask", "the service has no instances here")
        if check.http and service.protocol in ("http2", "grpc"):
            hint = "instances that speak only HTTP/2 need tcp = true"
            findings.warn(http, f"is asked for in HTTP/1.1, and the protocol is {service.protocol}", hint)


def _listeners(config: Config) -> Iterator[tuple[Path, str]]:
    """Yield the addresses that the daemon listens on."""
    yield ("mesh", "listen"), config.mesh.listen
    yield ("admin", "listen"), config.admin.listen
    yield ("outbound", "listen"), config.outbound.listen
    for index, upstream in enumerate(config.outbound.upstreams):
        yield ("outbound", "upstream", index, "listen"), upstream.listen
    if config.identity.mode == config_controller.MODE:
        yield ("controller", "listen"), config.controller.listen


def _check_listeners(config: Config, findings: Findings) -> None:
    if config.admin.listen and not addresses.is_local(config.admin.listen):
        findings.add(
            ("admin", "listen"),
            f'"{config.admin.listen}" can be reached from other hosts, and shows them everything',
            'use a loopback address or "unix:/path"',
        )
    taken: dict[
        str, list[tuple[Path, str]]
    ] = {}  # by port, so that a thousand upstreams are no million pairs
    for path, address in _listeners(config):
        if not address:
            continue
        for other_path, other in taken.setdefault(_port(address), []):
            if addresses.overlap(address, other):
                later, earlier = _in_order(path, other_path, findings)
                findings.add(later, f'"{address}" is taken', f"{_named(earlier, findings)} listens there")
                break
        taken[_port(address)].append((path, address))
    for index, service in enumerate(config.services):
        for number, instance in enumerate(service.instances):
            for path, address in taken.get(_port(instance), ()):
                if instance and addresses.overlap(instance, address):
                    findings.add(
                        ("service", index, "instances", number),
                        f'"{instance}" is hostproxy itself: traffic would go round in circles',
                        f"{_named(path, findings)} listens there",
                    )


def _check_discovery(config: Config, findings: Findings) -> None:
    path = ("discovery", "file", "path")
    if config.discovery.backend != "file" or config.discovery.file_path or findings.blames(path):
        return
    if config.outbound.upstreams:
        findings.add(path, "is missing", "[[outbound.upstream]] needs a catalog that says where services run")
    elif config.outbound.listen:
        findings.warn(path, "is not set", "without a catalog no service can be reached from this host")


def _check_consul(config: Config, findings: Findings) -> None:
    path, backend, consul = ("discovery", "consul"), config.discovery.backend, config.discovery.consul
    if backend == "file" and findings.document.has(path):
        findings.warn(path, "does nothing", 'it is for [discovery] backend = "consul"')
    if backend == "consul" and config.discovery.file_path:
        findings.warn(("discovery", "file", "path"), "does nothing", 'it is for [discovery] backend = "file"')
    if consul.address and not consul.address.startswith("https://"):
        for name in ("ca", "certificate", "key"):
            if getattr(consul, name):
                findings.add((*path, name), f"does nothing with {consul.address}", "it is for an https:// address")
    elif consul.certificate and not consul.key and not findings.blames((*path, "key")):
        findings.add((*path, "certificate"), "is given without key", "it takes both")
    elif consul.key and not consul.certificate and not findings.blames((*path, "certificate")):
        findings.add((*path, "key"), "is given without certificate", "it takes both")
    if set("/:") & set(consul.token_credential):
        hint = "systemd takes no / and no : in one"
        findings.add((*path, "token_credential"), f'"{consul.token_credential}" is not the name of a credential', hint)
    if consul.token_file and consul.token_credential:
        findings.add((*path, "token_credential"), "is given beside token_file", "the token comes from one of them")


def _check_registration(config: Config, findings: Findings) -> None:
    """What Consul couldn't be told, or couldn't do."""
    backend = config.discovery.backend
    for index, service in enumerate(config.services):
        path, check = ("service", index), service.check
        run_by = (*path, "check", "run_by")
        by_consul = check.wanted and check.run_by == "consul"
        if backend == "file" and by_consul:
            findings.add(run_by, '"consul" needs [discovery] backend = "consul"', 'write "hostproxy"')
        if backend != "consul":
            continue
        if not (config.discovery.consul.register and service.register):
            if by_consul:
                hint = 'write "hostproxy", or register = true'
                findings.add(run_by, "Consul runs checks of registered services only", hint)
            continue
        if service.name == OWN_SERVICE:
            hint = "choose another name, or register = false"
            findings.add((*path, "name"), f'"{OWN_SERVICE}" is what hostproxy registers itself as', hint)
        if by_consul and 0 < check.interval < CONSUL_INTERVAL:
            findings.warn((*path, "check", "interval"), "counts as 1s", "Consul runs no check more often")
        _check_instances(index, service, by_consul, findings)


def _check_instances(index: int, service: LocalService, by_consul: bool, findings: Findings) -> None:
    """What of the addresses of a registered service can't be."""
    first: dict[str, str] = {}  # by port
    for number, instance in enumerate(service.instances):
        path = ("service", index, "instances", number)
        if addresses.is_unix(instance):
            if by_consul:
                hint = 'write run_by = "hostproxy" in its check'
                findings.add(path, f'"{instance}" is a Unix socket, which Consul cannot check', hint)
        elif instance and first.setdefault(_port(instance), instance) != instance:
            # The registered address is that of the host, so in Consul they would be one.
            other = first[_port(instance)]
            findings.add(path, f'"{instance}" has the port of "{other}", and Consul could not tell them apart')


def _check_limits(config: Config, findings: Findings) -> None:
    limits = config.limits
    for part, whole, why in (
        ("request_line", "head_size", "a head holds its request line"),
        ("header_size", "head_size", "a head holds its header fields"),
    ):
        blamed = findings.blames(("limits", part)) or findings.blames(("limits", whole))
        if not blamed and getattr(limits, part) > getattr(limits, whole):
            given = part if part in findings.document.data.get("limits", {}) else whole
            findings.add(("limits", given), f"{part} is more than {whole}", why)


def _port(address: str) -> str:
    return address if addresses.is_unix(address) else address.rpartition(":")[2]


def _in_order(one: Path, other: Path, findings: Findings) -> tuple[Path, Path]:
    """Return the later in the file first; a key that isn't there, whose default counts, is never to blame."""
    one_given, other_given = findings.document.has(one), findings.document.has(other)
    if one_given and other_given:
        place = findings.document.place
        return (one, other) if place(one) > place(other) else (other, one)
    return (one, other) if one_given else (other, one)


def _named(path: Path, findings: Findings) -> str:
    """Return a key as a message refers to it from elsewhere in the file."""
    if findings.document.has(path):
        return f"{key_text(path)} at line {findings.document.place(path)[0]}"
    return f"{key_text(path)} (by default)"
